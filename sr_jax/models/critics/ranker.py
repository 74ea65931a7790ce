"""The ranker of RankSRGAN (Zhang et al., ICCV 2019).

The ranker scores images in the order of a perceptual metric such as NIQE; a
higher score is worse. It is trained on pairs of images of 296x296 pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from sr_jax.errors import whole
from sr_jax.models.parts import common, critic
from sr_jax.models.parts.options import Channels, Width

VARIANTS = {
  'paper': common.Variant({'features': 64, 'stages': 5}, {1: 13_734_281}),
}
TINY = {'features': 2, 'stages': 2}
# `config.method` of checkpoints that are imported from published weights.
METHOD = {'name': 'ranking'}
_HEAD = {'classifier.0': 'head/dense_1', 'classifier.2': 'head/dense_2'}
# Layer names of released state_dicts, and their Flax paths; `{i}` stands for a
# number.
TORCH_NAMES = {
  'RankSRGAN': {
    'conv{s}_{n}': 'trunk/conv_{s}_{n}',
    **critic.torch_norm('bn{s}_{n}', 'trunk/norm_{s}_{n}'),
    **_HEAD,
  },
  'RankSRGAN (old)': {
    **critic.numbered_names(5, activate_first=True),
    **_HEAD,
  },
}
TORCH_IGNORED = critic.TORCH_IGNORED


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
  """Returns the options that follow from the shapes of parameters."""
  channels, features = shapes['trunk/conv_0_0/kernel'][2:]
  return {
    'scale': 1,
    'channels': channels,
    'features': features,
    'stages': sum(
      path.startswith('trunk/') and path.endswith('_1/kernel')
      for path in shapes
    ),
  }


class Ranker(critic.Critic):
  """The network.

  Attributes:
    features: Channels of the first pair of convolutions.
    stages: Number of pairs of convolutions, each of which halves the image.
    channels: Number of image channels.
    dtype: Computation type; parameters stay float32.
  """

  features: Width
  stages: Annotated[int, whole(1, 8)]
  channels: Channels = 3
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image: jax.Array, *, train: bool = False) -> jax.Array:
    """Returns the scores `[B, 1]` of images `[B, H, W, C]`.

    Raises:
      UserError: The images are too small.
    """
    self.check_sides(image.shape)
    trunk = critic.Trunk(
      self.features, self.stages, True, dtype=self.dtype, name='trunk'
    )
    x = trunk(image, train=train).mean((1, 2), jnp.float32)
    return critic.Head(100, name='head')(x)

  @property
  def sides(self) -> range:
    """Smallest height and width of images; the end of the range is no limit."""
    return range(1 << self.stages, 1 << 20)


def Model(
  *, scale: int = 1, variant: str = 'paper', **overrides: Any
) -> Ranker:
  """Creates the ranker; overrides replace single options."""
  critic.check_scale(scale)
  return Ranker(**{**common.select_variant(VARIANTS, variant), **overrides})

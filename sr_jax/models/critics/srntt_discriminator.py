"""The discriminator of SRNTT's code (Zhang et al., CVPR 2019).

The network has ten normalised 3x3 convolutions and two dense layers. Its images
have 160x160 pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from sr_jax.errors import whole
from sr_jax.models.parts import common, critic
from sr_jax.models.parts.options import Channels, Width

VARIANTS = {
  'released': common.Variant(
    {'features': 32, 'side': 5, 'hidden': 1024}, {1: 17_823_457}
  ),
}
TINY = {'features': 2, 'side': 1, 'hidden': 4}
TORCH_NAMES: dict[str, dict[str, str]] = {}

_STAGES = 5
_MOST = 16


def npz_arrays(arrays: Sequence[np.ndarray]) -> dict[str, np.ndarray] | None:
  """Returns the arrays of the released `.npz` by Flax path.

  Returns None if the arrays are not those of this network.
  """
  names = []
  for i in range(_STAGES):
    for j in range(2):
      names += common.npz_layer(
        f'trunk/conv_{i}_{j}', norm=f'trunk/norm_{i}_{j}'
      )
  for i in (1, 2):
    names += common.npz_layer(f'head/dense_{i}', bias=True)
  if len(names) != len(arrays):
    return None
  return dict(zip(names, arrays, strict=True))


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
  """Returns the options that follow from the shapes of parameters."""
  channels, features = shapes['trunk/conv_0_0/kernel'][2:]
  inputs, hidden = shapes['head/dense_1/kernel']
  return {
    'scale': 1,
    'channels': channels,
    'features': features,
    'side': math.isqrt(inputs // (_MOST * features)),
    'hidden': hidden,
  }


class SRNTTDiscriminator(critic.Critic):
  """The network.

  Attributes:
    features: Channels of the first pair of convolutions.
    side: Height and width of the map that the dense layers see.
    hidden: Width of the first dense layer.
    channels: Number of image channels.
    dtype: Computation type; parameters stay float32.
  """

  features: Width
  side: Annotated[int, whole(1, 64)]
  hidden: Width
  channels: Channels = 3
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image: jax.Array, *, train: bool = False) -> jax.Array:
    """Returns the logits `[B, 1]` of images `[B, H, W, C]`, sides in `sides`.

    Raises:
      UserError: The images have another size.
    """
    self.check_sides(image.shape)
    trunk = critic.Trunk(
      self.features,
      _STAGES,
      False,
      halving_size=3,
      dtype=self.dtype,
      normalise_first=True,
      most=_MOST,
      zeros_first=False,
      name='trunk',
    )
    # In the released code images are in [-1, 1]. The dense layer sees the
    # features in TensorFlow's order.
    x = trunk(2 * image - 1, train=train)
    return critic.Head(self.hidden, name='head')(x.reshape(x.shape[0], -1))

  @property
  def sides(self) -> range:
    """Heights and widths of the images it takes."""
    side = self.side << _STAGES
    return range(side, side + 1)


def Model(
  *, scale: int = 1, variant: str = 'released', **overrides: Any
) -> SRNTTDiscriminator:
  """Creates the discriminator; overrides replace single options."""
  critic.check_scale(scale)
  return SRNTTDiscriminator(
    **{**common.select_variant(VARIANTS, variant), **overrides}
  )

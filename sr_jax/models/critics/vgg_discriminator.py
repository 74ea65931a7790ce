"""The discriminator of BasicSR (Wang et al., ESRGAN, ECCVW 2018).

ESRGAN, SPSR, RankSRGAN and KAIR train with it. The network is a VGG-style
pyramid with two dense layers, which determine the size of the images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from sr_jax.errors import whole
from sr_jax.models.parts import common, critic
from sr_jax.models.parts.options import Channels, Width

_NEW = {
  'features': 64,
  'stages': 5,
  'side': 4,
  'use_bias': False,
  'activate_first': True,
}
_KAIR = {**_NEW, 'use_bias': True, 'activate_first': False}
# The names are sides of images.
VARIANTS = {
  '128': common.Variant(_NEW, {1: 14_499_401}),
  '256': common.Variant({**_NEW, 'stages': 6}, {1: 21_055_049}),
  '296': common.Variant({**_NEW, 'side': 9}, {1: 17_827_401}),
  'spsr-128': common.Variant({**_NEW, 'use_bias': True}, {1: 14_502_281}),
  'kair-96': common.Variant({**_KAIR, 'side': 3}, {1: 14_143_881}),
  'kair-128': common.Variant(_KAIR, {1: 14_502_281}),
  'kair-192': common.Variant(
    {**_KAIR, 'stages': 6, 'side': 3}, {1: 20_700_553}
  ),
}
TINY = {'features': 2, 'stages': 2, 'side': 3}

# Layer names of released state_dicts, and their Flax paths; `{i}` stands for a
# number.
TORCH_NAMES = {
  'BasicSR': {
    'conv{s}_{n}': 'trunk/conv_{s}_{n}',
    **critic.torch_norm('bn{s}_{n}', 'trunk/norm_{s}_{n}'),
    'linear{n}': 'head/dense_{n}',
  },
  **{
    name: {
      **critic.numbered_names(6, activate_first=active),
      'classifier.0': 'head/dense_1',
      'classifier.2': 'head/dense_2',
    }
    for name, active in (('SPSR', True), ('KAIR', False))
  },
}
TORCH_IGNORED = critic.TORCH_IGNORED


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
  """Returns the options that follow from the shapes of parameters."""
  active = 'trunk/conv_0_0/kernel' in shapes
  first = 'trunk/conv_0_0' if active else 'trunk/stem'
  channels, features = shapes[f'{first}/kernel'][2:]
  stages = sum(
    path.startswith('trunk/conv_') and path.endswith('_1/kernel')
    for path in shapes
  )
  last = shapes[f'trunk/conv_{stages - 1}_1/kernel'][3]
  return {
    'scale': 1,
    'channels': channels,
    'features': features,
    'stages': stages,
    'side': math.isqrt(shapes['head/dense_1/kernel'][0] // last),
    'use_bias': f'trunk/conv_{stages - 1}_1/bias' in shapes,
    'activate_first': active,
  }


class VGGDiscriminator(critic.Critic):
  """The network of every variant.

  Attributes:
    features: Channels of the first pair of convolutions.
    stages: Number of times that the image is halved.
    side: Height and width of the map that the dense layers see.
    use_bias: Whether the normalised convolutions have biases.
    activate_first: Whether an activation follows the first convolution.
    channels: Number of image channels.
    dtype: Computation type; parameters stay float32.
  """

  features: Width
  stages: Annotated[int, whole(1, 8)]
  side: Annotated[int, whole(1, 64)]
  use_bias: bool
  activate_first: bool
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
      self.stages,
      self.use_bias,
      activate_first=self.activate_first,
      dtype=self.dtype,
      name='trunk',
    )
    x = critic.flat(trunk(image, train=train))
    return critic.Head(100, name='head')(x)

  @property
  def sides(self) -> range:
    """Heights and widths of the images it takes."""
    return range(self.side << self.stages, (self.side + 1) << self.stages)


def Model(
  *, scale: int = 1, variant: str = '128', **overrides: Any
) -> VGGDiscriminator:
  """Creates a variant of the discriminator; overrides replace options."""
  critic.check_scale(scale)
  return VGGDiscriminator(
    **{**common.select_variant(VARIANTS, variant), **overrides}
  )

"""EDSR: enhanced deep residual networks (Lim et al., CVPRW 2017).

The network consists of a first convolution, residual blocks without batch
normalisation, and sub-pixel upsampling. Inside, images have the range 0..255,
and DIV2K's mean colour is subtracted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from sr_jax.models.parts import base, common
from sr_jax.models.parts.options import Channels, Count, SubPixelScale, Width

VARIANTS = {
  # 16 blocks of 64 features, which the paper compares with SRResNet.
  'baseline': common.Variant(
    {'blocks': 16, 'features': 64, 'residual_scale': 1.0},
    {2: 1_369_883, 3: 1_554_523, 4: 1_517_595, 8: 1_665_307},
  ),
  # The paper's entry to the NTIRE challenge.
  'large': common.Variant(
    {'blocks': 32, 'features': 256, 'residual_scale': 0.1},
    {2: 40_729_627, 3: 43_680_027, 4: 43_089_947, 8: 45_450_267},
  ),
  # Our own size, which trains in minutes on two CPU cores.
  'small': common.Variant(
    {'blocks': 4, 'features': 32, 'residual_scale': 1.0},
    {2: 122_011},
  ),
  # Our own size, which trains in hours on two CPU cores.
  'light': common.Variant(
    {'blocks': 8, 'features': 48, 'residual_scale': 1.0},
    {2: 439_131, 3: 543_051, 4: 522_267},
  ),
}
TINY = {'blocks': 2, 'features': 8}


# Layer names of released state_dicts, and their Flax paths; `{i}` stands for a
# number.
TORCH_NAMES = {
  'EDSR-PyTorch': {
    'sub_mean': 'sub_mean',
    'add_mean': 'add_mean',
    'head.0': 'head',
    'body.{i}.body.0': 'body_{i}/conv1',
    'body.{i}.body.2': 'body_{i}/conv2',
    'body.{i}': 'body_end',
    'tail.0.0': 'upsample/conv_0',
    'tail.0.2': 'upsample/conv_1',
    'tail.0.4': 'upsample/conv_2',
    'tail.1': 'tail',
  },
  # BasicSR keeps the mean as a constant outside the state_dict.
  'BasicSR': {
    'conv_first': 'head',
    'body.{i}.conv1': 'body_{i}/conv1',
    'body.{i}.conv2': 'body_{i}/conv2',
    'conv_after_body': 'body_end',
    'upsample.0': 'upsample/conv_0',
    'upsample.2': 'upsample/conv_1',
    'upsample.4': 'upsample/conv_2',
    'conv_last': 'tail',
  },
}
# Parameters that a release may lack; they keep their constant initial values.
CONSTANTS = ('sub_mean', 'add_mean')


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
  """Returns the options that follow from the shapes of parameters.

  Shapes do not depend on the residual scale. It is returned only if width and
  depth are those of a published size.
  """
  channels, features = shapes['head/kernel'][2:]
  blocks = sum(path.endswith('/conv1/kernel') for path in shapes)
  options = {
    'scale': common.upsampling_scale(shapes),
    'channels': channels,
    'features': features,
    'blocks': blocks,
  }
  for variant in VARIANTS.values():
    if all(variant.options[k] == options[k] for k in ('features', 'blocks')):
      options['residual_scale'] = variant.options['residual_scale']
  return options


class EDSR(base.Network):
  """The network of every variant.

  Attributes:
    scale: Enlargement: 2, 3, 4 or 8.
    blocks: Number of residual blocks.
    features: Width of every layer.
    residual_scale: Factor on each residual branch.
    channels: Number of image channels. If it is 3, the mean colour of DIV2K is
      subtracted, otherwise mid-grey.
    dtype: Computation type; parameters stay float32.
  """

  scale: SubPixelScale
  blocks: Count
  features: Width
  residual_scale: float
  channels: Channels = 3
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, lr: jax.Array, *, train: bool = False
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Enlarges `lr` `[B, H, W, C]` in [0, 1] to `[B, sH, sW, C]`, unclipped."""
    del train
    width, dtype = self.features, self.dtype
    mean = common.default_mean(self.channels)
    x = common.MeanShift(mean, -1, name='sub_mean')(255 * lr)
    x = common.Conv(width, dtype=dtype, name='head')(x)
    skip = x
    for i in range(self.blocks):
      block = common.ResBlock(
        width, self.residual_scale, dtype=dtype, name=f'body_{i}'
      )
      x = block(x)
    x = skip + common.Conv(width, dtype=dtype, name='body_end')(x)
    x = common.Upsampler(self.scale, width, dtype=dtype, name='upsample')(x)
    # The last layer computes in float32: bfloat16 would merge grey levels.
    x = common.Conv(self.channels, name='tail')(x)
    return common.MeanShift(mean, 1, name='add_mean')(x) / 255, {}

  @property
  def halo(self) -> int:
    """Receptive radius in LR pixels."""
    body = 1 + 2 * self.blocks + 1
    return math.ceil(body + common.upsampling_radius(self.scale))


def Model(*, scale: int, variant: str = 'baseline', **overrides: Any) -> EDSR:
  """Creates EDSR in one variant; overrides replace single options."""
  return EDSR(
    scale=scale, **{**common.select_variant(VARIANTS, variant), **overrides}
  )

"""RCAN: residual channel attention networks (Zhang et al., ECCV 2018).

The network has EDSR's head and tail, and groups of residual blocks between
them. In each block an attention computes a weight for each channel from the
means of all channels. Inside, images have the range 0..255, and DIV2K's mean
colour is subtracted. The means are taken over the whole image, so the result of
a tile differs from the same part of the result of the whole image.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from sr_jax.models.parts import base, common
from sr_jax.models.parts.options import (
  Channels,
  Count,
  CountOrNone,
  SubPixelScale,
  Width,
)

VARIANTS = {
  # The paper's size: 10 groups of 20 blocks.
  'rcan': common.Variant(
    {'groups': 10, 'blocks': 20, 'features': 64, 'reduction': 16},
    {2: 15_444_667, 3: 15_629_307, 4: 15_592_379, 8: 15_740_091},
  ),
  # The default size of BasicSR, which SRNet's paper compares with.
  'rcan-16': common.Variant(
    {'groups': 10, 'blocks': 16, 'features': 64, 'reduction': 16},
    {4: 12_614_939, 8: 12_762_651},
  ),
  # RCAN^- of SRNet's paper: EDSR-baseline with channel attention, without
  # groups.
  'rcan-minus': common.Variant(
    {'groups': 0, 'blocks': 16, 'features': 64, 'reduction': 16},
    {4: 1_526_875, 8: 1_674_587},
  ),
}
TINY = {'groups': 2, 'blocks': 1, 'features': 8, 'reduction': 1}


_ENDS = {
  'sub_mean': 'sub_mean',
  'add_mean': 'add_mean',
  'head.0': 'head',
  'body.{i}': 'body_end',
  'tail.0.0': 'upsample/conv_0',
  'tail.0.2': 'upsample/conv_1',
  'tail.0.4': 'upsample/conv_2',
  'tail.1': 'tail',
}
# Layer names of released state_dicts, and their Flax paths; `{i}` stands for a
# number.
TORCH_NAMES = {
  'RCAN': {
    **_ENDS,
    'body.{g}.body.{b}.body.0': 'group_{g}/block_{b}/conv1',
    'body.{g}.body.{b}.body.2': 'group_{g}/block_{b}/conv2',
    'body.{g}.body.{b}.body.3.conv_du.0': (
      'group_{g}/block_{b}/attention/squeeze'
    ),
    'body.{g}.body.{b}.body.3.conv_du.2': (
      'group_{g}/block_{b}/attention/expand'
    ),
    'body.{g}.body.{end}': 'group_{g}/end',
  },
  'RCAN^-': {
    **_ENDS,
    'body.{b}.body.0': 'block_{b}/conv1',
    'body.{b}.body.2': 'block_{b}/conv2',
    'body.{b}.body.3.conv_du.0': 'block_{b}/attention/squeeze',
    'body.{b}.body.3.conv_du.2': 'block_{b}/attention/expand',
  },
  # BasicSR keeps the mean as a constant outside the state_dict.
  'BasicSR': {
    'conv_first': 'head',
    'body.{g}.residual_group.{b}.rcab.0': 'group_{g}/block_{b}/conv1',
    'body.{g}.residual_group.{b}.rcab.2': 'group_{g}/block_{b}/conv2',
    'body.{g}.residual_group.{b}.rcab.3.attention.1': (
      'group_{g}/block_{b}/attention/squeeze'
    ),
    'body.{g}.residual_group.{b}.rcab.3.attention.3': (
      'group_{g}/block_{b}/attention/expand'
    ),
    'body.{g}.conv': 'group_{g}/end',
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
  """Returns the options that follow from the shapes of parameters."""
  channels, features = shapes['head/kernel'][2:]
  groups = sum(path.endswith('/end/kernel') for path in shapes)
  blocks = sum(path.endswith('/conv1/kernel') for path in shapes)
  first = 'group_0/block_0' if groups else 'block_0'
  squeezed = shapes[f'{first}/attention/squeeze/kernel'][3]
  return {
    'scale': common.upsampling_scale(shapes),
    'channels': channels,
    'features': features,
    'groups': groups,
    'blocks': blocks // max(groups, 1),
    'reduction': features // squeezed,
  }


class Group(nn.Module):
  """Residual blocks and a convolution, to whose result the input is added.

  Attributes:
    blocks: Number of blocks.
    features: Number of channels of input and output.
    reduction: Factor by which the attention narrows its hidden layer.
    dtype: Computation type.
  """

  blocks: int
  features: int
  reduction: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps `[B, H, W, features]` to the same shape."""
    block = common.RCAB(
      self.features, self.reduction, self.dtype, name='block_*'
    )
    y = common.chain(block, self.blocks, x)
    return x + common.Conv(self.features, dtype=self.dtype, name='end')(y)


class RCAN(base.Network):
  """The network of every variant.

  Attributes:
    scale: Enlargement: 2, 3, 4 or 8.
    groups: Number of groups; 0 means blocks without groups.
    blocks: Number of blocks in each group.
    features: Width of every layer.
    reduction: Factor by which the attention narrows its hidden layer.
    channels: Number of image channels. If it is 3, the mean colour of DIV2K is
      subtracted, otherwise mid-grey.
    dtype: Computation type; parameters stay float32.
  """

  scale: SubPixelScale
  groups: CountOrNone
  blocks: Count
  features: Width
  reduction: Width
  channels: Channels = 3
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, lr: jax.Array, *, train: bool = False
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Enlarges `lr` `[B, H, W, C]` in [0, 1] to `[B, sH, sW, C]`, unclipped."""
    del train
    width, reduction, dtype = self.features, self.reduction, self.dtype
    mean = common.default_mean(self.channels)
    # The released code intends to freeze the mean shifts, but trains them. They
    # are frozen in RCAN^-.
    trained = self.groups > 0
    x = common.MeanShift(mean, -1, trained, name='sub_mean')(255 * lr)
    x = common.Conv(width, dtype=dtype, name='head')(x)
    skip = x
    for i in range(self.groups):
      group = Group(self.blocks, width, reduction, dtype, name=f'group_{i}')
      x = group(x)
    if not self.groups:
      block = common.RCAB(width, reduction, dtype, name='block_*')
      x = common.chain(block, self.blocks, x)
    x = skip + common.Conv(width, dtype=dtype, name='body_end')(x)
    x = common.Upsampler(self.scale, width, dtype=dtype, name='upsample')(x)
    # The last layer computes in float32: bfloat16 would merge grey levels.
    x = common.Conv(self.channels, name='tail')(x)
    return common.MeanShift(mean, 1, trained, name='add_mean')(x) / 255, {}

  @property
  def halo(self) -> None:
    """None, because the attention depends on the whole image."""
    return None


def Model(*, scale: int, variant: str = 'rcan', **overrides: Any) -> RCAN:
  """Creates RCAN in one variant; overrides replace single options."""
  return RCAN(
    scale=scale, **{**common.select_variant(VARIANTS, variant), **overrides}
  )

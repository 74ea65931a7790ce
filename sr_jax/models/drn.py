"""DRN: closed-loop matters, dual regression networks (Guo et al., CVPR 2020).

The network is a U on the bicubically enlarged image. Convolutions halve the
image down to LR size, then residual channel attention blocks double it again,
with an output at every level. Small dual networks map each output back to the
level below. `methods.dual_regression` trains both together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from sr_jax.errors import UserError
from sr_jax.models.parts import base, common
from sr_jax.models.parts.options import Channels, Count, Scale, Width
from sr_jax.ops.resize import torch_bicubic

# The released sizes. Those of x8 differ from those of x2 and x4.
VARIANTS = {
  's': common.Variant(
    {'blocks': 30, 'features': 16}, {2: 606_378, 4: 4_804_065}
  ),
  's-x8': common.Variant({'blocks': 30, 'features': 8}, {8: 5_403_000}),
  'l': common.Variant({'blocks': 40, 'features': 20}, {4: 9_825_893}),
  'l-x8': common.Variant({'blocks': 36, 'features': 10}, {8: 10_004_018}),
}
TINY = {'blocks': 1, 'features': 8}
# Layer names of released state_dicts, and their Flax paths. In an `up_blocks`
# of B blocks, layer B is the enlargement and layer B + 1 the 1x1 convolution.
TORCH_NAMES = {
  'DRN': {
    'sub_mean': 'sub_mean',
    'add_mean': 'add_mean',
    'head': 'head',
    'down.{i}.dual_module.0.0': 'down_{i}/conv1',
    'down.{i}.dual_module.1': 'down_{i}/conv2',
    'up_blocks.{i}.{b}.body.0': 'up_{i}/block_{b}/conv1',
    'up_blocks.{i}.{b}.body.2': 'up_{i}/block_{b}/conv2',
    'up_blocks.{i}.{b}.body.3.conv_du.0': 'up_{i}/block_{b}/attention/squeeze',
    'up_blocks.{i}.{b}.body.3.conv_du.2': 'up_{i}/block_{b}/attention/expand',
    'up_blocks.{i}.{b}.0': 'up_{i}/upsample/conv_0',
    'up_blocks.{i}.{b}': 'up_{i}/narrow',
    'tail.{i}': 'tail_{i}',
  },
}
# Names of one dual network; a released file holds a list of dual networks.
DUAL_TORCH_NAMES = {
  'DRN dual': {'dual_module.0.0': 'conv1', 'dual_module.1': 'conv2'},
}
# The section `method` of imported weights.
METHOD = {'name': 'dual_regression'}


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
  """Returns the options that follow from the shapes of parameters."""
  channels, features = shapes['head/kernel'][2:]
  names = {path.rpartition('/')[0] for path in shapes}
  halvings = sum(n.startswith('down_') and n.endswith('/conv1') for n in names)
  blocks = sum(n.startswith('up_0/') and n.endswith('/conv1') for n in names)
  return {
    'scale': 2**halvings,
    'channels': channels,
    'features': features,
    'blocks': blocks,
  }


def levels(scale: int) -> int:
  """Number of doublings from LR to SR, which is that of the dual networks.

  Raises:
    UserError: The scale is not 2, 4 or another power of two.
  """
  if scale < 2 or scale & (scale - 1):
    raise UserError(
      f'scale {scale} is not supported: dual regression doubles; choose 2, 4'
      ' or 8'
    )
  return scale.bit_length() - 1


class DownBlock(base.Network):
  """Halves height and width. A dual network consists of one such block.

  The block has no biases. A factor of its input is therefore a factor of its
  output, and a dual network works on [0, 1] as it does on the 0..255 of the
  released code.

  Attributes:
    features: Channels between the two convolutions.
    channels: Channels of the result.
    dtype: Computation type.
  """

  features: int
  channels: int
  dtype: Any = jnp.float32
  scale = 0.5

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps `[B, H, W, C]` to `[B, H / 2, W / 2, channels]`."""

    def conv(width: int, name: str) -> common.Conv:
      return common.Conv(width, use_bias=False, dtype=self.dtype, name=name)

    # A convolution of stride 2, padded by one pixel on every side. It is
    # computed at all pixels, of which three quarters are dropped: this costs
    # little compared with the blocks, and its gradient is fast.
    x = conv(self.features, 'conv1')(x)[:, ::2, ::2]
    return conv(self.channels, 'conv2')(nn.leaky_relu(x, 0.2))


class UpBlock(nn.Module):
  """Residual blocks (RCABs), a sub-pixel doubling and a 1x1 convolution.

  Attributes:
    blocks: Number of RCABs.
    channels: Channels of the result.
    dtype: Computation type.
  """

  blocks: int
  channels: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Maps `[B, H, W, C]` to `[B, 2H, 2W, channels]`."""
    width, dtype = x.shape[-1], self.dtype
    block = common.RCAB(width, dtype=dtype, name='block_*')
    x = common.chain(block, self.blocks, x, unroll=train)
    x = common.Upsampler(2, width, dtype=dtype, name='upsample')(x)
    return common.Conv(self.channels, 1, dtype=dtype, name='narrow')(x)


class DRN(base.Network):
  """The primal network of every variant.

  Its receptive field is unbounded, because the channel attention depends on the
  whole image.

  Attributes:
    scale: Enlargement: 2, 4 or 8.
    blocks: Number of RCABs at each level.
    features: Number of channels at SR size; every halving doubles it.
    channels: Number of image channels. If it is 3, the mean colour of DIV2K is
      subtracted, otherwise mid-grey.
    dtype: Computation type; parameters stay float32.
  """

  scale: Scale
  blocks: Count
  features: Width
  channels: Channels = 3
  dtype: Any = jnp.float32

  def check(self) -> None:
    """Refuses scales that are not powers of two.

    Raises:
      UserError: As for `levels`.
    """
    levels(self.scale)

  @nn.compact
  def __call__(
    self, lr: jax.Array, *, train: bool = False
  ) -> tuple[jax.Array, dict[str, Any]]:
    """Enlarges `lr` `[B, H, W, C]` in [0, 1] to `[B, sH, sW, C]`, unclipped.

    Returns: SR, and a dict whose `outputs` holds the images of all levels, from
    LR size to SR.
    """
    width, dtype = self.features, self.dtype
    mean = common.default_mean(self.channels)
    # The shifts are trained, as in the released code.
    shift = common.MeanShift(mean, -1, trainable=True, name='sub_mean')
    unshift = common.MeanShift(mean, 1, trainable=True, name='add_mean')

    def output(x: jax.Array, level: int) -> jax.Array:
      # The last layer computes in float32: bfloat16 would merge grey levels.
      tail = common.Conv(self.channels, name=f'tail_{level}')
      return unshift(tail(x)) / 255

    x = shift(torch_bicubic(255 * lr, self.scale))
    x = common.Conv(width, dtype=dtype, name='head')(x)
    skips = []
    for i in range(levels(self.scale)):
      skips.append(x)
      wide = width << i
      x = DownBlock(wide, 2 * wide, dtype=dtype, name=f'down_{i}')(x)
    outputs = [output(x, 0)]
    for i, skip in enumerate(reversed(skips)):
      up = UpBlock(self.blocks, skip.shape[-1], dtype=dtype, name=f'up_{i}')
      x = up(x, train=train)
      x = jnp.concatenate([x, skip], -1)
      outputs.append(output(x, i + 1))
    return outputs[-1], {'outputs': tuple(outputs)}


def Model(*, scale: int, variant: str = 's', **overrides: Any) -> DRN:
  """Creates DRN in one variant; overrides replace single options."""
  return DRN(
    scale=scale, **{**common.select_variant(VARIANTS, variant), **overrides}
  )


def Dual(*, features: int, channels: int = 3) -> DownBlock:
  """Creates a dual network from `[B, 2H, 2W, C]` to `[B, H, W, C]`."""
  return DownBlock(features, channels)

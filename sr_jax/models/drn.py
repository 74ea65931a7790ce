"""DRN: closed-loop matters, dual regression networks (Guo et al., CVPR 2020).

A U-shape on the bicubically enlarged image: it is halved down to LR size, then
doubled by residual channel attention blocks, with an output at every level.
Small dual networks map each output back to the level below; how the two are
trained together is `methods.dual_regression`.
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

# The released sizes. At x8 they are other ones than at x2 and x4.
VARIANTS = {
  's': common.Variant(
    {'blocks': 30, 'features': 16}, {2: 606_378, 4: 4_804_065}
  ),
  's-x8': common.Variant({'blocks': 30, 'features': 8}, {8: 5_403_000}),
  'l': common.Variant({'blocks': 40, 'features': 20}, {4: 9_825_893}),
  'l-x8': common.Variant({'blocks': 36, 'features': 10}, {8: 10_004_018}),
}
TINY = {'blocks': 1, 'features': 8}
# Released state_dict names to Flax paths. Behind the B blocks of an `up_blocks`
# stand its enlargement, B, and its 1x1 convolution, B + 1.
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
# Of imported weights.
METHOD = {'name': 'dual_regression'}


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
  """Options that follow from parameter shapes, by Flax path (`head/kernel`)."""
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
  """Doublings from LR to SR, and dual networks from SR to LR.

  Raises:
    UserError: the scale is no power of two above 1.
  """
  if scale < 2 or scale & (scale - 1):
    raise UserError(
      f'scale {scale} is not supported: dual regression doubles; choose 2, 4'
      ' or 8'
    )
  return scale.bit_length() - 1


class DownBlock(base.Network):
  """Halves height and width; by itself also a dual network.

  Without biases it commutes with positive factors: a dual network is the same
  function on the released code's 0..255 as on [0, 1].

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

    # Stride 2 with one pixel of padding on every side. Computing all pixels
    # first costs little beside the blocks, and keeps the fast gradient.
    x = conv(self.features, 'conv1')(x)[:, ::2, ::2]
    return conv(self.channels, 'conv2')(nn.leaky_relu(x, 0.2))


class UpBlock(nn.Module):
  """RCABs, then a sub-pixel doubling and a 1x1 convolution.

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

  It has no receptive radius: channel attention sees the whole image.

  Attributes:
    scale: Enlargement: 2, 4 or 8.
    blocks: RCABs of each level.
    features: Width at SR size; every halving doubles it.
    channels: Image channels; 3 uses DIV2K's mean, others mid-grey.
    dtype: Computation type; parameters stay float32.
  """

  scale: Scale
  blocks: Count
  features: Width
  channels: Channels = 3
  dtype: Any = jnp.float32

  def check(self) -> None:
    """Refuses scales that dual regression has no levels for.

    Raises:
      UserError: as `levels`.
    """
    levels(self.scale)

  @nn.compact
  def __call__(
    self, lr: jax.Array, *, train: bool = False
  ) -> tuple[jax.Array, dict[str, Any]]:
    """Enlarges `lr` `[B, H, W, C]` in [0, 1] to `[B, sH, sW, C]`, unclipped.

    Returns:
      SR, and `outputs`: images of every level from LR size to SR, the last.
    """
    width, dtype = self.features, self.dtype
    mean = common.default_mean(self.channels)
    # Trained, because the released code trains them too.
    shift = common.MeanShift(mean, -1, trainable=True, name='sub_mean')
    unshift = common.MeanShift(mean, 1, trainable=True, name='add_mean')

    def output(x: jax.Array, level: int) -> jax.Array:
      # In float32 also under mixed precision: bfloat16 merges grey levels.
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
  """DRN of one variant; overrides replace single options of it."""
  return DRN(
    scale=scale, **{**common.select_variant(VARIANTS, variant), **overrides}
  )


def Dual(*, features: int, channels: int = 3) -> DownBlock:
  """A dual network: `[B, 2H, 2W, C]` to `[B, H, W, C]`, both in [0, 1]."""
  return DownBlock(features, channels)

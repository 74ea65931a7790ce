"""SRResNet: the generator of SRGAN (Ledig et al., CVPR 2017).

The network has residual blocks with batch normalisation and PReLU, and large
kernels in the first and last layer. The generator that BasicSR uses for the
same purpose is `msrresnet`.
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
from sr_jax.ops.pixel_shuffle import pixel_shuffle

VARIANTS = {
  # All layers have biases and a PReLU has one slope; the paper leaves this
  # open.
  'paper': common.Variant({'blocks': 16, 'features': 64}, {4: 1_549_462}),
}
TINY = {'blocks': 1, 'features': 8}
# Its weights were not released, so there are no names.
TORCH_NAMES: dict[str, dict[str, str]] = {}

_WIDE = 9


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
  """Returns the options that follow from the shapes of parameters."""
  channels, features = shapes['head/kernel'][2:]
  return {
    'scale': common.upsampling_scale(shapes, 'upsample_'),
    'channels': channels,
    'features': features,
    'blocks': sum(path.endswith('/conv1/kernel') for path in shapes),
  }


class SRResNet(base.Network):
  """The network.

  Inside, SR is in [-1, 1], as in the losses of the paper.

  Attributes:
    scale: Enlargement: 2, 3, 4 or 8.
    blocks: Number of residual blocks.
    features: Width of every layer.
    channels: Number of image channels.
    dtype: Computation type; parameters stay float32.
  """

  scale: SubPixelScale
  blocks: Count
  features: Width
  channels: Channels = 3
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, lr: jax.Array, *, train: bool = False
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Enlarges `lr` `[B, H, W, C]` in [0, 1] to `[B, sH, sW, C]`, unclipped."""
    width, dtype = self.features, self.dtype

    def conv(name: str, features: int = width, size: int = 3) -> common.Conv:
      return common.Conv(features, size, dtype=dtype, name=name)

    def norm(name: str) -> nn.BatchNorm:
      return nn.BatchNorm(not train, momentum=0.9, dtype=dtype, name=name)

    def prelu(name: str) -> nn.PReLU:
      return nn.PReLU(negative_slope_init=0.25, name=name)

    x = head = prelu('prelu_head')(conv('head', size=_WIDE)(lr))
    for i in range(self.blocks):
      x = Block(width, train=train, dtype=dtype, name=f'body_{i}')(x)
    x = head + norm('norm_end')(conv('body_end')(x))
    for i, factor in enumerate(common.upsampling_stages(self.scale), 1):
      x = conv(f'upsample_{i}', width * factor**2)(x)
      x = prelu(f'prelu_{i}')(pixel_shuffle(x, factor))
    # The last layer computes in float32: bfloat16 would merge grey levels.
    x = common.Conv(self.channels, _WIDE, name='tail')(x)
    return (x + 1) / 2, {}

  @property
  def halo(self) -> int:
    """Receptive radius in LR pixels."""
    body = _WIDE // 2 + 2 * self.blocks + 1
    tail = common.upsampling_radius(self.scale) - 1 / self.scale
    return math.ceil(body + tail + (_WIDE // 2) / self.scale)


class Block(nn.Module):
  """conv - norm - PReLU - conv - norm, added to the input.

  Attributes:
    features: Number of channels of input and output.
    train: Whether the statistics of the batch are used.
    dtype: Computation type.
  """

  features: int
  train: bool
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps `[B, H, W, features]` to the same shape."""
    y = x
    for i in (1, 2):
      y = common.Conv(self.features, dtype=self.dtype, name=f'conv{i}')(y)
      y = nn.BatchNorm(
        not self.train, momentum=0.9, dtype=self.dtype, name=f'norm{i}'
      )(y)
      if i == 1:
        y = nn.PReLU(negative_slope_init=0.25, name='prelu')(y)
    return x + y


def Model(*, scale: int, variant: str = 'paper', **overrides: Any) -> SRResNet:
  """Creates SRResNet; overrides replace single options."""
  return SRResNet(
    scale=scale, **{**common.select_variant(VARIANTS, variant), **overrides}
  )

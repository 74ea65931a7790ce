"""LRFNet: large receptive field networks (Seif and Androutsos, CVPRW 2018).

The network has residual blocks as EDSR, and works on the bicubically enlarged
image. Its receptive field is large because kernels are large (the baseline),
because large kernels are separated into 1 x k and k x 1 (LRFNet-S), because of
dilation (LRFNet-A), or because of both (LRFNet-SA).

The layout follows from the parameter counts in the paper. There is no released
code, and the paper leaves three points open, which we chose: padding is by
zeros, both convolutions of a block are dilated, and the enlarged image is added
to the output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from sr_jax.errors import UserError
from sr_jax.models import zssr
from sr_jax.models.parts import base, common
from sr_jax.models.parts.options import (
  Among,
  AnyScale,
  Channels,
  Count,
  KernelSize,
  Width,
)
from sr_jax.ops.relu import relu

# Parameter counts by kernel size; the paper enlarges by 4 and 8.
_PLAIN = {3: 889_795, 5: 2_462_659, 7: 4_821_955, 9: 7_967_683, 11: 11_899_843}
_SEPARABLE = {3: 299_971, 5: 496_579, 7: 693_187, 9: 889_795, 11: 1_086_403}


def _variant(
  kernel_size: int, scheme: str, dilations: Sequence[int] = (1,)
) -> common.Variant:
  counts = _SEPARABLE if scheme else _PLAIN
  options = {
    'blocks': 12,
    'features': 64,
    'kernel_size': kernel_size,
    'scheme': scheme,
    'dilations': tuple(dilations),
  }
  return common.Variant(options, dict.fromkeys((4, 8), counts[kernel_size]))


VARIANTS = {
  'baseline': _variant(3, ''),
  's': _variant(9, 'A'),
  'a': _variant(3, '', (1, 4, 8)),
  # The kernel size that has the best scores in the paper.
  'sa': _variant(5, 'A', (1, 4, 8)),
  **{f'baseline-{k}': _variant(k, '') for k in (5, 7, 9, 11)},
  **{f's-{k}': _variant(k, 'A') for k in (3, 5, 7, 11)},
}
TINY = {'blocks': 2, 'features': 8, 'kernel_size': 5}
# No weights were released, so there are no names.
TORCH_NAMES: dict[str, dict[str, str]] = {}
_SCHEMES = ('', 'A', 'B', 'C', 'D')


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
  """Returns the options that follow from the shapes of parameters.

  Scale, scheme and dilations do not follow.
  """
  channels, features = shapes['head/kernel'][2:]
  return {
    'channels': channels,
    'features': features,
    'blocks': sum(path.endswith('/conv1/kernel') for path in shapes),
    'kernel_size': max(shapes['body_0/conv1/kernel'][:2]),
  }


class Block(nn.Module):
  """Two convolutions and a skip, in one of the paper's arrangements.

  The arrangement '' has a k x k convolution, a ReLU and a second such
  convolution. The others have a 1 x k and a k x 1 convolution. In A they follow
  each other with a ReLU between them, in B they follow a ReLU. In C and D their
  results are added; a ReLU comes before them in C, and after the sum in D.

  Attributes:
    features: Number of channels of input and output.
    kernel_size: k, odd.
    scheme: '', 'A', 'B', 'C' or 'D'.
    dilation: Distance in pixels between neighbouring taps of the convolutions.
    dtype: Computation type.
  """

  features: int
  kernel_size: int
  scheme: str
  dilation: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps `[B, H, W, features]` to the same shape."""
    k = self.kernel_size
    first, second = ((1, k), (k, 1)) if self.scheme else ((k, k), (k, k))
    conv1, conv2 = self._conv(first, 'conv1'), self._conv(second, 'conv2')
    if self.scheme == 'B':
      return x + conv2(conv1(relu(x)))
    if self.scheme == 'C':
      y = relu(x)
      return x + conv1(y) + conv2(y)
    if self.scheme == 'D':
      return x + relu(conv1(x) + conv2(x))
    return x + conv2(relu(conv1(x)))

  def _conv(
    self, size: tuple[int, int], name: str
  ) -> Callable[[jax.Array], jax.Array]:
    return common.Conv(
      self.features, size, dilation=self.dilation, dtype=self.dtype, name=name
    )


class LRFNet(base.RefiningNetwork):
  """The network of every variant.

  Attributes:
    scale: Enlargement, whole or not.
    blocks: Number of residual blocks.
    features: Width of every layer.
    kernel_size: Odd side of the blocks' kernels; head and tail have 3.
    scheme: Arrangement of the blocks, see `Block`.
    dilations: The blocks are divided evenly into as many groups as there are
      dilations, and each group has one of them.
    channels: Number of image channels.
    dtype: Computation type; parameters stay float32.
  """

  scale: AnyScale
  blocks: Count
  features: Width
  kernel_size: KernelSize
  scheme: Annotated[str, Among(_SCHEMES)]
  dilations: Sequence[Count]
  channels: Channels = 3
  dtype: Any = jnp.float32

  @nn.compact
  def refine(self, enlarged: jax.Array) -> jax.Array:
    """Corrects a bicubically enlarged image `[B, H, W, C]`."""
    width, dtype = self.features, self.dtype
    x = common.Conv(width, dtype=dtype, name='head')(enlarged)
    for i in range(self.blocks):
      x = Block(
        width,
        self.kernel_size,
        self.scheme,
        self._dilation(i),
        dtype=dtype,
        name=f'body_{i}',
      )(x)
    # The last layer computes in float32: bfloat16 would merge grey levels.
    return enlarged + common.Conv(self.channels, name='tail')(x)

  def check(self) -> None:
    """Refuses a number of dilations that does not divide that of the blocks.

    Raises:
      UserError: The blocks cannot be divided evenly.
    """
    if not self.dilations or self.blocks % len(self.dilations):
      raise UserError(
        f'config.model.dilations={tuple(self.dilations)}: {self.blocks} blocks'
        f' cannot be divided evenly among {len(self.dilations)} dilations'
      )

  def _dilation(self, block: int) -> int:
    return self.dilations[block * len(self.dilations) // self.blocks]

  @property
  def radius(self) -> int:
    """Receptive radius in SR pixels, without that of the enlargement."""
    # Of the two separable convolutions of a block one is vertical, the other
    # horizontal, so each direction has one.
    convs = 1 if self.scheme else 2
    return 2 + sum(
      convs * self._dilation(i) * (self.kernel_size // 2)
      for i in range(self.blocks)
    )

  @property
  def halo(self) -> int | None:
    """Receptive radius in LR pixels; None if the scale is not whole."""
    if self.scale != int(self.scale):
      return None
    return zssr.enlarged_halo(int(self.scale), self.radius, None)


def Model(
  *, scale: float, variant: str = 'baseline', **overrides: Any
) -> LRFNet:
  """Creates LRFNet in one variant; overrides replace single options."""
  return LRFNet(
    scale=scale, **{**common.select_variant(VARIANTS, variant), **overrides}
  )

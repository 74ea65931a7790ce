"""ZSSR: zero-shot SR by deep internal learning (Shocher et al., CVPR 2018).

Eight plain 3x3 convolutions on the bicubically enlarged image, whose output is
added to it. The released code's layout: 7 hidden layers and an output layer, no
biases; it is trained on the test image alone.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from sr_jax.errors import Range
from sr_jax.models.parts import base, common
from sr_jax.models.parts.options import Among, AnyScale, Channels, Count, Width
from sr_jax.ops.relu import relu
from sr_jax.ops.resize import imresize, resize_matrix

# The network works on the enlarged image, so one size serves every scale.
VARIANTS = {
  'released': common.Variant(
    {'depth': 8, 'features': 64},
    {2: 224_640, 3: 224_640, 4: 224_640, 8: 224_640},
  ),
}
TINY = {'depth': 3, 'features': 8}
# No weights were released: every image has its own.
TORCH_NAMES: dict[str, dict[str, str]] = {}

_Position = Annotated[float, Range(-100, 100)]
# Initialisers of the kernels, by name; biases start at zero.
_INITIALISERS = {
  # ZSSR: variance 0.1 / fan_in, not truncated.
  'small-normal': nn.initializers.variance_scaling(0.1, 'fan_in', 'normal'),
  # MZSR: TensorFlow 1's fan-in initialiser, which does not make up for what
  # truncation takes from the variance, as Flax's does: hence the factor.
  'tf1-fan-in': nn.initializers.variance_scaling(
    0.7737, 'fan_in', 'truncated_normal'
  ),
}


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
  """Returns the options that follow from shapes; the scale does not."""
  channels, features = shapes['conv1/kernel'][2:]
  depth = sum(path.endswith('/kernel') for path in shapes)
  return {'channels': channels, 'features': features, 'depth': depth}


class ZSSR(base.RefiningNetwork):
  """Plain convolutions between an enlarged image and its correction.

  Attributes:
    scale: Enlargement, whole or not.
    depth: Number of convolutions.
    features: Channels of the hidden layers.
    channels: Number of image channels.
    use_bias: Whether the convolutions have biases.
    kernel_init: Initialiser of the kernels: 'small-normal' or 'tf1-fan-in'.
    offset: Position of LR pixel (0, 0) in the SR image, vertical and
      horizontal; None is where bicubic resizing puts it.
    dtype: Computation type; parameters stay float32.
  """

  scale: AnyScale
  depth: Count
  features: Width
  channels: Channels = 3
  use_bias: bool = False
  kernel_init: Annotated[str, Among(tuple(_INITIALISERS))] = 'small-normal'
  offset: tuple[_Position, _Position] | None = None
  dtype: Any = jnp.float32

  def enlarge(
    self, lr: jax.Array, shape: tuple[int, int] | None = None
  ) -> jax.Array:
    """Cubic enlargement of `lr` to where `offset` puts its pixels."""
    return imresize(lr, scale=self.scale, shape=shape, offset=self.offset)

  @nn.compact
  def refine(self, enlarged: jax.Array) -> jax.Array:
    """Corrects a bicubically enlarged image `[B, H, W, C]` of any scale."""
    conv = functools.partial(
      common.Conv,
      use_bias=self.use_bias,
      kernel_init=_INITIALISERS[self.kernel_init],
      bias_init=nn.initializers.zeros,
    )
    x = enlarged
    for i in range(1, self.depth):
      x = relu(conv(self.features, dtype=self.dtype, name=f'conv{i}')(x))
    # The last layer computes in float32: bfloat16 would merge grey levels.
    return enlarged + conv(self.channels, name=f'conv{self.depth}')(x)

  @property
  def halo(self) -> int | None:
    """Receptive radius in LR pixels; None if the scale is not whole."""
    if self.scale != int(self.scale):
      return None
    offsets = self.offset or (None, None)
    return max(enlarged_halo(int(self.scale), self.depth, o) for o in offsets)


def enlarged_halo(scale: int, radius: int, offset: float | None) -> int:
  """Reach in LR pixels of a network of this radius on the enlarged image."""
  middle = math.ceil((radius + abs(offset or 0)) / scale) + 4
  count = 2 * middle + 1
  matrix = resize_matrix(count, scale * count, scale, offset=offset)
  first, last = scale * middle, scale * middle + scale - 1
  rows = matrix[first - radius : last + radius + 1]
  reached = np.flatnonzero((np.abs(rows) > 1e-9).any(0))
  return max(middle - int(reached[0]), int(reached[-1]) - middle)


def Model(*, scale: float, variant: str = 'released', **overrides: Any) -> ZSSR:
  """Creates ZSSR in one variant; overrides replace single options."""
  return ZSSR(
    scale=scale, **{**common.select_variant(VARIANTS, variant), **overrides}
  )

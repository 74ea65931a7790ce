"""ZSSR: zero-shot SR by deep internal learning (Shocher et al., CVPR 2018).

The network has eight plain 3x3 convolutions on the bicubically enlarged image,
to which their output is added. The layout is that of the released code: 7
hidden layers and an output layer, without biases. It is trained only on the
image that it enlarges.
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

# The network works on the enlarged image, so its size is the same at all
# scales.
VARIANTS = {
  'released': common.Variant(
    {'depth': 8, 'features': 64},
    {2: 224_640, 3: 224_640, 4: 224_640, 8: 224_640},
  ),
}
TINY = {'depth': 3, 'features': 8}
# No weights were released, because every image has its own.
TORCH_NAMES: dict[str, dict[str, str]] = {}

_Position = Annotated[float, Range(-100, 100)]
# Initialisers of the kernels, by name; biases start at zero.
_INITIALISERS = {
  # ZSSR's initialiser: variance 0.1 / fan_in, without truncation.
  'small-normal': nn.initializers.variance_scaling(0.1, 'fan_in', 'normal'),
  # MZSR's: the fan-in initialiser of TensorFlow 1. Truncation lowers its
  # variance, for which Flax's initialiser compensates; the factor undoes this.
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
  """Plain convolutions that correct an enlarged image.

  Attributes:
    scale: Enlargement, whole or not.
    depth: Number of convolutions.
    features: Channels of the hidden layers.
    channels: Number of image channels.
    use_bias: Whether the convolutions have biases.
    kernel_init: Initialiser of the kernels: 'small-normal' or 'tf1-fan-in'.
    offset: Position of LR pixel (0, 0) in the SR image, vertical and
      horizontal; None takes the position of bicubic resizing.
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
    """Enlarges `lr` by cubic interpolation, so that pixels lie at `offset`."""
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
  """Returns the receptive radius in LR pixels of such a network.

  Args:
    scale: Enlargement.
    radius: Receptive radius in pixels of the enlarged image.
    offset: As for `ZSSR`.
  """
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

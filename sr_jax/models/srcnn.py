"""SRCNN: the first convolutional network for SR (Dong et al., ECCV 2014).

The network has three convolutions on the bicubically enlarged luma, which
extract patches, map them, and reconstruct the image. The kernels have sides of
9, 1 and 5 pixels in the conference paper. The journal paper (TPAMI 2016) has
the best scores with 9, 5 and 5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from sr_jax.models.parts import base, common
from sr_jax.models.parts.options import KernelSize, Scale, Width
from sr_jax.models.zssr import enlarged_halo
from sr_jax.ops.conv import conv2d
from sr_jax.ops.relu import relu
from sr_jax.ops.resize import imresize

VARIANTS = {
  '9-1-5': common.Variant(
    {'sizes': (9, 1, 5), 'features': (64, 32)}, dict.fromkeys((2, 3, 4), 8129)
  ),
  '9-5-5': common.Variant(
    {'sizes': (9, 5, 5), 'features': (64, 32)},
    dict.fromkeys((2, 3, 4), 57_281),
  ),
}
TINY = {'features': (8, 4)}
# The weights were released as MATLAB files only.
TORCH_NAMES: dict[str, dict[str, str]] = {}
MAT_NAMES = {'SRCNN': {'conv{i}': 'conv{i}'}}

_INIT = nn.initializers.normal(0.001)


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
  """Returns the options that follow from shapes; the scale does not."""
  kernels = [shapes[f'conv{i}/kernel'] for i in (1, 2, 3)]
  return {
    'sizes': tuple(kernel[0] for kernel in kernels),
    'features': tuple(kernel[3] for kernel in kernels[:2]),
  }


class _Conv(nn.Module):
  """Convolution that repeats the pixels of the border outside the image.

  Attributes:
    features: Output channels.
    kernel_size: Odd side of the square kernel.
    inside: Whether to return only pixels that depend on nothing outside.
    padding: How the image is continued, for `masked_apply`.
    kernel_init: Initialiser of the kernel.
    dtype: Computation type; parameters stay float32.
  """

  features: int
  kernel_size: int
  inside: bool
  padding: str = 'edge'
  kernel_init: Callable[..., jax.Array] = _INIT
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps `[B, H, W, C]` to `[B, H, W, features]`, or less if `inside`."""
    size, radius = self.kernel_size, self.kernel_size // 2
    shape = (size, size, x.shape[-1], self.features)
    kernel = self.param('kernel', self.kernel_init, shape).astype(self.dtype)
    bias = self.param('bias', nn.initializers.zeros, (self.features,))
    x = x.astype(self.dtype)
    if not self.inside:
      border = (radius, radius)
      x = jnp.pad(x, ((0, 0), border, border, (0, 0)), self.padding)
    y = conv2d(x, kernel, bias.astype(self.dtype))
    height, width = y.shape[1:3]
    return y[:, radius : height - radius, radius : width - radius]


class SRCNN(base.Network):
  """The network of every variant.

  Attributes:
    scale: Enlargement.
    sizes: Sides of the three kernels.
    features: Numbers of channels of the two hidden layers.
    dtype: Computation type; parameters stay float32.
  """

  scale: Scale
  sizes: tuple[KernelSize, KernelSize, KernelSize]
  features: tuple[Width, Width]
  dtype: Any = jnp.float32
  channels = 1
  luma = True

  @nn.compact
  def __call__(
    self, lr: jax.Array, *, train: bool = False
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Enlarges luma `lr` `[B, H, W, 1]` to `[B, sH, sW, 1]`, unclipped.

    In training the result lacks a border as wide as the receptive radius. There
    it would depend on pixels outside the image.
    """
    x = imresize(jnp.asarray(lr), scale=self.scale)
    for i, features in enumerate(self.features):
      conv = _Conv(
        features, self.sizes[i], train, dtype=self.dtype, name=f'conv{i + 1}'
      )
      x = relu(conv(x))
    # The last layer computes in float32: bfloat16 would merge grey levels.
    return _Conv(1, self.sizes[2], train, name='conv3')(
      x.astype(jnp.float32)
    ), {}

  @property
  def halo(self) -> int:
    """Receptive radius in LR pixels."""
    radius = sum(size // 2 for size in self.sizes)
    return enlarged_halo(self.scale, radius, None)


def Model(*, scale: int, variant: str = '9-5-5', **overrides: Any) -> SRCNN:
  """Creates SRCNN in one variant; overrides replace single options."""
  return SRCNN(
    scale=scale, **{**common.select_variant(VARIANTS, variant), **overrides}
  )

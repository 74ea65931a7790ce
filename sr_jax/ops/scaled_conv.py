"""Convolutions between a grid and a grid `scale` times as fine.

The transposed convolution enlarges by `scale`, the strided one reduces by it.
Both take kernels of side K = scale + 2 * padding. The strided one also takes
kernels that are one pixel smaller, so that stride 2 works with odd kernels.
"""

from __future__ import annotations

import jax

from sr_jax.ops.bias import add_bias
from sr_jax.ops.conv_forms import Geometry
from sr_jax.ops.conv_primitive import convolve, convolve_transposed


def enlarging_conv(
  x: jax.Array, kernel: jax.Array, bias: jax.Array, scale: int
) -> jax.Array:
  """Transposed convolution, as PyTorch's `ConvTranspose2d` of stride `scale`.

  On CPU it is computed as a dense convolution on the coarse grid, followed by a
  pixel shuffle. XLA's transposed convolution is 20 times slower there, and its
  gradients are slower still.

  Args:
    x: `[B, H, W, C_in]`.
    kernel: `[K, K, C_out, C_in]`, where K - scale is even and not negative.
    bias: `[C_out]`.
    scale: Enlargement factor.

  Returns:
    `[B, scale * H, scale * W, C_out]`.
  """
  padding = _padding(kernel.shape[0], scale)
  batch, height, width, _ = x.shape
  shape = (batch, scale * height, scale * width, kernel.shape[2])
  geometry = Geometry(((padding,) * 2,) * 2, scale)
  return add_bias(convolve_transposed(x, kernel, shape, geometry), bias)


def reducing_conv(
  x: jax.Array, kernel: jax.Array, bias: jax.Array, scale: int
) -> jax.Array:
  """Strided convolution, as PyTorch's `Conv2d` of stride `scale`.

  On CPU it is computed as a pixel unshuffle, followed by a dense convolution on
  the coarse grid, whose gradients are several times faster.

  Args:
    x: `[B, scale * H, scale * W, C_in]`.
    kernel: `[K, K, C_in, C_out]`, where K - scale is not negative. The image is
      padded by half of K - scale, rounded up.
    bias: `[C_out]`.
    scale: Reduction factor.

  Returns:
    `[B, H, W, C_out]`.
  """
  padding = _padding(kernel.shape[0], scale, odd=True)
  geometry = Geometry(((padding,) * 2,) * 2, scale)
  return add_bias(convolve([x], kernel, geometry), bias)


def _padding(size: int, scale: int, *, odd: bool = False) -> int:
  """Half of size - scale, rounded up; `odd` allows an odd difference."""
  padding, rest = divmod(size - scale, 2)
  if size < scale or (rest and not odd):
    raise ValueError(f'a kernel of side {size} does not suit scale {scale}')
  return padding + rest

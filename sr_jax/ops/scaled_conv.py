"""Convolutions between a grid and one `scale` times as fine.

A kernel of side K = scale + 2 * padding fits both: the transposed convolution
enlarges by `scale`, the strided one reduces by it. The latter also takes one
row and column less, so that a stride of 2 has its odd kernels.
"""

from __future__ import annotations

import jax

from sr_jax.ops.bias import add_bias
from sr_jax.ops.conv_forms import Geometry
from sr_jax.ops.conv_primitive import convolve, convolve_transposed


def enlarging_conv(
  x: jax.Array, kernel: jax.Array, bias: jax.Array, scale: int
) -> jax.Array:
  """Transposed convolution, PyTorch's `ConvTranspose2d` of stride `scale`.

  On CPU, where XLA's own runs 20 times slower forward and its gradients
  slower still, it is a dense convolution on the coarse grid and a pixel
  shuffle.

  Args:
    x: `[B, H, W, C_in]`.
    kernel: `[K, K, C_out, C_in]`, K - scale even and not negative.
    bias: `[C_out]`.
    scale: Enlargement.

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
  """Strided convolution, PyTorch's `Conv2d` of stride `scale`.

  On CPU it is a pixel unshuffle and a dense convolution on the coarse grid,
  whose gradients are several times faster.

  Args:
    x: `[B, scale * H, scale * W, C_in]`.
    kernel: `[K, K, C_in, C_out]`, K - scale not negative; padded by half of
      it, rounded up.
    bias: `[C_out]`.
    scale: Reduction.

  Returns:
    `[B, H, W, C_out]`.
  """
  padding = _padding(kernel.shape[0], scale, odd=True)
  geometry = Geometry(((padding,) * 2,) * 2, scale)
  return add_bias(convolve([x], kernel, geometry), bias)


def _padding(size: int, scale: int, *, odd: bool = False) -> int:
  """Half of size - scale, which may be odd where this is said."""
  padding, rest = divmod(size - scale, 2)
  if size < scale or (rest and not odd):
    raise ValueError(f'a kernel of {size} does not suit scale {scale}')
  return padding + rest

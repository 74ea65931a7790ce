"""Convolutions between a grid and one `scale` times as fine.

A kernel of side K = scale + 2 * padding fits both: the transposed convolution
enlarges by `scale`, the strided one reduces by it. The latter also takes one
row and column less, so that a stride of 2 has its odd kernels.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from sr_jax.ops.pixel_shuffle import pixel_shuffle, pixel_unshuffle

_LAYOUT = ('NHWC', 'HWIO', 'NHWC')


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
  size = kernel.shape[0]
  padding = _padding(size, scale)
  if jax.default_backend() != 'cpu':
    pad = (size - 1 - padding,) * 2
    y = jax.lax.conv_general_dilated(
      x,
      jnp.flip(kernel, (0, 1)).swapaxes(2, 3),
      (1, 1),
      (pad, pad),
      lhs_dilation=(scale, scale),
      dimension_numbers=_LAYOUT,
    )
    return y + bias.reshape(1, 1, 1, -1)
  taps, phases = _phases(kernel, scale)
  # Tap a of pixel i lands on fine row (i + a) * scale + phase.
  phases = jnp.flip(phases, (0, 2)).transpose(0, 2, 5, 4, 1, 3)
  phases = phases.reshape(taps, taps, kernel.shape[3], -1)
  y = _valid(_pad(x, taps - 1, taps - 1), phases, jnp.repeat(bias, scale**2))
  y = pixel_shuffle(y, scale)
  height, width = (scale * n for n in x.shape[1:3])
  return y[:, padding : padding + height, padding : padding + width]


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
  if jax.default_backend() != 'cpu':
    pad = (padding, padding)
    y = jax.lax.conv_general_dilated(
      x, kernel, (scale, scale), (pad, pad), dimension_numbers=_LAYOUT
    )
    return y + bias.reshape(1, 1, 1, -1)
  taps, phases = _phases(kernel, scale)
  phases = phases.transpose(0, 2, 4, 1, 3, 5)
  phases = phases.reshape(taps, taps, -1, kernel.shape[3])
  after = (taps - 1) * scale - padding
  return _valid(pixel_unshuffle(_pad(x, padding, after), scale), phases, bias)


def _padding(size: int, scale: int, *, odd: bool = False) -> int:
  """Half of size - scale, which may be odd where this is said."""
  padding, rest = divmod(size - scale, 2)
  if size < scale or (rest and not odd):
    raise ValueError(f'a kernel of {size} does not suit scale {scale}')
  return padding + rest


def _phases(kernel: jax.Array, scale: int) -> tuple[int, jax.Array]:
  """Coarse taps A, and the kernel as `[A, scale, A, scale, C, C']`."""
  size, _, *channels = kernel.shape
  taps = -(-size // scale)
  more = (0, taps * scale - size)
  kernel = jnp.pad(kernel, (more, more, (0, 0), (0, 0)))
  return taps, kernel.reshape(taps, scale, taps, scale, *channels)


def _pad(x: jax.Array, before: int, after: int) -> jax.Array:
  return jnp.pad(x, ((0, 0), (before, after), (before, after), (0, 0)))


def _correlate(x: jax.Array, kernel: jax.Array) -> jax.Array:
  return jax.lax.conv_general_dilated(
    x, kernel, (1, 1), 'VALID', dimension_numbers=_LAYOUT
  )


@jax.custom_vjp
def _valid(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
  """Unpadded convolution with the gradients of `ops.conv` for CPU."""
  return _correlate(x, kernel) + bias.reshape(1, 1, 1, -1)


def _forward(
  x: jax.Array, kernel: jax.Array, bias: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
  return _valid(x, kernel, bias), (x, kernel)


def _backward(
  residuals: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  x, kernel = residuals
  margin = kernel.shape[0] - 1
  # Else the producers of x and dy are computed again for each use below.
  x, dy = jax.lax.optimization_barrier((x, dy))
  padded = _pad(dy, margin, margin)
  dx = _correlate(padded, jnp.flip(kernel, (0, 1)).swapaxes(2, 3))
  # The channels of one as images, the images of both as channels.
  if x.shape[-1] < dy.shape[-1]:
    dw = _correlate(x.transpose(3, 1, 2, 0), dy.transpose(1, 2, 0, 3))
    dw = dw.transpose(1, 2, 0, 3)
  else:
    dw = _correlate(padded.transpose(3, 1, 2, 0), x.transpose(1, 2, 0, 3))
    dw = jnp.flip(dw, (1, 2)).transpose(1, 2, 3, 0)
  flat = dy.reshape(-1, dy.shape[-1])
  return dx, dw, (jnp.ones((1, flat.shape[0]), dy.dtype) @ flat)[0]


_valid.defvjp(_forward, _backward)

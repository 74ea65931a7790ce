"""Losses of a blur kernel that is being estimated (KernelGAN, NeurIPS 2019).

Kernels are `[K, K]` to correlate with. All losses are means, as in KernelGAN's
code.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from sr_jax.ops.blur_kernels import centre_of_mass
from sr_jax.ops.precision import einsum
from sr_jax.ops.resize import cubic
from sr_jax.ops.windows import windows

# The penalty of taps near the border: its height, the deviation of the Gaussian
# that it grows by, and the distance from the border where it begins.
_PENALTY, _DEVIATION, _MARGIN = 30.0, 13.0, 2


def sum_to_one(kernel: jax.Array) -> jax.Array:
  """How far the sum of the taps is from one."""
  return jnp.abs(1 - kernel.sum())


def off_centre(kernel: jax.Array, centre: float) -> jax.Array:
  """Mean square of the distance of the centre of mass from a tap, by axis."""
  return ((centre_of_mass(kernel) - centre) ** 2).mean()


def near_border(kernel: jax.Array) -> jax.Array:
  """Mean absolute value of the taps, weighted by how near the border they are.

  The weights are zero in the middle, all but two taps on every side.
  """
  return jnp.abs(kernel * penalty_mask(len(kernel))).mean()


@functools.cache
def penalty_mask(side: int) -> np.ndarray:
  """The weights of `near_border`, `[side, side]`."""
  offsets = np.arange(side) - (side - 1) / 2
  row = np.exp(-0.5 * (offsets / _DEVIATION) ** 2)
  gaussian = np.outer(row, row)
  mask = _PENALTY * (1 - gaussian / gaussian.max())
  mask[_MARGIN : side - _MARGIN, _MARGIN : side - _MARGIN] = 0
  return mask


def sparsity(kernel: jax.Array, power: float = 0.2) -> jax.Array:
  """Mean of the absolute taps to a power below one, least for few taps.

  Its slope at zero is infinite; taps that are exactly zero get no gradient.
  """
  zero = kernel == 0
  size = jnp.abs(jnp.where(zero, 1.0, kernel))
  return jnp.where(zero, 0.0, size**power).mean()


def bicubic_half(
  image: jax.Array, side: int, *, summed: bool = False
) -> jax.Array:
  """The middle of a bicubically halved image.

  Args:
    image: `[H, W, C]`, at least 2 * side + 6 high and wide.
    side: Height and width of the result.
    summed: Whether every channel gets the sum over all channels, as in
      KernelGAN's code.

  Returns:
    `[side, side, C]`.
  """
  taps = cubic((np.arange(8) - 3.5) / 2)
  taps = taps / taps.sum()
  top, left = ((n - 2 * side - 6) // 2 for n in image.shape[:2])
  middle = image[top : top + 2 * side + 6, left : left + 2 * side + 6]
  halved = einsum('hwabc,a,b->hwc', windows(middle, 8, 2), taps, taps)
  if summed:
    halved = jnp.broadcast_to(halved.sum(-1, keepdims=True), halved.shape)
  return halved

"""Turns the taps that KernelGAN finds into a blur kernel.

The steps are those of the paper (Bell-Kligler, Shocher and Irani, NeurIPS
2019): small taps become zero, the kernel is centred, and the kernel of x4
follows from that of x2.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

from sr_jax.ops.blur_kernels import centre_of_mass, shift_kernel

# Number of largest taps that certainly stay above zero, and the share of the
# next largest tap that is subtracted from all taps.
_KEPT, _SHARE = 40, 0.75


def without_small_taps(kernel: np.ndarray) -> np.ndarray:
  """Lowers all taps, so that small and negative ones become zero.

  Args:
    kernel: `[K, K]`.

  Returns:
    The kernel, with sum 1.
  """
  level = _SHARE * np.sort(kernel, axis=None)[-_KEPT - 1]
  kept = np.clip(kernel - level, 0, None)
  return kept / kept.sum()


def centred(kernel: np.ndarray, side: int) -> np.ndarray:
  """Moves the centre of mass to the middle tap, where `mzsr` kernels have it.

  Args:
    kernel: `[K1, K2]`.
    side: Side of the result, an odd number. Taps that do not fit are cut off.

  Returns:
    `[side, side]`, with sum 1.
  """
  half = np.array(kernel.shape) // 2
  rows, columns = (half - centre_of_mass(kernel)).tolist()
  moved = np.asarray(shift_kernel(kernel, (rows, columns)))
  # After this padding tap `half` of the kernel is far enough from every side.
  padded = np.pad(moved, side)
  top, left = (
    padded_side - kernel_side
    for padded_side, kernel_side in zip(padded.shape, kernel.shape, strict=True)
  )
  top, left = top // 2 + half[0] - side // 2, left // 2 + half[1] - side // 2
  middle = padded[top : top + side, left : left + side]
  return middle / middle.sum()


def centred_as_released(kernel: np.ndarray, scale: int) -> np.ndarray:
  """Moves the centre of mass to the middle of a block, as in KernelGAN's code.

  The move is a spline interpolation, after which the sum is no longer exactly
  one. Kernels of even size end half a pixel off.

  Args:
    kernel: `[K1, K2]`.
    scale: Side of a block in taps.
  """
  sides = np.array(kernel.shape)
  distance = (
    sides // 2 + 0.5 * (scale - sides % 2) - np.array(centre_of_mass(kernel))
  )
  kernel = np.pad(kernel, math.ceil(np.abs(distance).max()) + 1)
  return ndimage.shift(kernel, distance)


def composed_with_itself(kernel: np.ndarray) -> np.ndarray:
  """Makes the kernel of x4 from that of x2, as of two reductions in a row.

  Args:
    kernel: `[K, K]`.

  Returns:
    `[2K - 1, 2K - 1]`, with sum 1; taps farther out are cut off.
  """
  side = len(kernel)
  full = np.zeros((3 * side - 2, 3 * side - 2))
  for (row, column), tap in np.ndenumerate(kernel):
    full[2 * row : 2 * row + side, 2 * column : 2 * column + side] += (
      tap * kernel
    )
  cut = side // 2
  middle = full[cut:-cut, cut:-cut]
  return middle / middle.sum()

"""Maps arrays of plain numbers to [0, 1], and back to their value range.

There is one range for the whole array, or one for each channel. All arithmetic
is float64, one row at a time, because the arrays may nearly fill the memory.
Zero is mapped to one fixed value in [0, 1], which is mapped back to exactly
zero. Sparse data therefore stay sparse.
"""

from __future__ import annotations

import numpy as np

__all__ = ['from_unit', 'keep_zeros', 'to_unit']


def to_unit(
  values: np.ndarray, low: float | np.ndarray, high: float | np.ndarray
) -> np.ndarray:
  """Maps [low, high] to [0, 1].

  Args:
    values: `[H, W, C]` of any real dtype, finite.
    low: Smallest value, float64: one number, or one per channel `[C]`.
    high: Largest value, in the same form. Where it equals `low` the result
      is 0.

  Returns:
    float32 `[H, W, C]`.
  """
  span = np.subtract(high, low)
  span = np.where(span > 0, span, 1.0)
  unit = np.empty(values.shape, np.float32)
  for row, source in zip(unit, values, strict=True):
    row[...] = (source.astype(np.float64) - low) / span
  return unit


def from_unit(
  unit: np.ndarray,
  low: float | np.ndarray,
  high: float | np.ndarray,
  dtype: np.dtype,
) -> np.ndarray:
  """Maps [0, 1] back to [low, high]; the inverse of `to_unit`.

  The value to which `to_unit` maps 0 becomes exactly 0. Values beyond [0, 1]
  are mapped in the same way and clipped to the finite range of the dtype;
  integers are rounded.

  Args:
    unit: Float `[H, W, C]`, finite.
    low: The value that 0 stands for: one number, or one per channel `[C]`.
    high: The value that 1 stands for, in the same form.
    dtype: Real dtype of the result.

  Returns:
    `[H, W, C]` of the dtype; `unit` itself if nothing has to be changed.
  """
  if unit.dtype == dtype and np.all(low == 0) and np.all(high == 1):
    return unit
  span, zero = np.subtract(high, low), _place_of_zero(low, high)
  least, largest = _limits(dtype)
  values = np.empty(unit.shape, dtype)
  for row, source in zip(values, unit, strict=True):
    exact = low + source.astype(np.float64) * span
    np.copyto(exact, 0, where=source == zero)
    if dtype.kind in 'iu':
      np.rint(exact, out=exact)
    row[...] = np.clip(exact, least, largest)
  return values


def keep_zeros(
  sr: np.ndarray,
  lr: np.ndarray,
  scale: float,
  low: float | np.ndarray = 0.0,
  high: float | np.ndarray = 1.0,
) -> np.ndarray:
  """Sets SR to zero where all nearby values of the LR array are zero.

  A value of `sr` is set to zero if the 4x4 values of `lr` from which a cubic
  interpolation would compute it are all zero; at the borders `lr` is mirrored.
  Zero means zero in the source array, which `to_unit` maps to one value in
  [0, 1]. Source values so small that float32 maps them to the same value count
  as zeros.

  Args:
    sr: Enlarged array, float `[sH, sW, C]`; it is not changed.
    lr: float32 `[H, W, C]`, mapped by `to_unit` (or in source units, with the
      default range).
    scale: Enlargement factor, at least 1, not necessarily whole.
    low: The source value that 0 stands for: one number, or `[C]`.
    high: The source value that 1 stands for, in the same form.

  Returns:
    `[sH, sW, C]`; `sr` itself if nothing is set to zero.
  """
  zero = _place_of_zero(low, high)
  windows = _all_of_four(_all_of_four(lr == zero, 0), 1)
  if not windows.any():
    return sr
  rows, columns = (_windows_of(n, scale) for n in sr.shape[:2])
  kept = np.array(sr)
  for row, i in zip(kept, rows, strict=True):
    np.copyto(row, zero, where=windows[i][columns])
  return kept


def _place_of_zero(
  low: float | np.ndarray, high: float | np.ndarray
) -> np.ndarray:
  """The value to which `to_unit` maps 0, float32.

  NaN if 0 lies outside of the range, or if the range holds no other value.
  """
  low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
  inside = (low <= 0) & (high >= 0) & (low < high)
  span = np.where(inside, high - low, 1.0)
  place = np.where(inside, 0.0 - low, np.nan) / span
  return place.astype(np.float32)


def _limits(dtype: np.dtype) -> tuple[float, float]:
  """The smallest and the largest float64 that the dtype can hold."""
  if dtype.kind == 'f':
    largest = float(np.finfo(dtype).max)
    return -largest, largest
  info = np.iinfo(dtype)
  largest = float(info.max)
  if int(largest) > info.max:  # float64 cannot hold all integers of 64 bits
    largest = float(np.nextafter(largest, 0))
  return float(info.min), largest


def _all_of_four(flags: np.ndarray, axis: int) -> np.ndarray:
  """Whether four neighbours along an axis are all set.

  The n + 2 windows begin three places before the first one and end three after
  the last; beyond the borders the flags are mirrored.
  """
  width = [(3, 3) if i == axis else (0, 0) for i in range(flags.ndim)]
  padded = np.moveaxis(np.pad(flags, width, mode='symmetric'), axis, 0)
  four = padded[:-3] & padded[1:-2] & padded[2:-1] & padded[3:]
  return np.moveaxis(four, 0, axis)


def _windows_of(size: int, scale: float) -> np.ndarray:
  """Index of the window of `_all_of_four` that supports each output place."""
  centres = (np.arange(size) + 0.5) / scale - 0.5
  return np.floor(centres).astype(int) + 2

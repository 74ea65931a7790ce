"""Arrays of plain numbers: their value range as [0, 1], and back.

The range is one for the whole array or one for each channel. All arithmetic is
float64, a row at a time, since the arrays may fill the memory. Zero has one
place in [0, 1], from which it comes back exactly: sparse data stay sparse.
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
    low: least value, of all or `[C]`, float64.
    high: largest value, in the same form; where it equals `low` the result
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

  What `to_unit` makes of 0 becomes exactly 0. Values beyond [0, 1] are mapped
  likewise and clipped to the finite range of the dtype; integers are rounded.

  Args:
    unit: float `[H, W, C]`, finite.
    low: what 0 stands for, for all channels or `[C]`.
    high: what 1 stands for, in the same form.
    dtype: real dtype of the result.

  Returns:
    `[H, W, C]` of the dtype; `unit` itself if nothing is to be done.
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
  """Makes zero what is surrounded by nothing but zeros in the LR array.

  Those are the values of `sr` whose 4x4 cubic support in `lr`, mirrored at the
  borders, is zero throughout. Zero is meant in source units: the place that
  `to_unit` gives it, which `from_unit` turns into exactly 0. Values so small
  beside the range that float32 gives them the same place count as zeros.

  Args:
    sr: float `[sH, sW, C]`, enlarged; it is not changed.
    lr: float32 `[H, W, C]`, mapped by `to_unit` (or in source units, with the
      default range).
    scale: enlargement, at least 1, not necessarily whole.
    low: source value that 0 stands for, for all channels or `[C]`.
    high: source value that 1 stands for, in the same form.

  Returns:
    `[sH, sW, C]`; `sr` itself if no support is zero throughout.
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
  """What `to_unit` makes of 0, float32; NaN if outside or the only value."""
  low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
  inside = (low <= 0) & (high >= 0) & (low < high)
  span = np.where(inside, high - low, 1.0)
  place = np.where(inside, 0.0 - low, np.nan) / span
  return place.astype(np.float32)


def _limits(dtype: np.dtype) -> tuple[float, float]:
  """The least and the largest float64 that the dtype can hold."""
  if dtype.kind == 'f':
    largest = float(np.finfo(dtype).max)
    return -largest, largest
  info = np.iinfo(dtype)
  largest = float(info.max)
  if int(largest) > info.max:  # 64 bits are more than float64 has
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

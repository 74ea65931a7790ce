"""Converts the samples of image files to [0, 1], and back to whole levels."""

from __future__ import annotations

import functools
import logging
from pathlib import Path

import numpy as np

from sr_jax.data import arrays
from sr_jax.data.samples import Samples
from sr_jax.errors import UserError

_log = logging.getLogger(__name__)

# Data of 14 bits in files of 16 bits have no value above this share of the
# range.
_DIM = 1 / 4


def without_nodata(
  path: Path, samples: Samples
) -> tuple[Samples, np.ndarray | None]:
  """Fills the pixels that hold no data.

  Returns:
    The samples, whose `nodata` is None if every pixel has data; and a mask
    float32 `[H, W, 1]`, which is 1 for pixels with data and 0 for the others,
    or None if every pixel has data.

  Raises:
    UserError: No pixel has data.
  """
  values, nodata = samples.values, samples.nodata
  if nodata is None or samples.alpha:
    return samples._replace(nodata=None), None
  empty = np.isnan(values) if np.isnan(nodata) else values == nodata
  # In a photograph a single band may have the value by chance, so that all
  # bands must have it. In other data one such value, a height of -9999 for
  # example, is enough.
  several = np.any if samples.bits is None else np.all
  empty = several(empty, axis=-1, keepdims=True)
  if not empty.any():
    return samples._replace(nodata=None), None
  if empty.all():
    raise UserError(f'{path}: all pixels are without data: leave it out')
  filled = np.where(empty, values[~empty[..., 0]].min(axis=0), values)
  present = np.where(empty, np.float32(0), np.float32(1))
  return samples._replace(values=filled), present


def complete(path: Path, samples: Samples) -> Samples:
  """Refuses images with pixels that hold no data."""
  _, present = without_nodata(path, samples)
  if present is not None:
    missing = int(np.count_nonzero(present == 0))
    raise UserError(
      f'{path}: {missing} of {present.size} pixels hold no data '
      f'({samples.nodata:g}): fill them, or leave it out'
    )
  return samples


def divided(values: np.ndarray, largest: float) -> np.ndarray:
  """Divides unsigned samples by `largest`; makes only one copy, float32."""
  return np.divide(values, np.float32(largest), dtype=np.float32, order='C')


def white(path: Path, samples: Samples, peak: float) -> float:
  """Returns the value that is white.

  Args:
    path: The file.
    samples: The content of the file.
    peak: The value of white for files of more than 8 bits; 0 if it is not
      given.

  Raises:
    UserError: A value is not in the range from 0 to `peak`.
  """
  color = samples.values[..., :-1] if samples.alpha else samples.values
  full = 2 ** (samples.bits or 0) - 1
  if samples.bits is not None and samples.bits <= 8:
    return full
  if not peak:
    _say_if_dim(path, float(color.max()), full)
    return full
  least, largest = float(color.min()), float(color.max())
  if not (least >= 0 and largest <= peak):  # NaN is neither
    raise UserError(
      f'{path}: has values of {least:g} to {largest:g}, not from 0 to the peak'
      f' of {peak:g}: give the value that is white'
    )
  return peak


@functools.lru_cache(maxsize=1024)
def _say_if_dim(path: Path, largest: float, full: int) -> None:
  """Warns, once per file, if all values are far below the type's largest."""
  if 0 < largest <= _DIM * full:
    likely = 2 ** int(largest).bit_length() - 1
    _log.warning(
      '%s: its values reach %.0f of %d, %.0f %% of the range, and are read as '
      'nearly black; if they have fewer bits, give the value that is white: '
      'peak=%d',
      *(path, largest, full, 100 * largest / full, likely),
    )


def to_unit_range(
  path: Path,
  values: np.ndarray,
  per_channel: bool = False,
  peak: float = 0.0,
) -> tuple[np.ndarray, float | np.ndarray, float | np.ndarray]:
  """Maps numbers of any range to float32 in [0, 1].

  Args:
    path: The file.
    values: `[H, W, C]`.
    per_channel: Whether each channel has a range of its own if C is neither 1
      nor 3.
    peak: The value that is white, while 0 is black; 0 if it is not given.

  Returns:
    The mapped values, and the values `low` and `high` that 0 and 1 stand for.

  Raises:
    UserError: A value is NaN, infinite or beyond float32, or it is negative or
      larger than `peak`.
  """
  bad = values.size - int(np.count_nonzero(np.isfinite(values)))
  if bad:
    raise UserError(
      f'{path}: {bad} of {values.size} values are NaN or infinite: replace them'
    )
  least, largest = float(values.min()), float(values.max())
  if peak:
    if least < 0 or largest > peak:
      raise UserError(
        f'{path}: has values of {least:g} to {largest:g}, not from 0 to the '
        f'peak of {peak:g}: give the value that is white'
      )
    return arrays.to_unit(values, 0.0, peak), 0.0, peak
  low, high = least, largest
  if per_channel and values.shape[-1] not in (1, 3):
    low = values.min(axis=(0, 1)).astype(np.float64)
    high = values.max(axis=(0, 1)).astype(np.float64)
  elif least >= 0 and largest <= 1:
    return np.array(values, np.float32, order='C'), 0.0, 1.0
  if max(-least, largest) > float(np.finfo(np.float32).max) / 2:
    raise UserError(
      f'{path}: values of {least:g} to {largest:g} do not fit float32: rescale '
      'them'
    )
  return arrays.to_unit(values, low, high), low, high


def three_channels(
  path: Path, samples: Samples, values: np.ndarray
) -> np.ndarray:
  """Returns the colour of samples as `[H, W, 3]`; `values` are mapped ones."""
  if samples.alpha:
    values = values[..., :-1]
  if values.shape[-1] not in (1, 3):
    raise UserError(
      f'{path}: has {values.shape[-1]} channels: give a grey or RGB image'
    )
  shape = (*values.shape[:2], 3)
  return np.array(np.broadcast_to(values, shape), order='C')


def quantized(
  values: np.ndarray, bits: int, peak: float | None = None
) -> np.ndarray:
  """Clips float `[H, W, C]` to [0, 1] and rounds it to uint8 or uint16.

  Args:
    values: The image.
    bits: 8 or 16.
    peak: The level of white; None for the largest level.
  """
  largest = 2**bits - 1 if peak is None else peak
  out = np.empty(values.shape, np.uint8 if bits == 8 else np.uint16)
  for row, source in zip(out, values, strict=True):  # no second float image
    row[...] = np.round(np.clip(source, 0, 1) * largest)
  return out

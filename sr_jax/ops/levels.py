"""Levels of images: uint8, uint16, or floats in [0, 1]."""

from __future__ import annotations

from typing import Any

import numpy as np

from sr_jax.ops.namespace import Array


def peak(dtype: Any) -> float:
  """The level that is white: the largest of an integer type, 1 of a float."""
  dtype = np.dtype(dtype)
  return float(np.iinfo(dtype).max) if dtype.kind in 'ui' else 1.0


def to_unit(levels: Array) -> Any:
  """Levels as float32 in [0, 1]."""
  return levels.astype(np.float32) / np.float32(peak(levels.dtype))


def widened(levels: np.ndarray, dtype: np.dtype) -> np.ndarray:
  """The same values on the levels of a type that has no fewer of them."""
  if levels.dtype == dtype:
    return levels
  if dtype.kind == 'f':
    return to_unit(levels)
  return levels * dtype.type(peak(dtype) / peak(levels.dtype))


def widest(dtypes: Any) -> np.dtype:
  """The type of most levels among those of images, uint8 of none."""
  return max(map(np.dtype, dtypes), key=_richness, default=np.dtype(np.uint8))


def _richness(dtype: np.dtype) -> int:
  """A number that is larger for types of more levels."""
  return 2 * dtype.itemsize + (dtype.kind == 'f')

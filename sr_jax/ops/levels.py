"""Pixel levels of images: uint8, uint16, or floats in [0, 1]."""

from __future__ import annotations

from typing import Any

import numpy as np

from sr_jax.ops.namespace import Array


def peak(dtype: Any) -> float:
  """The level of white: the largest integer of a type, or 1 for floats."""
  dtype = np.dtype(dtype)
  return float(np.iinfo(dtype).max) if dtype.kind in 'ui' else 1.0


def to_unit(levels: Array) -> Any:
  """Converts levels to float32 in [0, 1]."""
  return levels.astype(np.float32) / np.float32(peak(levels.dtype))


def widened(levels: np.ndarray, dtype: np.dtype) -> np.ndarray:
  """Converts levels to a type that has at least as many levels."""
  if levels.dtype == dtype:
    return levels
  if dtype.kind == 'f':
    return to_unit(levels)
  return levels * dtype.type(peak(dtype) / peak(levels.dtype))


def widest(dtypes: Any) -> np.dtype:
  """The type with the most levels among the given types; uint8 for none."""
  return max(map(np.dtype, dtypes), key=_richness, default=np.dtype(np.uint8))


def _richness(dtype: np.dtype) -> int:
  """A sort key that is larger for types with more levels."""
  return 2 * dtype.itemsize + (dtype.kind == 'f')

"""Checks that two images can be compared."""

from __future__ import annotations

import numpy as np

from sr_jax.errors import UserError
from sr_jax.ops import levels
from sr_jax.ops.namespace import Array

_LEVELS = (np.uint8, np.uint16)


def check_pair(metric: str, a: Array, b: Array, peak: float | None) -> float:
  """Checks that two images can be compared, and returns their peak value.

  Args:
    metric: Name of the metric, for error messages.
    a: First images, `[..., H, W, C]`.
    b: Second images, of the same shape and type.
    peak: The peak value, or None to derive it from the type.

  Returns:
    `peak`; if it is None, the largest level of uint8 or uint16, or 255 for
    floats.

  Raises:
    UserError: Shapes or types differ, or are not those of images.
  """
  if a.shape != b.shape:
    raise UserError(f'{metric}: shapes differ: {a.shape} and {b.shape}')
  if len(a.shape) < 3:
    raise UserError(
      f'{metric} takes images [..., H, W, C], not {a.shape}: add the axis of '
      'channels'
    )
  kinds = [np.dtype(x.dtype) for x in (a, b)]
  if peak is not None:
    return peak
  first, second = kinds
  if not any(kind.kind in 'iub' for kind in kinds):
    return 255.0
  if first != second or first not in _LEVELS:
    raise UserError(
      f'{metric} of {first} and {second} images: give both as uint8, uint16 or '
      'floats, or say the peak'
    )
  return levels.peak(first)

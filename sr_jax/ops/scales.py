"""Image sizes at scales that need not be whole, computed in exact fractions.

In floating point 2.3 * 50 is 114.99..., which would round down to 114 pixels
instead of 115.
"""

from __future__ import annotations

import math
from fractions import Fraction


def rational(scale: float | Fraction) -> Fraction:
  """The exact fraction that a scale means: 2.3 is 23/10, 8 / 3 is 8/3."""
  return Fraction(scale).limit_denominator(10**6)


def whole(scale: float) -> float:
  """Converts a scale to int if it is whole."""
  return int(scale) if scale == int(scale) else float(scale)


def enlarged_size(size: int, scale: float | Fraction) -> int:
  """Number of pixels of an enlarged axis; the last may lie partly outside."""
  ratio = rational(scale)
  # Integer arithmetic also works for symbolic sizes (shape polymorphism).
  return -(-size * ratio.numerator // ratio.denominator)


def covered_size(size: int, scale: float) -> int:
  """Number of HR pixels that lie wholly within `size` LR pixels."""
  return math.floor(size * rational(scale))


def reduced_size(size: int, scale: float) -> int:
  """Number of LR pixels that lie wholly within `size` HR pixels."""
  return math.floor(size / rational(scale))

"""Enlargement by whole and other factors, counted in exact fractions.

In floating point 2.3 * 50 is 114.99..., a pixel short of the 115 that it is.
"""

from __future__ import annotations

import math
from fractions import Fraction


def rational(scale: float | Fraction) -> Fraction:
  """The fraction that a scale stands for: 2.3 is 23/10, 8 / 3 is 8/3."""
  return Fraction(scale).limit_denominator(10**6)


def whole(scale: float) -> float:
  """The scale as an int where it is one."""
  return int(scale) if scale == int(scale) else float(scale)


def enlarged_size(size: int, scale: float | Fraction) -> int:
  """Pixels of an enlarged axis: the last one may lie partly outside."""
  ratio = rational(scale)
  # In whole numbers, so that the size may be a symbol of shape polymorphism.
  return -(-size * ratio.numerator // ratio.denominator)


def covered_size(size: int, scale: float) -> int:
  """HR pixels that lie wholly within `size` LR pixels."""
  return math.floor(size * rational(scale))


def reduced_size(size: int, scale: float) -> int:
  """LR pixels that lie wholly within `size` HR pixels."""
  return math.floor(size / rational(scale))

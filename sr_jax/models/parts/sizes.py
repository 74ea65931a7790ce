"""Arithmetic of image sizes that may be symbols, in programs for all sizes.

Two symbols cannot be compared, so `max` and `min` fail on them. Slicing an
array beyond its end does the same arithmetic, and JAX does it on symbols.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def larger(a: int, b: int) -> int:
  """The larger of two sizes."""
  return b + _excess(a, b)


def smaller(a: int, b: int) -> int:
  """The smaller of two sizes."""
  return a - _excess(a, b)


def _excess(a: int, b: int) -> int:
  """By how much `a` is larger than `b`, or 0."""
  if isinstance(a, int) and isinstance(b, int):
    return max(a - b, 0)
  long = jax.ShapeDtypeStruct((a,), jnp.int8)
  return jax.eval_shape(lambda x: x[b:], long).shape[0]

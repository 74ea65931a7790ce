"""Floating-point types and matrix products that do not lose digits."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sr_jax.errors import UserError
from sr_jax.ops.namespace import Array, array_namespace


def as_float(x: Array) -> Any:
  """Converts to float64 on the host, or to float32 or more on the device."""
  if array_namespace(x) is np:
    return np.asarray(x, np.float64)
  return jnp.asarray(x, jnp.promote_types(x.dtype, jnp.float32))


def check_floats(*images: Array) -> None:
  """Refuses integer images, because a loss cannot know their value range.

  Raises:
    UserError: An array has no floating-point type.
  """
  for image in images:
    if not jnp.issubdtype(image.dtype, jnp.floating):
      raise UserError(
        f'losses take images as floats, not as {image.dtype}: divide by the '
        'largest level first'
      )


def einsum(spec: str, *operands: Array) -> Any:
  """`einsum` in full float32; accelerators use fewer bits by default."""
  if array_namespace(*operands) is np:
    return np.einsum(spec, *operands, optimize=True)
  dtype = jnp.result_type(*(x for x in operands if isinstance(x, jax.Array)))
  operands = tuple(jnp.asarray(x, dtype) for x in operands)
  return jnp.einsum(spec, *operands, precision=jax.lax.Precision.HIGHEST)

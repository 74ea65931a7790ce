"""Device axes over which arrays inside `jax.shard_map` vary."""

from __future__ import annotations

from typing import Any

import jax


def vary_alike(*arrays: jax.Array) -> tuple[jax.Array, ...]:
  """Marks all arrays as varying over each axis over which any of them varies.

  JAX does this for its own operations; a custom primitive has to call this
  function. The transpose of the mark sums the gradient of an operand that the
  devices share over these devices.
  """
  axes = [_varying(x) for x in arrays]
  union = frozenset().union(*axes)
  return tuple(
    _marked(x, tuple(sorted(union - own)))
    for x, own in zip(arrays, axes, strict=True)
  )


def _varying(x: jax.Array) -> frozenset[str]:
  kind: Any = jax.typeof(x)
  if hasattr(kind, 'manual_axis_type'):
    return kind.manual_axis_type.varying
  return kind.vma  # older JAX


def _marked(x: jax.Array, axes: tuple[str, ...]) -> jax.Array:
  if not axes:
    return x
  lax: Any = jax.lax
  if hasattr(lax, 'pcast'):
    return lax.pcast(x, axes, to='varying')
  return lax.pvary(x, axes)  # older JAX

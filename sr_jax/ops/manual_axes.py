"""The device axes over which arrays inside `jax.shard_map` differ."""

from __future__ import annotations

from typing import Any

import jax


def vary_alike(*arrays: jax.Array) -> tuple[jax.Array, ...]:
  """The arrays, each marked as varying over every axis that any varies over.

  JAX does so for its own operations, and a primitive of our own has to ask for
  it: the transpose of the mark sums a shared operand's gradient over devices.
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

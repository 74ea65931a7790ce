"""Adding a bias to every pixel, with a gradient that is fast on CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.interpreters import ad, batching

from sr_jax.ops.manual_axes import vary_alike
from sr_jax.ops.primitive import define


def add_bias(x: jax.Array, bias: jax.Array | None) -> jax.Array:
  """Adds one bias per channel.

  On CPU the gradient of the bias is computed as a matrix product, which is 15
  times faster than XLA's sum over pixels.

  Args:
    x: `[B, H, W, C]`.
    bias: `[C]`; None returns `x` unchanged.
  """
  if bias is None:
    return x
  x, bias = vary_alike(x, bias)
  return x + _spread.bind(bias, pixels=x.shape[:3])[0]


def _plain_spread(bias: jax.Array, pixels: tuple[int, ...]) -> list[jax.Array]:
  """Repeats a bias over all pixels: `[..., C]` -> `[..., *pixels, C]`."""
  *tasks, channels = bias.shape
  bias = bias.reshape(*tasks, 1, 1, 1, channels)
  return [jnp.broadcast_to(bias, (*tasks, *pixels, channels))]


def _plain_gather(x: jax.Array) -> list[jax.Array]:
  """Transpose of `_plain_spread`: sums `[..., B, H, W, C]` to `[..., C]`."""
  return [x.sum((-4, -3, -2))]


def _cpu_gather(x: jax.Array) -> list[jax.Array]:
  if x.ndim > 4:
    return jax.lax.map(_cpu_gather, x)
  # Without the barrier XLA computes x anew for each of its uses.
  flat = jax.lax.optimization_barrier(x).reshape(-1, x.shape[-1])
  return [(jnp.ones((1, flat.shape[0]), x.dtype) @ flat)[0]]


_spread = define('spread_bias', _plain_spread, _plain_spread)
_gather = define('gather_bias', _plain_gather, _cpu_gather)


def _transpose_spread(
  cotangents: Sequence[Any], bias: Any, **unused: Any
) -> list[Any]:
  del bias, unused
  (ct,) = cotangents
  return [ct] if type(ct) is ad.Zero else _gather.bind(ct)


def _transpose_gather(cotangents: Sequence[Any], x: Any) -> list[Any]:
  (ct,) = cotangents
  if type(ct) is ad.Zero:
    return [ct]
  return _spread.bind(ct, pixels=x.aval.shape[-4:-1])


ad.deflinear2(_spread, _transpose_spread)
ad.deflinear2(_gather, _transpose_gather)


def _batcher(primitive: Any) -> Any:
  """The `vmap` rule: both primitives accept further leading axes."""

  def batch(
    operands: Sequence[Any], dims: Sequence[int], **params: Any
  ) -> tuple[list[Any], list[int]]:
    x = jnp.moveaxis(operands[0], dims[0], 0)
    return primitive.bind(x, **params), [0]

  return batch


batching.primitive_batchers[_spread] = _batcher(_spread)
batching.primitive_batchers[_gather] = _batcher(_gather)

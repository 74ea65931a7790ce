"""ReLU whose gradient keeps one array in memory instead of two."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.interpreters import batching

from sr_jax.ops.primitive import define


@jax.custom_jvp
def relu(x: jax.Array) -> jax.Array:
  """Computes max(x, 0) for any shape; the gradient at 0 is 0.

  On CPU the gradient's mask is computed from the result, which is kept for the
  gradient of the next layer anyway. XLA would compute it from x and keep x as
  well, by which a train step of EDSR would take a third more memory.
  """
  return jnp.maximum(x, 0)


@relu.defjvp
def _jvp(
  primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
  (x,), (dx,) = primals, tangents
  y = relu(x)
  (positive,) = _positive.bind(jax.lax.stop_gradient(y))
  return y, jnp.where(positive, dx, 0)


_positive = define(
  'positive',
  lambda y: [y > 0],
  lambda y: [jax.lax.optimization_barrier(y) > 0],
)
batching.primitive_batchers[_positive] = lambda operands, dims: (
  _positive.bind(*operands),
  dims,
)

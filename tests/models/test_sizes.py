"""The maximum and minimum of two sizes, which may be symbolic."""

import jax
import jax.numpy as jnp
import pytest
from jax import export

from sr_jax.models.parts.sizes import larger, smaller


@pytest.mark.parametrize(('a', 'b'), [(3, 5), (5, 3), (4, 4), (0, 1)])
def test_numbers(a, b):
  assert (larger(a, b), smaller(a, b)) == (max(a, b), min(a, b))


def test_symbols():
  def sizes(x):
    a, b = x.shape
    return jnp.zeros((larger(a, b), smaller(a, 6)))

  shape = export.symbolic_shape('a, b')
  like = jax.ShapeDtypeStruct(shape, jnp.float32)
  program = export.export(jax.jit(sizes))(like)
  for a, b in ((3, 5), (9, 2)):
    assert program.call(jnp.ones((a, b))).shape == (max(a, b), min(a, 6))

import jax
import jax.numpy as jnp
import numpy as np

from sr_jax.ops.compilation import call_once, jit


def test_optimization_barriers_outlive_the_compiler():
  def twice(x):
    return jax.lax.optimization_barrier(2 * x) + 1

  program = jit(twice).lower(1.0).compile().as_text()
  assert 'opt-barrier' in program
  assert jit(twice)(3.0) == 7.0


def test_a_call_of_an_uncompiled_function_gives_what_its_program_gives():
  def two(key, tree, unused):
    jnp.linalg.inv(unused)  # has no influence
    first, second = jax.random.split(key)
    drawn = jax.random.normal(first, (3, 4)), jax.random.normal(second, (3, 4))
    total, steps = jax.lax.scan(lambda c, x: (c + x, c), 0.0, tree['x'])
    own = jax.nn.relu(total)  # an operation with a gradient of its own
    return {'key': second, 'drawn': drawn, 'scan': (own, steps), 'one': 1.0}

  args = jax.random.key(3), {'x': np.arange(5.0, dtype=np.float32)}, np.eye(2)
  found, expected = call_once(two, *args), jax.jit(two)(*args)
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  for a, b in zip(
    jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
  ):
    assert a.dtype == b.dtype
    if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
      a, b = jax.random.key_data(a), jax.random.key_data(b)
    np.testing.assert_array_equal(a, b)


def test_equal_operations_of_a_single_call_are_compiled_once(caplog):
  """SRNet's initial weights took 50 s of one core to compile, now 2 s."""

  def draws(key):
    keys = (jax.random.fold_in(key, i) for i in range(50))
    return [jax.random.normal(each, (7, 11)) for each in keys]

  with caplog.at_level('WARNING'), jax.log_compiles():
    call_once(draws, jax.random.key(0))
  compiled = [line for line in caplog.messages if 'XLA compilation' in line]
  assert 0 < len(compiled) < 20

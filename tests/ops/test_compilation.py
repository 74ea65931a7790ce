import jax

from sr_jax.ops.compilation import jit


def test_optimization_barriers_outlive_the_compiler():
  def twice(x):
    return jax.lax.optimization_barrier(2 * x) + 1

  program = jit(twice).lower(1.0).compile().as_text()
  assert 'opt-barrier' in program
  assert jit(twice)(3.0) == 7.0


def test_programs_that_run_once_give_the_same():
  assert jit(lambda x: 2 * x + 1, once=True)(3.0) == 7.0

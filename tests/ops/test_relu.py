import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax.ops.compilation import jit
from sr_jax.ops.conv import conv2d
from sr_jax.ops.relu import relu

_X = np.array([-2.0, -0.0, 0.0, 3.0, np.inf, -np.inf, np.nan], np.float32)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_value_and_gradient_are_those_of_jax(dtype):
  x = jnp.asarray(_X, dtype)

  def value_and_gradient(fun):
    value, gradient_of = jax.vjp(fun, x)
    return value, *gradient_of(jnp.arange(1, 8, dtype=dtype))

  for ours, theirs in zip(
    value_and_gradient(relu), value_and_gradient(jax.nn.relu), strict=True
  ):
    assert ours.dtype == theirs.dtype == dtype
    np.testing.assert_array_equal(
      ours.astype(jnp.float32), theirs.astype(jnp.float32)
    )


def test_gradients_of_gradients_and_batches():
  x = jnp.asarray(_X[:4])

  def gradient(fun):
    return jax.grad(lambda x: (x * fun(x) ** 2).sum())

  for transform in (jax.vmap, jax.jit, jax.hessian):
    np.testing.assert_array_equal(
      transform(gradient(relu))(x), transform(gradient(jax.nn.relu))(x)
    )


def test_a_gradient_keeps_one_array_a_layer():
  x = jnp.zeros((4, 32, 32, 16))
  kernels = [jnp.full((3, 3, 16, 16), 0.01)] * 6

  def memory(activation):
    def loss(kernels):
      y = x
      for kernel in kernels:
        y = y + conv2d(activation(conv2d(y, kernel, None)), kernel, None)
      return (y**2).sum()

    program = jit(jax.grad(loss)).lower(kernels).compile()
    return program.memory_analysis().temp_size_in_bytes

  assert memory(relu) < 0.8 * memory(jax.nn.relu)

"""Enlarging and reducing convolutions give the results of JAX's functions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax.ops import scaled_conv

# Side of the kernel, and scale. SRFBN has the first three; the last one needs
# no padding.
SIZES = [(6, 2), (7, 3), (12, 8), (3, 3)]
# CrossNet reduces by the first two. These sizes cannot enlarge.
ODD = [(7, 2), (3, 2), (4, 3)]
CASES = [
  *((*case, enlarging) for case in SIZES for enlarging in (True, False)),
  *((*case, False) for case in ODD),
]
LAYOUT = ('NHWC', 'HWIO', 'NHWC')


def _enlarge(x, kernel, bias, scale):
  """Computes the transpose of a strided convolution by its definition."""
  padding = (kernel.shape[0] - scale) // 2
  shape = (x.shape[0], scale * x.shape[1], scale * x.shape[2], kernel.shape[2])

  def reduce(y):
    return jax.lax.conv_general_dilated(
      y, kernel, (scale,) * 2, [(padding,) * 2] * 2, dimension_numbers=LAYOUT
    )

  (y,) = jax.linear_transpose(reduce, jnp.zeros(shape))(x)
  return y + bias[None, None, None]


def _reduce(x, kernel, bias, scale):
  """Computes a strided convolution."""
  padding = -((scale - kernel.shape[0]) // 2)
  y = jax.lax.conv_general_dilated(
    x, kernel, (scale,) * 2, [(padding,) * 2] * 2, dimension_numbers=LAYOUT
  )
  return y + bias[None, None, None]


def _inputs(size, scale, enlarging):
  keys = jax.random.split(jax.random.key(0), 3)
  grid = (3, 4) if enlarging else (3 * scale, 4 * scale)
  x = jax.random.normal(keys[0], (2, *grid, 5))
  channels = (7, 5) if enlarging else (5, 7)
  kernel = jax.random.normal(keys[1], (size, size, *channels))
  return x, kernel, jax.random.normal(keys[2], (7,))


@pytest.mark.parametrize(('size', 'scale', 'enlarging'), CASES)
def test_values_and_gradients_equal_jax(size, scale, enlarging):
  inputs = _inputs(size, scale, enlarging)
  ours, theirs = (
    (scaled_conv.enlarging_conv, _enlarge)
    if enlarging
    else (scaled_conv.reducing_conv, _reduce)
  )

  @functools.partial(jax.jit, static_argnums=0)
  def value_and_gradients(f, *inputs):
    y, transpose = jax.vjp(lambda *a: f(*a, scale), *inputs)
    return y, *transpose(y**2)

  for a, b in zip(
    value_and_gradients(ours, *inputs),
    value_and_gradients(theirs, *inputs),
    strict=True,
  ):
    assert a.shape == b.shape
    np.testing.assert_allclose(a / abs(b).max(), b / abs(b).max(), atol=3e-6)


@pytest.mark.parametrize('enlarging', [True, False])
def test_kernels_that_do_not_suit_the_scale_are_refused(enlarging):
  convolve, sizes = (
    (scaled_conv.enlarging_conv, (2, 4, 1))
    if enlarging
    else (scaled_conv.reducing_conv, (2, 1))
  )
  for size in sizes:
    with pytest.raises(ValueError, match=f'kernel of side {size} .* scale 3'):
      convolve(
        jnp.ones((1, 6, 6, 1)), jnp.ones((size, size, 1, 1)), jnp.ones(1), 3
      )

"""Derivatives of the convolutions: both modes, any order, every transform.

B12: forward mode of anything with a convolution raised on CPU. The reference is
the same convolution written with `jax.lax` alone, in float64.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from sr_jax.ops.conv import conv2d, joint_conv2d
from sr_jax.ops.scaled_conv import enlarging_conv, reducing_conv

LAYOUT = ('NHWC', 'HWIO', 'NHWC')


@pytest.fixture(autouse=True)
def _float64():
  with jax.enable_x64(True):
    yield


def plain(x, kernel, bias):
  y = jax.lax.conv_general_dilated(
    x, kernel, (1, 1), 'SAME', dimension_numbers=LAYOUT
  )
  return y + bias[None, None, None]


def plain_dilated(x, kernel, bias):
  y = jax.lax.conv_general_dilated(
    x,
    kernel,
    (1, 1),
    'SAME',
    rhs_dilation=(2, 2),
    dimension_numbers=LAYOUT,
  )
  return y + bias[None, None, None]


def dilated(x, kernel, bias):
  return conv2d(x, kernel, bias, 2)


def joint(x, kernel, bias):
  return joint_conv2d(jnp.split(x, [1], -1), kernel, bias)


def reducing(x, kernel, bias):
  return reducing_conv(x, kernel, bias, 2)


def plain_reducing(x, kernel, bias):
  y = jax.lax.conv_general_dilated(
    x, kernel, (2, 2), [(1, 1), (1, 1)], dimension_numbers=LAYOUT
  )
  return y + bias[None, None, None]


def enlarging(x, kernel, bias):
  return enlarging_conv(x, kernel.swapaxes(2, 3), bias, 2)


def plain_enlarging(x, kernel, bias):
  y = jax.lax.conv_general_dilated(
    x,
    jnp.flip(kernel, (0, 1)),
    (1, 1),
    [(kernel.shape[0] - 1 - (kernel.shape[0] - 2) // 2,) * 2] * 2,
    lhs_dilation=(2, 2),
    dimension_numbers=LAYOUT,
  )
  return y + bias[None, None, None]


# Function, reference and side of the kernel.
PAIRS = {
  'conv2d': (conv2d, plain, 3),
  'dilated': (dilated, plain_dilated, 3),
  'joint': (joint, plain, 3),
  'reducing': (reducing, plain_reducing, 3),
  'enlarging': (enlarging, plain_enlarging, 4),
}


def arrays(seed, size=3, lead=()):
  rng = np.random.default_rng(seed)
  shapes = ((1, 4, 2, 2), (size, size, 2, 3), (3,))
  return tuple(jnp.asarray(rng.normal(size=(*lead, *s))) for s in shapes)


def loss(f):
  return lambda *a: jnp.sin(f(*a)).sum()


def _dot(a, b):
  return sum((x * y).sum() for x, y in zip(a, b, strict=True))


ALL = (0, 1, 2)
grad = functools.partial(jax.grad, argnums=ALL)


def _along(f, direction):
  """Derivative of f along a direction, in forward mode."""
  return lambda *a: jax.jvp(f, a, direction)[1]


# Of a function, a derivative along `t`.
DERIVATIVES = {
  'jvp': lambda f, t: _along(f, t),
  'vjp': lambda f, t: grad(loss(f)),
  'forward over reverse': lambda f, t: _along(grad(loss(f)), t),
  'reverse over forward': lambda f, t: grad(_along(loss(f), t)),
  'reverse over reverse': lambda f, t: grad(
    lambda *a: _dot(grad(loss(f))(*a), t)
  ),
  'jacfwd': lambda f, t: jax.jacfwd(f, ALL),
  'jacrev': lambda f, t: jax.jacrev(f, ALL),
  'third order': lambda f, t: grad(
    _along(lambda *a: _dot(grad(loss(f))(*a), t), t)
  ),
  'linearized': lambda f, t: lambda *a: jax.linearize(f, *a)[1](*t),
}


def assert_same(ours, theirs):
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-10),
    ours,
    theirs,
  )


@pytest.mark.parametrize('pair', PAIRS)
def test_derivatives_equal_those_of_jax(pair):
  ours, theirs, size = PAIRS[pair]
  inputs, t = arrays(0, size), arrays(1, size)

  def every(f):
    return {
      name: derivative(f, t)(*inputs)
      for name, derivative in DERIVATIVES.items()
    }

  assert_same(*(jax.jit(every, static_argnums=0)(f) for f in (ours, theirs)))


def test_hessians_and_values_without_jit_equal_those_of_jax():
  inputs = arrays(0)
  hessians = (
    jax.jit(jax.hessian(loss(f), ALL))(*inputs) for f in (conv2d, plain)
  )
  assert_same(*hessians)
  assert_same(conv2d(*inputs), plain(*inputs))
  with jax.disable_jit():
    assert_same(conv2d(*inputs), plain(*inputs))


AXES = [a for a in itertools.product((0, None), repeat=3) if a != (None,) * 3]


@pytest.mark.parametrize(
  'axes',
  [
    a
    if a in ((0, None, None), (None, 0, None), (0, 0, 0))
    else pytest.param(a, marks=pytest.mark.nightly)
    for a in AXES
  ],
)
@pytest.mark.parametrize(
  'pair',
  [
    'conv2d',
    'joint',
    pytest.param('reducing', marks=pytest.mark.nightly),
    pytest.param('enlarging', marks=pytest.mark.nightly),
  ],
)
def test_vmap_before_and_after_derivatives(pair, axes):
  """Over images, over weights and over both; twice as well."""
  ours, theirs, size = PAIRS[pair]
  one, many = arrays(0, size), arrays(1, size, (3,))
  inputs = tuple(
    m if a == 0 else o for a, o, m in zip(axes, one, many, strict=True)
  )
  t = tuple(0.5 * x for x in inputs)

  def every(f):
    mapped = jax.vmap(f, axes)
    return (
      mapped(*inputs),
      jax.vmap(grad(loss(f)), axes)(*inputs),
      grad(loss(mapped))(*inputs),
      _along(grad(loss(mapped)), t)(*inputs),
      jax.vmap(_along(grad(loss(f)), one), axes)(*inputs),
      jax.vmap(jax.vmap(f, axes), (None, 0, None))(
        inputs[0], jnp.stack([inputs[1], 2 * inputs[1]]), inputs[2]
      ),
    )

  assert_same(*(jax.jit(every, static_argnums=0)(f) for f in (ours, theirs)))


def test_scan_and_remat():
  inputs, t = arrays(0), arrays(1)

  def looped(f):
    def layer(x, factor):
      y = jax.checkpoint(f)(factor * x, *inputs[1:])
      return jnp.tanh(y[..., :2]), y.sum()

    def run(x):
      return jax.lax.scan(layer, x, jnp.asarray([1.0, 0.5, 2.0]))[1].sum()

    return run

  def every(f):
    run, x = looped(f), inputs[0]
    return (
      jax.grad(run)(x),
      jax.jvp(jax.grad(run), (x,), t[:1]),
      jax.grad(lambda x: jax.jvp(run, (x,), t[:1])[1])(x),
      jax.grad(lambda x: (jax.grad(run)(x) * t[0]).sum())(x),
    )

  assert_same(*(jax.jit(every, static_argnums=0)(f) for f in (conv2d, plain)))


@pytest.mark.parametrize('check', [True, False])
def test_derivatives_inside_and_outside_of_shard_map(check):
  """A shared kernel's gradient is the sum over devices."""
  mesh = jax.make_mesh((2,), ('d',), axis_types=(AxisType.Auto,))
  x, *weights = arrays(0)
  x = jnp.concatenate([x, 2 * x])
  split, shared = PartitionSpec('d'), PartitionSpec()

  def of_all(f):
    def mean(*a):
      return jax.lax.pmean(loss(f)(*a), 'd')

    def spread(f, out):
      return jax.shard_map(
        f,
        mesh=mesh,
        in_specs=(split, shared, shared),
        out_specs=out,
        check_vma=check,
      )

    outer = spread(mean, shared)
    results = [grad(outer)(x, *weights)]
    results.append(jax.jacfwd(grad(outer), 2)(x, *weights))
    results.append(grad(lambda *a: jax.grad(outer, 1)(*a).sum())(x, *weights))
    if check:  # without, JAX does not know that the kernel is shared
      inner = spread(lambda *a: grad(mean)(*a)[1:], shared)
      results.append(inner(x, *weights))
    return results

  assert_same(*(jax.jit(of_all, static_argnums=0)(f) for f in (conv2d, plain)))


def test_bfloat16_keeps_its_type_and_value():
  inputs = tuple(x.astype(jnp.bfloat16) for x in arrays(0))
  t = tuple(x.astype(jnp.bfloat16) for x in arrays(1))

  def every(f):
    return (
      f(*inputs),
      grad(loss(f))(*inputs),
      _along(grad(loss(f)), t)(*inputs),
      grad(_along(loss(f), t))(*inputs),
    )

  ours, theirs = (jax.jit(every, static_argnums=0)(f) for f in (conv2d, plain))
  for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
    assert a.dtype == b.dtype == jnp.bfloat16
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    np.testing.assert_allclose(a, b, atol=0.03 * np.abs(b).max())


def test_types_may_not_be_mixed():
  x, kernel, bias = arrays(0)
  with pytest.raises(TypeError, match='same dtypes'):
    conv2d(x, kernel.astype(jnp.float32), bias)


def test_forward_mode_along_the_image_alone():
  """In this case the weights have no tangent."""
  x, kernel, bias = arrays(0)
  t = arrays(1)[0]
  assert_same(
    *(
      jax.jvp(lambda x, f=f: f(x, kernel, bias), (x,), (t,))
      for f in (conv2d, plain)
    )
  )

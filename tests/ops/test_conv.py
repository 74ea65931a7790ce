"""conv2d against jax.lax's convolution and its own gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax.errors import UserError
from sr_jax.models.parts.common import Conv
from sr_jax.ops import conv, conv_forms
from sr_jax.ops.compilation import jit


def _inputs(size, channels=(3, 5), shape=(2, 7, 6)):
  keys = jax.random.split(jax.random.key(0), 3)
  x = jax.random.normal(keys[0], (*shape, channels[0]))
  size = (size, size) if isinstance(size, int) else size
  kernel = jax.random.normal(keys[1], (*size, *channels))
  return x, kernel, jax.random.normal(keys[2], (channels[1],))


def _reference(x, kernel, bias, dilation=1):
  y = jax.lax.conv_general_dilated(
    x,
    kernel,
    (1, 1),
    'SAME',
    rhs_dilation=(dilation, dilation),
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )
  return y if bias is None else y + bias[None, None, None]


@pytest.mark.parametrize('channels', [(3, 5), (5, 3)])
@pytest.mark.parametrize(
  ('size', 'dilation'),
  [(1, 1), (3, 1), (5, 1), (3, 2), (3, 5), ((1, 5), 1), ((5, 1), 2)],
)
def test_values_and_gradients_equal_lax(size, dilation, channels):
  inputs = _inputs(size, channels)
  np.testing.assert_allclose(
    conv.conv2d(*inputs, dilation), _reference(*inputs, dilation), atol=1e-4
  )

  def grads(f):
    return jax.grad(lambda *a: (f(*a, dilation) ** 3).sum(), argnums=(0, 1, 2))(
      *inputs
    )

  for ours, theirs in zip(grads(conv.conv2d), grads(_reference), strict=True):
    scale = jnp.abs(theirs).max()
    np.testing.assert_allclose(ours / scale, theirs / scale, atol=2e-6)


@pytest.mark.parametrize(('size', 'dilation'), [(1, 1), (3, 1), (3, 2)])
def test_parts_are_convolved_as_if_joined(size, dilation):
  x, *weights = _inputs(size, (7, 4))

  def loss(fun):
    return lambda x, *weights: (fun(x, *weights, dilation) ** 2).sum()

  def of_parts(x, *rest):
    return conv.joint_conv2d(jnp.split(x, [2, 3], -1), *rest)

  ours, theirs = (
    jax.value_and_grad(loss(fun), (0, 1, 2))(x, *weights)
    for fun in (of_parts, _reference)
  )
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-3),
    ours,
    theirs,
  )


@pytest.mark.parametrize('at_once', [1, 2000])
def test_weight_gradients_by_parts_of_a_batch(at_once, monkeypatch):
  """Five images in groups of one, and in groups of two with one left."""
  x, kernel, _ = _inputs(3, shape=(5, 7, 6))

  def gradient():
    return jax.jit(jax.grad(lambda k: (conv.conv2d(x, k, None) ** 3).sum()))

  whole = gradient()(kernel)
  monkeypatch.setattr(conv_forms, '_AT_ONCE', at_once)
  assert _convolutions(gradient(), kernel) == 1 + (5 if at_once == 1 else 3)
  np.testing.assert_allclose(gradient()(kernel), whole, rtol=1e-4)


def _convolutions(jitted, *args, platform='cpu'):
  lowered = jitted.trace(*args).lower(lowering_platforms=(platform,))
  return lowered.as_text().count('stablehlo.convolution')


@pytest.mark.parametrize('batch', [64, 256])
def test_a_weight_gradient_has_few_parts_at_any_batch(batch):
  """B13: at batch 256 a weight gradient was 130 convolutions."""
  x = jax.ShapeDtypeStruct((batch, 48, 48, 64), jnp.float32)
  kernel = jax.ShapeDtypeStruct((3, 3, 64, 64), jnp.float32)
  loss = jax.jit(jax.grad(lambda k, x: (conv.conv2d(x, k, None) ** 2).sum()))
  assert _convolutions(loss, kernel, x) <= 9


@pytest.mark.parametrize('channels', [(8, 16), (16, 8)])
def test_weight_gradients_stay_with_xla_where_onednn_runs_the_rest(channels):
  x, kernel, _ = _inputs(3, channels, (1, 32, 32))
  loss = jax.grad(lambda *a: (conv.conv2d(*a, None) ** 3).sum(), (0, 1))
  program = jit(loss).lower(x, kernel).compile().as_text()
  by_onednn = program.count('custom_call_target="__onednn$convolution"')
  by_xla = program.count(' convolution(')
  assert (by_onednn, by_xla) in [(2, 1), (0, 3)]


@pytest.mark.parametrize('channels', [(3, 5), (5, 3)])
def test_without_a_bias_it_equals_lax(channels):
  x, kernel, _ = _inputs(3, channels)
  np.testing.assert_allclose(
    conv.conv2d(x, kernel, None), _reference(x, kernel, None), atol=1e-4
  )

  def grads(f):
    loss = jax.grad(lambda *a: (f(*a, None) ** 3).sum(), argnums=(0, 1))
    _, scanned = jax.lax.scan(
      lambda c, s: (c, loss(s * x, kernel)), 0, jnp.asarray([1.0, 0.5])
    )
    return loss(x, kernel), scanned

  compiled = jax.jit(grads, static_argnums=0)
  ours, theirs = (
    jax.tree.leaves(compiled(f)) for f in (conv.conv2d, _reference)
  )
  for a, b in zip(ours, theirs, strict=True):
    np.testing.assert_allclose(a / abs(b).max(), b / abs(b).max(), atol=2e-6)


def test_forward_over_reverse_equals_lax():
  x, kernel, bias = _inputs(3)

  def hessian_product(f):
    grad = jax.grad(lambda k: (jnp.tanh(f(x, k, bias)) ** 2).sum())
    return jax.jvp(grad, (kernel,), (jnp.ones_like(kernel),))[1]

  ours, theirs = hessian_product(conv.conv2d), hessian_product(_reference)
  np.testing.assert_allclose(ours, theirs, atol=1e-4 * jnp.abs(theirs).max())


def test_vmap_over_kernels_and_scan_equal_a_loop():
  x, kernel, bias = _inputs(3, channels=(4, 4))
  kernels = jnp.stack([kernel, kernel[::-1]])

  def grad(k):
    return jax.grad(lambda w: (conv.conv2d(x, w, bias) ** 2).sum())(k)

  one_by_one = jnp.stack([grad(k) for k in kernels])
  scale = jnp.abs(one_by_one).max()
  np.testing.assert_allclose(
    jax.vmap(grad)(kernels) / scale, one_by_one / scale, atol=1e-6
  )
  _, scanned = jax.lax.scan(lambda c, k: (c, grad(k)), 0, kernels)
  np.testing.assert_allclose(scanned / scale, one_by_one / scale, atol=1e-6)


def test_the_form_is_that_of_the_platform_a_program_is_for():
  """Other platforms compute one convolution of all parts and images."""
  x, kernel, bias = _inputs(3, (4, 5))

  def loss(x, *weights):
    return (conv.joint_conv2d(jnp.split(x, 2, -1), *weights) ** 3).sum()

  gradient = jax.jit(jax.grad(loss, (0, 1, 2)))
  assert _convolutions(gradient, x, kernel, bias) == 6
  for platform in ('cuda', 'tpu'):
    assert _convolutions(gradient, x, kernel, bias, platform=platform) == 3


def _grouped(form, groups):
  def convolve(x, *weights):
    return jnp.concatenate(form(jnp.split(x, groups, -1), *weights), -1)

  return convolve


@pytest.mark.parametrize('use_bias', [True, False])
def test_groups_are_convolutions_of_their_own(use_bias):
  """Values and gradients equal a kernel that is zero between the groups."""
  keys = jax.random.split(jax.random.key(0), 3)
  x = jax.random.normal(keys[0], (2, 5, 6, 6))
  kernel = jax.random.normal(keys[1], (3, 3, 2, 12))
  bias = jax.random.normal(keys[2], (12,)) if use_bias else None

  def dense(x, kernel, bias):
    full = jnp.zeros((3, 3, 6, 12))
    for i in range(3):
      part = kernel[..., 4 * i : 4 * (i + 1)]
      full = full.at[:, :, 2 * i : 2 * (i + 1), 4 * i : 4 * (i + 1)].set(part)
    return _reference(x, full, bias)

  def both(f):
    run = jax.value_and_grad(
      lambda *a: (f(*a) ** 3).sum(), argnums=(0, 1, 2)[: 2 + use_bias]
    )
    return jax.tree.leaves(jax.jit(run)(x, kernel, bias))

  expected = both(dense)
  for form in (conv.grouped_conv2d, conv._at_once):
    for a, b in zip(both(_grouped(form, 3)), expected, strict=True):
      np.testing.assert_allclose(a / abs(b).max(), b / abs(b).max(), atol=3e-6)


def test_groups_are_convolved_as_suits_the_platform_a_program_is_for():
  """A program for a TPU that was traced on a CPU got the form of the CPU."""
  x, kernel = jnp.ones((2, 5, 6, 6)), jnp.ones((3, 3, 2, 12))
  grouped = _grouped(conv.grouped_conv2d, 3)
  loss = jax.grad(lambda *a: (grouped(*a, None) ** 3).sum(), (0, 1))
  for jitted, each in ((jax.jit(grouped), 1), (jax.jit(loss), 3)):
    args = (x, kernel) if each == 3 else (x, kernel, None)
    assert _convolutions(jitted, *args) == 3 * each
    for platform in ('cuda', 'tpu'):
      assert _convolutions(jitted, *args, platform=platform) == each


def test_groups_have_derivatives_in_both_modes_and_batches():
  x, kernel, _ = _inputs(3, (2, 6))
  x = jnp.concatenate([x, 2 * x, x], -1)
  (ours, moved), (theirs, reference) = (
    jax.jvp(
      jax.vmap(lambda k, f=f: f(x, k, None)),
      (jnp.stack([kernel, -kernel]),),
      (jnp.stack([kernel[::-1], kernel]),),
    )
    for f in map(_grouped, (conv.grouped_conv2d, conv._at_once), (3, 3))
  )
  np.testing.assert_allclose(ours, theirs, atol=1e-4)
  np.testing.assert_allclose(moved, reference, atol=1e-4)


def test_jit_passes_its_arguments_on():
  scaled = jit(lambda x, factor: x * factor, static_argnames='factor')
  assert scaled(2.0, factor=3) == 6.0


@pytest.mark.parametrize('size', [(2, 2), (4, 4), (3, 2), (4, 1)])
def test_kernels_of_even_sides_are_refused(size):
  """B15: a kernel of side 4 made 9x9 out of 8x8."""
  x, kernel, bias = _inputs(size)
  for convolve in (conv.conv2d, lambda x, *rest: conv.joint_conv2d([x], *rest)):
    with pytest.raises(UserError, match=f'odd sides, not {size[0]}x{size[1]}'):
      convolve(x, kernel, bias)
  with pytest.raises(UserError, match='odd sides'):
    jax.eval_shape(
      lambda x: Conv(4, size).init(jax.random.key(0), x), jnp.ones((1, 8, 8, 3))
    )

"""Inner loops and their derivatives, against formulas and differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sr_jax.transforms import meta
from tests.transforms.meta_toys import (
  OPTIMIZERS,
  RATE,
  WEIGHTS,
  assert_finite_differences_agree,
  image_batch,
  mse,
  network_params,
  outer_gradient,
  regression,
  relative_error,
  square_loss,
)


def closed_form(w, support, query, rate, weights):
  """The meta-gradient: sum_j w_j (I - rate H)^j g_query(theta_j)."""
  ((a, b), hessian), ((c, d), _) = support, query
  shrink, jacobian, total = np.eye(w.size) - rate * hessian, np.eye(w.size), 0
  for weight in weights:
    w = w - rate * a.T @ (a @ w - b) / len(b)
    jacobian = shrink @ jacobian
    total = total + weight * jacobian.T @ (c.T @ (c @ w - d)) / len(d)
  return total


@pytest.mark.parametrize('weights', [[1.0], [0.0, 0.0, 1.0], [0.5, 0.2, 0.3]])
@pytest.mark.parametrize('x64', [True, False])
def test_linear_regression_has_its_closed_form(x64, weights):
  support, query = regression(0), regression(1)
  w = np.random.default_rng(2).normal(size=4)
  expected = closed_form(w, support, query, RATE, weights)
  with jax.enable_x64(x64):
    of_both = jax.value_and_grad(
      lambda w: meta.meta_loss(
        square_loss,
        w,
        *jax.tree.map(jnp.asarray, (support[0], query[0])),
        jnp.asarray(weights),
        learning_rates=RATE,
      )[0]
    )
    _, ours = of_both(jnp.asarray(w))
  assert ours.dtype == (np.float64 if x64 else np.float32)
  np.testing.assert_allclose(ours, expected, rtol=1e-12 if x64 else 2e-5)


def test_the_outer_loss_can_be_differentiated_again():
  """Third derivatives of the inner loss, against plain reverse mode."""

  def loss(w, batch):
    return square_loss(jnp.tanh(w), batch)

  def outer(w, support, query):
    weights = jnp.asarray([0.0, 1.0])
    options = {'learning_rates': RATE}
    return meta.meta_loss(loss, w, support, query, weights, **options)[0]

  def plain(w, support, query):
    for _ in range(2):
      w = w - RATE * jax.grad(loss)(w, support)
    return loss(w, query)

  batches = [
    jax.tree.map(jnp.float32, regression(seed)[0]) for seed in range(2)
  ]
  ours, theirs = (
    jax.jit(jax.jacrev(jax.grad(f)))(jnp.linspace(-1.0, 1.0, 4), *batches)
    for f in (outer, plain)
  )
  assert relative_error(ours, theirs) < 1e-5


@pytest.mark.nightly
def test_finite_differences_through_five_steps():
  with jax.enable_x64(True):
    params = network_params(jnp.float64)
    batches = image_batch(1, jnp.float64), image_batch(2, jnp.float64)
    weights = jnp.asarray([0.1, 0.1, 0.1, 0.1, 0.6])
    exact = outer_gradient(weights)
    _, gradient = exact(params, *batches)
    assert_finite_differences_agree(
      lambda p: exact(p, *batches)[0], params, gradient
    )


def plain_outer_loss(
  params, support, query, weights, optimizer, treat=lambda grads: grads
):
  """The outer loss as a Python loop of jax.grad and optax alone."""
  state, total = optimizer.init(params), 0
  for weight in weights:
    grads = treat(jax.grad(mse)(params, support))
    updates, state = optimizer.update(grads, state, params)
    params = jax.tree.map(lambda p, u: p + RATE * u, params, updates)
    total = total + weight * mse(params, query)
  return total


@pytest.mark.parametrize('name', OPTIMIZERS)
@pytest.mark.nightly
def test_equals_reverse_over_reverse_of_a_plain_loop(name):
  optimizer, params = OPTIMIZERS[name], network_params()
  batches = image_batch(1), image_batch(2)
  ours = outer_gradient(jnp.asarray(WEIGHTS), optimizer=optimizer)
  plain = jax.jit(
    jax.value_and_grad(
      lambda p, s, q: plain_outer_loss(p, s, q, WEIGHTS, optimizer)
    )
  )
  (value, gradient), (plain_value, plain_gradient) = (
    f(params, *batches) for f in (ours, plain)
  )
  np.testing.assert_allclose(value, plain_value, rtol=1e-5)
  assert relative_error(gradient, plain_gradient) < 1e-5


def test_first_order_is_a_stopped_gradient_and_not_the_exact_one():
  params, batches = network_params(), (image_batch(1), image_batch(2))
  reference = jax.jit(
    jax.grad(
      lambda p, s, q: plain_outer_loss(
        *(p, s, q, WEIGHTS, OPTIMIZERS['sgd'], jax.lax.stop_gradient)
      )
    )
  )(params, *batches)
  gradients = {}
  for order in ('first', 'exact'):
    found = outer_gradient(jnp.asarray(WEIGHTS), order=order)
    gradients[order] = found(params, *batches)[1]
  assert relative_error(gradients['first'], reference) < 1e-5
  assert relative_error(gradients['exact'], reference) > 0.05


def indexed_loss(params, scale, batch):
  """Uses a float, an integer array and a key besides the parameters."""
  noise = jax.random.normal(batch['key'], (5,))
  chosen = params['w'][batch['rows']] * scale + params['b'] * noise
  return (jnp.tanh(chosen) ** 2).sum() + jnp.sin(scale * params['b']).sum()


def indexed_inputs():
  params = {'w': jnp.linspace(-1.0, 1.0, 7), 'b': jnp.linspace(0.1, 0.5, 5)}
  batch = {'rows': jnp.asarray([0, 2, 2, 5, 6]), 'key': jax.random.key(3)}
  return params, jnp.asarray(0.7), batch


@pytest.mark.nightly
def test_curvature_grad_is_grad_and_so_are_its_derivatives():
  params, scale, batch = indexed_inputs()
  ours, theirs = meta.curvature_grad(indexed_loss), jax.grad(indexed_loss)
  assert relative_error(*(f(params, scale, batch) for f in (ours, theirs))) == 0

  def norm(f, params, scale):
    return optax.tree.norm(f(params, scale, batch), squared=True)

  for argument in (0, 1):
    of_ours, of_theirs = (
      jax.jit(jax.grad(functools.partial(norm, f), argument))(params, scale)
      for f in (ours, theirs)
    )
    assert relative_error(of_ours, of_theirs) < 1e-6


def test_curvature_grad_under_vmap_and_with_python_numbers():
  params, _, batch = indexed_inputs()
  scales = jnp.asarray([0.3, 0.7, 1.5])

  def curvature(scale):
    ours = meta.curvature_grad(indexed_loss)
    return jax.grad(
      lambda p: optax.tree.norm(ours(p, scale, batch), squared=True)
    )(params)

  together = jax.jit(jax.vmap(curvature))(scales)
  for i, scale in enumerate(scales.tolist()):
    alone = curvature(scale)
    each = jax.tree.map(lambda x, i=i: x[i], together)
    assert relative_error(each, alone) < 1e-6


def test_values_in_a_closure_are_differentiated_as_well():
  def outer(scale):
    def loss(params, batch):
      return ((scale * params - batch) ** 2).sum()

    return meta.adapt(loss, jnp.ones(3), 0.5, steps=1).params.sum()

  # One step from 1 arrives at 1 - 2 s (s - 1/2) in each of three numbers.
  for derivative in (jax.grad, jax.jacfwd):
    np.testing.assert_allclose(derivative(outer)(2.0), -3 * (8 - 1), rtol=1e-6)


@pytest.mark.nightly
def test_curvature_grad_in_both_modes_and_to_any_order():
  """B12: `jax.jvp` of the inner loop was refused."""

  def loss(params, scale):
    return jnp.sin(scale * params['w'] ** 2).sum() * jnp.exp(params['b'])

  with jax.enable_x64(True):
    params = {'w': jnp.linspace(-1.0, 1.0, 3), 'b': jnp.asarray(0.3)}
    scale = jnp.asarray(0.7)

    def every(grad_of):
      def norm(params, scale):
        return optax.tree.norm(grad_of(loss)(params, scale), squared=True)

      forward = jax.jacfwd(norm, (0, 1))
      reverse = jax.grad(norm, (0, 1))
      by_scale = jax.grad(lambda s: reverse(params, s)[1])
      return (
        forward(params, scale),
        reverse(params, scale),
        jax.hessian(norm, (0, 1))(params, scale),
        jax.jacfwd(forward, (0, 1))(params, scale),
        jax.jacrev(forward, (0, 1))(params, scale),
        jax.jacrev(reverse, (0, 1))(params, scale),
        jax.grad(by_scale)(scale),
        jax.vmap(forward, (None, 0))(params, jnp.linspace(0.1, 1.0, 2)),
        jax.vmap(reverse, (None, 0))(params, jnp.linspace(0.1, 1.0, 2)),
      )

    ours, theirs = (
      jax.jit(every, static_argnums=0)(f)
      for f in (meta.curvature_grad, jax.grad)
    )
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-10),
    ours,
    theirs,
  )


def test_an_inner_loop_in_forward_mode_equals_reverse_mode():
  (support, _), (query, _) = regression(0), regression(1)
  w = jnp.linspace(-1.0, 1.0, 4)

  def outer(w):
    return meta.meta_loss(
      square_loss,
      w,
      support,
      query,
      meta.uniform_weights(3),
      learning_rates=RATE,
    )[0]

  np.testing.assert_allclose(
    jax.jit(jax.jacfwd(outer))(w), jax.jit(jax.grad(outer))(w), rtol=1e-5
  )


@pytest.mark.nightly
def test_scan_unrolled_and_every_policy_agree():
  params, batches = network_params(), (image_batch(1), image_batch(2))
  nothing = jax.checkpoint_policies.nothing_saveable
  variants = (
    {},
    {'unroll': True},
    {'policy': None},
    {'policy': nothing},
  )
  weights = jnp.asarray(WEIGHTS)
  value, gradient = jax.jit(
    jax.value_and_grad(
      lambda p, s, q: plain_outer_loss(p, s, q, WEIGHTS, OPTIMIZERS['sgd'])
    )
  )(params, *batches)
  for options in variants:
    ours = outer_gradient(weights, **options)(params, *batches)
    np.testing.assert_allclose(ours[0], value, rtol=1e-6)
    assert relative_error(ours[1], gradient) < 2e-6, options


def test_losses_are_those_before_each_step_and_observed_those_after():
  params, batch = network_params(), image_batch(1)
  adapted = meta.adapt(
    mse,
    params,
    batch,
    steps=3,
    learning_rates=RATE,
    observe=lambda p: {'loss': mse(p, batch), 'last': p['last']},
  )
  np.testing.assert_allclose(adapted.losses[0], mse(params, batch), rtol=1e-6)
  np.testing.assert_allclose(
    adapted.losses[1:], adapted.observed['loss'][:-1], rtol=1e-6
  )
  assert (jnp.diff(adapted.losses) < 0).all()
  assert adapted.observed['last'].shape == (3, *params['last'].shape)
  np.testing.assert_array_equal(
    adapted.observed['last'][-1], adapted.params['last']
  )
  assert meta.adapt(mse, params, batch, steps=1).observed is None


def test_losses_carry_no_derivative():
  gradient = jax.grad(
    lambda p: meta.adapt(mse, p, image_batch(1), steps=2).losses.sum()
  )(network_params())
  assert optax.tree.norm(gradient) == 0


@pytest.mark.parametrize('unroll', [1, True])
def test_no_steps_are_the_plain_loss(unroll):
  params, batch = network_params(), image_batch(1)

  def outer(params):
    adapted = meta.adapt(
      mse, params, batch, steps=0, observe=lambda p: p['last'], unroll=unroll
    )
    return mse(adapted.params, batch), adapted

  (_, adapted), gradient = jax.value_and_grad(outer, has_aux=True)(params)
  jax.tree.map(np.testing.assert_array_equal, adapted.params, params)
  assert adapted.losses.shape == (0,)
  assert adapted.observed.shape == (0, *params['last'].shape)
  assert relative_error(gradient, jax.grad(mse)(params, batch)) < 1e-6


@pytest.mark.parametrize('options', [{'order': 'second'}, {'steps': -1}])
def test_unknown_order_and_negative_steps_are_refused(options):
  with pytest.raises(ValueError, match=r'order|steps'):
    meta.adapt(mse, network_params(), image_batch(1), **{'steps': 1} | options)

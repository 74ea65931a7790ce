"""Inner loops and their derivatives, against formulas and differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sr_jax import sharding
from sr_jax.ops.conv import conv2d
from sr_jax.transforms import meta

RATE = 0.3


def relative_error(ours, theirs):
  """Norm of the difference of two trees over that of the second."""
  difference = jax.tree.map(lambda a, b: a - b, ours, theirs)
  return float(optax.tree.norm(difference) / optax.tree.norm(theirs))


# Linear regression, where everything is known in closed form.


def square_loss(w, batch):
  inputs, targets = batch
  return 0.5 * ((inputs @ w - targets) ** 2).mean()


def regression(seed, count=6, features=4):
  """Inputs and targets with their Hessian, float64."""
  rng = np.random.default_rng(seed)
  inputs, targets = rng.normal(size=(count, features)), rng.normal(size=count)
  return (inputs, targets), inputs.T @ inputs / count


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


# A small smooth network: kinks of ReLU and L1 make finite differences lie.


def network(params, x):
  x = jnp.tanh(conv2d(x, params['first']['kernel'], params['first']['bias']))
  return conv2d(x, params['last'], None)


def mse(params, batch):
  x, y = batch
  return ((network(params, x) - y) ** 2).mean()


def network_params(dtype=jnp.float32):
  keys = jax.random.split(jax.random.key(0), 3)
  return {
    'first': {
      'kernel': jax.random.normal(keys[0], (3, 3, 1, 4), dtype) / 3,
      'bias': 0.1 * jax.random.normal(keys[1], (4,), dtype),
    },
    'last': jax.random.normal(keys[2], (3, 3, 4, 1), dtype) / 6,
  }


def image_batch(seed, dtype=jnp.float32, shape=(2, 5, 5, 1)):
  keys = jax.random.split(jax.random.key(seed), 2)
  return tuple(jax.random.normal(key, shape, dtype) for key in keys)


def outer_gradient(weights, **options):
  """Compiled `params -> gradient` of the network's outer loss."""

  def outer(params, support, query):
    options_ = {'learning_rates': RATE} | options
    return meta.meta_loss(mse, params, support, query, weights, **options_)[0]

  return jax.jit(jax.value_and_grad(outer))


def unit_directions(tree, count):
  leaves, treedef = jax.tree.flatten(tree)
  for seed in range(count):
    keys = jax.random.split(jax.random.key(100 + seed), len(leaves))
    pairs = zip(keys, leaves, strict=True)
    drawn = [jax.random.normal(key, x.shape, x.dtype) for key, x in pairs]
    norm = optax.tree.norm(drawn)
    yield treedef.unflatten([x / norm for x in drawn])


def assert_finite_differences_agree(function, at, gradient, tolerance=1e-6):
  """Central differences along random unit directions."""
  eps = 1e-4
  for direction in unit_directions(at, 3):
    ahead, behind = (
      function(optax.tree.add_scale(at, sign * eps, direction))
      for sign in (1, -1)
    )
    along = optax.tree.vdot(gradient, direction)
    assert abs((ahead - behind) / (2 * eps) / along - 1) < tolerance


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


WEIGHTS = np.float32([0.2, 0.3, 0.5])
OPTIMIZERS = {
  'sgd': optax.sgd(1.0),
  'momentum': optax.chain(optax.trace(0.9, nesterov=True), optax.scale(-1.0)),
  # Adam divides by its gradients, hence an epsilon of their size.
  'adam': optax.adam(0.3, eps=1e-2),
}


@pytest.mark.parametrize('name', OPTIMIZERS)
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


# curvature_grad by itself.


def indexed_loss(params, scale, batch):
  """Uses a float, an integer array and a key besides the parameters."""
  noise = jax.random.normal(batch['key'], (5,))
  chosen = params['w'][batch['rows']] * scale + params['b'] * noise
  return (jnp.tanh(chosen) ** 2).sum() + jnp.sin(scale * params['b']).sum()


def indexed_inputs():
  params = {'w': jnp.linspace(-1.0, 1.0, 7), 'b': jnp.linspace(0.1, 0.5, 5)}
  batch = {'rows': jnp.asarray([0, 2, 2, 5, 6]), 'key': jax.random.key(3)}
  return params, jnp.asarray(0.7), batch


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


def test_values_that_need_a_derivative_may_not_hide_in_a_closure():
  """Their derivative would be lost: JAX refuses, which must stay so."""

  def outer(scale):
    def loss(params, batch):
      return ((scale * params - batch) ** 2).sum()

    return meta.adapt(loss, jnp.ones(3), 0.5, steps=1).params.sum()

  with pytest.raises(Exception, match='closed-over'):
    jax.grad(outer)(2.0)


# One loop, however it is compiled.


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


# Learning rates.


def rate_trees(params, steps):
  """Every form that rates may have; all mean RATE, RATE / 2, ..."""
  each = RATE / (1 + jnp.arange(float(steps)))

  def per_weight(leaf):
    shape = (steps,) + (1,) * leaf.ndim
    return jnp.broadcast_to(each.reshape(shape), (steps, *leaf.shape))

  return {
    'step': each,
    'list': each.tolist(),
    'layer': jax.tree.map(lambda _: each, params),
    'weight': jax.tree.map(per_weight, params),
    'channel': jax.tree.map(
      lambda leaf: each.reshape((steps,) + (1,) * leaf.ndim), params
    ),
  }


def test_rates_by_step_layer_and_weight_mean_the_same():
  params, batch = network_params(), image_batch(1)
  trees = rate_trees(params, 3)
  expected = params
  for rate in trees['step']:
    grads = jax.grad(mse)(expected, batch)
    expected = optax.tree.add_scale(expected, -rate, grads)
  for name, rates in trees.items():
    adapted = meta.adapt(mse, params, batch, steps=3, learning_rates=rates)
    assert relative_error(adapted.params, expected) < 1e-6, name


def test_one_number_is_the_rate_of_every_step():
  params, batch = network_params(), image_batch(1)
  one, each = (
    meta.adapt(mse, params, batch, steps=2, learning_rates=rates).params
    for rates in (RATE, [RATE, RATE])
  )
  jax.tree.map(np.testing.assert_array_equal, one, each)


def test_each_leaf_takes_its_own_rates():
  params, batch = network_params(), image_batch(1)
  rates = meta.learned_rates(params, 2, RATE, per='weight')
  rates['first'] = jax.tree.map(jnp.zeros_like, rates['first'])
  rates['last'] = rates['last'].at[:, 0].set(0.0)
  after = meta.adapt(mse, params, batch, steps=2, learning_rates=rates).params
  jax.tree.map(np.testing.assert_array_equal, after['first'], params['first'])
  moved = np.asarray(after['last'] != params['last'])
  assert not moved[0].any()
  assert moved[1:].all()


@pytest.mark.parametrize('per', ['step', 'layer', 'weight'])
def test_derivative_by_the_rates_equals_finite_differences(per):
  with jax.enable_x64(True):
    params = network_params(jnp.float64)
    batches = image_batch(1, jnp.float64), image_batch(2, jnp.float64)
    if per == 'step':
      rates = jnp.full((2,), RATE)
    else:
      rates = meta.learned_rates(params, 2, RATE, per=per)
    weights = jnp.asarray([0.4, 0.6])

    @jax.jit
    @jax.value_and_grad
    def outer(rates):
      options = {'learning_rates': rates}
      return meta.meta_loss(mse, params, *batches, weights, **options)[0]

    _, gradient = outer(rates)
    assert_finite_differences_agree(lambda r: outer(r)[0], rates, gradient)


@pytest.mark.parametrize(
  'rates',
  [
    np.ones(2),
    np.ones((3, 1)),
    {'first': np.ones(3)},
    {'first': {'kernel': 0.1, 'bias': 0.1}, 'last': 0.1},
    {'first': {'kernel': np.ones(3), 'bias': np.ones(2)}, 'last': np.ones(3)},
    {
      'first': {'kernel': np.ones(3), 'bias': np.ones((3, 5))},
      'last': np.ones(3),
    },
    {
      'first': {'kernel': np.ones(3), 'bias': np.ones((3, 3, 4))},
      'last': np.ones(3),
    },
  ],
)
def test_rates_that_do_not_fit_are_refused(rates):
  with pytest.raises(ValueError, match='learning_rates'):
    meta.adapt(
      mse, network_params(), image_batch(1), steps=3, learning_rates=rates
    )


def test_learned_rates_have_a_number_per_step_and_leaf_or_weight():
  params = network_params()
  for per, shape in (('layer', (5,)), ('weight', (5, 3, 3, 4, 1))):
    rates = meta.learned_rates(params, 5, 0.01, per=per)
    assert jax.tree.structure(rates) == jax.tree.structure(params)
    np.testing.assert_array_equal(rates['last'], np.full(shape, 0.01, 'f4'))
  with pytest.raises(ValueError, match="'layer' or 'weight'"):
    meta.learned_rates(params, 5, 0.01, per='channel')


# Weights of the inner steps.


@pytest.mark.parametrize(
  ('step', 'early', 'last'),
  [
    (0, 0.2, 0.2),
    (1000, 0.14, 0.44),
    (2000, 0.08, 0.68),
    (3000, 0.02, 0.92),
    (3234, 0.006, 0.976),
    (100_000, 0.006, 0.976),
  ],
)
def test_multi_step_weights_have_the_figures_of_mzsr(step, early, last):
  weights = meta.multi_step_weights(step, 5)
  np.testing.assert_allclose(weights, [early] * 4 + [last], atol=1e-6)
  assert weights.sum() == pytest.approx(1, abs=1e-6)
  traced = jax.jit(meta.multi_step_weights, static_argnums=1)
  np.testing.assert_allclose(traced(step, 5), weights, atol=1e-7)


def test_multi_step_weights_of_other_lengths():
  np.testing.assert_array_equal(meta.multi_step_weights(7, 1), [1.0])
  halfway = meta.multi_step_weights(50, 2, saturate_at=100.0)
  np.testing.assert_allclose(halfway, [0.2575, 0.7425], atol=1e-6)
  np.testing.assert_allclose(meta.uniform_weights(4), np.full(4, 0.25))


# Many tasks.


def task_gradient(w, task):
  def loss(w, batch):
    return square_loss(jnp.tanh(w), batch)

  value, gradient = jax.value_and_grad(
    lambda w: meta.meta_loss(
      loss, w, *task, meta.uniform_weights(2), learning_rates=RATE
    )[0]
  )(w)
  return {'loss': value, 'gradient': gradient}


def stacked_tasks(count):
  drawn = [
    (regression(2 * i)[0], regression(2 * i + 1)[0]) for i in range(count)
  ]
  tasks = jax.tree.map(jnp.float32, drawn)
  return tasks, jax.tree.map(lambda *xs: jnp.stack(xs), *tasks)


@pytest.mark.parametrize('axis', ['map', 'vmap', 'unroll'])
def test_task_axes_and_devices_agree(axis):
  """16 tasks: one after the other, and two on each of eight devices."""
  w = jnp.linspace(-1.0, 1.0, 4)
  tasks, stacked = stacked_tasks(16)
  one = jax.jit(task_gradient)
  each = [one(w, task) for task in tasks]
  expected = jax.tree.map(lambda *xs: jnp.stack(xs).mean(0), *each)
  mesh = sharding.make_mesh()
  assert mesh.size == 8
  for where in (None, mesh):
    mean = meta.mean_over_tasks(task_gradient, axis=axis, mesh=where)
    compiled = jax.jit(mean).lower(w, stacked).compile()
    found = compiled(w, stacked)
    assert relative_error(found, expected) < 1e-6
    assert ('all-reduce' in compiled.as_text()) == (where is mesh)
    devices = found['gradient'].sharding.device_set
    assert len(devices) == (8 if where is mesh else 1)
    assert found['gradient'].sharding.is_fully_replicated


def test_unknown_task_axis_and_tasks_that_do_not_divide_are_refused():
  with pytest.raises(ValueError, match="not 'pmap'"):
    meta.mean_over_tasks(task_gradient, axis='pmap')
  mean = meta.mean_over_tasks(
    task_gradient, axis='map', mesh=sharding.make_mesh()
  )
  with pytest.raises(ValueError, match='divisible'):
    mean(jnp.ones(4), stacked_tasks(3)[1])


# Memory, and parameters of any kind.


def test_memory_does_not_grow_with_the_inner_steps():
  def deep(params, batch):
    x = batch[0]
    for kernel in params[:-1]:
      x = jnp.tanh(conv2d(x, kernel, None))
    return ((conv2d(x, params[-1], None) - batch[1]) ** 2).mean()

  channels = ((3, 8), (8, 8), (8, 3))
  params = [jax.ShapeDtypeStruct((3, 3, *c), jnp.float32) for c in channels]
  batch = (jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32),) * 2

  def temporaries(steps, **options):
    def outer(params, support, query):
      weights = meta.uniform_weights(steps)
      return meta.meta_loss(deep, params, support, query, weights, **options)[0]

    lowered = jax.jit(jax.grad(outer)).lower(params, batch, batch)
    return lowered.compile().memory_analysis().temp_size_in_bytes

  assert temporaries(10) < 1.3 * temporaries(1)
  # The policy is what does it.
  assert temporaries(10, policy=None) > 2 * temporaries(10)


def test_nested_parameters_keep_their_types():
  """Trees of every container; bfloat16 stays bfloat16 under float32 rates."""
  params = {
    'tuple': (jnp.ones(3, jnp.bfloat16), jnp.ones(2)),
    'list': [jnp.ones((2, 2)), {'empty': {}, 'scalar': jnp.asarray(2.0)}],
  }

  def loss(params, target):
    leaves = jax.tree.leaves(params)
    return sum(((x.astype(jnp.float32) - target) ** 2).sum() for x in leaves)

  def outer(params):
    value, adapted = meta.meta_loss(
      *(loss, params, 0.5, 0.25, meta.uniform_weights(2)),
      learning_rates=jnp.asarray([0.1, 0.2]),
      optimizer=optax.sgd(1.0, momentum=0.9),
    )
    return value, adapted.params

  (_, adapted), gradient = jax.jit(jax.value_and_grad(outer, has_aux=True))(
    params
  )
  for tree in (adapted, gradient):
    assert jax.tree.structure(tree) == jax.tree.structure(params)
    assert [x.dtype for x in jax.tree.leaves(tree)] == [
      x.dtype for x in jax.tree.leaves(params)
    ]
  # By hand: u = 0.5 -> -1 -> 0.9 after a momentum step; rates 0.1 and 0.2.
  first = 1 - 0.1 * 2 * 0.5
  second = first - 0.2 * (2 * (first - 0.5) + 0.9 * 2 * 0.5)
  np.testing.assert_allclose(adapted['tuple'][1], second, rtol=1e-6)
  np.testing.assert_allclose(
    adapted['tuple'][0].astype(np.float32), second, rtol=1e-2
  )

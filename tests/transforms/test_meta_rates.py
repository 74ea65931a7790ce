"""Learned rates, weights of inner steps, and tasks over devices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sr_jax import sharding
from sr_jax.ops.conv import conv2d
from sr_jax.transforms import meta
from tests.transforms.meta_toys import (
  RATE,
  assert_finite_differences_agree,
  image_batch,
  mse,
  network_params,
  regression,
  relative_error,
  square_loss,
)


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


@pytest.mark.nightly
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
@pytest.mark.nightly
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
@pytest.mark.nightly
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


@pytest.mark.nightly
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

"""Meta-training: its tasks, its step, and refused configs."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from jax.sharding import AxisType

from configs import mzsr
from sr_jax import experiment, methods, models, sharding
from sr_jax.errors import UserError
from sr_jax.methods import meta_transfer
from sr_jax.ops.blur_kernels import random_gaussian
from sr_jax.ops.degrade import degrade
from sr_jax.ops.resize import imresize
from sr_jax.transforms import meta

SIDE = 12
TINY = {
  'model.depth': 2,
  'model.features': 4,
  'method.tasks': 2,
  'method.support': 1,
  'method.query': 1,
  'method.kernel_size': 5,
  'method.inner.steps': 2,
  'method.inner.rate': 0.1,
  'data.batch_size': 4,
  # Not Adam, which makes noise of near-zero gradients as large as steps.
  'data.margin': False,
  'optimizer.name': 'sgd',
  'optimizer.learning_rate': 0.1,
}


def _config(**changes):
  """configs/mzsr.py made tiny; `a__b=value` sets `config.a.b`."""
  plain = experiment.to_plain(mzsr.get_config('smoke'))
  changes = {k.replace('__', '.'): v for k, v in changes.items()}
  for dotted, value in (TINY | changes).items():
    *sections, key = dotted.split('.')
    functools.reduce(dict.__getitem__, sections, plain)[key] = value
  return plain


def _setup(**changes):
  config = _config(**changes)
  return methods.make(config)


def _batch(seed=0, size=4, side=SIDE):
  rng = np.random.default_rng(seed)
  # Smooth: noise alone would leave nothing to learn.
  coarse = rng.random((size, 4, 4, 3))
  fine = imresize(coarse, shape=(side, side))
  return {'hr': np.uint8(np.clip(fine, 0, 1) * 255)}


class Compiled(NamedTuple):
  """A method, its compiled functions, and how often its step was traced."""

  method: methods.Method
  start: Callable[..., Any]
  step: Callable[..., Any]
  traces: list[int]


@functools.cache
def _compiled(**changes):
  method, traces = _setup(**changes), []
  init = jax.jit(functools.partial(method.init, scale=2))

  def start(batch, pretrained=None):
    given = pretrained or {}
    return init(jax.random.key(0), batch, {}, pretrained=given)

  def step(state, batch):
    traces.append(1)
    return method.train_step(state, batch, 2)

  return Compiled(method, start, jax.jit(step), traces)


def relative_error(ours, theirs):
  difference = jax.tree.map(lambda a, b: a - b, ours, theirs)
  return float(optax.tree.norm(difference) / optax.tree.norm(theirs))


def test_three_steps_learn_in_one_trace_and_move_every_layer():
  _, start, step, traces = _compiled()
  batch = _batch()
  state = first = start(batch)
  known = len(traces)  # by other tests of the same step
  _, before = step(state, batch)
  for _ in range(3):
    state, metrics = step(state, batch)
    assert all(np.isfinite(value) for value in metrics.values())
  assert int(state.step) == 3
  # The first tasks again, with the trained weights.
  _, after = step(state.replace(step=first.step), batch)
  assert after['loss'] < before['loss']
  assert len(traces) <= known + 1
  moved = jax.tree.map(lambda a, b: (a != b).any(), state.params, first.params)
  assert all(jax.tree.leaves(moved))


def test_a_step_depends_on_state_and_batch_alone():
  """Exact resume needs this; another step draws other tasks."""
  _, start, step, _ = _compiled()
  batch = _batch()
  state = start(batch)
  first, again = (step(state, batch) for _ in range(2))
  jax.tree.map(
    np.testing.assert_array_equal, *(s.params for s, _ in (first, again))
  )
  assert first[1] == again[1]
  later, _ = step(state.replace(step=state.step + 1), batch)
  assert relative_error(later.params, first[0].params) > 0


def _plain_update(config, state, hr, treat):
  """The step's new parameters by jax.grad, in Python loops."""
  network = models.create(config['model'])
  sections = config['method']
  tasks = _tasks(config)
  n, inner = tasks.support, sections['inner']
  weights = meta.multi_step_weights(state.step, inner['steps'])

  def l1(params, pair):
    x, y = pair
    refined = network.apply({'params': params}, x, method='refine')
    return jnp.abs(refined - y).mean()

  def outer(params):
    total = 0
    keys = jax.random.split(state.step_key(), tasks.tasks)
    for key, images in zip(keys, jnp.split(hr, tasks.tasks), strict=True):
      x = meta_transfer.draw_task(key, images, tasks)
      fitted = params
      for weight in weights:
        grads = treat(jax.grad(l1)(fitted, (x[:n], images[:n])))
        fitted = optax.tree.add_scale(fitted, -inner['rate'], grads)
        total += weight * l1(fitted, (x[n:], images[n:])) / tasks.tasks
    return total

  loss, grads = jax.value_and_grad(outer)(state.params['generator'])
  rate = config['optimizer']['learning_rate']
  return loss, optax.tree.add_scale(state.params['generator'], -rate, grads)


def _tasks(config):
  section, degradation = config['method'], config['degradation']
  return meta_transfer.Tasks(
    **{k: section[k] for k in meta_transfer.Tasks._fields if k in section},
    degradation=degradation['name'],
    noise_sigma=degradation['noise_sigma'],
    wide=False,
  )


@pytest.mark.nightly
def test_exact_from_divides_first_order_from_exact_steps():
  """Both are compared with plain loops, while the weights anneal."""
  changes = {'method__outer__exact_from': 700}
  _, start, step, _ = _compiled(**changes)
  config, batch = _config(**changes), _batch()
  state = start(batch)
  hr = jnp.asarray(batch['hr'], jnp.float32) / 255
  plain = [
    jax.jit(functools.partial(_plain_update, config, treat=treat))
    for treat in (jax.lax.stop_gradient, lambda grads: grads)
  ]
  for number, right in ((699, 0), (700, 1)):
    at = state.replace(step=jnp.asarray(number, jnp.int32))
    after, metrics = step(at, batch)
    move = _move(after.params['generator'], at)
    found = [update(at, hr) for update in plain]
    np.testing.assert_allclose(metrics['loss'], found[right][0], rtol=1e-5)
    moves = [_move(new, at) for _, new in found]
    assert relative_error(move, moves[right]) < 1e-4
    assert relative_error(move, moves[1 - right]) > 1e-2


def _move(params, state):
  return jax.tree.map(jnp.subtract, params, state.params['generator'])


@pytest.mark.nightly
def test_other_ways_to_run_the_same_step_agree():
  """The variants agree as long as annealed weights are still uniform."""
  _, start, step, _ = _compiled()
  batch = _batch()
  state = start(batch)
  expected, metrics = step(state, batch)
  changes = {
    'method__inner__unroll': True,
    'method__outer__task_axis': 'vmap',
    'method__outer__weights': 'uniform',
  }
  other_step = _compiled(**changes).step
  other, other_metrics = other_step(state, batch)
  assert relative_error(other.params, expected.params) < 1e-6
  for name, value in metrics.items():
    np.testing.assert_allclose(other_metrics[name], value, rtol=1e-5)
  late = state.replace(step=jnp.asarray(10_000, jnp.int32))
  for run, last in ((step, 0.985), (other_step, 0.5)):
    _, found = run(late, batch)
    loss = (1 - last) * found['query_first'] + last * found['query_last']
    np.testing.assert_allclose(found['loss'], loss, rtol=1e-5)


@pytest.mark.parametrize('per', ['layer', 'weight'])
@pytest.mark.nightly
def test_learned_rates_are_trained_and_averaged(per):
  changes = {
    'method__inner__learned_rates': per,
    'optimizer__ema_decay': 0.9,
  }
  method, start, step, traces = _compiled(**changes)
  batch = _batch()
  state = first = start(batch)
  for _ in range(2):
    state, _ = step(state, batch)
  assert len(traces) == 1
  for leaf, new, weight in zip(
    *map(jax.tree.leaves, (first.params['rates'], state.params['rates'])),
    jax.tree.leaves(state.params['generator']),
    strict=True,
  ):
    assert leaf.shape == (2, *(weight.shape if per == 'weight' else ()))
    np.testing.assert_array_equal(leaf, np.full_like(leaf, 0.1))
    # A rate of a dead weight may stay; those of every step and layer move.
    assert (new != leaf).reshape(2, -1).any(1).all()
  average = method.averaged(state)
  assert average.keys() == {'generator', 'rates'}
  assert relative_error(average['rates'], state.params['rates']) > 0


def test_a_non_finite_loss_changes_nothing_but_the_counters():
  _, start, step, _ = _compiled()
  batch = _batch()
  state = start(batch)
  bad = jax.tree.map(lambda a: a, state.params)
  bad['generator']['conv2']['bias'] = jnp.full(3, jnp.nan)
  after, metrics = step(state.replace(params=bad), batch)
  assert int(metrics['skipped_in_a_row']) == 1
  jax.tree.map(np.testing.assert_array_equal, bad, after.params)


def test_pretrained_weights_start_it_and_predict_clips():
  method, start, _, _ = _compiled()
  batch = _batch()
  given = jax.device_get(start(batch).params)
  given['generator']['conv2']['bias'] = np.full(3, 7.0, np.float32)
  state = start(batch, given)
  np.testing.assert_array_equal(
    state.params['generator']['conv2']['bias'], np.full(3, 7.0)
  )
  predict = methods.inference(_config()).predict
  sr = jax.jit(predict)(state.params, jnp.full((1, 5, 4, 3), 0.5))
  np.testing.assert_array_equal(sr, np.ones((1, 10, 8, 3)))
  lr = method.degrade(jax.random.key(0), jnp.ones((1, 8, 8, 3)), 2)
  assert lr.shape == (1, 4, 4, 3)


# Several devices.


def _stepped(monkeypatch, devices, **changes):
  """Parameters, metrics and program of a step on so many devices."""
  mesh = jax.make_mesh(
    (devices,),
    (sharding.DATA,),
    axis_types=(AxisType.Auto,),
    devices=jax.devices()[:devices],
  )
  monkeypatch.setattr(sharding, 'make_mesh', lambda: mesh)
  method = _setup(**changes)
  everywhere = sharding.replicated(mesh)
  batch = _batch(size=_config(**changes)['data']['batch_size'])
  init = functools.partial(method.init, scale=2)
  state = jax.jit(init, out_shardings=everywhere)(jax.random.key(0), batch, {})
  train_step = functools.partial(method.train_step, scale=2)
  step = jax.jit(train_step, out_shardings=everywhere)
  given = sharding.to_global(batch, mesh)
  compiled = step.lower(state, given).compile()
  after, metrics = compiled(state, given)
  return jax.device_get((after.params, metrics)), compiled.as_text()


@pytest.mark.parametrize('tasks', [8, 4])
@pytest.mark.nightly
def test_eight_devices_agree_with_one(monkeypatch, tasks):
  """8 tasks are divided over the devices; 4 do not divide, their images do."""
  changes = {
    'method__tasks': tasks,
    'method__query': 1,
    'data__batch_size': 2 * tasks,
  }
  (params, metrics), text = _stepped(monkeypatch, 1, **changes)
  assert 'all-reduce' not in text
  (other, other_metrics), text = _stepped(monkeypatch, 8, **changes)
  for name, value in metrics.items():
    np.testing.assert_allclose(other_metrics[name], value, rtol=1e-5)
  assert relative_error(other, params) < 1e-6
  if tasks == 8:
    assert 'all-reduce' in text
    assert 'all-gather' not in text


# Tasks.


def test_random_gaussians_are_distributed_as_in_the_paper():
  """Angle and variances are recovered from the moments of the taps."""
  scale, size = 3.0, 41
  draw = functools.partial(
    random_gaussian, size=size, min_variance=1.0, max_variance=2.5
  )
  keys = jax.random.split(jax.random.key(0), 400)
  kernels = jax.jit(jax.vmap(lambda key, s: draw(key, scale=s), (0, None)))(
    keys, scale
  )
  kernels = np.asarray(kernels, np.float64)
  np.testing.assert_allclose(kernels.sum((1, 2)), 1, atol=1e-5)
  offsets = np.arange(size) - size // 2
  y, x = np.meshgrid(offsets, offsets, indexing='ij')
  covariance = np.stack(
    [np.einsum('kij,ij->k', kernels, m) for m in (x * x, x * y, x * y, y * y)],
    axis=-1,
  ).reshape(-1, 2, 2)
  variances, axes = np.linalg.eigh(covariance)
  smaller, larger = variances.T
  assert smaller.min() > 1 - 1e-3
  assert larger.max() < 2.5 * scale + 1e-3
  angle = np.arctan2(axes[:, 1, 1], axes[:, 0, 1]) % np.pi
  for uniform in (
    (larger - 1) / (2.5 * scale - 1),
    (smaller - 1) / (larger - 1),
    angle / np.pi,
  ):
    assert scipy.stats.kstest(uniform, 'uniform').pvalue > 0.01
  # Of each other they know nothing.
  assert abs(np.corrcoef(angle, larger)[0, 1]) < 0.15


def _draw(tasks, keys, hr):
  one = functools.partial(meta_transfer.draw_task, hr=hr, tasks=tasks)
  return np.asarray(jax.jit(jax.vmap(lambda key: one(key)))(keys))


@pytest.mark.parametrize('degradation', ['direct', 'blur-bicubic'])
def test_tasks_draw_every_scale_and_degrade_by_it(degradation):
  """Each task equals one scale's own degradation and enlargement."""
  scales, side = (2.0, 2.2, 3.0, 4.0), 18
  tasks = _tasks(_config(method__scales=scales, degradation__name=degradation))
  hr = _batch(size=2, side=side)['hr'] / 255
  keys = jax.random.split(jax.random.key(1), 24)
  drawn = _draw(tasks, keys, jnp.asarray(hr, jnp.float32))
  found = []
  for key, task in zip(keys, drawn, strict=True):
    kernel_key = jax.random.split(key, 3)[1]
    distances = []
    for scale in scales:
      kernel = random_gaussian(
        kernel_key, scale=scale, size=5, min_variance=1.0, max_variance=2.5
      )
      lr = degrade(
        None,
        hr,
        scale=scale,
        degradation=degradation,
        kernel=np.asarray(kernel, np.float64),
      )
      enlarged = imresize(lr, scale=scale, shape=(side, side))
      distances.append(abs(enlarged - task).max())
    found.append(int(np.argmin(distances)))
    assert sorted(distances)[0] < 2e-6
    assert sorted(distances)[1] > 1e-4
  assert set(found) == {0, 1, 2, 3}


def test_task_draws_repeat_with_their_key_and_differ_by_it():
  tasks = _tasks(_config())
  hr = jnp.asarray(_batch()['hr'], jnp.float32) / 255
  keys = jax.random.split(jax.random.key(2), 3)
  drawn = _draw(tasks, keys, hr)
  np.testing.assert_array_equal(drawn, _draw(tasks, keys, hr))
  assert len({task.tobytes() for task in drawn}) == 3


def test_noise_is_that_of_the_lr_image():
  hr = jnp.asarray(_batch()['hr'], jnp.float32) / 255
  key = jax.random.key(3)
  noisy = _tasks(_config(degradation__noise_sigma=20.0))
  _, kernel_key, noise_key = jax.random.split(key, 3)
  kernel = random_gaussian(
    kernel_key, scale=2.0, size=5, min_variance=1.0, max_variance=2.5
  )
  lr = degrade(
    noise_key,
    hr,
    scale=2,
    degradation='direct',
    kernel=kernel,
    noise_sigma=20.0,
  )
  drawn = meta_transfer.draw_task(key, hr, noisy)
  np.testing.assert_allclose(drawn, imresize(lr, scale=2), atol=1e-6)
  clean = meta_transfer.draw_task(key, hr, _tasks(_config()))
  assert 10 < 255 * float((drawn - clean).std()) < 25


# Refusals.


@pytest.mark.parametrize(
  ('changes', 'reason'),
  [
    ({'data__batch_size': 8}, r'batch_size=8: 2 tasks of 1\+1 images need 4'),
    ({'degradation__name': 'bicubic'}, "='bicubic': every task draws a blur"),
    ({'method__outer__weights': 'anneal'}, "weights='anneal': give"),
    ({'method__outer__task_axis': 'pmap'}, "task_axis='pmap': give"),
    ({'method__inner__learned_rates': 'all'}, "learned_rates='all': give"),
    ({'method__inner__steps': 0}, r'method\.inner\.steps=0: give a'),
    ({'method__support': 0, 'data__batch_size': 2}, 'support=0: give a'),
    ({'method__scales': ()}, 'scales'),
    ({'method__scales': (2.0, 0.5)}, 'scales'),
    ({'method__min_variance': 0.0}, 'min_variance=0: give'),
    ({'method__max_variance': 0.4}, 'max_variance'),
    (
      {'method': {'name': 'meta_transfer'}},
      'tasks is missing: give',
    ),
    ({'model': {'name': 'edsr', 'scale': 2}}, "name='edsr': meta_transfer"),
    ({'loss': 'l3'}, 'l3'),
  ],
)
def test_a_wrong_value_is_answered_in_one_line(changes, reason):
  config = _config(**changes)
  with pytest.raises(UserError, match=reason) as error:
    meta_transfer.make(config)
  assert '\n' not in str(error.value)

"""The supervised method: learning, traces, donation, sharding, guards."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from sr_jax import experiment, methods, models, sharding
from sr_jax.data import batches, sources
from sr_jax.errors import UserError
from sr_jax.ops.residual import residual_image
from tests import tiny


def _setup(**sections):
  config = experiment.to_plain(tiny.config(**sections))
  return config, methods.make(config)


def _batch(seed=0, size=8, side=16):
  rng = np.random.default_rng(seed)
  return {'hr': rng.integers(0, 256, (size, side, side, 3), np.uint8)}


def _init(method, batch, pretrained=None):
  init = functools.partial(method.init, frozen={}, scale=2)
  given = pretrained or {}
  return jax.jit(init)(jax.random.key(0), batch, pretrained=given)


def _jitted(method):
  return jax.jit(method.train_step, static_argnames='scale', donate_argnums=0)


def test_three_steps_learn_in_one_trace():
  _, method = _setup(optimizer={'learning_rate': 1e-2})
  traces = []

  def counted(state, batch, scale):
    traces.append(1)
    return method.train_step(state, batch, scale)

  step = jax.jit(counted, static_argnames='scale')
  batch = _batch()
  state = _init(method, batch)
  losses = []
  for _ in range(3):
    state, metrics = step(state, batch, scale=2)
    losses.append(float(metrics['loss']))
  assert losses[2] < losses[0]
  assert len(traces) == 1
  assert int(state.step) == 3


@pytest.mark.parametrize('weight_decay', [0.0, 0.1])
@pytest.mark.nightly
def test_the_mean_shift_stays_and_the_rest_moves(weight_decay):
  _, method = _setup(optimizer={'weight_decay': weight_decay})
  state = _init(method, _batch())
  before = jax.tree.map(np.array, state.params['generator'])
  after = _jitted(method)(state, _batch(), scale=2)[0].params['generator']
  for name, leaves in before.items():
    same = jax.tree.map(lambda a, b: bool((a == b).all()), leaves, after[name])
    frozen = name in ('sub_mean', 'add_mean')
    assert all(jax.tree.leaves(same)) == frozen, name


def test_the_state_is_donated():
  _, method = _setup()
  state = _init(method, _batch())
  _jitted(method)(state, _batch(), scale=2)
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))


def test_predict_clips_and_keeps_its_parameters():
  config, method = _setup()
  state = _init(method, _batch())
  lr = jnp.full((1, 5, 4, 3), 1.0)
  sr = jax.jit(methods.inference(config).predict)(state.params, lr)
  assert sr.shape == (1, 10, 8, 3)
  assert 0 <= sr.min() <= sr.max() <= 1
  assert not jax.tree.leaves(state.params)[0].is_deleted()


def test_a_non_finite_loss_changes_nothing_but_the_counters():
  _, method = _setup()
  state = _init(method, _batch())
  bad = jax.tree.map(lambda a: a, state.params)
  bad['generator']['tail']['bias'] = jnp.full(3, jnp.nan)
  state = state.replace(params=bad)
  before = jax.tree.map(np.array, state.params)
  after, metrics = jax.jit(method.train_step, static_argnames='scale')(
    state, _batch(), scale=2
  )
  assert not np.isfinite(metrics['loss'])
  assert int(metrics['skipped_in_a_row']) == 1
  jax.tree.map(np.testing.assert_array_equal, before, after.params)


@pytest.mark.nightly
def test_every_step_of_a_feedback_network_counts_once():
  """The loss is the sum over all steps; the last is the output."""
  config = experiment.to_plain(tiny.config(method={'outputs': 'steps'}))
  model = {'name': 'srfbn', 'groups': 1, 'steps': 3, 'features': 4}
  config['model'] = {**model, 'scale': 2}
  method = methods.make(config)
  batch = _batch(size=2)
  state = _init(method, batch)
  hr = jnp.asarray(batch['hr'], jnp.float32) / 255
  lr = method.degrade(state.step_key(), hr, 2)
  outputs = [
    models.create({**config['model'], 'steps': n}).apply(
      {'params': state.params['generator']}, lr
    )[0]
    for n in (1, 2, 3)
  ]
  expected = sum(float(jnp.abs(sr - hr).mean()) for sr in outputs)
  _, metrics = _jitted(method)(state, batch, scale=2)
  assert float(metrics['loss']) == pytest.approx(expected, rel=1e-5)


def test_pairs_are_used_as_given():
  _, method = _setup()
  hr = np.full((8, 16, 16, 3), 200, np.uint8)
  lr = np.zeros((8, 8, 8, 3), np.uint8)
  state = _init(method, {'hr': hr})
  step = jax.jit(method.train_step, static_argnames='scale')
  with_lr = step(state, {'hr': hr, 'lr': lr}, scale=2)[1]['loss']
  without = step(state, {'hr': hr}, scale=2)[1]['loss']
  assert with_lr != without


def test_pretrained_leaves_are_taken_where_shapes_agree():
  _, two = _setup()
  _, four = _setup(model={'scale': 4})
  given = jax.device_get(_init(two, _batch()).params)
  given['generator']['head']['bias'] = np.full(4, 7.0, np.float32)
  init = functools.partial(four.init, scale=4)
  batch = _batch(side=32)
  state = jax.jit(init)(jax.random.key(5), batch, {}, pretrained=given)
  params = state.params['generator']
  np.testing.assert_array_equal(params['head']['bias'], np.full(4, 7.0))
  average = four.averaged(state)['generator']
  np.testing.assert_array_equal(average['head']['bias'], np.full(4, 7.0))
  assert 'conv_1' in params['upsample']


@pytest.mark.nightly
def test_noise_and_jpeg_are_drawn_by_the_step():
  _, method = _setup(degradation={'noise_sigma': 10.0, 'jpeg_quality': 50})
  hr = jnp.full((1, 16, 16, 3), 0.5)
  first, again, other = (
    method.degrade(jax.random.key(k), hr, 2) for k in (0, 0, 1)
  )
  assert (first == again).all()
  assert (first != other).any()


def test_unknown_loss_is_refused():
  with pytest.raises(UserError, match=r"config\.loss: unknown 'l3'"):
    _setup(loss='l3')


def _trained(devices, steps=3):
  """Parameters and losses after some steps on so many devices."""
  # Not Adam, which makes noise of near-zero gradients as large as steps.
  _, method = _setup(optimizer={'name': 'sgd', 'learning_rate': 0.01})
  mesh = jax.make_mesh(
    (devices,),
    (sharding.DATA,),
    axis_types=(AxisType.Auto,),
    devices=jax.devices()[:devices],
  )
  everywhere = sharding.replicated(mesh)
  source = sources.embedded_source(16)
  spec = batches.BatchSpec(batch_size=8, patch=8, scales=(2,), seed=0)
  init = functools.partial(method.init, scale=2)
  state = jax.jit(init, out_shardings=everywhere)(
    jax.random.key(0), batches.sample(source, spec, 0)[0], {}
  )
  step = jax.jit(
    method.train_step, static_argnames='scale', out_shardings=everywhere
  )
  losses = []
  for t in range(steps):
    batch = sharding.to_global(batches.sample(source, spec, t)[0], mesh)
    state, metrics = step(state, batch, scale=2)
    losses.append(float(metrics['loss']))
  text = step.lower(state, batch, scale=2).compile().as_text()
  return state, batch, losses, text


@pytest.mark.nightly
def test_one_two_and_eight_devices_agree():
  state, _, losses, text = _trained(1)
  assert 'all-reduce' not in text
  for devices in (2, 8):
    other, batch, other_losses, text = _trained(devices)
    np.testing.assert_allclose(other_losses, losses, rtol=1e-5)
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
      jax.device_get(state.params),
      jax.device_get(other.params),
    )
    assert 'all-reduce' in text
    assert 'all-gather' not in text
    assert jax.tree.leaves(other.params)[0].sharding.is_fully_replicated
    assert len(batch['hr'].addressable_shards[0].data) == 8 // devices


def test_a_batch_that_does_not_divide_is_refused():
  with pytest.raises(UserError, match=r'batch_size=12 .* 8 devices'):
    sharding.check_batch_size(12, sharding.make_mesh())


SRNET = {
  'name': 'srnet',
  'variant': 'srnet',
  'features': 16,
  'reduction': 4,
}


@pytest.mark.nightly
def test_the_hybrid_loss_of_sr_and_the_residual():
  sections = {
    'method': {'outputs': 'residual', 'upsampling': 'nearest'},
    'optimizer': {'name': 'sgd', 'learning_rate': 0.0, 'ema_decay': 0.0},
  }
  config, method = _setup(model=SRNET, **sections)
  batch = _batch(size=2)
  state = _init(method, batch)
  # Real pairs: the target comes from the given LR.
  batch['lr'] = _batch(seed=1, size=2, side=8)['hr']
  hr, lr = (batch[k] / np.float32(255) for k in ('hr', 'lr'))
  variables = {
    'params': state.params['generator'],
    **state.model_state['generator'],
  }
  (sr, aux), _ = models.create(config['model']).apply(
    variables, lr, train=True, mutable=['batch_stats']
  )
  target = residual_image(hr, lr, 'nearest')
  expected = np.abs(sr - hr).mean() + np.abs(aux['residual'] - target).mean()
  step = jax.jit(method.train_step, static_argnames='scale')
  state, metrics = step(state, batch, scale=2)
  assert metrics['loss'] == pytest.approx(float(expected), rel=1e-4)
  # Both streams' running statistics come with the weights.
  statistics = method.averaged(state)['batch_stats']
  assert statistics.keys() == {'main', 'auxiliary'}


def test_residuals_that_cannot_be():
  section = {'outputs': 'residual', 'upsampling': 'linear'}
  with pytest.raises(UserError, match="upsampling='linear': give one of"):
    _setup(model=SRNET, method=section)
  _, method = _setup(method={'outputs': 'residual'})
  batch = _batch(size=2)
  init = functools.partial(method.init, scale=2)
  state = jax.eval_shape(init, jax.random.key(0), batch, {})
  with pytest.raises(UserError, match='model predicts no residual; choose'):
    jax.eval_shape(functools.partial(method.train_step, scale=2), state, batch)

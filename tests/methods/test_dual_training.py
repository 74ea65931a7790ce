"""Dual regression: gradients of each network, devices, the train loop."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.data
import skimage.io
from jax.sharding import AxisType

from sr_jax import (
  checkpoints,
  experiment,
  methods,
  models,
  sharding,
  train_loop,
)
from sr_jax.data import batches, sources
from sr_jax.errors import UserError
from sr_jax.inference import loading
from sr_jax.ops.resize import imresize
from tests import tiny

METHOD = {
  'name': 'dual_regression',
  'dual_weight': 0.1,
  'hr_cycle': False,
  'compose': False,
}
MODEL = {'name': 'drn', 'variant': 's', 'scale': 4}
# Not Adam, which makes noise of near-zero gradients as large as steps.
SGD = {'name': 'sgd', 'learning_rate': 0.01}
DUALS = ('dual_0', 'dual_1')


def _config(method=None, model=None, **sections):
  sections.setdefault('data', {'patch': 4})
  return tiny.config(
    method=METHOD | (method or {}), model=MODEL | (model or {}), **sections
  )


def _make(**sections):
  config = experiment.to_plain(_config(**sections))
  return methods.make(config)


def _batch(size=4, side=16, seed=0):
  rng = np.random.default_rng(seed)
  return {'hr': rng.integers(0, 256, (size, side, side, 3), np.uint8)}


def _mixed(labelled, size=4, scale=4):
  """A batch in which LR of the unlabelled samples is noise."""
  lr = np.random.default_rng(1).integers(0, 256, (size, 4, 4, 3), np.uint8)
  return _batch(size, 4 * scale) | {
    'unlabelled': lr,
    'labelled': np.array(labelled),
  }


@functools.cache
def _started(scale=4):
  """A state of the tiny DRN; its params do not depend on the settings."""
  method = _make(optimizer=SGD, model={'scale': scale})
  init = functools.partial(method.init, scale=scale)
  return jax.jit(init)(jax.random.key(0), _batch(), {})


@functools.cache
def _compiled(**settings):
  """The train step at x4, and a list that grows with every trace of it."""
  method, traces = _make(optimizer=SGD, method=settings), []

  def counted(state, batch, scale):
    traces.append(1)
    return method.train_step(state, batch, scale)

  return jax.jit(counted, static_argnames='scale'), traces


def _step(batch, state=None, **settings):
  return _compiled(**settings)[0](state or _started(), batch, scale=4)


def _changed(state):
  """Slots whose parameters are not those of the start."""
  before = _started().params
  return {
    slot
    for slot, tree in state.params.items()
    if not all(
      bool((a == b).all())
      for a, b in zip(*map(jax.tree.leaves, (tree, before[slot])), strict=True)
    )
  }


@pytest.mark.nightly
def test_loss_by_hand():
  """The outputs are the networks'; NumPy computes the loss."""
  state, batch = _started(), _batch()
  _, metrics = _step(batch)
  network = models.create(MODEL | {'blocks': 1, 'features': 4})
  dual = models.module('drn').Dual(features=4)
  hr = batch['hr'] / 255
  levels = [
    np.round(imresize(hr, scale=s).clip(0, 1) * 255) / 255
    for s in (1 / 4, 1 / 2)
  ]
  targets = [*levels, hr]
  outputs = jax.jit(
    lambda lr: network.apply({'params': state.params['generator']}, lr)[1]
  )(targets[0].astype(np.float32))['outputs']
  smaller = [
    dual.apply({'params': state.params[slot]}, output)
    for slot, output in zip(DUALS, outputs[1:], strict=True)
  ]
  primary = sum(
    np.abs(np.asarray(o) - t).mean()
    for o, t in zip(outputs, targets, strict=True)
  )
  dually = sum(
    np.abs(np.asarray(s) - t).mean()
    for s, t in zip(smaller, levels, strict=True)
  )
  np.testing.assert_allclose(metrics['primary'], primary, rtol=1e-4)
  np.testing.assert_allclose(metrics['dual'], dually, rtol=1e-4)
  np.testing.assert_allclose(metrics['loss'], primary + 0.1 * dually, rtol=1e-4)


@pytest.mark.nightly
def test_three_steps_learn_in_one_trace_with_an_optimizer_for_each_network():
  state, losses = _started(), []
  slots = {'generator', *DUALS}
  assert set(state.params) == set(state.opt_state) == slots
  traces = _compiled()[1]
  before = len(traces)
  for _ in range(3):
    state, metrics = _step(_batch(seed=1), state)
    losses.append(float(metrics['loss']))
  assert losses[2] < losses[0]
  assert len(traces) - before <= 1
  assert _changed(state) == slots
  moments = jax.tree.map(np.shape, state.opt_state['dual_0'])
  assert moments == jax.tree.map(np.shape, state.opt_state['dual_1'])


@pytest.mark.nightly
def test_without_the_dual_loss_the_duals_stay():
  state, metrics = _step(_batch(), dual_weight=0.0)
  assert _changed(state) == {'generator'}
  assert metrics['dual'] == 0
  assert metrics['loss'] == metrics['primary']


@pytest.mark.parametrize('compose', [False, True])
@pytest.mark.nightly
def test_lr_alone_teaches_the_primal_through_the_duals(compose):
  batch = _mixed([False] * 4)
  state, metrics = _step(batch, compose=compose)
  assert metrics['primary'] == 0
  assert metrics['dual'] > 0
  assert metrics['gradient_norm'] > 0
  # Without HR only LR size is known, which the upper dual reaches composed.
  reached = {'generator', *DUALS} if compose else {'generator', 'dual_0'}
  assert _changed(state) == reached


@pytest.mark.nightly
def test_hr_of_unlabelled_samples_has_no_effect():
  labelled = [True, True, False, True]
  batch = _mixed(labelled)
  other = batch | {'hr': batch['hr'].copy()}
  other['hr'][2] = 255 - other['hr'][2]
  one, two = (_step(b, compose=True) for b in (batch, other))
  jax.tree.map(np.testing.assert_array_equal, one[0].params, two[0].params)
  other['hr'][1] = 255 - other['hr'][1]
  assert _step(other, compose=True)[1]['primary'] != one[1]['primary']


@pytest.mark.nightly
def test_all_labelled_is_paired_training():
  plain, _ = _step(_batch())
  mixed, _ = _step(_mixed([True] * 4))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
    plain.params,
    mixed.params,
  )


@pytest.mark.nightly
def test_the_loop_from_hr_is_one_more_term():
  _, without = _step(_batch())
  _, metrics = _step(_batch(), hr_cycle=True)
  assert metrics['cycle'] > 0 == without['cycle']
  np.testing.assert_allclose(
    metrics['loss'] - without['loss'], 0.1 * metrics['cycle'], rtol=1e-3
  )


@pytest.mark.nightly
def test_networks_with_one_output_can_be_primal():
  model = {'name': 'edsr', 'variant': 'small', 'scale': 2}
  method = _make(model=model)
  init = functools.partial(method.init, scale=2)
  batch = _mixed([True, True, True, False], scale=2)
  state = jax.jit(init)(jax.random.key(0), batch, {})
  assert set(state.params) == {'generator', 'dual_0'}
  step = jax.jit(method.train_step, static_argnames='scale')
  after, metrics = step(state, batch, scale=2)
  assert metrics['primary'] > 0
  assert metrics['dual'] > 0
  mean = after.params['generator']['sub_mean']
  jax.tree.map(
    np.testing.assert_array_equal, mean, state.params['generator']['sub_mean']
  )


@pytest.mark.parametrize(
  ('sections', 'reason'),
  [
    ({'model': {'scale': 3}}, 'scale 3 .* choose 2, 4 or 8'),
    ({'method': {'dual_weight': -1.0}}, r'config\.method\.dual_weight=-1'),
  ],
)
def test_wrong_values_give_errors_of_one_line(sections, reason):
  with pytest.raises(UserError, match=reason):
    _make(**sections)


def _trained(devices):
  """State after two steps on so many devices, 3 of 8 samples unlabelled."""
  method = _make(optimizer=SGD, model={'scale': 2}, method={'compose': True})
  mesh = jax.make_mesh(
    (devices,),
    (sharding.DATA,),
    axis_types=(AxisType.Auto,),
    devices=jax.devices()[:devices],
  )
  everywhere = sharding.replicated(mesh)
  photos = sources.embedded_source(16)
  source = sources.MixedSource(photos, photos, 0.4)
  spec = batches.BatchSpec(batch_size=8, patch=4, scales=(2,), seed=0)
  state = jax.device_put(_started(2), everywhere)
  step = jax.jit(
    method.train_step, static_argnames='scale', out_shardings=everywhere
  )
  for t in range(2):
    batch = sharding.to_global(batches.sample(source, spec, t)[0], mesh)
    state, metrics = step(state, batch, scale=2)
  return jax.device_get((state.params, metrics))


@pytest.mark.nightly
def test_one_and_eight_devices_agree():
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
    _trained(1),
    _trained(8),
  )


@pytest.fixture
def lr_folder(tmp_path):
  """LR images without HR, smaller than an HR crop."""
  folder = tmp_path / 'lr'
  folder.mkdir()
  for i in range(2):
    photo = skimage.data.astronaut()[60 * i : 60 * i + 12, 100:113]
    skimage.io.imsave(folder / f'{i}.png', photo, check_contrast=False)
  return folder


@pytest.mark.nightly
def test_adaptation_resumes_exactly_and_loads(tmp_path, lr_folder):
  """Trains on pairs, then by Algorithm 1 from these weights, in two parts."""
  small = functools.partial(_config, model={'scale': 2})
  paired, whole, parts = (tmp_path / name for name in ('a', 'b', 'c'))
  train_loop.train_and_evaluate(small(steps=1), paired)
  given = checkpoints.load_params(paired).params
  assert set(given) == {'generator', 'dual_0'}
  adapt = functools.partial(
    small,
    data={'patch': 4, 'unlabelled': str(lr_folder)},
    checkpoint={'init_from': str(paired)},
  )
  # Without a step the weights are those of the paired training.
  start = train_loop.train_and_evaluate(adapt(steps=0), parts)
  jax.tree.map(np.testing.assert_array_equal, start.params, given)
  train_loop.train_and_evaluate(adapt(steps=1), parts)
  resumed = train_loop.train_and_evaluate(adapt(steps=2), parts)
  state = train_loop.train_and_evaluate(adapt(steps=2), whole)
  for ours, theirs in (
    (resumed.params, state.params),
    (resumed.opt_state, state.opt_state),
  ):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)

  model = loading.load(parts)
  lr = jnp.full((1, 5, 4, 3), 0.5)
  assert model.halo is None
  assert model.predict(model.params, lr, None).shape == (1, 10, 8, 3)


def test_unlabelled_images_are_refused_where_nothing_uses_them(tmp_path):
  config = tiny.config(data={'unlabelled': 'embedded'})
  with pytest.raises(UserError, match='method supervised has no use for LR'):
    train_loop.train_and_evaluate(config, tmp_path)

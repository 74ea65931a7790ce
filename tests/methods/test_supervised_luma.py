"""Supervised training of luma networks, several outputs, running statistics."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax import checkpoints, experiment, methods, models
from sr_jax.errors import UserError
from sr_jax.inference import loading
from sr_jax.inference.options import UpscaleOptions
from sr_jax.inference.upscaler import Upscaler
from sr_jax.losses import pixel
from sr_jax.ops.color import rgb_to_y
from sr_jax.ops.resize import imresize
from tests import tiny

SRCNN = {'name': 'srcnn', 'scale': 2, 'sizes': (3, 1, 3), 'features': (4, 4)}
LAPSRN = {'name': 'lapsrn', 'depth': 1, 'features': 4}
DRRN = {'name': 'drrn', 'scale': 2, 'units': 1, 'features': 4}
DRCN = {'name': 'drcn', 'scale': 2, 'recursions': 2, 'features': 4}


def _setup(model, **sections):
  config = tiny.config(**sections)
  config.unlock()
  config.model = {'variant': next(iter(models.module(model['name']).VARIANTS))}
  config.model.update(model)
  plain = experiment.to_plain(config)
  return plain, methods.make(plain)


def _batch(size=4, side=16):
  rng = np.random.default_rng(0)
  return {'hr': rng.integers(0, 256, (size, side, side, 3), np.uint8)}


def _init(method, batch, scale=2):
  init = functools.partial(method.init, scale=scale)
  return jax.jit(init)(jax.random.key(0), batch, {})


def _step(method, state, batch, scale=2):
  step = jax.jit(method.train_step, static_argnames='scale')
  return step(state, batch, scale=scale)


def _pair(method, state, batch, scale=2):
  """Luma of LR and HR as a step sees them."""
  hr = jnp.asarray(batch['hr'], jnp.float32) / 255
  lr = method.degrade(state.step_key(), hr, scale)
  return rgb_to_y(lr), rgb_to_y(hr)


def test_srcnn_learns_luma_of_inner_pixels():
  config, method = _setup(
    SRCNN,
    loss='euclidean',
    optimizer={'learning_rate': 0.01, 'ema_decay': 0.0},
  )
  batch = _batch()
  state = _init(method, batch)
  assert state.params['generator']['conv1']['kernel'].shape == (3, 3, 1, 4)
  lr, hr = _pair(method, state, batch)
  network = models.create(config['model'])
  sr, _ = network.apply({'params': state.params['generator']}, lr)
  expected = pixel.euclidean(sr[:, 2:-2, 2:-2], hr[:, 2:-2, 2:-2])
  losses = []
  for _ in range(3):
    state, metrics = _step(method, state, batch)
    losses.append(float(metrics['loss']))
  assert losses[0] == pytest.approx(float(expected), rel=1e-4)
  assert losses[2] < losses[0]


@pytest.mark.nightly
def test_the_pyramid_is_supervised_at_every_level():
  config, method = _setup(
    LAPSRN | {'scale': 4},
    loss='charbonnier_sum',
    method={'outputs': 'pyramid'},
  )
  batch = _batch()
  state = _init(method, batch, 4)
  lr, hr = _pair(method, state, batch, 4)
  sr, aux = models.create(config['model']).apply(
    {'params': state.params['generator']}, lr
  )
  half, _ = aux['outputs']
  expected = pixel.charbonnier_sum(sr, hr)
  expected += pixel.charbonnier_sum(half, imresize(hr, scale=1 / 2))
  _, metrics = _step(method, state, batch, 4)
  assert metrics['loss'] == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.nightly
def test_recursions_are_supervised_until_alpha_is_gone():
  config, method = _setup(
    DRCN, loss='l2', method={'outputs': 'recursive', 'alpha_steps': 2}
  )
  batch = _batch()
  state = _init(method, batch)
  network = models.create(config['model'])
  for alpha in (1.0, 0.5, 0.0):
    lr, hr = _pair(method, state, batch)
    sr, aux = network.apply({'params': state.params['generator']}, lr)
    each = sum(pixel.l2(x, hr) for x in aux['outputs'][:-1]) / 2
    expected = alpha * each + (1 - alpha) * pixel.l2(sr, hr)
    state, metrics = _step(method, state, batch)
    assert metrics['loss'] == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize(
  ('section', 'message'),
  [
    ({'outputs': 'all'}, r"config\.method\.outputs: unknown 'all'"),
    ({'outputs': 'recursive'}, r'config\.method\.alpha_steps is missing'),
  ],
)
def test_bad_outputs_are_refused(section, message):
  with pytest.raises(UserError, match=message):
    _setup(SRCNN, method=section)


def test_a_model_of_one_output_is_refused_by_name():
  _, method = _setup(SRCNN, method={'outputs': 'steps'})
  state = _init(method, _batch())
  with pytest.raises(UserError, match='outputs=steps: this model has only one'):
    _step(method, state, _batch())


@pytest.mark.nightly
def test_one_network_trains_at_several_scales():
  _, method = _setup(DRRN)
  state = _init(method, _batch())
  for scale, side in ((2, 16), (3, 15), (4, 16)):
    state, metrics = _step(method, state, _batch(side=side), scale)
    assert np.isfinite(metrics['loss'])


@pytest.mark.nightly
def test_scales_are_mixed_within_a_batch():
  config, method = _setup(DRCN, loss='l2', method={'scales': (2, 3, 4)})
  batch = _batch(size=4, side=12)
  state = _init(method, batch)
  hr = jnp.asarray(batch['hr'], jnp.float32) / 255
  squares = []
  for i, scale in enumerate((2, 3, 4, 2)):  # in turn
    lr = method.degrade(jax.random.key(0), hr[i : i + 1], scale)
    network = models.create({**config['model'], 'scale': scale})
    sr, _ = network.apply({'params': state.params['generator']}, rgb_to_y(lr))
    squares.append(float(((sr - rgb_to_y(hr[i : i + 1])) ** 2).mean()))
  _, metrics = _step(method, state, batch)
  assert metrics['loss'] == pytest.approx(np.mean(squares), rel=1e-4)
  with pytest.raises(UserError, match='HR crops of 16 are no multiple of 3'):
    _step(method, state, _batch())
  lr = {'lr': batch['hr'][:, ::2, ::2]}
  with pytest.raises(UserError, match='pairs of files have a scale'):
    _step(method, state, batch | lr)


@pytest.mark.parametrize(
  ('sections', 'reason'),
  [
    ({'method': {'scales': (2, 3)}}, 'scale=1: give 2, 3'),
    ({'data': {'scales': (2, 3)}}, 'other weights at scale 3'),
  ],
)
def test_several_scales_need_a_network_that_serves_them(sections, reason):
  edsr = {'name': 'edsr', 'scale': 2, 'blocks': 1, 'features': 4}
  with pytest.raises(UserError, match=rf'several scales of.*{reason}'):
    _setup(edsr, **sections)


@pytest.mark.nightly
def test_running_statistics_are_learnt_kept_and_used(tmp_path):
  config, method = _setup(DRRN, optimizer={'learning_rate': 0.01})
  batch = _batch()
  darker = {'hr': batch['hr'] // 2}
  first = _init(method, batch)
  state = _step(method, _step(method, first, batch)[0], darker)[0]
  running = state.model_state['generator']['batch_stats']['norm_head']['mean']
  one, two = (
    imresize(_pair(method, first, b)[0], scale=2).mean((0, 1, 2))
    for b in (batch, darker)
  )
  # A step weighs 0.999 times as much as the next one.
  np.testing.assert_allclose(running, (0.999 * one + two) / 1.999, rtol=1e-4)
  assert abs(one - two) > 0.1

  slots = jax.device_get(method.averaged(state))
  sections = {key: config[key] for key in ('method', 'model')}
  checkpoints.save_params(tmp_path / 'a', slots, sections)
  loaded = loading.load(tmp_path / 'a')
  image = batch['hr'][0]
  found = Upscaler(loaded, UpscaleOptions(mirror_border=False))(image)
  network = models.create(config['model'])
  y, _ = network.apply(
    {'params': slots['generator'], 'batch_stats': slots['batch_stats']},
    rgb_to_y(np.float32(image / 255))[None],
  )
  inside = (found > 0).all(-1) & (found < 1).all(-1)
  difference = np.abs(rgb_to_y(found) - np.asarray(y)[0])[inside]
  assert inside.mean() > 0.05
  assert difference.max() < 1e-5

  del slots['batch_stats']
  checkpoints.save_params(tmp_path / 'b', slots, sections)
  with pytest.raises(UserError, match=r'norm_0_1/mean is missing, not \(4,\)'):
    loading.load(tmp_path / 'b')


def test_statistics_come_along_with_pretrained_weights():
  _, method = _setup(DRRN)
  batch = _batch()
  slots = jax.device_get(method.averaged(_init(method, batch)))
  slots['batch_stats']['norm_tail']['var'] = np.full(4, 7.0, np.float32)
  init = functools.partial(method.init, scale=2)
  state = jax.jit(init)(jax.random.key(1), batch, {}, pretrained=slots)
  statistics = state.model_state['generator']['batch_stats']
  np.testing.assert_array_equal(statistics['norm_tail']['var'], np.full(4, 7.0))
  assert jax.tree.structure(state.params) == jax.tree.structure(
    {'generator': slots['generator']}
  )

"""Curriculum: easier targets for the first outputs of a feedback network."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from configs import common
from sr_jax import experiment, methods
from sr_jax.data.degradation import Degradation
from sr_jax.errors import UserError
from sr_jax.losses import outputs as losses
from sr_jax.losses import pixel
from sr_jax.methods import _losses
from sr_jax.ops.blur_kernels import gaussian_kernel
from sr_jax.ops.degrade import degrade, quantize
from sr_jax.ops.resize import imresize
from tests import tiny

HR = np.random.default_rng(0).random((2, 18, 18, 3), np.float32)


def _section(preset):
  config = common.base()
  preset(config)
  assert config.model.scale == 3
  return experiment.to_plain(config)['degradation']


def _on_device(section):
  return Degradation.from_config(section).on_device


def test_bd_reads_the_middle_of_blocks():
  """MATLAB's fspecial('gaussian', 7, 1.6), then nearest-neighbour x3."""
  method = _on_device(_section(common.degrade_bd))
  lr = method(None, jnp.asarray(HR), 3)
  y, x = np.mgrid[-3:4, -3:4]
  taps = np.exp(-(x**2 + y**2) / (2 * 1.6**2))
  blurred = ndimage.correlate(
    HR.astype(np.float64), (taps / taps.sum())[None, :, :, None], mode='reflect'
  )
  expected = np.round(blurred[:, 1::3, 1::3] * 255) / 255
  np.testing.assert_allclose(lr, expected, atol=1.001 / 255)
  assert (np.abs(lr - expected) < 1e-6).mean() > 0.99


def test_dn_is_bicubic_with_noise():
  method = _on_device(_section(common.degrade_dn))
  key = jax.random.key(3)
  lr = method(key, jnp.asarray(HR), 3)
  noise = jax.random.normal(key, (2, 6, 6, 3)) * 30 / 255
  expected = quantize(
    jnp.clip(imresize(jnp.asarray(HR), scale=1 / 3) + noise, 0, 1)
  )
  np.testing.assert_array_equal(lr, expected)


def test_easy_target_of_bd_is_the_blurred_hr():
  """The blurred HR does not move, although the kernel moves the LR image."""
  section = _section(common.degrade_bd)
  hr = jnp.asarray(HR)
  lr = _on_device(section)(None, hr, 3)
  easy = _losses.easy_targets(section)(hr, lr, 3)
  expected = degrade(
    None,
    hr,
    scale=1,
    degradation='direct',
    kernel=gaussian_kernel(2.56, size=7),
  )
  np.testing.assert_allclose(easy, expected, atol=1e-5)


def test_easy_target_of_dn_has_the_noise_of_lr():
  section = _section(common.degrade_dn)
  hr = jnp.asarray(HR)
  lr = _on_device(section)(jax.random.key(0), hr, 3)
  easy = _losses.easy_targets(section)(hr, lr, 3)
  noise = lr - quantize(imresize(hr, scale=1 / 3))
  assert 20 / 255 < noise.std() < 40 / 255
  np.testing.assert_allclose(easy - hr, imresize(noise, scale=3), atol=1e-6)


def test_halves_of_the_outputs_have_their_targets():
  outputs = [jnp.full((1, 2, 2, 3), x) for x in (0.1, 0.2, 0.3, 0.4, 0.7)]
  easy, hr = jnp.zeros((1, 2, 2, 3)), jnp.ones((1, 2, 2, 3))
  value = losses.curriculum(pixel.l1, outputs, hr, 0, easy=easy)
  assert float(value) == pytest.approx(0.1 + 0.2 + 0.7 + 0.6 + 0.3)
  alone = losses.curriculum(pixel.l1, outputs[:1], hr, 0, easy=easy)
  assert float(alone) == pytest.approx(0.9)


def _method(**model):
  config = tiny.config(
    method={'outputs': 'curriculum'}, optimizer={'learning_rate': 1e-2}
  )
  common.degrade_dn(config)
  plain = experiment.to_plain(config)
  return methods.make({**plain, 'model': {**model, 'scale': 3}})


def _start(method):
  batch = {'hr': np.asarray(HR * 255, np.uint8)}
  init = jax.jit(functools.partial(method.init, scale=3))
  state = init(jax.random.key(0), batch, {})
  step = jax.jit(method.train_step, static_argnames='scale')
  return state, batch, step


@pytest.mark.nightly
def test_three_steps_learn_and_pairs_of_files_train_too():
  method = _method(name='srfbn', groups=1, steps=2, features=4)
  state, batch, step = _start(method)
  losses = []
  for _ in range(3):
    state, metrics = step(state, batch, scale=3)
    losses.append(float(metrics['loss']))
  assert losses[2] < losses[0]
  assert int(state.step) == 3
  noisy = method.degrade(jax.random.key(5), jnp.asarray(HR), 3)
  pairs = {**batch, 'lr': np.asarray(noisy * 255).round().astype(np.uint8)}
  _, metrics = step(state, pairs, scale=3)
  assert jnp.isfinite(metrics['loss'])


def test_a_model_of_one_output_is_refused():
  method = _method(name='edsr', blocks=1, features=4)
  state, batch, step = _start(method)
  with pytest.raises(UserError, match='curriculum: this model has only one'):
    step(state, batch, scale=3)

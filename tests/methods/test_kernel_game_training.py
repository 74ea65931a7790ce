"""Meta-training of KernelGAN's start: tasks, and gradients through the game."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import metakernelgan
from sr_jax import experiment, methods
from sr_jax.errors import UserError
from sr_jax.methods import kernel_game
from sr_jax.ops.blur_kernels import covariance
from sr_jax.ops.degrade import correlate

SIDE = 2 * (64 + 2 * 4)


def _config(**changes):
  config = experiment.to_plain(metakernelgan.get_config('smoke'))
  config['model'] |= {'features': 4}
  # A warm-up would begin with a rate of zero.
  config['optimizer'] |= {'warmup_steps': 0, 'schedule': 'constant'}
  config['method'] |= changes
  return config


def _images(count):
  rng = np.random.default_rng(0)
  images = rng.uniform(0, 255, (count, SIDE, SIDE, 3))
  return images.astype(np.uint8)


def test_a_task_is_an_image_reduced_by_the_kernel():
  hr = jnp.asarray(_images(1)[0] / 255, jnp.float32)
  lr, kernel = kernel_game.draw_task(jax.random.key(3), hr, 0.5, 2.0)
  assert lr.shape == (64, 64, 3)
  assert kernel.shape == (13, 13)
  np.testing.assert_allclose(kernel.sum(), 1, rtol=1e-5)
  variances = np.linalg.eigvalsh(covariance(np.asarray(kernel)))
  assert 0.4 < variances[0] <= variances[1] < 2.1
  expected = correlate(hr, kernel)[8:-8:2, 8:-8:2] * 2 - 1
  np.testing.assert_allclose(lr, expected, atol=0.51 * 2 / 255)
  levels = (np.asarray(lr) + 1) * 127.5
  np.testing.assert_allclose(levels, levels.round(), atol=1e-3)


def test_bad_settings_are_refused():
  with pytest.raises(UserError, match='give no more than max_variance'):
    methods.make(_config(min_variance=6.0))
  config = _config()
  config['model'] = {'name': 'spectrum_mlp', 'variant': 'small', 'scale': 1}
  with pytest.raises(UserError, match="'spectrum_mlp': kernel_game trains"):
    methods.make(config)
  with pytest.raises(UserError, match=r'config\.method\.iterations=0'):
    methods.make(_config(iterations=0))


@pytest.mark.nightly
def test_gradients_pass_through_the_game_to_both_networks_and_the_rates():
  """The outer loss depends on the discriminator by the game alone."""
  method = methods.make(_config())
  shapes = {'hr': jax.ShapeDtypeStruct((2, SIDE, SIDE, 3), np.uint8)}
  init = jax.jit(lambda key: method.init(key, shapes, {}, 2))
  with jax.debug_key_reuse(True):
    state = init(jax.random.key(0))
    step = jax.jit(functools.partial(method.train_step, scale=2))
    after, metrics = step(state, {'hr': _images(2)})
  assert np.isfinite(metrics['loss'])
  for slot in ('generator', 'discriminator', 'rates'):
    before, now = jax.tree.leaves(state.params[slot]), after.params[slot]
    moved = [
      float(jnp.abs(a - b).max())
      for a, b in zip(before, jax.tree.leaves(now), strict=True)
    ]
    assert np.isfinite(moved).all()
    assert max(moved) > 0
  # Of the discriminator the first weights move, not the last bias alone.
  first = [
    s.params['discriminator']['patches']['kernel'] for s in (state, after)
  ]
  assert np.abs(first[0] - first[1]).max() > 0

"""Training of the network that estimates blur."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import kernel_estimator
from sr_jax import experiment, methods
from sr_jax.errors import UserError
from sr_jax.methods import kernel_estimation
from sr_jax.ops.edge_profile import PROFILES
from sr_jax.ops.power_spectrum import FEATURES


def _config(**changes):
  config = experiment.to_plain(kernel_estimator.get_config('smoke'))
  config['model'] |= {'hidden': 8, 'members': 2}
  config['optimizer'] |= {'warmup_steps': 0, 'schedule': 'constant'}
  config['method'] |= changes
  return config


def _batch():
  rng = np.random.default_rng(0)
  return {
    'features': rng.normal(size=(16, *FEATURES)).astype(np.float16),
    'edges': rng.normal(size=(16, *PROFILES)).astype(np.float16),
    'root': rng.normal(size=(16, 3)).astype(np.float32),
    'known': np.arange(16) % 4 > 0,
    'origin': np.arange(16, dtype=np.int32) % 3,
    'scale': np.full(16, 2, np.float32),
  }


def test_losses_by_hand():
  """One member and two examples, one of which has a kernel."""
  root = jnp.array([[[0.5, 0.0, 0.5], [9.0, 9.0, 9.0]]])
  batch = {
    'root': jnp.array([[0.4, 0.0, 0.5], [0.0, 0.0, 0.0]]),
    'known': jnp.array([True, False]),
    'origin': jnp.array([0, 2]),
  }
  answers = root, jnp.array([[0.1, 0.1]]), jnp.zeros((1, 2, 3))
  terms = kernel_estimation.losses(
    SimpleNamespace(wide_penalty=2.0), answers, batch
  )
  # 0.1 too wide: (0.1 - 0.02) / 3 channels, twice for being too wide.
  np.testing.assert_allclose(terms['root'], 2 * 0.08 / 3, rtol=1e-5)
  np.testing.assert_allclose(terms['root_error'], 0.1 / 3, rtol=1e-5)
  np.testing.assert_allclose(
    terms['expected_error'], np.log(0.1) + 1 / 3, rtol=1e-5
  )
  np.testing.assert_allclose(terms['origin'], np.log(3), rtol=1e-5)


def test_it_learns():
  config = _config()
  method = methods.make(config)
  batch = _batch()
  shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch)
  init = functools.partial(method.init, shapes=shapes, frozen={}, scale=2)
  state = jax.jit(init)(jax.random.key(0))
  step = jax.jit(functools.partial(method.train_step, scale=2))
  with jax.debug_key_reuse(True):
    state, first = step(state, batch)
  for _ in range(60):
    state, last = step(state, batch)
  assert last['root_error'] < 0.7 * first['root_error']
  assert last['loss'] < first['loss']
  predict = methods.inference(config).predict
  root, error, logits = predict(
    method.averaged(state), batch['features'], batch['edges'], batch['scale']
  )
  assert root.shape == (16, 3)
  assert (error > 0).all()
  assert logits.shape == (16, 4)


def test_other_networks_are_refused():
  config = _config()
  config['model'] = {'name': 'edsr', 'scale': 2}
  with pytest.raises(UserError, match='kernel_estimation trains spectrum_mlp'):
    methods.make(config)

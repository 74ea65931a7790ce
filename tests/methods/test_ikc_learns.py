"""A tiny IKC, trained from scratch: what its codes are good for."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage import data as photographs

from configs import ikc, ikc_sftmd
from sr_jax import experiment, methods
from sr_jax.methods import _kernel_codes, kernel_correction

TINY = {
  'blocks': 1,
  'features': 12,
  'condition': 8,
  'codes': 6,
  'bicubic_skip': True,
}
CROP = 52


def _config(module, **method):
  config = module.get_config()
  with config.unlocked():
    config.model.update({'variant': 'small', **TINY})
    config.method.update({'min_sigma': 0.4, 'kernel_size': 13, **method})
  config.optimizer.boundaries = ()
  config.optimizer.learning_rate = 3e-3
  config.optimizer.schedule = 'cosine'
  config.data.update({'batch_size': 8, 'patch': 16})
  return config


def _trained(config, photos, pretrained):
  """Inference parameters after all steps."""
  config = experiment.to_plain(config)
  method = methods.make(config)
  side = 2 * (16 + 2 * method.margin(2))
  assert side == CROP
  rng = np.random.default_rng(0)

  def batch():
    crops = []
    for _ in range(8):
      photo = photos[rng.integers(len(photos))]
      top, left = (rng.integers(n - side) for n in photo.shape[:2])
      crops.append(photo[top : top + side, left : left + side])
    return {'hr': np.stack(crops)}

  first = batch()
  shapes = {'hr': jax.ShapeDtypeStruct(first['hr'].shape, np.uint8)}
  state = jax.jit(lambda key, given: method.init(key, shapes, {}, 2, given))(
    jax.random.key(0), pretrained
  )
  step = jax.jit(functools.partial(method.train_step, scale=2))
  history = []
  for _ in range(config['steps']):
    state, metrics = step(state, batch())
    history.append(metrics)
  return method.averaged(state), history


@pytest.mark.nightly
def test_codes_and_their_corrections_help():
  photos = [photographs.astronaut(), photographs.coffee(), photographs.cat()]
  held_out = photographs.rocket()
  config = _config(ikc_sftmd)
  config.steps = 500
  params, history = _trained(config, photos, {})
  losses = [float(h['loss']) for h in history]
  assert np.mean(losses[-50:]) < 0.8 * np.mean(losses[:20])
  config = _config(
    ikc, predictor_features=8, corrector_features=8, corrections=3
  )
  config.steps = 250
  params, history = _trained(config, photos, params)
  plain = experiment.to_plain(config)
  blurs = _kernel_codes.blurs_of(plain)
  network = _kernel_codes.network_of(plain)
  basis = params['codes']['basis']
  rng = np.random.default_rng(1)
  corners = rng.integers(0, 350, (32, 2))
  crops = np.stack([held_out[a : a + CROP, b : b + CROP] for a, b in corners])

  @jax.jit
  def measure(params, crops):
    lr, hr, code = blurs.draw(jax.random.key(9), {'hr': crops}, 2, basis)

    def psnr(code):
      sr = _kernel_codes.enlarge(network, params, lr, code)
      return -10 * jnp.log10(((sr - hr) ** 2).mean((1, 2, 3))).mean()

    found = kernel_correction.predicted(params, lr)
    codes = [found]
    for _ in range(3):
      found = kernel_correction.corrected(network, params, lr, found)
      codes.append(found)
    return {
      'true': psnr(code),
      'wrong': psnr(jnp.roll(code, 1, 0)),
      'found': jnp.stack([psnr(c) for c in codes]),
      'errors': jnp.stack([((c - code) ** 2).mean() for c in codes]),
    }

  got = measure(params, crops)
  print({k: np.asarray(v) for k, v in got.items()})
  assert got['true'] > got['wrong'] + 0.3
  assert got['found'].max() > got['wrong'] + 0.1
  assert got['errors'][-1] < got['errors'][0]

"""The contract of methods: two functions, PRNG keys, old configs."""

import contextlib
import functools
import importlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import (
  common,
  crossnet,
  drn,
  ikc,
  ikc_sftmd,
  metakernelgan,
  mzsr,
  ranker,
)
from sr_jax import checkpoints, experiment, methods
from sr_jax.errors import UserError
from sr_jax.inference import loading
from tests import tiny

SRNTT = {
  **{'name': 'srntt', 'variant': 'plain', 'scale': 4, 'blocks': 1},
  **{'features': 4, 'transfer_blocks': (1, 1, 1)},
}
SRNTT_JUDGE = {
  **{'name': 'srntt_discriminator', 'variant': 'released'},
  **{'features': 2, 'side': 2, 'hidden': 4},
}
GAN_JUDGE = {
  'name': 'vgg_discriminator',
  'variant': '128',
  **{'features': 2, 'stages': 2, 'side': 4},
}
RANKER = {'name': 'ranker', 'variant': 'paper', 'features': 2, 'stages': 2}


def _supervised():
  return tiny.config()


def _gan():
  config = tiny.config()
  common.adversarial(
    config,
    perceptual='srgan-vgg22',
    rank_weight=0.1,
    ranker=RANKER,
    discriminator=GAN_JUDGE,
    gradient_penalty=10.0,
    game='wasserstein',
    **dict.fromkeys(('features_from', 'ranker_from'), 'random:0'),
  )
  return config


def _reference():
  config = tiny.config(model=SRNTT, data={'patch': 16, 'batch_size': 2})
  common.referenced(
    config,
    adversarial_weight=0.1,
    discriminator=SRNTT_JUDGE,
    features_from='random:0',
  )
  return config


def _dual_regression():
  config = tiny.config()
  config.method = drn.get_config().method
  return config


def _meta_transfer():
  config = mzsr.get_config('smoke')
  with config.unlocked():
    config.model.update({'depth': 2, 'features': 4})
  config.data.patch = 6
  return config


def _warping():
  config = crossnet.get_config('smoke')
  with config.unlocked():
    config.model.update({'features': 4})
  return config


def _kernel_codes(module):
  config = module.get_config('smoke')
  with config.unlocked():
    config.model.update(
      {'blocks': 1, 'features': 4, 'condition': 4, 'codes': 3}
    )
    if 'corrections' in config.method:
      config.method.update({'predictor_features': 2, 'corrector_features': 2})
  config.data.patch = 6
  return config


def _ranking():
  config = ranker.get_config('smoke')
  with config.unlocked():
    config.model.update({'features': 2, 'stages': 2})
  config.data.patch = 12
  return config


def _kernel_game():
  config = metakernelgan.get_config('smoke')
  with config.unlocked():
    config.model.update({'features': 4})
  return config


CONFIGS = {
  'dual_regression': _dual_regression,
  'gan': _gan,
  'kernel_conditioned': functools.partial(_kernel_codes, ikc_sftmd),
  'kernel_correction': functools.partial(_kernel_codes, ikc),
  'kernel_game': _kernel_game,
  'meta_transfer': _meta_transfer,
  'ranking': _ranking,
  'reference': _reference,
  'supervised': _supervised,
  'warping': _warping,
}
every_method = pytest.mark.parametrize('name', CONFIGS)


@functools.cache
def _plain(name):
  config = CONFIGS[name]()
  assert config.method.name == name
  config.degradation.noise_sigma = 10.0
  return experiment.to_plain(config)


def _shapes(config):
  data, scale = config['data'], config['model']['scale']
  margin = methods.make(config).margin(scale)
  side = round((data['patch'] + 2 * margin) * scale)
  shape = (data['batch_size'], side, side, 3)
  return {'hr': jax.ShapeDtypeStruct(shape, np.uint8)}


def test_a_method_file_offers_two_functions():
  assert {*CONFIGS, 'zero_shot'} <= set(methods.names())
  for name in methods.names():
    module = importlib.import_module(f'sr_jax.methods.{name}')
    assert callable(module.make)
    assert callable(module.inference)


def test_a_method_without_training_says_so():
  with pytest.raises(UserError, match=r'zero_shot: .* sr-jax upscale'):
    methods.make({'method': {'name': 'zero_shot'}})


@pytest.mark.parametrize(
  'config',
  [{}, {'method': []}, {'method': {}}, {'method': {'name': 5}}],
)
def test_configs_without_a_method_are_refused(config):
  for function in (methods.make, methods.inference):
    with pytest.raises(UserError, match=r'config\.method: names no method'):
      function(config)
  with pytest.raises(UserError, match="unknown method 'gann'"):
    methods.make({'method': {'name': 'gann'}})


@every_method
def test_it_starts_from_shapes_and_refuses_other_frozen_networks(name):
  """B5: without its frozen networks a method trained against random ones."""
  config = _plain(name)
  method, shapes = methods.make(config), _shapes(config)
  scale = config['model']['scale']
  frozen = method.frozen()

  def init(key, frozen):
    return method.init(key, shapes, frozen, scale)

  state = jax.eval_shape(init, jax.random.key(0), frozen)
  assert set(state.frozen) == set(frozen)
  assert 'generator' in state.params
  with pytest.raises(UserError, match="'other' is not used"):
    jax.eval_shape(init, jax.random.key(0), {**frozen, 'other': {}})
  for slot in frozen:
    less = {k: v for k, v in frozen.items() if k != slot}
    with pytest.raises(UserError, match=f'{slot!r} is missing: pass Method'):
      jax.eval_shape(init, jax.random.key(0), less)


def test_the_methods_that_need_frozen_networks_are_among_these():
  frozen = {name: set(methods.make(_plain(name)).frozen()) for name in CONFIGS}
  assert frozen['gan'] == {'features', 'ranker'}
  assert frozen['reference'] == {'features'}


# Compiling these steps takes long; they are checked in the nightly part.
_LONG = (
  *('dual_regression', 'gan', 'kernel_conditioned', 'kernel_correction'),
  *('kernel_game', 'ranking', 'reference', 'warping'),
)


@pytest.mark.parametrize(
  'name',
  [
    pytest.param(n, marks=pytest.mark.nightly if n in _LONG else ())
    for n in CONFIGS
  ],
)
def test_no_key_of_a_step_is_used_twice(name):
  """B4: one key drew both the noise of LR and the points of WGAN-GP."""
  config = _plain(name)
  method, shapes = methods.make(config), _shapes(config)
  scale = config['model']['scale']
  batch = {k: jnp.zeros(v.shape, v.dtype) for k, v in shapes.items()}
  init = jax.jit(lambda key, frozen: method.init(key, shapes, frozen, scale))
  with jax.debug_key_reuse(True):
    state = init(jax.random.key(0), method.frozen())
    step = jax.jit(functools.partial(method.train_step, scale=scale))
    state, metrics = step(state, batch)
  assert np.isfinite(metrics['loss'])


def _leaves(section, prefix=()):
  for key, value in section.items():
    if isinstance(value, dict) and key not in ('discriminator', 'ranker'):
      yield from _leaves(value, (*prefix, key))
    else:
      yield (*prefix, key), value


def _with(config, path, value):
  *above, last = path
  changed = json.loads(json.dumps(config))
  section = changed['method']
  for key in above:
    section = section[key]
  section[last] = value
  return changed


@every_method
def test_values_out_of_range_are_refused_in_one_line(name):
  """T5, T6: 120 of 224 bad values of `config.method` were accepted."""
  config = _plain(name)
  numbers = 0
  for path, value in _leaves(config['method']):
    if path[0] in ('name', 'sisr'):
      continue
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    numbers += number
    bad = [None, {'a': 1}, [[]], -1e300]
    if number:
      bad += [float('nan'), float('inf'), 2**63, -(2**63)]
      bad += ['x', [1], True, -1]
    elif isinstance(value, str):
      bad += [1, float('nan'), []]
    for wrong in bad:
      with pytest.raises(UserError) as caught:
        methods.make(_with(config, path, wrong))
      line = str(caught.value)
      assert line.startswith(f'config.method.{".".join(path)}=')
      assert '\n' not in line
    # Neither 0 nor an empty list is a traceback, wherever they are accepted.
    for edge in (0, 0.0, []):
      with contextlib.suppress(UserError):
        methods.make(_with(config, path, edge))
  expected = {'supervised': 0, 'warping': 1, 'dual_regression': 1}
  assert numbers >= expected.get(name, 2)


@every_method
def test_unknown_and_missing_keys_are_named(name):
  config = _plain(name)
  with pytest.raises(UserError, match=r"config\.method has no key 'zzz'"):
    methods.make(_with(config, ('zzz',), 1))
  optional = ('name', 'outputs', 'adapt', 'test')
  for key in set(config['method']) - set(optional):
    less = {k: v for k, v in config['method'].items() if k != key}
    with pytest.raises(UserError, match=rf'config\.method\.{key} is missing'):
      methods.make({**config, 'method': less})


def _old_curriculum():
  """A curriculum config of version 0.1, and the same config today."""
  config = tiny.config(model={'name': 'srfbn', 'groups': 1, 'steps': 2})
  with config.unlocked():
    del config.model.blocks
  config.model.variant = 'paper'
  common.degrade_dn(config)
  config.method.outputs = 'curriculum'
  now = experiment.to_plain(config)
  old = json.loads(json.dumps(now))
  old['method'] = {'name': 'curriculum', 'outputs': 'steps'}
  return old, now


def test_the_method_curriculum_became_an_option_of_supervised():
  old, now = _old_curriculum()
  assert methods.updated(old) == now == methods.updated(now)


def test_a_workdir_of_the_method_curriculum_resumes(tmp_path):
  old, now = _old_curriculum()
  assert experiment.resumed(old, now, tmp_path) == now
  other = {**now, 'method': {'name': 'supervised', 'outputs': 'steps'}}
  with pytest.raises(UserError, match=r'method\.outputs'):
    experiment.resumed(old, other, tmp_path)


def test_frozen_networks_may_move(tmp_path):
  """Frozen networks are compared by checksum, not by path."""
  config = _plain('gan')
  moved = _with(config, ('features_from',), 'moved')
  assert experiment.resumed(config, moved, tmp_path) == moved
  other = _with(config, ('game',), 'vanilla')
  with pytest.raises(UserError, match=r'method\.game'):
    experiment.resumed(config, other, tmp_path)


def test_a_checkpoint_of_the_method_curriculum_opens(tmp_path):
  old, _ = _old_curriculum()
  old['model'] = _plain('supervised')['model']
  method = methods.make(_plain('supervised'))
  shapes = {'hr': jax.ShapeDtypeStruct((1, 16, 16, 3), np.uint8)}
  state = method.init(jax.random.key(0), shapes, {}, 2)
  checkpoints.save_params(tmp_path / 'x', method.averaged(state), old)
  model = loading.load(tmp_path / 'x')
  lr = np.full((1, 5, 4, 3), 0.5, np.float32)
  assert model.predict(model.params, lr, None).shape == (1, 10, 8, 3)

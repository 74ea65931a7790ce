"""Adversarial training: who learns from what, devices, the train loop."""

import functools
import itertools
import json
import logging
import re

import jax
import numpy as np
import optax
import pytest
from jax.sharding import AxisType
from PIL import Image

from configs import common
from sr_jax import checkpoints, experiment, methods, sharding, train_loop
from sr_jax.data import batches, sources
from sr_jax.errors import UserError
from sr_jax.inference import loading
from sr_jax.methods import _gan_config as players
from sr_jax.methods import gan
from tests import tiny

# Not Adam, which makes noise of near-zero gradients as large as steps.
SGD = {'name': 'sgd', 'learning_rate': 0.01, 'ema_decay': 0.0}
JUDGE = {
  'name': 'vgg_discriminator',
  'variant': '128',
  **{'features': 2, 'stages': 2, 'side': 4},
}
MODEL = {'name': 'msrresnet', 'variant': 'basicsr', 'scale': 2}
SPSR = {
  **{'name': 'spsr', 'variant': 'paper', 'scale': 2, 'blocks': 1},
  **{'features': 4, 'growth': 2, 'look_every': 1},
}
ALL_TERMS = {
  'gradient_weight': 0.02,
  'gradient_adversarial_weight': 0.03,
  'branch_weight': 0.5,
  'game': 'relativistic_average',
}


def _config(method=None, model=None, **sections):
  """A tiny GAN without VGG19, unless `method` asks for it."""
  options = {'perceptual_weight': 0.0, 'discriminator': JUDGE, **(method or {})}
  sections.setdefault('data', {'patch': 8})
  config = tiny.config(model=model or MODEL, **sections)
  common.adversarial(config, **options)
  return config


def _make(**sections):
  config = experiment.to_plain(_config(**sections))
  return methods.module(config).make(config)


def _batch(size=4, seed=0):
  rng = np.random.default_rng(seed)
  return {'hr': rng.integers(0, 256, (size, 16, 16, 3), np.uint8)}


class _Run:
  """A compiled method, its first state and how often it was traced."""

  def __init__(self, start=None, **sections):
    self.method = _make(**{'optimizer': SGD, **sections})
    self.traces = 0
    init = functools.partial(self.method.init, scale=2)
    self.start = jax.jit(init)(
      jax.random.key(0), start or _batch(), self.method.frozen()
    )

    def counted(state, batch):
      self.traces += 1
      return self.method.train_step(state, batch, scale=2)

    self.step = jax.jit(counted)


_run = functools.cache(lambda **method: _Run(method=method))


@functools.cache
def _spsr():
  return _Run(
    model=SPSR,
    method={**ALL_TERMS, 'held_steps': 1, 'early_layers': ('fuse_*',)},
  )


def _same(a, b):
  return all(
    bool((x == y).all())
    for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True)
  )


def test_three_steps_in_one_trace():
  run = _run()
  state = run.start
  assert set(state.params) == {'generator', 'discriminator'}
  assert set(state.opt_state) == {'generator', 'discriminator'}
  for seed in range(3):
    state, metrics = run.step(state, _batch(seed=seed))
  assert run.traces == 1
  assert all(np.isfinite(value) for value in metrics.values())
  for slot, params in state.params.items():
    assert not _same(params, run.start.params[slot])
  assert int(state.step) == 3


def test_the_loss_is_the_weighted_sum_of_the_terms():
  run = _spsr()
  _, metrics = run.step(run.start, _batch())
  weights = {
    'pixel': 1e-2,
    'adversarial': 5e-3,
    'gradient': 0.02,
    'gradient_adversarial': 0.03,
    'branch': 0.5,
  }
  total = sum(weight * metrics[name] for name, weight in weights.items())
  np.testing.assert_allclose(metrics['loss'], total, rtol=1e-5)
  for slot in ('discriminator', 'discriminator_gradient'):
    assert 0 <= metrics[f'{slot}_accuracy'] <= 1
    assert metrics[slot] > 0


def test_the_generator_s_weights_do_not_reach_the_discriminator():
  one, two = _run(), _run(adversarial_weight=0.5, pixel_weight=0.3)
  (a, _), (b, _) = (run.step(one.start, _batch()) for run in (one, two))
  assert _same(a.params['discriminator'], b.params['discriminator'])
  assert _same(a.opt_state['discriminator'], b.opt_state['discriminator'])
  assert not _same(a.params['generator'], b.params['generator'])


def test_the_discriminator_s_penalty_does_not_reach_the_generator():
  one, two = _run(), _run(gradient_penalty=10.0)
  (a, _), (b, _) = (run.step(one.start, _batch()) for run in (one, two))
  for x, y in zip(
    *(jax.tree.leaves(s.params['generator']) for s in (a, b)), strict=True
  ):
    np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-8)
  assert not _same(a.params['discriminator'], b.params['discriminator'])


def test_both_move_from_the_old_parameters():
  """The generator's step is the same whether the discriminator moves or not."""
  run = _run()
  after, _ = run.step(run.start, _batch())
  players, phi = _players(), run.start.params['discriminator']
  lr, hr = _pair(run, _batch())

  def of_generator(theta):
    (sr, _), _ = players.generator.apply(
      {'params': theta}, lr, train=True, mutable=[]
    )
    logits, _ = players.discriminator.apply(
      {'params': phi, **run.start.model_state['discriminator']},
      sr,
      train=True,
      mutable=['batch_stats'],
    )
    return 1e-2 * abs(sr - hr).mean() + 5e-3 * jax.nn.softplus(-logits).mean()

  slope = jax.jit(jax.grad(of_generator))(run.start.params['generator'])
  moved = jax.tree.map(
    lambda p, g: p - 0.01 * g, run.start.params['generator'], slope
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7),
    after.params['generator'],
    moved,
  )


def _players():
  """The networks of the plain run."""
  config = experiment.to_plain(_config())
  section = dict(config['method'])
  for key in ('name', *gan._SOURCES):
    del section[key]
  return players.describe(config, **section)


def _pair(run, batch):
  hr = batch['hr'].astype(np.float32) / 255
  return run.method.degrade(run.start.step_key(), hr, 2), hr


def test_the_discriminator_may_have_steps_for_itself():
  run = _run(generator_first=1, generator_every=2)
  states = [run.start]
  for _ in range(4):
    states.append(run.step(states[-1], _batch())[0])
  moved = [
    not _same(a.params['generator'], b.params['generator'])
    for a, b in itertools.pairwise(states)
  ]
  assert moved == [False, False, True, False]
  for a, b in itertools.pairwise(states):
    assert not _same(a.params['discriminator'], b.params['discriminator'])


def test_held_layers_begin_later_with_an_optimizer_of_their_own():
  """SPSR: first the layers that join its branch, then all."""
  run = _spsr()
  one, _ = run.step(run.start, _batch())
  two, _ = run.step(one, _batch())
  changed = [
    {
      name
      for name, layer in after.params['generator'].items()
      if not _same(layer, before.params['generator'][name])
    }
    for before, after in ((run.start, one), (one, two))
  ]
  layers = set(run.start.params['generator'])
  early = {name for name in layers if name.startswith('fuse_')}
  assert len(early) == 4
  assert changed == [early, layers]
  counts = {
    slot: int(optax.tree.get(state, 'count'))
    for slot, state in two.opt_state.items()
    if slot in ('generator', 'generator_held')
  }
  assert counts == {'generator': 2, 'generator_held': 1}
  assert set(run.method.averaged(two)['generator']) == layers


def test_frozen_features_stay_and_are_no_part_of_the_program():
  run = _Run(
    method={
      'perceptual_weight': 1.0,
      'perceptual': 'srgan-vgg22',
      'features_from': 'random:0',
      'variation_weight': 1e-3,
    }
  )
  assert set(run.start.frozen) == {'features'}
  assert _same(run.start.frozen, run.method.frozen())
  program = jax.make_jaxpr(run.step)(run.start, _batch())
  assert sum(np.size(const) for const in program.consts) < 10_000
  after, metrics = run.step(run.start, _batch())
  assert _same(after.frozen, run.start.frozen)
  assert metrics['perceptual'] > 0
  total = 1e-2 * metrics['pixel'] + metrics['perceptual']
  total += 1e-3 * metrics['variation'] + 5e-3 * metrics['adversarial']
  np.testing.assert_allclose(metrics['loss'], total, rtol=1e-5)


RANK = {
  'rank_weight': 0.3,
  'ranker': {'name': 'ranker', 'variant': 'paper', 'features': 2, 'stages': 2},
  'ranker_from': 'random:0',
}


def test_a_frozen_ranker_teaches_and_stays():
  """Its parameters and its running statistics are bit for bit the same."""
  run, without = _Run(method=RANK), _run()
  assert set(run.start.frozen) == {'ranker'}
  assert set(run.start.frozen['ranker']) == {'params', 'batch_stats'}
  assert _same(run.start.frozen, run.method.frozen())
  program = jax.make_jaxpr(run.step)(run.start, _batch())
  assert sum(np.size(const) for const in program.consts) < 10_000
  after, metrics = run.step(run.start, _batch())
  for seed in range(2):
    after, _ = run.step(after, _batch(seed=seed))
  assert _same(after.frozen, run.start.frozen)
  total = 1e-2 * metrics['pixel'] + 5e-3 * metrics['adversarial']
  total += 0.3 * metrics['rank']
  np.testing.assert_allclose(metrics['loss'], total, rtol=1e-5)
  assert 0 < metrics['rank'] < 4  # a sum of four sigmoids
  (one, _), (other, _) = (r.step(r.start, _batch()) for r in (run, without))
  assert not _same(one.params['generator'], other.params['generator'])
  assert _same(one.params['discriminator'], other.params['discriminator'])


@pytest.mark.parametrize(
  ('section', 'reason'),
  [
    ({'metric': 'ma', 'better': 'higher'}, 'was trained for ma, not for niqe'),
    (
      {'metric': 'niqe', 'better': 'higher'},
      "better='higher': of niqe lower scores are the better ones",
    ),
    ({}, 'does not tell the metric that it was trained for; sr-jax import'),
    (None, 'parameters are not those of its config: head/dense_1/bias'),
  ],
)
def test_rankers_that_do_not_suit(section, reason, tmp_path):
  method = _make(method={**RANK, 'ranker_from': str(tmp_path / 'ranker')})
  given = _make(method=RANK).frozen()['ranker']
  slots = {'generator': given['params'], 'batch_stats': given['batch_stats']}
  if section is None:
    section = {'metric': 'niqe', 'better': 'lower'}
    slots['generator'] = {**given['params'], 'head': {}}
  config = {
    'method': {'name': 'ranking', **section},
    'model': {'name': 'ranker', 'scale': 1},
  }
  checkpoints.save_params(tmp_path / 'ranker', slots, config)
  with pytest.raises(UserError, match=reason) as caught:
    method.frozen()
  assert str(tmp_path / 'ranker') in str(caught.value)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
  ('spec', 'reason'),
  [
    ('', r'config\.method\.ranker_from: the rank-content loss needs a ranker'),
    ('random:x', 'random:x: give a whole number'),
    ('none', 'none: no such checkpoint'),
  ],
)
def test_no_ranker(spec, reason):
  with pytest.raises(UserError, match=reason):
    _make(method={**RANK, 'ranker_from': spec}).frozen()


def test_a_generator_is_no_ranker(tmp_path):
  config = {'method': {'name': 'supervised'}, 'model': MODEL}
  checkpoints.save_params(
    tmp_path / 'x', {'generator': {'a': np.ones(1)}}, config
  )
  with pytest.raises(UserError, match='x: holds no ranker'):
    _make(method={**RANK, 'ranker_from': str(tmp_path / 'x')}).frozen()


TARGETED = {
  'boundary_weight': 1e-3,
  'background_weight': 2e-3,
  'object_weight': 3e-3,
  'region_layers': {
    **{'boundary': 'relu1_2', 'background': 'relu2_1'},
    'object': 'relu2_2',
  },
  'boundary_radius': 1,
  'features': 'vgg16',
  'features_from': 'random:0',
}


def _labels(size=4):
  """Of `_batch`: a person before grass; all grass in the last image."""
  labels = np.full((size, 16, 16, 1), 124, np.uint8)
  labels[:-1, 4:, 6:] = 1
  return labels


def test_targeted_losses_of_the_regions():
  """SROBB: a step by three terms, each of its own layer and mask."""
  run = _Run(method=TARGETED, start=_batch() | {'labels': _labels()})
  after, metrics = run.step(run.start, _batch() | {'labels': _labels()})
  assert not _same(after.params['generator'], run.start.params['generator'])
  assert _same(after.frozen, run.start.frozen)
  assert set(run.start.frozen['features']) == {
    *('conv1_1', 'conv1_2', 'conv2_1', 'conv2_2')
  }
  total = 1e-2 * metrics['pixel'] + 5e-3 * metrics['adversarial']
  for i, region in enumerate(('boundary', 'background', 'object'), 1):
    assert metrics[region] > 0
    total += i * 1e-3 * metrics[region]
  np.testing.assert_allclose(metrics['loss'], total, rtol=1e-5)
  # Without a person there are no objects and no boundaries.
  grass = {'labels': np.full((4, 16, 16, 1), 124, np.uint8)}
  _, metrics = run.step(run.start, _batch() | grass)
  assert float(metrics['boundary']) == float(metrics['object']) == 0
  assert metrics['background'] > 0


def test_regions_without_a_weight_need_no_layers():
  """None of their weights are read, and no labels without any."""
  method = _make(method={**TARGETED, 'object_weight': 0.0})
  assert 'conv2_2' not in method.frozen()['features']
  init = functools.partial(_run().method.init, scale=2)
  assert not jax.eval_shape(init, jax.random.key(0), _batch(), {}).frozen


def test_targeted_losses_need_label_maps(tmp_path):
  config = _config(method=TARGETED)
  with pytest.raises(
    UserError,
    match=r'boundary_weight: needs label maps; .* config\.data\.labels',
  ):
    train_loop.train_and_evaluate(config, tmp_path)


def test_training_with_label_maps(tmp_path):
  """From files; methods without a use for them say so."""
  photo = sources.embedded_source(192)[0][:40, :44]
  labels = np.full((40, 44), 157, np.uint8)
  labels[20:, 10:30] = 1
  for name, image in (('hr/a.jpg', photo), ('maps/a.png', labels)):
    (tmp_path / name).parent.mkdir()
    Image.fromarray(image).save(tmp_path / name)
  data = {
    **{'patch': 8, 'source': str(tmp_path / 'hr')},
    'labels': str(tmp_path / 'maps'),
  }
  method = {**TARGETED, 'background_weight': 0.0, 'object_weight': 0.0}
  config = _config(method=method, data=data, steps=1, log_every=1)
  train_loop.train_and_evaluate(config, tmp_path / 'run')
  line = (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()[0]
  assert json.loads(line)['boundary'] > 0
  config = tiny.config(data=data)
  with pytest.raises(
    UserError, match=r'data\.labels: method supervised has no use for label'
  ):
    train_loop.train_and_evaluate(config, tmp_path / 'other')


def test_running_statistics_see_real_and_then_generated_images():
  """Each batch by itself, with a momentum of 0.9."""
  run = _run()
  after, _ = run.step(run.start, _batch())
  network = _players()
  lr, hr = _pair(run, _batch())
  sr, _ = network.generator.apply({'params': run.start.params['generator']}, lr)
  stats = run.start.model_state['discriminator']
  for image in (hr, sr):
    _, stats = network.discriminator.apply(
      {'params': run.start.params['discriminator'], **stats},
      image,
      train=True,
      mutable=['batch_stats'],
    )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
    after.model_state['discriminator'],
    stats,
  )


def test_a_generator_with_running_statistics():
  model = {'name': 'srresnet', 'variant': 'paper', 'scale': 2}
  run = _Run(model=model)
  after, _ = run.step(run.start, _batch())
  assert set(after.model_state) == {'generator', 'discriminator'}
  assert not _same(
    after.model_state['generator'], run.start.model_state['generator']
  )
  slots = run.method.averaged(after)
  sr = run.method.predict(slots, np.full((1, 5, 4, 3), 0.5, np.float32))
  assert sr.shape == (1, 10, 8, 3)
  assert 'batch_stats' in slots


def _trained(devices):
  """State after two steps on so many devices."""
  method = _make(optimizer=SGD, method={'game': 'relativistic_average'})
  mesh = jax.make_mesh(
    (devices,),
    (sharding.DATA,),
    axis_types=(AxisType.Auto,),
    devices=jax.devices()[:devices],
  )
  everywhere = sharding.replicated(mesh)
  source = sources.embedded_source(16)
  spec = batches.BatchSpec(batch_size=8, patch=8, scales=(2,), seed=0)
  first, _ = batches.sample(source, spec, 0)
  init = functools.partial(method.init, scale=2)
  state = jax.jit(init, out_shardings=everywhere)(jax.random.key(0), first, {})
  step = jax.jit(
    functools.partial(method.train_step, scale=2), out_shardings=everywhere
  )
  for t in range(2):
    batch = sharding.to_global(batches.sample(source, spec, t)[0], mesh)
    state, metrics = step(state, batch)
  return jax.device_get((state.params, state.model_state, metrics))


def test_one_and_eight_devices_agree():
  """Means and statistics are those of the whole batch."""
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
    _trained(1),
    _trained(8),
  )


def test_a_mean_for_each_device():
  """Of eight devices each has one image of a batch of eight."""
  real, fake = np.random.default_rng(0).normal(size=(2, 8, 1))
  game = players._game('relativistic_average', False, 'device')
  np.testing.assert_allclose(
    game.discriminator(real, fake),
    np.log1p(np.exp(fake - real)).mean(),
    rtol=1e-5,
  )


def test_stages_are_chained_and_resume_exactly(tmp_path, caplog, monkeypatch):
  monkeypatch.setattr(gan, 'advice', lambda metrics: 'do this instead')
  pixel, whole, parts = (tmp_path / name for name in ('a', 'b', 'c'))
  first = tiny.config(model=MODEL, data={'patch': 8}, steps=1)
  train_loop.train_and_evaluate(first, pixel)
  given = checkpoints.load_params(pixel).params
  then = functools.partial(_config, checkpoint={'init_from': str(pixel)})
  with caplog.at_level(logging.WARNING):
    start = train_loop.train_and_evaluate(then(steps=0), parts)
  assert 'fresh values' not in caplog.text
  assert _same(start.params['generator'], given['generator'])
  train_loop.train_and_evaluate(then(steps=1), parts)
  resumed = train_loop.train_and_evaluate(then(steps=2), parts)
  caplog.clear()
  state = train_loop.train_and_evaluate(then(steps=2, log_every=1), whole)
  # Advice is given once, not at every line of the log.
  assert caplog.text.count('step 1: do this instead') == 1
  assert 'step 2' not in caplog.text
  for name in ('params', 'opt_state', 'model_state'):
    assert _same(getattr(resumed, name), getattr(state, name))
  model = loading.load(parts)
  lr = np.full((1, 5, 4, 3), 0.5, np.float32)
  assert model.predict(model.params, lr, None).shape == (1, 10, 8, 3)


@pytest.mark.parametrize(
  ('method', 'reason'),
  [
    ({'game': 'chess'}, r"config\.method\.game: unknown 'chess'; choose"),
    ({'mean_over': 'host'}, r"config\.method\.mean_over: unknown 'host'"),
    ({'perceptual': 'x'}, r"config\.method\.perceptual: unknown 'x'; choose"),
    ({'pixel_weight': -1.0}, r'config\.method\.pixel_weight=-1: give 0'),
    ({'generator_every': 0}, r'config\.method\.generator_every=0: give 1'),
    ({'held_steps': -1}, r'config\.method\.held_steps=-1: give 0'),
    ({'object_weight': -1.0}, r'config\.method\.object_weight=-1: give 0'),
    ({'boundary_radius': -1}, r'config\.method\.boundary_radius=-1: give 0'),
    ({'features': 'vgg11'}, r"features: unknown 'vgg11'; choose from .*vgg16"),
    (
      {'object_weight': 1.0, 'region_layers': {'object': 'relu6_1'}},
      r"config\.method\.features=vgg19: unknown layer 'relu6_1'; choose from",
    ),
    (
      {'perceptual_weight': 1.0, 'features': 'vgg16'},
      r"config\.method\.features=vgg16: unknown layer 'conv5_4'; choose from",
    ),
    (
      {'discriminator': {'name': 'vgg_discriminatr'}},
      r"config\.method\.discriminator: .* did you mean 'vgg_discriminator'",
    ),
    (
      {'discriminator': {'name': 'vgg_discriminator', 'variant': '128'}},
      r'config\.data\.patch=8: HR crops are 16x16, but the discriminator'
      r' vgg_discriminator takes 128 to 159 pixels a side; give 64 to 79',
    ),
  ],
)
def test_wrong_values_are_told_in_one_line(method, reason):
  with pytest.raises(UserError, match=reason) as caught:
    _make(method=method)
  assert '\n' not in str(caught.value)


def test_crops_may_be_too_large_as_well():
  with pytest.raises(
    UserError, match=r'patch=10: HR crops are 20x20.*16 to 19'
  ):
    _make(data={'patch': 10})
  # Gradient maps are two pixels larger.
  with pytest.raises(UserError, match=r'patch=9: HR crops are 18x18.*16 to 17'):
    _make(data={'patch': 9}, method={'gradient_adversarial_weight': 1.0})


def test_missing_features_are_told_before_training(tmp_path):
  config = _config(method={'perceptual_weight': 1.0})
  with pytest.raises(UserError, match=r'features_from: .* needs VGG19'):
    train_loop.train_and_evaluate(config, tmp_path)


def test_a_branch_that_the_model_lacks_is_told():
  with pytest.raises(UserError, match='predicts no gradient map'):
    _Run(method={'branch_weight': 1.0}).step(_run().start, _batch())


FINE = {
  'contrast': 0.9,
  'discriminator': 0.6,
  'discriminator_real': 1.0,
  'discriminator_fake': -1.0,
  'discriminator_accuracy': 0.8,
}


@pytest.mark.parametrize(
  ('odd', 'told'),
  [
    ({}, None),
    ({'contrast': 0.01}, 'collapse.*init_from'),
    ({'contrast': 9.0}, 'blow up'),
    ({'discriminator_fake': -80.0}, r'discriminator blows up.*80.*clip_norm'),
    (
      {'discriminator_accuracy': 1.0, 'discriminator': 0.01},
      'tells every generated image',
    ),
    # As it begins, and a critic's loss, which has no least value.
    ({'discriminator_accuracy': 1.0}, None),
    ({'discriminator_accuracy': 1.0, 'discriminator': -9.0}, None),
  ],
)
def test_advice(odd, told):
  found = gan.advice(FINE | odd)
  assert (found is None) == (told is None)
  assert told is None or re.search(told, found)


def test_weights_without_a_generator_are_no_start():
  init = functools.partial(_run().method.init, scale=2)
  with pytest.raises(UserError, match='holds no generator but dual_0'):
    jax.eval_shape(init, jax.random.key(0), _batch(), {'dual_0': {}})


def test_early_layers_that_match_none_are_told():
  method = _make(method={'held_steps': 2, 'early_layers': ('fuse_*',)})
  init = functools.partial(method.init, scale=2)
  with pytest.raises(
    UserError, match=r'early_layers: .* fuse_\*; it has body_'
  ):
    jax.eval_shape(init, jax.random.key(0), _batch(), {})

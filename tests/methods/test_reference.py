"""Reference-based training: its terms, rounds, devices, and the train loop."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from sr_jax import checkpoints, experiment, methods, train_loop
from sr_jax.errors import UserError
from sr_jax.inference import loading
from sr_jax.losses import adversarial
from sr_jax.methods import _adversarial, reference
from tests import tiny

SGD = {'name': 'sgd', 'learning_rate': 0.01, 'ema_decay': 0.0}
MODEL = {
  **{'name': 'srntt', 'variant': 'plain', 'scale': 4, 'blocks': 1},
  **{'features': 4, 'transfer_blocks': (1, 1, 1)},
}
NORMED = {**MODEL, 'variant': 'released'}
JUDGE = {
  **{'name': 'srntt_discriminator', 'variant': 'released'},
  **{'features': 2, 'side': 2, 'hidden': 4},
}
ALL_TERMS = {
  'enlarged_weight': 0.5,
  'perceptual': 'srgan-vgg22',  # of shallower layers
  'perceptual_weight': 0.2,
  'texture_weight': 0.3,
  'texture_threshold': (1.0, 0.65, 20.0),
  'back_projection_weight': 0.4,
  'adversarial_weight': 0.1,
  'gradient_penalty': 1e-3,
}
TERMS = {
  'pixel': 1.0,
  **{k.removesuffix('_weight'): v for k, v in ALL_TERMS.items() if '_w' in k},
}


def _config(method=None, **sections):
  options = {'discriminator': JUDGE, 'features_from': 'random:0'}
  sections = {'model': MODEL, 'data': {'patch': 16}, **sections}
  config = tiny.config(**sections)
  common.referenced(config, **{**options, **(method or {})})
  return config


def _make(**sections):
  config = experiment.to_plain(_config(**sections))
  return methods.make(config)


def _batch(seed=0, size=2, **more):
  rng = np.random.default_rng(seed)
  images = {'hr': (size, 64, 64, 3), **more}
  return {k: rng.integers(0, 256, s, np.uint8) for k, s in images.items()}


REF = {'ref': (2, 64, 64, 3)}


class _Run:
  """A compiled method, its first state and how often it was traced."""

  def __init__(self, **sections):
    self.method = _make(**{'optimizer': SGD, **sections})
    self.traces = 0
    init = functools.partial(self.method.init, scale=4)
    self.start = jax.jit(init)(
      jax.random.key(0), _batch(), self.method.frozen()
    )

    def counted(state, batch):
      self.traces += 1
      return self.method.train_step(state, batch, scale=4)

    self.step = jax.jit(counted)


@functools.cache
def _all():
  return _Run(method=ALL_TERMS, model=NORMED)


def _same(a, b):
  return all(
    bool((x == y).all())
    for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True)
  )


@pytest.mark.nightly
def test_the_loss_is_the_weighted_sum_of_the_terms():
  run = _all()
  _, metrics = run.step(run.start, _batch(**REF))
  assert set(TERMS) <= set(metrics)
  total = sum(weight * metrics[name] for name, weight in TERMS.items())
  assert metrics['loss'] == pytest.approx(float(total), rel=1e-5)
  assert all(np.isfinite(value) for value in metrics.values())


@pytest.mark.nightly
def test_a_round_of_four_steps_in_one_trace():
  """Two steps of the discriminator, one with swapped features, one with HR."""
  run = _all()
  before = run.traces
  state, states, similarities = run.start, [run.start], []
  for seed in range(4):
    state, metrics = run.step(state, _batch(seed=seed, **REF))
    states.append(state)
    similarities.append(float(metrics['similarity']))
  assert run.traces <= before + 1
  moved = [
    {
      slot: not _same(new.params[slot], old.params[slot])
      for slot in ('generator', 'discriminator')
    }
    for old, new in itertools.pairwise(states)
  ]
  assert [m['generator'] for m in moved] == [False, False, True, True]
  assert all(m['discriminator'] for m in moved)
  assert [s == 1 for s in similarities] == [False, False, False, True]
  assert _same(state.frozen, run.start.frozen)


@pytest.mark.nightly
def test_every_parameter_learns():
  run = _all()
  rng = np.random.default_rng(0)
  # From larger weights than the network starts with, whose updates show.
  start = run.start.replace(
    step=jnp.int32(2),
    params=jax.tree.map(
      lambda x: x + rng.normal(0, 0.1, x.shape).astype(np.float32),
      run.start.params,
    ),
  )
  state, _ = run.step(start, _batch(**REF))
  unmoved = [
    jax.tree_util.keystr(path)
    for (path, new), old in zip(
      jax.tree_util.tree_leaves_with_path(state.params),
      jax.tree.leaves(start.params),
      strict=True,
    )
    if (new == old).all()
  ]
  # Real and made images both have it: Wasserstein's game does not see it.
  assert unmoved == ["['discriminator']['head']['dense_2']['bias']"]


@pytest.mark.nightly
def test_the_reference_is_matched():
  run = _all()
  batch = _batch(**REF)
  at = run.start.replace(step=jnp.int32(2))
  _, first = run.step(at, batch)
  _, second = run.step(at, batch | {'ref': batch['ref'] // 8})
  assert first['similarity'] != second['similarity']
  assert first['loss'] != second['loss']


@pytest.mark.nightly
def test_without_references_lr_is_its_own():
  run = _Run(method={'truth_steps': False})
  state, metrics = run.step(run.start, _batch())
  assert 'discriminator' not in state.params
  assert not _same(state.params, run.start.params)
  assert 0 < metrics['similarity'] < 1


@pytest.mark.nightly
def test_truth_steps_take_hr_as_the_reference():
  run = _all()
  hr = _batch()['hr']
  swapped, truth = (run.start.replace(step=jnp.int32(i)) for i in (2, 3))
  _, of_swapped = run.step(swapped, {'hr': hr, 'ref': hr})
  _, of_truth = run.step(truth, {'hr': hr, 'ref': hr[::-1]})
  assert of_swapped['similarity'] == pytest.approx(1, abs=1e-5)
  for name in ('pixel', 'texture', 'perceptual'):
    assert of_swapped[name] == pytest.approx(float(of_truth[name]), rel=1e-4)


@pytest.mark.parametrize('per_pixel', [False, True])
def test_the_form_of_the_penalty(monkeypatch, per_pixel):
  options = {'adversarial_weight': 0.1, 'penalty_per_pixel': per_pixel}
  training = reference._describe(experiment.to_plain(_config(options)))
  forms = []
  monkeypatch.setattr(
    adversarial,
    'gradient_penalty',
    lambda *args, per_pixel: forms.append(per_pixel) or 0.5,
  )
  critic = _adversarial.critic(
    training.discriminators['discriminator'],
    *({}, jnp.zeros(()), jax.random.key(0)),
  )
  assert critic.penalty({}, (jnp.zeros(()), {})) == 5.0  # ten times
  assert forms == [per_pixel]


def test_rates_of_the_generator_are_not_the_critics():
  config = experiment.to_plain(
    _config(optimizer={'rate_factors': (('content/*', 0.0),)})
  )
  optimizers = _adversarial.make_optimizers(config, ['discriminator'])
  trees = {
    'generator': {'content': jnp.ones(2), 'small': jnp.ones(2)},
    'discriminator': {'head': jnp.ones(2)},
  }
  trees['generator']['content'] = {'head': jnp.ones(2)}
  moved = {}
  for slot, (tx, _, _) in optimizers.items():
    moved[slot], _ = tx.update(trees[slot], tx.init(trees[slot]), trees[slot])
  assert (moved['generator']['content']['head'] == 0).all()
  assert (moved['generator']['small'] != 0).all()
  assert (moved['discriminator']['head'] != 0).all()


@pytest.mark.parametrize(
  ('sections', 'message'),
  [
    ({'method': {'features_from': ''}}, 'method.features_from: references'),
    ({'method': {'pixel_weight': -1.0}}, 'pixel_weight=-1'),
    ({'method': {'critic_steps': -1}}, 'critic_steps=-1'),
    ({'method': {'texture_threshold': (1.0,)}}, r'texture_threshold=\(1.0,\)'),
    ({'method': {'perceptual': 'lpips'}}, "perceptual: unknown 'lpips'"),
    ({'data': {'patch': 11}}, 'data.patch=11: .* 12 or more pixels'),
    ({'data': {'patch': 16, 'reference_size': 8}}, 'reference_size=8'),
    (
      {'data': {'patch': 12}, 'method': {'adversarial_weight': 1.0}},
      'data.patch=12: HR crops are 48x48.* takes 64 to 64',
    ),
    (
      {
        'method': {
          'adversarial_weight': 1.0,
          'discriminator': {'name': 'vgg_discrimintor'},
        }
      },
      'method.discriminator: unknown model',
    ),
  ],
)
def test_sections_that_cannot_be(sections, message):
  with pytest.raises(UserError, match=message):
    _make(**sections).frozen()


def test_other_methods_refuse_references(tmp_path):
  config = tiny.config(data={'reference': 'self'})
  with pytest.raises(UserError, match=r'data\.reference: method supervised'):
    train_loop.train_and_evaluate(config, tmp_path)
  config = tiny.config(eval={'reference': 'self'})
  with pytest.raises(UserError, match=r'eval\.reference: method supervised'):
    train_loop.train_and_evaluate(config, tmp_path)


@pytest.mark.nightly
def test_the_train_loop_and_a_second_stage(tmp_path):
  config = _config(data={'patch': 12, 'batch_size': 8}, model=NORMED)
  config.steps = config.eval.every = config.checkpoint.every = 1
  config.eval.crop_size = 48
  train_loop.train_and_evaluate(config, tmp_path)
  loaded = checkpoints.load_params(tmp_path)
  assert set(loaded.params) == {'generator', 'batch_stats', 'features'}
  assert max(loaded.params['features']) == 'conv3_1'
  assert loading.load(tmp_path).referring is not None
  run = _all()
  init = functools.partial(run.method.init, scale=4)
  state = jax.jit(init)(
    *(jax.random.key(1), _batch(), run.method.frozen()),
    pretrained=loaded.params,
  )
  assert _same(state.params['generator'], loaded.params['generator'])
  assert _same(
    state.model_state['generator']['batch_stats'], loaded.params['batch_stats']
  )


def test_checkpoints_without_features_say_so():
  config = experiment.to_plain(_config())
  predict = methods.inference(config).predict
  with pytest.raises(UserError, match='--features'):
    predict({'generator': {}}, jnp.zeros((1, 4, 4, 3)))

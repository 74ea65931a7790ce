"""Adversarial training against frozen features, rankers and regions."""

import functools
import json

import jax
import numpy as np
import pytest
from PIL import Image

from sr_jax import checkpoints, train_loop
from sr_jax.data import sources
from sr_jax.errors import UserError
from tests import tiny
from tests.methods.gan_runs import (
  MODEL,
  Run,
  batch,
  gan_config,
  make,
  run_of,
  same,
)


@pytest.mark.nightly
def test_frozen_features_stay_and_are_no_part_of_the_program():
  run = Run(
    method={
      'perceptual_weight': 1.0,
      'perceptual': 'srgan-vgg22',
      'features_from': 'random:0',
      'variation_weight': 1e-3,
    }
  )
  assert set(run.start.frozen) == {'features'}
  assert same(run.start.frozen, run.method.frozen())
  program = jax.make_jaxpr(run.step)(run.start, batch())
  assert sum(np.size(const) for const in program.consts) < 10_000
  after, metrics = run.step(run.start, batch())
  assert same(after.frozen, run.start.frozen)
  assert metrics['perceptual'] > 0
  total = 1e-2 * metrics['pixel'] + metrics['perceptual']
  total += 1e-3 * metrics['variation'] + 5e-3 * metrics['adversarial']
  np.testing.assert_allclose(metrics['loss'], total, rtol=1e-5)


RANK = {
  'rank_weight': 0.3,
  'ranker': {'name': 'ranker', 'variant': 'paper', 'features': 2, 'stages': 2},
  'ranker_from': 'random:0',
}


@pytest.mark.nightly
def test_a_frozen_ranker_teaches_and_stays():
  """The ranker's parameters and running statistics do not change at all."""
  run, without = Run(method=RANK), run_of()
  assert set(run.start.frozen) == {'ranker'}
  assert set(run.start.frozen['ranker']) == {'params', 'batch_stats'}
  assert same(run.start.frozen, run.method.frozen())
  program = jax.make_jaxpr(run.step)(run.start, batch())
  assert sum(np.size(const) for const in program.consts) < 10_000
  after, metrics = run.step(run.start, batch())
  for seed in range(2):
    after, _ = run.step(after, batch(seed=seed))
  assert same(after.frozen, run.start.frozen)
  total = 1e-2 * metrics['pixel'] + 5e-3 * metrics['adversarial']
  total += 0.3 * metrics['rank']
  np.testing.assert_allclose(metrics['loss'], total, rtol=1e-5)
  assert 0 < metrics['rank'] < 4  # a sum of four sigmoids
  (one, _), (other, _) = (r.step(r.start, batch()) for r in (run, without))
  assert not same(one.params['generator'], other.params['generator'])
  assert same(one.params['discriminator'], other.params['discriminator'])


@pytest.mark.parametrize(
  ('section', 'reason'),
  [
    ({'metric': 'ma', 'better': 'higher'}, 'was trained for ma, not for niqe'),
    (
      {'metric': 'niqe', 'better': 'higher'},
      "better='higher': lower scores of niqe are the better ones",
    ),
    ({}, 'does not name the metric that it was trained for; sr-jax import'),
    (None, 'parameters are not those of its config: head/dense_1/bias'),
  ],
)
def test_rankers_that_do_not_suit(section, reason, tmp_path):
  method = make(method={**RANK, 'ranker_from': str(tmp_path / 'ranker')})
  given = make(method=RANK).frozen()['ranker']
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
    make(method={**RANK, 'ranker_from': spec}).frozen()


def test_a_generator_is_no_ranker(tmp_path):
  config = {'method': {'name': 'supervised'}, 'model': MODEL}
  checkpoints.save_params(
    tmp_path / 'x', {'generator': {'a': np.ones(1)}}, config
  )
  with pytest.raises(UserError, match='x: holds no ranker'):
    make(method={**RANK, 'ranker_from': str(tmp_path / 'x')}).frozen()


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
  """Label maps of `_batch`: a person before grass; the last is all grass."""
  labels = np.full((size, 16, 16, 1), 124, np.uint8)
  labels[:-1, 4:, 6:] = 1
  return labels


@pytest.mark.nightly
def test_targeted_losses_of_the_regions():
  """SROBB: a step with three terms, each with its own layer and mask."""
  run = Run(method=TARGETED, start=batch() | {'labels': _labels()})
  after, metrics = run.step(run.start, batch() | {'labels': _labels()})
  assert not same(after.params['generator'], run.start.params['generator'])
  assert same(after.frozen, run.start.frozen)
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
  _, metrics = run.step(run.start, batch() | grass)
  assert float(metrics['boundary']) == float(metrics['object']) == 0
  assert metrics['background'] > 0


def test_regions_without_a_weight_need_no_layers():
  """Regions without weight need no features, and no labels if all are zero."""
  method = make(method={**TARGETED, 'object_weight': 0.0})
  assert 'conv2_2' not in method.frozen()['features']
  init = functools.partial(run_of().method.init, scale=2)
  assert not jax.eval_shape(init, jax.random.key(0), batch(), {}).frozen


def test_targeted_losses_need_label_maps(tmp_path):
  config = gan_config(method=TARGETED)
  with pytest.raises(
    UserError,
    match=r'boundary_weight: needs label maps; .* config\.data\.labels',
  ):
    train_loop.train_and_evaluate(config, tmp_path)


@pytest.mark.nightly
def test_training_with_label_maps(tmp_path):
  """Label maps are read from files; methods that do not use any refuse them."""
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
  config = gan_config(method=method, data=data, steps=1, log_every=1)
  train_loop.train_and_evaluate(config, tmp_path / 'run')
  line = (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()[0]
  assert json.loads(line)['boundary'] > 0
  config = tiny.config(data=data)
  with pytest.raises(
    UserError, match=r'data\.labels: method supervised has no use for label'
  ):
    train_loop.train_and_evaluate(config, tmp_path / 'other')

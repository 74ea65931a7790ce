"""Training of a ranker: loss, evaluation, and the train loop."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import ranker
from sr_jax import checkpoints, experiment, methods, models, train_loop
from sr_jax.data import batches, opening, ranked
from sr_jax.errors import UserError
from sr_jax.evaluation import pairs
from sr_jax.losses import ranking as losses
from sr_jax.weights import ranker as ranker_weights
from tests import rank_files

TINY = {'features': 2, 'stages': 2}


def config(source, **changes):
  """A ranker of four convolutions on patches of 12 pixels."""
  found = ranker.get_config('smoke')
  with found.unlocked():
    found.model.update(TINY)
  found.optimizer.learning_rate = 3e-3
  found.data.source = source
  found.data.batch_size = 8
  found.data.patch = found.eval.crop_size = rank_files.SIZE
  found.eval.crops = 100
  found.update_from_flattened_dict(changes)
  return found


def _plain(folder, **changes):
  return experiment.to_plain(config(f'ranked:{folder}', **changes))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return rank_files.write(tmp_path_factory.mktemp('set') / 'rank')


class _Run:
  """A compiled method, its first state and its batches."""

  def __init__(self, plain):
    self.method = methods.make(plain)
    spec = batches.BatchSpec(
      batch_size=8, patch=rank_files.SIZE, scales=(1,), seed=0, augment=False
    )
    source = opening.training(plain, ('ranked',))
    self.batch = lambda step: batches.sample(source, spec, step)[0]
    init = functools.partial(self.method.init, scale=1)
    self.start = jax.jit(init)(jax.random.key(0), self.batch(0), {})
    self.step = jax.jit(functools.partial(self.method.train_step, scale=1))


class _Silent:
  def __init__(self):
    self.lines = []

  def scalars(self, step, values):
    self.lines.append((step, values))


def _measured(plain, run, state):
  measure = pairs.PairEvaluation(plain, run.method)
  return measure(0, run.method.averaged(state), _Silent())


@functools.cache
def _run(folder):
  return _Run(_plain(folder))


@pytest.mark.nightly
def test_it_learns_an_order(folder):
  """Evaluation uses running statistics and held-out patches."""
  run = _run(folder)
  state = run.start
  for step in range(40):
    state, metrics = run.step(state, run.batch(step))
  assert metrics['accuracy'] == 1
  found = _measured(_plain(folder), run, state)
  assert found['accuracy'] > 0.9
  assert found['spearman'] > 0.8
  assert set(found) == {
    *('accuracy', 'spearman'),
    *('accuracy_0_1', 'accuracy_0_2', 'accuracy_1_2'),
  }
  # Higher is worse, and by these labels that is the smooth one.
  source = ranked.open_ranked(
    folder, metric='niqe', better='lower', part='held_out', min_size=1
  )
  pair = np.stack([source.image(0, level) for level in (0, 2)]) / 255
  smooth, noisy = methods.inference(_plain(folder)).predict(
    run.method.averaged(state), pair.astype(np.float32)
  )
  assert smooth > noisy


@pytest.mark.nightly
def test_loss_and_running_statistics_of_one_step(folder):
  """Each image of a pair has its own statistics; L2 affects parameters only."""
  run = _run(folder)
  batch = run.batch(0)
  after, metrics = run.step(run.start, batch)
  network = models.create(_plain(folder)['model'])
  stats = run.start.model_state['generator']
  scores = []
  for side in ('first', 'second'):
    found, stats = network.apply(
      {'params': run.start.params['generator'], **stats},
      batch[side].astype(np.float32) / 255,
      train=True,
      mutable=['batch_stats'],
    )
    scores.append(found[:, 0])
  labels = batch['score_first'], batch['score_second']
  np.testing.assert_allclose(
    metrics['loss'], losses.order(*scores, *labels), rtol=1e-5
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
    after.model_state['generator'],
    stats,
  )


@pytest.mark.nightly
def test_an_order_that_is_right_leaves_the_l2_term(folder, monkeypatch):
  """The reported loss excludes the L2 term; SGD shows its gradient."""
  changes = {
    'method.l2_weight': 0.5,
    **{'optimizer.name': 'sgd', 'optimizer.learning_rate': 0.1},
  }
  monkeypatch.setattr(losses, 'order', lambda *unused: jnp.zeros(()))
  run = _Run(_plain(folder, **changes))
  after, metrics = run.step(run.start, run.batch(0))
  assert metrics['loss'] == 0
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, 0.95 * b, rtol=1e-5),
    after.params,
    run.start.params,
  )


def test_agreement_by_hand():
  scores = np.array([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]])
  labels = np.array([[9.0, 8.0, 7.0], [2.0, 5.0, 4.0]])
  found = pairs.agreement(scores, labels)
  assert found['accuracy_0_1'] == found['accuracy_0_2'] == 1
  assert found['accuracy_1_2'] == 0.5
  assert found['accuracy'] == pytest.approx(5 / 6)
  # Ranks 5.5 3.5 1.5 1.5 3.5 5.5 and 6 5 4 1 3 2.
  assert found['spearman'] == pytest.approx(6 / np.sqrt(16 * 17.5))


def test_every_held_out_patch_counts_once(folder, monkeypatch):
  """Batches are filled up with patches that do not count."""
  run = _run(folder)
  seen = []
  monkeypatch.setattr(
    pairs,
    'agreement',
    lambda scores, labels: seen.append((scores.shape, labels)) or {},
  )
  _measured(_plain(folder), run, run.start)
  ((shape, labels),) = seen
  held_out = ranked.open_ranked(
    folder, metric='niqe', better='lower', part='held_out', min_size=1
  )
  assert shape == (2, 3)
  np.testing.assert_array_equal(labels, held_out.scores)


@pytest.mark.nightly
def test_train_loop(folder, tmp_path, capsys):
  """Logs, and the best checkpoint by accuracy; resuming is exact."""
  steps = {'steps': 4, 'eval.every': 2, 'checkpoint.every': 2, 'log_every': 2}
  source = f'ranked:{folder}'
  whole = train_loop.train_and_evaluate(config(source, **steps), tmp_path / 'a')
  first = config(source, **{**steps, 'steps': 2})
  train_loop.train_and_evaluate(first, tmp_path / 'b')
  again = train_loop.train_and_evaluate(config(source, **steps), tmp_path / 'b')
  for name in ('params', 'opt_state', 'model_state'):
    jax.tree.map(
      np.testing.assert_array_equal, getattr(whole, name), getattr(again, name)
    )
  lines = [
    json.loads(line)
    for line in (tmp_path / 'a' / 'metrics.jsonl').read_text().splitlines()
  ]
  measured = [line for line in lines if 'held_out/accuracy' in line]
  assert [line['step'] for line in measured] == [2, 4]
  assert {'held_out/spearman', 'held_out/accuracy_1_2'} < set(measured[0])
  assert 'spearman' in capsys.readouterr().out
  loaded = checkpoints.load_params(tmp_path / 'a')
  assert loaded.protocol == {
    **{'name': 'pairs', 'metric': 'niqe', 'better': 'lower'},
    'images': source,
  }
  given = ranker_weights.load(
    str(tmp_path / 'a'), models.create(loaded.config['model']), 'niqe'
  )
  jax.tree.map(
    np.testing.assert_array_equal, given['params'], whole.params['generator']
  )


@pytest.mark.nightly
def test_the_best_checkpoint_is_that_of_highest_accuracy(
  folder, tmp_path, monkeypatch
):
  scores = iter([0.2, 0.9, 0.5, 0.4])
  monkeypatch.setattr(
    pairs.PairEvaluation, '__call__', lambda *unused: {'accuracy': next(scores)}
  )
  every = {
    **{'steps': 4, 'eval.every': 1, 'checkpoint.every': 1},
    **{'checkpoint.keep': 1, 'checkpoint.keep_best': 1},
  }
  train_loop.train_and_evaluate(
    config(f'ranked:{folder}', **every), tmp_path / 'run'
  )
  kept = sorted(p.name for p in (tmp_path / 'run' / 'checkpoints').iterdir())
  assert kept == ['2', '4']


@pytest.mark.nightly
def test_photographs_stand_in_for_a_data_set(tmp_path):
  """A photograph is better than its bicubic enlargement."""
  state = train_loop.train_and_evaluate(
    config('embedded', steps=2, **{'eval.crops': 2}), tmp_path / 'run'
  )
  assert int(state.step) == 2
  network = models.create(
    checkpoints.load_params(tmp_path / 'run').config['model']
  )
  with pytest.raises(UserError, match='trained on the embedded photographs'):
    ranker_weights.load(str(tmp_path / 'run'), network, 'niqe')


@pytest.mark.parametrize(
  ('changes', 'reason'),
  [
    (
      {'method.better': 'higher'},
      r"config\.method: better='higher': lower scores of niqe",
    ),
    ({'data.source': 'folder:x'}, r"source 'folder:x': .* ranked:DIR"),
    ({'data.source': 'ranked:none'}, r'none: no such folder'),
    ({'data.patch': 16}, r'patches of 12 are smaller than the crop of 16'),
    ({'eval.crop_size': 16}, r'patches of 12 are smaller than the crop of 16'),
    ({'method.metric': 'pi'}, r'pi\.txt: no such scores'),
  ],
)
def test_user_errors(folder, tmp_path, changes, reason):
  with pytest.raises(UserError, match=reason) as caught:
    train_loop.train_and_evaluate(
      config(f'ranked:{folder}', **changes), tmp_path
    )
  assert '\n' not in str(caught.value)

"""Rank data sets: orientation, pairs, crops, and refused folders."""

import itertools
import json

import numpy as np
import pytest

from sr_jax.data import batches, ranked
from sr_jax.errors import UserError
from tests import rank_files

SIZE = rank_files.SIZE


@pytest.fixture
def folder(tmp_path):
  return rank_files.write(tmp_path / 'rank')


def _open(folder, metric='niqe', better='lower', part='training', min_size=8):
  return ranked.open_ranked(
    folder, metric=metric, better=better, part=part, min_size=min_size
  )


def _spec(patch=SIZE, augment=False):
  return batches.BatchSpec(
    batch_size=64, patch=patch, scales=(1,), seed=3, augment=augment
  )


def test_higher_is_worse_whatever_the_metric(folder):
  niqe, ma = _open(folder), _open(folder, 'ma', 'higher')
  assert niqe.scores.shape == (6, 3)
  np.testing.assert_allclose(niqe.scores[1], [7.1, 5.1, 3.1])
  np.testing.assert_allclose(ma.scores[1], [-1.9, -3.9, -5.9])
  for source in (niqe, ma):
    assert (np.diff(source.scores, axis=1) < 0).all()


def test_parts_are_apart(folder):
  training, held_out = _open(folder), _open(folder, part='held_out')
  assert (len(training), len(held_out)) == (6, 2)
  assert not {*training.names} & {*held_out.names}


def test_pairs_are_of_one_patch_and_two_levels_with_their_scores(folder):
  source = _open(folder)
  batch, scale = batches.sample(source, _spec(), 0)
  assert scale == 1
  assert {k: (v.shape, v.dtype.name) for k, v in batch.items()} == {
    'first': ((64, SIZE, SIZE, 3), 'uint8'),
    'second': ((64, SIZE, SIZE, 3), 'uint8'),
    'score_first': ((64,), 'float32'),
    'score_second': ((64,), 'float32'),
  }
  known = {
    np.float32(source.scores[i, level]): (i, level)
    for i, level in itertools.product(range(6), range(3))
  }
  seen = set()
  for a, b, *scores in zip(*batch.values(), strict=True):
    (i, low), (j, high) = (known[score] for score in scores)
    assert i == j
    np.testing.assert_array_equal(a, source.image(i, low))
    np.testing.assert_array_equal(b, source.image(i, high))
    seen.add((low, high))
  assert seen == set(itertools.permutations(range(3), 2))


def test_both_sides_are_cropped_and_turned_alike(tmp_path):
  folder = rank_files.write(tmp_path / 'rank', training=1)
  for level in (1, 2):  # the same image at every level
    for file in (folder / '2').iterdir():
      (folder / str(level - 1) / file.name).write_bytes(file.read_bytes())
  source = _open(folder)
  batch, _ = batches.sample(source, _spec(patch=5, augment=True), 0)
  np.testing.assert_array_equal(batch['first'], batch['second'])
  assert len({crop.tobytes() for crop in batch['first']}) > 50


def test_processes_draw_their_rows(folder):
  source, whole = _open(folder), _spec()
  full, _ = batches.sample(source, whole, 7)
  half = batches.BatchSpec(
    **{**vars(whole), 'process_index': 1, 'process_count': 2}
  )
  part, _ = batches.sample(source, half, 7)
  for key, rows in part.items():
    np.testing.assert_array_equal(rows, full[key][32:])


@pytest.mark.parametrize(
  ('options', 'reason'),
  [
    ({'min_size': 13}, r'patches of 12 are smaller than the crop of 13'),
    ({'metric': 'pi'}, r'pi\.txt: no such scores: put lines NAME SCORE'),
    ({'better': 'higher'}, r"better='higher': lower scores of niqe are"),
    ({'metric': 'ma'}, r"better='lower': higher scores of ma are"),
    ({'better': 'more'}, r"better='more': choose lower or higher"),
  ],
)
def test_options_that_do_not_suit(folder, options, reason):
  with pytest.raises(UserError, match=reason) as caught:
    _open(folder, **options)
  assert '\n' not in str(caught.value)


def test_a_metric_of_one_s_own(folder):
  (folder / 'niqe.txt').rename(folder / 'mine.txt')
  scores = _open(folder, 'mine', 'higher').scores
  np.testing.assert_allclose(scores[0], [-7, -5, -3])


def test_damaged_folders(folder, tmp_path):
  def refused(reason):
    with pytest.raises(UserError, match=reason) as caught:
      _open(folder)
    assert '\n' not in str(caught.value)

  with pytest.raises(UserError, match='none: no such folder'):
    _open(tmp_path / 'none')
  with pytest.raises(UserError, match='rank-data wrote'):
    _open(tmp_path)
  lines = (folder / 'niqe.txt').read_text().splitlines(True)
  (folder / 'niqe.txt').write_text(''.join(lines[1:]))
  refused(r'niqe\.txt: has no score of 0/training_0\.png')
  (folder / 'niqe.txt').write_text('0/training_0.png high\n')
  refused(r'line 1 is not NAME SCORE')
  record = json.loads((folder / ranked.RECORD).read_text())
  for change in (
    {'format': 0},
    {'patch': 'x'},
    {'levels': 3},
    {'patches': {'training': []}},
  ):
    (folder / ranked.RECORD).write_text(json.dumps({**record, **change}))
    refused(r'rank\.json: damaged or of another version')
  (folder / ranked.RECORD).write_text('[')
  refused('damaged')
  parts = {'training': [], 'held_out': []}
  (folder / ranked.RECORD).write_text(json.dumps({**record, 'patches': parts}))
  refused('has no training patches: make it of more photographs')


def test_a_patch_of_another_size(folder):
  source = _open(folder)
  record = json.loads((folder / ranked.RECORD).read_text())
  record['patch'] = 11
  (folder / ranked.RECORD).write_text(json.dumps(record))
  with pytest.raises(UserError, match=r'12x12 pixels, but rank\.json says'):
    _open(folder).image(0, 0)
  (folder / '0' / source.names[0]).unlink()
  with pytest.raises(UserError, match=r'training_0\.png'):
    source.image(0, 0)

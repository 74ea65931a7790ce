"""Folders: which files are images, and which files of two folders are pairs."""

import argparse
import pathlib

import numpy as np
import pytest
from PIL import Image

from sr_jax import files
from sr_jax.cli import degrade
from sr_jax.data import folders, sources
from sr_jax.data.image_io import find_images

FOREIGN = (
  'Thumbs.db',
  'desktop.ini',
  '.DS_Store',
  '._a.png',
  '@eaDir/a.png/thumb.jpg',
  '__MACOSX/._a.png',
  '.thumbnails/a.png',
)


def _save(path, height=16, width=20):
  path.parent.mkdir(parents=True, exist_ok=True)
  rng = np.random.default_rng(len(path.name))
  pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
  Image.fromarray(pixels).save(path)


@pytest.fixture
def photos(tmp_path):
  """Two photographs among files that operating systems leave in folders."""
  for name in ('a.png', 'deep/b.png'):
    _save(tmp_path / 'photos' / name)
  for name in FOREIGN:
    path = tmp_path / 'photos' / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b'not an image')
  return tmp_path / 'photos'


def test_all_readers_pass_over_the_files_of_systems(photos, tmp_path, caplog):
  """F5: files that the system makes, such as Thumbs.db, were refused."""
  found = [item.relative.as_posix() for item in find_images([photos])]
  assert found == ['a.png', 'deep/b.png']
  source = sources.folder_source(photos, min_size=8, cache_dir=tmp_path / 'c')
  assert source.names == ('a.png', 'deep/b.png')
  assert source.skipped == ()
  assert not [r for r in caplog.records if r.levelname == 'WARNING']
  (photos / 'notes.txt').touch()  # perhaps a list that belongs to it
  assert folders.list_images(photos)[1] == (('notes.txt', 'not an image file'),)


def test_results_of_degrade_are_an_lr_folder(photos, tmp_path):
  """F5: the record `degradation.json` among LR images was refused."""
  options = {
    **{'hr': photos, 'output': tmp_path / 'lr', 'scale': 2, 'seed': 0},
    **{'degradation': None, 'kernel': None, 'noise': 0.0, 'jpeg': None},
    'preset': None,
  }
  assert degrade.run(argparse.Namespace(**options)) == 0
  assert (tmp_path / 'lr' / 'degradation.json').exists()
  pairs = sources.paired_source(
    tmp_path / 'lr', photos, 2, min_size=8, cache_dir=tmp_path / 'c'
  )
  assert pairs.names == ('a.png', 'deep/b.png')


def test_lr_images_that_are_ambiguous_are_not_taken():
  matched = folders.match_lr(
    ['a.png', 'b.png', 'c.jpg', 'c.png', 'd/e.png'],
    ['a.png', 'a_x3.png', 'b.bmp', 'b.png', 'cx3.png', 'd/e_x3.png', 'ex3.png'],
    3,
  )
  assert matched.pairs == {'c.jpg': 'cx3.png', 'd/e.png': 'd/e_x3.png'}
  assert matched.faults == {
    'a.png': 'a.png and a_x3.png are both its LR image',
    'b.png': 'b.bmp and b.png are both its LR image',
    'c.png': 'its LR image cx3.png belongs to c.jpg too',
  }
  assert matched.unused == ['ex3.png']


@pytest.mark.parametrize(
  ('hr', 'lr'),
  [
    ('0001.png', '0001x2.png'),  # DIV2K
    ('0001.png', '0001X2.png'),
    ('0001.png', 'X2/0001x2.png'),  # all its scales
    ('0801.png', '0801x2m.png'),
    ('DIV2K_train_HR/0001.png', 'DIV2K_train_LR_bicubic/X2/0001x2.png'),
    ('0001.png', '0001_bicLRx2.png'),
    ('img_001_SRF_2_HR.png', 'img_001_SRF_2_LR.png'),  # Urban100
    ('img_001.png', 'img_001_SRF_2_LR.png'),
    ('image_SRF_2/img_1_SRF_2_HR.png', 'image_SRF_2/img_1_SRF_2_LR.png'),
    ('baby_HR.png', 'baby_LR.png'),
    ('baby.png', 'baby_LR.bmp'),
    ('baby_GT.png', 'baby.png'),
    ('Set5/x2/baby_HR_x2.png', 'Set5/x2/baby_LRBI_x2.png'),  # RCAN
    ('Canon_001_HR.png', 'Canon_001_LR2.png'),  # RealSR
    ('sony_1_x1.png', 'sony_1_x2.png'),  # DRealSR
    ('GTmod12/baby.png', 'LRbicx2/baby.png'),  # ESRGAN's scripts
    ('HR/baby.png', 'LR/baby.png'),
    ('photo_x4.png', 'photo_x4.png'),
    ('box2.png', 'box2_LR.png'),
  ],
)
def test_names_of_the_public_sets(hr, lr):
  """F6: LR names of public data sets were not matched."""
  hr_names, lr_names = [hr, 'other.png'], [lr, 'other.png']
  matched = folders.match_lr(hr_names, lr_names, 2)
  assert matched.pairs == {hr: lr, 'other.png': 'other.png'}
  assert (matched.faults, matched.unused) == ({}, [])
  assert folders.match_lr([hr], [lr], 2.0).pairs == {hr: lr}


def test_other_scales_of_a_set_are_left_out():
  """DIV2K's LR folder holds several scales; only the right one is matched."""
  lr = [f'X{s}/{i}x{s}.png' for s in (2, 3, 4) for i in ('0001', '0002')]
  matched = folders.match_lr(['0001.png', '0002.png'], lr, 3)
  assert matched.pairs == {
    '0001.png': 'X3/0001x3.png',
    '0002.png': 'X3/0002x3.png',
  }
  assert (matched.faults, matched.unused) == ({}, [])
  alone = folders.match_lr(['0001.png'], ['0001x3.png', '9x3.png'], 2)
  assert alone.pairs == {}
  assert alone.faults['0001.png'].startswith('no LR image')
  assert alone.unused == ['9x3.png']


def test_one_folder_of_both():
  """Urban100 keeps HR and LR in one folder; their names tell them apart."""
  names = [f'img_{i}_SRF_2_{r}.png' for i in (1, 2) for r in ('HR', 'LR')]
  matched = folders.match_lr(names, names, 2)
  assert matched.pairs == {
    f'img_{i}_SRF_2_HR.png': f'img_{i}_SRF_2_LR.png' for i in (1, 2)
  }
  assert (matched.faults, matched.unused) == ({}, [])


@pytest.mark.parametrize(
  ('lr', 'rivals'),
  [
    (['a.png', 'a_LR.png'], 'a.png and a_LR.png'),
    (['a_LR.png', 'a_bicLRx2.png'], 'a_LR.png and a_bicLRx2.png'),
    (['X2/ax2.png', 'unknown/ax2.png'], 'X2/ax2.png and unknown/ax2.png'),
    (['ax2w1.png', 'ax2w2.png'], 'ax2w1.png and ax2w2.png'),
  ],
)
def test_ambiguous_names_are_refused_by_naming_both(lr, rivals):
  matched = folders.match_lr(['a.png', 'b.png'], [*lr, 'b.png'], 2)
  assert matched.pairs == {'b.png': 'b.png'}
  assert matched.faults == {'a.png': f'{rivals} are both its LR image'}
  assert matched.unused == []


def test_plain_names_take_precedence_over_names_of_sets():
  """Endings like those of public sets may be part of a plain name."""
  hr = ['bo.png', 'box2.png', 'box3.png']
  for ending in ('', '_x2', '_LR', '_LRBI_x2'):
    lr = [f'{pathlib.Path(name).stem}{ending}.png' for name in hr]
    matched = folders.match_lr(hr, lr, 2)
    assert matched.pairs == dict(zip(hr, lr, strict=True))
    assert (matched.faults, matched.unused) == ({}, [])


@pytest.mark.parametrize(
  ('paths', 'names'),
  [
    (['sets/Set5', 'sets/Set14'], ['Set5', 'Set14']),
    (['a/HR', 'b/HR'], ['a/HR', 'b/HR']),
    (['x/a/HR', 'y/a/HR', 'B'], ['x/a/HR', 'y/a/HR', 'B']),
    (['Set5/', './Set5'], ['Set5', 'Set5']),
    (['/Set5', '/sets/Set5'], ['/Set5', 'sets/Set5']),
  ],
)
def test_folders_of_one_name_have_different_keys(paths, names):
  """B17: the scores of benchmark folders a/HR and b/HR had the same names."""
  assert folders.distinct_names(paths) == names


def test_leftovers_of_killed_writers_are_removed(tmp_path):
  """T13: half-written files in `images` of a run stayed forever."""
  left = tmp_path / '.0123456789abcdef.tmp'
  left.write_bytes(b'half')
  for name in ('a.png', '.hidden.tmp', 'b.tmp'):
    (tmp_path / name).touch()
  files.remove_leftovers(tmp_path)
  assert {path.name for path in tmp_path.iterdir()} == {
    *('a.png', '.hidden.tmp', 'b.tmp')
  }
  # The very names that are written.
  with files.open_atomically(tmp_path / 'c.png'):
    (name,) = {path.name for path in tmp_path.iterdir()} - {
      *('a.png', '.hidden.tmp', 'b.tmp')
    }
  (tmp_path / name).touch()
  files.remove_leftovers(tmp_path)
  assert not (tmp_path / name).exists()
  assert (tmp_path / 'c.png').exists()
  files.remove_leftovers(tmp_path / 'none')

"""Data that a config names: how it is opened and compared by content."""

import shutil

import numpy as np
import pytest
from PIL import Image

from configs import common
from sr_jax.data import opening
from sr_jax.errors import UserError


def _save(path, height=24, width=30, seed=0):
  path.parent.mkdir(parents=True, exist_ok=True)
  rng = np.random.default_rng(seed)
  pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
  Image.fromarray(pixels).save(path)


@pytest.fixture
def photos(tmp_path):
  for seed, name in enumerate(('a.png', 'deep/b.png')):
    _save(tmp_path / 'photos' / name, seed=seed)
  return tmp_path / 'photos'


def _config(tmp_path, **data):
  config = common.base().to_dict()
  config['data'] |= {'patch': 8, 'cache_dir': str(tmp_path / 'cache'), **data}
  return config


def _digest(tmp_path, uses=(), **data):
  return opening.training(_config(tmp_path, **data), uses).digest()


def test_a_digest_stays_when_the_files_move(photos, tmp_path):
  before = _digest(tmp_path, source=str(photos))
  assert len(before) == 64
  shutil.copytree(photos, tmp_path / 'elsewhere')
  assert _digest(tmp_path, source=f'folder:{tmp_path / "elsewhere"}') == before


@pytest.mark.parametrize('change', ['added', 'removed', 'replaced', 'renamed'])
def test_a_digest_names_the_list_and_the_contents(photos, tmp_path, change):
  """T3: files that changed between stop and resume went unnoticed."""
  before = _digest(tmp_path, source=str(photos))
  match change:
    case 'added':
      _save(photos / 'c.png', seed=2)
    case 'removed':
      (photos / 'deep' / 'b.png').unlink()
    case 'replaced':
      _save(photos / 'a.png', seed=3)
    case 'renamed':
      (photos / 'a.png').rename(photos / 'aa.png')
  assert _digest(tmp_path, source=str(photos)) != before


def test_digests_name_all_that_belongs_to_a_source(photos, tmp_path):
  """LR images, references, label maps and images without HR count as well."""
  for folder in ('lr', 'refs'):
    _save(tmp_path / folder / 'a.png', 12, 15, seed=5)
    _save(tmp_path / folder / 'deep' / 'b.png', 12, 15, seed=6)
  for name in ('a.png', 'deep/b.png'):
    path = tmp_path / 'maps' / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((24, 30), np.uint8)).save(path)
  parts = {
    'plain': {},
    'lr': {'lr_folder': str(tmp_path / 'lr')},
    'refs': {'reference': str(tmp_path / 'refs')},
    'maps': {'labels': str(tmp_path / 'maps')},
    'alone': {'unlabelled': str(tmp_path / 'lr')},
  }
  uses = tuple(opening.USES)[:3]

  def digests():
    return {
      name: _digest(tmp_path, uses, source=str(photos), **part)
      for name, part in parts.items()
    }

  before = digests()
  assert len(set(before.values())) == len(parts)
  _save(tmp_path / 'lr' / 'a.png', 12, 15, seed=7)
  _save(tmp_path / 'refs' / 'a.png', 12, 15, seed=7)
  Image.fromarray(np.ones((24, 30), np.uint8)).save(tmp_path / 'maps' / 'a.png')
  after = digests()
  assert [name for name in parts if before[name] == after[name]] == ['plain']


@pytest.mark.parametrize('key', ['reference', 'labels', 'unlabelled'])
def test_further_data_needs_a_method_that_uses_it(photos, tmp_path, key):
  config = _config(tmp_path, source=str(photos), **{key: 'embedded'})
  with pytest.raises(UserError, match=f'config.data.{key}: method supervised'):
    opening.training(config, ())


def test_held_out_images_leave_out_unusable_ones(photos, tmp_path):
  _save(photos / 'small.png', 8, 8)
  config = _config(tmp_path)
  config['eval'] |= {'source': str(photos), 'crop_size': 20}
  source = opening.held_out(config)
  assert source.names == ('a.png', 'deep/b.png')
  assert [name for name, _ in source.skipped] == ['small.png']

"""The cache of decoded images: fresh, atomic, safe to share, self-healing."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from sr_jax.data import cache, image_io
from sr_jax.errors import UserError


def _pixels(height=20, width=30, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture
def photo(tmp_path):
  path = tmp_path / 'photo.png'
  Image.fromarray(_pixels()).save(path)
  return path


def _files(folder):
  return sorted(path for path in folder.rglob('*') if path.is_file())


def test_gives_the_pixels_and_decodes_once(photo, tmp_path, monkeypatch):
  first = cache.image_file(photo, tmp_path / 'cache')()
  assert isinstance(first, np.memmap)
  assert not first.flags.writeable
  np.testing.assert_array_equal(first, _pixels())
  monkeypatch.setattr(image_io, 'read_native', lambda path, **options: 1 / 0)
  second = cache.image_file(photo, tmp_path / 'cache')()
  np.testing.assert_array_equal(second, first)


def test_relative_and_absolute_path_share_one_file(
  photo, tmp_path, monkeypatch
):
  cache.image_file(photo, tmp_path / 'cache')()
  monkeypatch.chdir(photo.parent)
  cache.image_file('photo.png', tmp_path / 'cache')()
  assert len(_files(tmp_path / 'cache')) == 1


def test_a_changed_source_is_decoded_anew_and_the_stale_copy_removed(
  photo, tmp_path
):
  old = cache.image_file(photo, tmp_path / 'cache')()
  Image.fromarray(_pixels(seed=1)).save(photo)
  os.utime(photo, ns=(1, 1))
  new = cache.image_file(photo, tmp_path / 'cache')()
  np.testing.assert_array_equal(new, _pixels(seed=1))
  np.testing.assert_array_equal(old, _pixels())  # still mapped, still whole
  assert len(_files(tmp_path / 'cache')) == 1


def test_the_time_of_modification_alone_counts(tmp_path):
  photo = tmp_path / 'photo.bmp'  # uncompressed: always of one size
  for seed in (0, 1):
    Image.fromarray(_pixels(seed=seed)).save(photo)
    os.utime(photo, ns=(seed, seed))
    array = cache.image_file(photo, tmp_path / 'cache')()
    np.testing.assert_array_equal(array, _pixels(seed=seed))


@pytest.mark.parametrize('damage', ['empty', 'header', 'rows', 'text', 'dtype'])
def test_a_damaged_copy_is_rebuilt(photo, tmp_path, damage):
  cache.image_file(photo, tmp_path / 'cache')()
  (stored,) = _files(tmp_path / 'cache')
  content = stored.read_bytes()
  match damage:
    case 'empty':
      stored.write_bytes(b'')
    case 'header':
      stored.write_bytes(content[:50])
    case 'rows':
      stored.write_bytes(content[:-1])
    case 'text':
      stored.write_bytes(b'not an array at all')
    case 'dtype':
      np.save(stored, np.zeros((20, 30, 3)))
  again = cache.image_file(photo, tmp_path / 'cache')()
  np.testing.assert_array_equal(again, _pixels())
  assert stored.read_bytes() == content


@pytest.mark.parametrize('place', [*range(0, 128, 3), 500, 1928, 1959])
def test_a_flipped_bit_is_noticed_at_the_next_opening(photo, tmp_path, place):
  """T10, W6: damaged files of the cache were used, or were a traceback.

  The damaged copy is made anew, and no other error is raised.
  """
  first = cache.image_file(photo, tmp_path / 'cache')
  first()
  (stored,) = _files(tmp_path / 'cache')
  content = bytearray(stored.read_bytes())
  assert len(content) == 128 + 20 * 30 * 3 + 32
  for bit in (1, 64):
    content[place] ^= bit
    stored.write_bytes(content)
    again = cache.image_file(photo, tmp_path / 'cache')
    np.testing.assert_array_equal(again(), _pixels())
    assert again.digest() == first.digest()
    content[place] ^= bit
    assert stored.read_bytes() == content


def test_an_image_removed_while_in_use_is_read_from_the_cache(photo, tmp_path):
  """T2: a run died when a photograph was removed that it had decoded."""
  image = cache.image_file(photo, tmp_path / 'cache')
  image()
  Image.fromarray(_pixels(seed=1)).save(photo)
  np.testing.assert_array_equal(image(), _pixels())
  photo.unlink()
  np.testing.assert_array_equal(image(), _pixels())


def test_a_copy_removed_while_in_use_is_made_again(photo, tmp_path, caplog):
  image = cache.image_file(photo, tmp_path / 'cache')
  image()
  (stored,) = _files(tmp_path / 'cache')
  stored.unlink()
  np.testing.assert_array_equal(image(), _pixels())
  assert _files(tmp_path / 'cache') == [stored]
  # Without a cache that can be written it is decoded at each use.
  stored.unlink()
  stored.parent.rmdir()
  stored.parent.touch()
  np.testing.assert_array_equal(image(), _pixels())
  assert 'is decoded at each use' in caplog.text
  # What changed since is not passed off as the same image.
  Image.fromarray(_pixels(seed=1)).save(photo)
  with pytest.raises(UserError, match=r'photo\.png: changed while it was in'):
    image()
  photo.unlink()
  with pytest.raises(UserError, match=r'photo\.png: does not exist'):
    image()


def test_leftovers_of_a_killed_writer_are_removed_later(photo, tmp_path):
  cache.image_file(photo, tmp_path / 'cache')()
  (stored,) = _files(tmp_path / 'cache')
  old, fresh = stored.parent / '.old.tmp', stored.parent / '.fresh.tmp'
  old.touch()
  fresh.touch()
  os.utime(old, (time.time() - 7200,) * 2)
  stored.unlink()
  cache.image_file(photo, tmp_path / 'cache')()
  assert _files(tmp_path / 'cache') == sorted([stored, fresh])


def test_a_full_disk_is_an_error_of_one_line_and_leaves_nothing(tmp_path):
  photo = tmp_path / 'large.png'
  Image.fromarray(_pixels(200, 200)).save(photo)
  # A limit on the size of files makes the write fail half way, for real.
  program = (
    'import resource, sys\n'
    'from sr_jax.data import cache\n'
    'from sr_jax.errors import UserError\n'
    'resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n'
    'try:\n'
    '  cache.image_file(sys.argv[1], sys.argv[2])()\n'
    'except UserError as error:\n'
    '  print(error)\n'
  )
  done = subprocess.run(
    [sys.executable, '-c', program, photo, tmp_path / 'cache'],
    capture_output=True,
    text=True,
    check=True,
  )
  assert done.stdout.count('\n') == 1
  assert str(photo) in done.stdout
  assert 'File too large' in done.stdout
  assert 'SR_JAX_CACHE' in done.stdout
  assert _files(tmp_path / 'cache') == []


def test_a_cache_that_cannot_be_made_is_a_user_error(photo, tmp_path):
  (tmp_path / 'file').touch()
  with pytest.raises(UserError, match='SR_JAX_CACHE'):
    cache.image_file(photo, tmp_path / 'file')()


def test_a_missing_source_is_a_user_error(tmp_path):
  with pytest.raises(UserError, match=r'gone\.png: No such file'):
    cache.image_file(tmp_path / 'gone.png', tmp_path / 'cache')()


def test_two_processes_may_fill_one_cache_at_the_same_time(tmp_path):
  photo = tmp_path / 'photo.png'
  pixels = _pixels(100, 100)
  Image.fromarray(pixels).save(photo)
  # Every round begins in both at once, with an empty cache.
  program = (
    'import pathlib, sys, time\n'
    'from sr_jax.data import cache\n'
    'photo, root, me = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3]\n'
    'for i in range(40):\n'
    '  (root / f"{i}-{me}").touch()\n'
    '  while len(list(root.glob(f"{i}-[ab]"))) < 2:\n'
    '    time.sleep(0)\n'
    '  array = cache.image_file(photo, root / "cache" / str(i))()\n'
    '  print(array.shape, int(array.astype(int).sum()))\n'
  )
  root = tmp_path / 'rounds'
  root.mkdir()
  runs = [
    subprocess.Popen(
      [sys.executable, '-c', program, photo, root, me],
      stdout=subprocess.PIPE,
      text=True,
    )
    for me in 'ab'
  ]
  expected = f'{pixels.shape} {int(pixels.astype(int).sum())}\n' * 40
  for run in runs:
    assert run.communicate(timeout=300)[0] == expected
    assert run.returncode == 0
  assert len(_files(root / 'cache')) == 40  # and no temporary files


@pytest.mark.parametrize(
  ('environment', 'expected'),
  [
    ({'SR_JAX_CACHE': '/a/b', 'XDG_CACHE_HOME': '/x'}, '/a/b'),
    ({'XDG_CACHE_HOME': '/x', 'HOME': '/h'}, '/x/sr_jax'),
    ({'HOME': '/h'}, '/h/.cache/sr_jax'),
  ],
)
def test_default_cache_dir(monkeypatch, environment, expected):
  for name in ('SR_JAX_CACHE', 'XDG_CACHE_HOME'):
    monkeypatch.delenv(name, raising=False)
  for name, value in environment.items():
    monkeypatch.setenv(name, value)
  assert str(cache.default_cache_dir()) == expected

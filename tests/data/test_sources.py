"""Image sources: accepted images, messages about others, refusals."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from sr_jax.data import opening, sources
from sr_jax.errors import UserError


def _save(path, height=24, width=30, seed=0):
  path.parent.mkdir(parents=True, exist_ok=True)
  rng = np.random.default_rng(seed)
  pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
  Image.fromarray(pixels).save(path)
  return pixels


@pytest.fixture
def cache_dir(tmp_path):
  return tmp_path / 'cache'


@pytest.fixture
def folder(tmp_path):
  return tmp_path / 'photos'


def _source(folder, cache_dir, on_bad='refuse', min_size=16):
  return sources.folder_source(
    folder, min_size=min_size, on_bad=on_bad, cache_dir=cache_dir
  )


def _spoil(folder):
  """Makes a folder with two good images and six bad files."""
  _save(folder / 'good.png')
  _save(folder / 'deep' / 'er' / 'good.bmp')
  _save(folder / 'tiny.png', 1, 1)
  _save(folder / 'flat.png', 15, 100)
  _save(folder / 'cut.png', 60, 60)
  content = (folder / 'cut.png').read_bytes()
  (folder / 'cut.png').write_bytes(content[: len(content) // 2])
  (folder / 'empty.jpg').touch()
  (folder / 'text.png').write_text('a page that was saved as an image')
  (folder / 'notes.txt').write_text('notes')
  os.mkfifo(folder / 'pipe.png')  # opening it would hang


def test_folder_of_any_layout_and_format(folder, cache_dir):
  images = {
    'b.png': _save(folder / 'b.png'),
    'a/x.bmp': _save(folder / 'a' / 'x.bmp', seed=1),
    'a/b/c.TIFF': _save(folder / 'a' / 'b' / 'c.TIFF', 40, 17, seed=2),
  }
  source = _source(folder, cache_dir)
  assert source.names == ('a/b/c.TIFF', 'a/x.bmp', 'b.png')
  assert len(source) == 3
  assert source.skipped == ()
  for name, image in zip(source.names, source, strict=True):
    assert isinstance(image, np.memmap)
    np.testing.assert_array_equal(image, images[name])


def test_grey_palette_and_alpha_become_rgb(folder, cache_dir):
  folder.mkdir()
  grey = np.arange(400, dtype=np.uint16).reshape(20, 20).astype(np.uint8)
  image = Image.fromarray(grey)
  image.save(folder / 'grey.png')
  image.convert('P').save(folder / 'palette.png')
  image.convert('RGBA').save(folder / 'rgba.png')
  for array in _source(folder, cache_dir):
    np.testing.assert_array_equal(array, np.repeat(grey[..., None], 3, -1))


def test_hidden_files_are_not_looked_at(folder, cache_dir):
  _save(folder / 'a.png')
  (folder / '.DS_Store').write_bytes(b'x')
  _save(folder / '.thumbnails' / 'a.png')
  assert _source(folder, cache_dir).names == ('a.png',)


def test_linked_folders_are_followed_once(folder, cache_dir, tmp_path):
  _save(folder / 'a.png')
  _save(tmp_path / 'elsewhere' / 'b.png')
  (folder / 'link').symlink_to(tmp_path / 'elsewhere')
  (folder / 'loop').symlink_to(folder)
  (folder / 'broken.png').symlink_to(tmp_path / 'gone.png')
  source = _source(folder, cache_dir, on_bad='skip')
  assert source.names == ('a.png', 'link/b.png')
  assert source.skipped == (('broken.png', 'not a regular file'),)


def test_skip_names_every_bad_file_in_one_line(folder, cache_dir, caplog):
  _spoil(folder)
  source = _source(folder, cache_dir, on_bad='skip')
  assert source.names == ('deep/er/good.bmp', 'good.png')
  skipped = dict(source.skipped)
  assert set(skipped) == {
    'tiny.png',
    'flat.png',
    'cut.png',
    'empty.jpg',
    'text.png',
    'notes.txt',
    'pipe.png',
  }
  assert skipped['flat.png'] == '100x15 is smaller than the crop of 16x16'
  assert skipped['notes.txt'] == 'not an image file'
  assert skipped['pipe.png'] == 'not a regular file'
  for name, reason in source.skipped:
    assert '\n' not in reason
    assert str(folder) not in reason
    assert (
      sum(f' {name} does not serve' in r.message for r in caplog.records) == 1
    )


def test_refuse_names_the_first_and_counts_the_rest(folder, cache_dir):
  _spoil(folder)
  with pytest.raises(UserError) as caught:
    _source(folder, cache_dir)
  message = str(caught.value)
  assert 'notes.txt: not an image file (and 6 more)' in message
  assert "on_bad='skip'" in message
  assert '\n' not in message


def test_refuse_names_a_corrupt_file(folder, cache_dir):
  _save(folder / 'good.png')
  (folder / 'bad.png').write_bytes(b'\x89PNG\r\n\x1a\n')
  with pytest.raises(UserError, match=r'bad\.png: '):
    _source(folder, cache_dir)


@pytest.mark.parametrize('on_bad', ['refuse', 'skip'])
def test_a_source_without_usable_images_is_a_user_error(
  folder, cache_dir, on_bad
):
  folder.mkdir()
  with pytest.raises(UserError, match='it is empty'):
    _source(folder, cache_dir, on_bad)
  _save(folder / 'tiny.png', 3, 3)
  with pytest.raises(UserError, match=r'tiny\.png: 3x3 is smaller'):
    _source(folder, cache_dir, on_bad)


def test_usage_errors(folder, cache_dir):
  with pytest.raises(UserError, match='no such folder'):
    _source(folder, cache_dir)
  _save(folder / 'a.png')
  with pytest.raises(UserError, match="'refuse' or 'skip'"):
    _source(folder, cache_dir, on_bad='ignore')


def test_a_cache_removed_during_the_run_is_made_again(folder, cache_dir):
  pixels = _save(folder / 'a.png')
  source = _source(folder, cache_dir)
  for path in cache_dir.rglob('*.npy'):
    path.unlink()
  np.testing.assert_array_equal(source[0], pixels)


def test_a_cache_that_is_full_leaves_no_image_out(folder, cache_dir):
  """T4: when the disk was full, photographs were left out silently."""
  for name in ('a.png', 'b.png'):
    _save(folder / name)
  _source(folder, cache_dir)
  second = sorted(path.parent for path in cache_dir.rglob('*.npy'))[1]
  shutil.rmtree(second)
  second.touch()  # this image alone cannot be kept
  with pytest.raises(UserError, match=r'no cached copy of .*SR_JAX_CACHE'):
    _source(folder, cache_dir, on_bad='skip')


def test_embedded_photographs(cache_dir):
  source = opening.open_source('embedded', min_size=192, cache_dir=cache_dir)
  assert set(source.names) == set(sources.EMBEDDED)
  shapes = dict(
    zip(source.names, [image.shape for image in source], strict=True)
  )
  assert shapes['astronaut.png'] == (512, 512, 3)
  assert shapes['hubble_deep_field.jpg'] == (872, 1000, 3)
  larger = sources.embedded_source(500, cache_dir=cache_dir)
  assert {name for name, _ in larger.skipped} == {
    'chelsea.png',
    'coffee.png',
    'rocket.jpg',
  }
  with pytest.raises(UserError, match='source embedded: no image serves'):
    sources.embedded_source(4000, cache_dir=cache_dir)


def test_open_source_takes_a_folder_with_or_without_its_kind(folder, cache_dir):
  _save(folder / 'a.png')
  for name in (str(folder), f'folder:{folder}'):
    source = opening.open_source(name, min_size=8, cache_dir=cache_dir)
    assert source.names == ('a.png',)


@pytest.mark.parametrize('name', ['', 'folder:', 'tfds:', 'tfds::train'])
def test_open_source_refuses_half_a_name(name, cache_dir):
  with pytest.raises(UserError, match='source '):
    opening.open_source(name, min_size=8, cache_dir=cache_dir)


def _paired(tmp_path, cache_dir, on_bad='refuse', scale=2):
  return sources.paired_source(
    tmp_path / 'lr',
    tmp_path / 'hr',
    scale,
    min_size=16,
    on_bad=on_bad,
    cache_dir=cache_dir,
  )


def test_pairs_match_by_the_names_of_the_common_data_sets(tmp_path, cache_dir):
  lr = {}
  names = ('0001.png', 'set/img.png', 'plain.jpg')
  lr_names = ('0001x2.png', 'set/img_x2.bmp', 'plain.png')
  for seed, (name, lr_name) in enumerate(zip(names, lr_names, strict=True)):
    lr[name] = _save(tmp_path / 'lr' / lr_name, 10, 12, seed)
    _save(tmp_path / 'hr' / name, 20, 24, seed)
  source = _paired(tmp_path, cache_dir)
  assert source.names == ('0001.png', 'plain.jpg', 'set/img.png')
  assert len(source) == 3
  for index, name in enumerate(source.names):
    small, large = source[index]
    np.testing.assert_array_equal(small, lr[name])
    assert large.shape == (20, 24, 3)


@pytest.mark.parametrize('height', [30, 31, 32])
@pytest.mark.parametrize('width', [36, 37, 38])
def test_hr_is_cut_to_the_multiple(tmp_path, cache_dir, height, width):
  _save(tmp_path / 'lr' / 'a.png', 10, 12)
  pixels = _save(tmp_path / 'hr' / 'a.png', height, width)
  source = _paired(tmp_path, cache_dir, scale=3)
  np.testing.assert_array_equal(source[0][1], pixels[:30, :36])


def test_pairs_that_do_not_fit_are_named(tmp_path, cache_dir):
  for name in ('good', 'large', 'small', 'alone', 'tiny'):
    _save(tmp_path / 'hr' / f'{name}.png', 20, 24)
  _save(tmp_path / 'hr' / 'tiny.png', 12, 12)
  sizes = {
    'good': (10, 12),
    'large': (11, 12),
    'small': (9, 12),
    'tiny': (6, 6),
    'widow': (10, 12),
  }
  for name, size in sizes.items():
    _save(tmp_path / 'lr' / f'{name}.png', *size)
  (tmp_path / 'lr' / 'list.txt').touch()
  with pytest.raises(UserError, match='and 5 more'):
    _paired(tmp_path, cache_dir)
  source = _paired(tmp_path, cache_dir, on_bad='skip')
  assert source.names == ('good.png',)
  assert dict(source.skipped) == {
    'list.txt': 'not an image file',
    'alone.png': 'no LR image (looked for alone, alonex2, alone_x2)',
    'widow.png': 'LR image without an HR image',
    'large.png': '24x20 is not 2 times its LR image of 12x11',
    'small.png': '24x20 is not 2 times its LR image of 12x9',
    'tiny.png': '12x12 is smaller than the crop of 16x16',
  }

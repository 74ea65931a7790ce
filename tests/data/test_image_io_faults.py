"""Bad files, refused writes, atomic writing, and finding files."""

import contextlib
import errno
import io
import logging
import os
import struct
import time
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sr_jax.data import image_io
from sr_jax.data.image_io import Picture, find_images, read_image, write_image
from sr_jax.errors import UserError

GREY = Picture(np.zeros((2, 3, 1), np.float32))
CLEAR = Picture(np.zeros((2, 3, 3), np.float32), np.ones((2, 3, 1), np.float32))
KINDS = (
  'PNG',
  'JPEG',
  'BMP',
  'WEBP',
  'npy',
  'png16',
  'tif16',
  'tif16-lzw',
  'tif-palette',
)


def file_bytes(kind):
  """A small file of each kind; it holds noise, which does not compress."""
  rng = np.random.default_rng(0)
  deep = rng.integers(0, 65536, (24, 20, 3), np.uint16)
  shallow = Image.fromarray((deep >> 8).astype(np.uint8))
  data = io.BytesIO()
  if kind == 'npy':
    np.save(data, deep)
  elif kind == 'png16':
    data.write(imagecodecs.png_encode(deep))
  elif kind == 'tif16':
    tifffile.imwrite(data, deep, photometric='rgb')
  elif kind == 'tif16-lzw':
    options = {'compression': 'lzw', 'rowsperstrip': 5}
    tifffile.imwrite(data, deep, photometric='rgb', **options)
  elif kind == 'tif-palette':
    shallow.convert('P').save(data, 'TIFF')
  else:
    shallow.save(data, kind)
  return data.getvalue()


def refusal(call, *arguments):
  """Returns the one-line UserError that the call must raise."""
  with pytest.raises(UserError) as caught:
    call(*arguments)
  message = str(caught.value)
  assert '\n' not in message
  assert len(message) < 400
  return message


@pytest.mark.parametrize('kind', KINDS)
def test_truncated_files_are_refused(tmp_path, kind, caplog):
  data = file_bytes(kind)
  path = tmp_path / 'cut.png'
  path.write_bytes(data)
  assert image_io.read_rgb(path).shape == (24, 20, 3)
  for tenth in range(10):
    path.write_bytes(data[: len(data) * tenth // 10])
    assert str(path) in refusal(read_image, path)
    assert str(path) in refusal(image_io.read_rgb, path)
  assert not caplog.text


@settings(max_examples=150, deadline=None)
@given(
  kind=st.sampled_from(KINDS),
  places=st.lists(st.floats(0, 0.999), min_size=1, max_size=4),
  value=st.integers(0, 255),
)
def test_damaged_bytes_give_a_picture_or_a_refusal(
  tmp_path_factory, kind, places, value
):
  data = bytearray(file_bytes(kind))
  for place in places:
    data[int(place**3 * len(data))] = value  # headers lie at the beginning
  path = tmp_path_factory.getbasetemp() / 'damaged'
  path.write_bytes(data)
  start = time.process_time()
  with contextlib.suppress(UserError):  # and nothing but a UserError
    assert np.isfinite(read_image(path).color).all()
  assert time.process_time() - start < 10


def test_missing_empty_and_foreign_files(tmp_path):
  assert 'does not exist' in refusal(read_image, tmp_path / 'no.png')
  assert 'not a file' in refusal(read_image, tmp_path)
  (tmp_path / 'empty.png').touch()
  assert 'empty' in refusal(read_image, tmp_path / 'empty.png')
  (tmp_path / 'text.png').write_text('not an image at all, merely text\n' * 9)
  assert 'not an image' in refusal(read_image, tmp_path / 'text.png')
  os.mkfifo(tmp_path / 'pipe.png')
  assert 'not a file' in refusal(read_image, tmp_path / 'pipe.png')


def lying_png(width, height):
  header = b'IHDR' + struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
  chunk = struct.pack('>I', 13) + header + struct.pack('>I', zlib.crc32(header))
  return b'\x89PNG\r\n\x1a\n' + chunk


def test_pixel_limit(tmp_path):
  pillow_limit = Image.MAX_IMAGE_PIXELS
  path = tmp_path / 'x.png'
  data = file_bytes('PNG')[33:]
  path.write_bytes(lying_png(40_000, 30_000) + data)
  assert '40000 x 30000' in refusal(read_image, path)
  path.write_bytes(lying_png(20_000, 9_500) + data)  # Pillow alone refuses it
  assert 'cut off' in refusal(read_image, path)
  Image.new('L', (20_000, 4_600)).save(path)  # Pillow alone warns
  assert image_io.read_rgb(path).shape == (4_600, 20_000, 3)
  assert pillow_limit == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize(
  ('array', 'words'),
  [
    (np.array([[1.0, np.nan, np.inf]]), '2 of 3 values'),
    (np.zeros((0, 5, 3)), 'no pixels'),
    (np.zeros((4, 5, 0), np.uint8), 'no pixels'),
    (np.zeros(7), '(7,)'),
    (np.zeros((1, 2, 3, 4)), '(1, 2, 3, 4)'),
    (np.zeros((2, 2), complex), 'complex128'),
    (np.array([[1e300, 0.0]]), 'float32'),
    (np.array([['a', None]], object), 'damaged'),
  ],
)
def test_arrays_that_are_no_pictures(tmp_path, array, words):
  path = tmp_path / 'x.npy'
  np.save(path, array)
  message = refusal(read_image, path)
  assert str(path) in message
  assert words in message


def test_stacks_of_too_many_axes(tmp_path):
  path = tmp_path / 'x.tif'
  array = np.zeros((2, 3, 8, 9), np.uint8)
  tifffile.imwrite(path, array, photometric='minisblack')
  assert '(2, 3, 8, 9)' in refusal(read_image, path)


def test_tiff_that_lists_too_few_strips(tmp_path):
  data = bytearray(file_bytes('tif16-lzw'))
  with tifffile.TiffFile(io.BytesIO(data)) as tiff:
    height = tiff.pages.first.tags['ImageLength'].valueoffset
  data[height] = 30  # was 24: six strips of five rows instead of five
  path = tmp_path / 'x.tif'
  path.write_bytes(data)
  assert '5 of 6 strips' in refusal(read_image, path)


def test_rgb_of_many_channels_is_refused(tmp_path):
  np.save(tmp_path / 'x.npy', np.zeros((3, 3, 5), np.float32))
  assert '5 channels' in refusal(image_io.read_rgb, tmp_path / 'x.npy')


@pytest.mark.parametrize(
  ('name', 'picture', 'words'),
  [
    ('x.jpg', CLEAR, 'no transparency'),
    ('x.bmp', CLEAR, 'no transparency'),
    ('x.npy', CLEAR, 'no transparency'),
    ('x.gif', GREY, 'unknown image suffix'),
    ('x', GREY, 'unknown image suffix'),
    ('x.png', Picture(np.zeros((2, 2, 5), np.float32)), '1 or 3'),
    ('x.webp', Picture(np.zeros((2, 16384, 1), np.float32)), '16383'),
    ('x.jpg', Picture(np.zeros((65501, 2, 1), np.float32)), '65500'),
    ('x.png', Picture(np.zeros((2, 2, 1)), None, None, None, -1, 2), '-1 to 2'),
    ('x.png', Picture(np.full((2, 2, 1), np.nan)), '4 values'),
    ('x.npy', Picture(np.full((2, 2, 1), np.inf), None, None), '4 values'),
  ],
)
def test_what_a_format_cannot_hold(tmp_path, name, picture, words):
  message = refusal(write_image, tmp_path / name, picture)
  assert str(tmp_path / name) in message
  assert words in message
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('suffix', image_io.IMAGE_SUFFIXES)
@pytest.mark.parametrize(
  'fault', [OSError(errno.ENOSPC, 'No space left on device'), KeyboardInterrupt]
)
def test_a_failed_write_leaves_the_old_file(
  tmp_path, monkeypatch, suffix, fault
):
  path = tmp_path / f'x{suffix}'
  write_image(path, GREY)
  before = path.read_bytes()

  def fail(*unused):
    raise fault

  monkeypatch.setattr(os, 'replace', fail)
  bright = Picture(np.ones((2, 3, 1), np.float32))
  if fault is KeyboardInterrupt:
    with pytest.raises(KeyboardInterrupt):
      write_image(path, bright)
  else:
    assert 'No space left' in refusal(write_image, path, bright)
  assert path.read_bytes() == before
  assert list(tmp_path.iterdir()) == [path]


def test_unwritable_places(tmp_path):
  (tmp_path / 'file').touch()
  message = refusal(write_image, tmp_path / 'file' / 'x.png', GREY)
  assert 'cannot be written' in message
  (tmp_path / 'folder.png').mkdir()
  message = refusal(write_image, tmp_path / 'folder.png', GREY)
  assert 'cannot be written' in message
  assert sorted(p.name for p in tmp_path.iterdir()) == ['file', 'folder.png']


def test_written_files_have_ordinary_permissions(tmp_path):
  (tmp_path / 'plain').touch()
  write_image(tmp_path / 'new' / 'x.png', GREY)
  mode = (tmp_path / 'new' / 'x.png').stat().st_mode
  assert mode == (tmp_path / 'plain').stat().st_mode


@pytest.fixture
def tree(tmp_path):
  names = (
    'b/img10.png',
    'b/img2.png',
    'b/.hidden.png',
    '.git/x.png',
    'a.JPG',
    'notes.txt',
    'out/old.png',
  )
  for name in names:
    path = tmp_path / 'in' / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
  return tmp_path / 'in'


def test_folders_are_mirrored_in_natural_order(tree, caplog):
  with caplog.at_level(logging.WARNING):
    found = find_images([tree], skip=tree / 'out')
  names = ['a.JPG', 'b/img2.png', 'b/img10.png']
  assert [str(item.relative) for item in found] == names
  assert [item.path for item in found] == [tree / name for name in names]
  assert 'notes.txt' in caplog.text
  assert '1 file' in caplog.text


def test_files_are_taken_by_name_and_once(tree):
  inputs = [tree / 'b' / 'img2.png', tree / 'notes.txt', tree / 'b']
  found = find_images(inputs)
  names = ['img2.png', 'notes.txt', 'img10.png']
  assert [str(item.relative) for item in found] == names


def test_inputs_that_are_missing_or_empty(tree, tmp_path):
  assert 'no such file' in refusal(find_images, [tree / 'nowhere'])
  (tmp_path / 'none').mkdir()
  assert 'no images' in refusal(find_images, [tmp_path / 'none'])


def test_colliding_targets():
  a, b, c = Path('a.png'), Path('a.jpg'), Path('c.png')
  image_io.check_targets([(a, Path('o/a.png')), (c, Path('o/c.png'))])
  message = refusal(
    image_io.check_targets, [(a, Path('o/a.png')), (b, Path('o/a.png'))]
  )
  assert 'a.png and a.jpg' in message

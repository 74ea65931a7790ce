"""A file of any bytes is read as an image, or refused in one line.

Valid files of all formats are damaged at random.
"""

import io
import struct
import time

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sr_jax.data import metadata
from sr_jax.data.image_io import read_image, read_rgb, write_image
from sr_jax.errors import UserError
from tests.data.test_image_io_faults import KINDS, file_bytes
from tests.tiny_models import random_image

LEVELS = np.round(random_image(12, 16) * 255).astype(np.uint8)


def with_metadata(kind):
  """Returns the bytes of a file with much metadata.

  Args:
    kind: 'geotiff', 'chunks' (PNG), 'pages' (TIFF of two tiled pages), 'clear'
      (WebP with transparency) or 'progressive' (JPEG).
  """
  data, image = io.BytesIO(), Image.fromarray(LEVELS)
  exif = Image.Exif()
  exif[33432], exif[274] = 'Somebody', 6
  exif.get_ifd(0x8769)[34855] = 400
  options = {'exif': exif, 'dpi': (300, 150), 'icc_profile': bytes(200)}
  if kind == 'geotiff':
    tags = [
      (33550, 'd', 3, (30.0, 30.0, 0.0), True),
      (33922, 'd', 6, (0.0, 0.0, 0.0, 5e5, 4e6, 0.0), True),
      (34735, 'H', 8, (1, 1, 0, 1, 1025, 0, 1, 2), True),
      (42113, 's', 0, '0', True),
      (33432, 's', 0, 'Somebody', True),
    ]
    levels = np.float32(LEVELS[..., 0])
    tifffile.imwrite(data, levels, extratags=tags, resolution=(90, 80))
  elif kind == 'chunks':
    image.save(data, 'PNG', **options)
    more = metadata.png_chunk(b'gAMA', struct.pack('>I', 45455))
    more += metadata.png_chunk(b'tEXt', b'Copyright\0Somebody')
    return data.getvalue()[:33] + more + data.getvalue()[33:]
  elif kind == 'pages':
    pages = np.stack([LEVELS, LEVELS])
    tifffile.imwrite(data, pages, photometric='rgb', tile=(16, 16))
  elif kind == 'clear':
    rgba = np.concatenate([LEVELS, LEVELS[..., :1]], -1)
    Image.fromarray(rgba).save(data, 'WEBP', lossless=True, exif=exif)
  else:
    image.save(data, 'JPEG', progressive=True, comment=b'so', **options)
  return data.getvalue()


MORE = ('geotiff', 'chunks', 'pages', 'clear', 'progressive')
FILES = {kind: file_bytes(kind) for kind in KINDS}
FILES |= {kind: with_metadata(kind) for kind in MORE}

# Damages: what is done, at which share of the file, and a number.
mutations = st.lists(
  st.tuples(
    st.sampled_from(['set', 'cut', 'twice', 'number']),
    st.floats(0, 0.999),
    st.integers(0, 255),
  ),
  min_size=1,
  max_size=5,
)


def mutated(data, changes):
  """Damages bytes: sets, removes or repeats some, or writes a 32-bit number."""
  data = bytearray(data)
  for how, place, value in changes:
    # The power makes places near the beginning, where headers lie, likelier.
    at = int(place**3 * len(data))
    if how == 'set':
      data[at : at + 1] = bytes([value])  # which an empty file may get too
    elif how == 'cut':
      del data[at : at + value]
    elif how == 'twice':
      data[at:at] = data[at : at + value]
    else:
      number = (0, 1, 2**31 - 1, 2**32 - 1, 2**16, 2**24 + 1)[value % 6]
      order = '<I' if value & 8 else '>I'
      data[at : at + 4] = struct.pack(order, number)
  return bytes(data)


def refusal(call, *arguments):
  """Returns the message of a call's UserError, or None if it succeeds.

  Other errors, and messages of several lines, fail the test.
  """
  try:
    call(*arguments)
  except UserError as error:
    message = str(error)
    return message if '\n' not in message else pytest.fail(message)
  return None


def check(folder, kind, changes):
  """Reads a damaged file; if it is read, writes it in all formats."""
  path = folder / 'mutated'
  path.write_bytes(mutated(FILES[kind], changes))
  start = time.process_time()
  message = refusal(read_image, path)
  assert time.process_time() - start < 10
  if message is not None:
    assert str(path) in message
    assert refusal(read_rgb, path) is not None
    return
  picture = read_image(path)
  assert np.isfinite(picture.color).all()
  for suffix in ('.tif', '.png', '.jpg', '.webp', '.bmp', '.npy'):
    out = folder / f'out{suffix}'
    if refusal(write_image, out, picture) is None:
      size = read_image(out).color.shape[:2]
      assert size == picture.color.shape[:2]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp('fuzz')


@settings(max_examples=120, deadline=None)
@given(kind=st.sampled_from(sorted(FILES)), changes=mutations)
def test_a_damaged_file_is_read_or_refused_in_one_line(folder, kind, changes):
  check(folder, kind, changes)


@pytest.mark.nightly
@pytest.mark.parametrize('kind', sorted(FILES))
@settings(max_examples=500, deadline=None)
@given(changes=mutations)
def test_many_damaged_files(folder, kind, changes):
  check(folder, kind, changes)

"""Files that would exhaust the machine, or that decoders misunderstand."""

import io
import logging
import re
import struct
import time

import numpy as np
import pytest
import tifffile
from PIL import Image

from sr_jax.data.image_io import read_image, read_rgb, write_image
from sr_jax.errors import UserError
from tests.tiny_models import random_image

LEVELS = np.round(random_image(12, 16) * 255).astype(np.uint8)


def refusal(path):
  """Returns the UserError, which must name the file and come quickly."""
  start = time.process_time()
  with pytest.raises(UserError) as caught:
    read_image(path)
  assert time.process_time() - start < 2
  message = str(caught.value)
  assert str(path) in message
  assert '\n' not in message
  assert len(message) < 400
  return message


# Sizes and work


def webp(kind, body):
  chunk = kind + struct.pack('<I', len(body)) + body
  return b'RIFF' + struct.pack('<I', 4 + len(chunk)) + b'WEBP' + chunk


@pytest.mark.parametrize(
  'data',
  [
    webp(b'VP8L', b'\x2f' + struct.pack('<I', 0x0FFFFFFF) + 9 * b'\0'),
    webp(b'VP8X', b'\0\0\0\0' + 2 * b'\xff\x3f\0'),
    webp(b'VP8 ', b'\0\0\0\x9d\x01\x2a' + 2 * b'\xff\x3f' + 4 * b'\0'),
  ],
)
def test_webp_that_claims_a_large_canvas(tmp_path, data):
  """W3: a file of 34 bytes took 4.6 GiB before it was decoded."""
  (tmp_path / 'x.webp').write_bytes(data)
  assert re.search('claims 1638[34] x 1638[34]', refusal(tmp_path / 'x.webp'))


@pytest.mark.parametrize('mode', ['lossless', 'lossy', 'alpha'])
def test_sizes_of_ordinary_webp(tmp_path, mode):
  """The header is read as the library does."""
  image = Image.new('RGBA' if mode == 'alpha' else 'RGB', (300, 7), 'red')
  image.save(tmp_path / 'x.webp', lossless=mode == 'lossless')
  assert read_image(tmp_path / 'x.webp').color.shape == (7, 300, 3)


def progressive(side, scans):
  """A progressive JPEG whose last scan is repeated."""
  data = io.BytesIO()
  Image.new('L', (side, side), 90).save(data, 'JPEG', progressive=True)
  data = data.getvalue()
  last = data.rfind(b'\xff\xda')
  tables = data.rfind(b'\xff\xc4', 0, last)
  return data[:-2] + scans * data[tables:-2] + b'\xff\xd9'


def test_jpeg_of_very_many_scans(tmp_path):
  """W3: 109 kB in 1,500 scans took more than 100 seconds."""
  path = tmp_path / 'x.jpg'
  path.write_bytes(progressive(2000, 600))
  assert re.search('in 60[0-9] scans', refusal(path))
  path.write_bytes(progressive(40, 600))
  assert read_image(path).color.shape == (40, 40, 1)
  path.write_bytes(progressive(2000, 0))
  assert read_image(path).color.shape == (2000, 2000, 1)
  jpeg = progressive(2000, 600)
  with tifffile.TiffWriter(tmp_path / 'x.tif') as tiff:
    options = {'shape': (2000, 2000), 'dtype': 'u1', 'compression': 'jpeg'}
    tiff.write(iter([jpeg]), rowsperstrip=2000, **options)
  assert re.search('in 60[0-9] scans', refusal(tmp_path / 'x.tif'))


def bmp(width, height):
  header = struct.pack(
    '<IiiHHIIiiII', 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0
  )
  return b'BM' + struct.pack('<IHHI', 200, 0, 0, 54) + header + bytes(100)


@pytest.mark.parametrize(
  'tags',
  [
    {'ImageLength': 60_000, 'ImageWidth': 16_000},
    {'TileWidth': 60_000, 'TileLength': 60_000},
    {'SamplesPerPixel': 65_535, 'ImageLength': 2_000},
  ],
)
def test_tiff_that_claims_much(tmp_path, tags):
  """W3: a file of a few hundred bytes with a huge size filled the memory."""
  path = tmp_path / 'x.tif'
  options = {'tile': (16, 16)} if 'TileWidth' in tags else {}
  tifffile.imwrite(path, LEVELS, photometric='rgb', **options)
  with tifffile.TiffFile(path, mode='r+') as tiff:
    for name, value in tags.items():
      tiff.pages.first.tags[name].overwrite(value)
  refusal(path)


def test_bmp_that_claims_much(tmp_path):
  (tmp_path / 'x.bmp').write_bytes(bmp(30_000, 30_000))
  assert 'claims 30000 x 30000' in refusal(tmp_path / 'x.bmp')


# Raw photographs and pages


@pytest.mark.parametrize('suffix', ['.nef', '.DNG', '.cr2', '.arw', '.pef'])
def test_raw_photographs_are_refused_by_name(tmp_path, suffix):
  """P5: of raw photographs the small preview was enlarged."""
  path = tmp_path / f'x{suffix}'
  tifffile.imwrite(path, LEVELS, photometric='rgb')
  assert 'raw photograph' in refusal(path)


@pytest.mark.parametrize('kind', ['dng', 'filters', 'canon'])
def test_raw_photographs_of_another_name(tmp_path, kind):
  path = tmp_path / 'x.tif'
  more = {'extratags': [(50706, 1, 4, (1, 4, 0, 0))]} if kind == 'dng' else {}
  with tifffile.TiffWriter(path) as tiff:
    count = int(kind == 'filters')
    tiff.write(LEVELS, photometric='rgb', subifds=count, subfiletype=1, **more)
    if count:
      tiff.write(LEVELS[..., 0], photometric='cfa', subfiletype=0,
                 extratags=[(33421, 3, 2, (2, 2)),
                            (33422, 1, 4, (0, 1, 1, 2))])  # fmt: skip
  if kind == 'canon':
    data = path.read_bytes()
    path.write_bytes(data[:8] + b'CR' + data[10:])
  assert 'raw photograph' in refusal(path)


@pytest.mark.parametrize(
  'head',
  [
    b'FUJIFILMCCD-RAW 0201',
    b'IIRO\x08\0\0\0',
    b'IIU\0\x18\0\0\0',
    b'\0\0\0\x18ftypcrx \0\0',
    b'FOVb',
    b'II\x1a\0\0\0HEAPCCDR',
  ],
)
def test_raw_photographs_of_their_own_formats(tmp_path, head):
  (tmp_path / 'x.raw').write_bytes(head + bytes(100))
  assert 'raw photograph' in refusal(tmp_path / 'x.raw')


@pytest.mark.parametrize('photometric', ['rgb', 'palette'])
@pytest.mark.parametrize('kind', [254, 255])
def test_a_reduced_copy_is_passed_over(tmp_path, photometric, kind, caplog):
  """P5: if the first page of a TIFF is a thumbnail, that was enlarged."""
  small = Image.fromarray(LEVELS[::4, ::4])
  full = Image.fromarray(LEVELS)
  if photometric == 'palette':
    full = full.quantize(32)
  path = tmp_path / 'x.tif'
  info = {kind: 1 if kind == 254 else 2}
  small.save(path, tiffinfo=info, save_all=True, append_images=[full])
  with tifffile.TiffFile(path, mode='r+') as tiff:
    tag = tiff.pages[1].tags.get(kind)
    if tag is not None:
      tag.overwrite(0 if kind == 254 else 1)
  with caplog.at_level(logging.WARNING):
    rgb = read_rgb(path)
  np.testing.assert_array_equal(rgb, np.asarray(full.convert('RGB')))
  assert 'has 2 pages, page 2 is taken' in caplog.text


@pytest.mark.parametrize('how', ['together', 'imagej', 'one by one'])
def test_pages_of_rgb(tmp_path, how, caplog):
  """P6: TIFF files with pages of RGB were refused."""
  stack = np.stack([LEVELS, LEVELS[::-1]])
  path = tmp_path / 'x.tif'
  with tifffile.TiffWriter(path, imagej=how == 'imagej') as tiff:
    for part in stack if how == 'one by one' else [stack]:
      tiff.write(part, photometric='rgb')
  with caplog.at_level(logging.WARNING):
    np.testing.assert_array_equal(read_rgb(path), LEVELS)
  assert f'{path}: has 2 pages, the first is taken' in caplog.text


# Odd types and tags


def test_axes_of_arrays_are_named(tmp_path, caplog):
  """P9: 31 bands of 48x64 pixels were read as 64 bands without a message."""
  path = tmp_path / 'x.npy'
  np.save(path, random_image(31, 48, 64))
  with caplog.at_level(logging.WARNING):
    for _ in range(2):
      assert read_image(path).color.shape == (31, 48, 64)
    np.save(tmp_path / 'rgb.npy', LEVELS)
    read_image(tmp_path / 'rgb.npy')
  (record,) = caplog.records
  message = record.getMessage()
  assert f'{path}: read as 48 x 31 pixels of 64 channels' in message
  assert 'moveaxis(array, 0, -1)' in message


def test_tiff_of_complex_numbers(tmp_path):
  """P7: a TIFF of complex numbers was a traceback; other files were left."""
  tifffile.imwrite(tmp_path / 'x.tif', np.zeros((4, 5), np.complex64))
  assert 'complex64 are no image' in refusal(tmp_path / 'x.tif')


def test_a_colour_profile_that_is_a_number(tmp_path):
  """P7: a numeric tag in place of an ICC profile was a traceback."""
  path = tmp_path / 'x.tif'
  tags = [(34675, 'I', 1, 7, True)]
  tifffile.imwrite(path, LEVELS, photometric='rgb', extratags=tags)
  assert 'colour profile' in refusal(path)


ODD_TAGS = {
  'orientation of text': (274, 's', 0, 'upside down', True),
  'two orientations': (274, 'H', 2, (3, 6), True),
  'kind of text': (254, 's', 0, 'reduced', True),
  'description of bytes': (270, 'B', 4, (255, 254, 0, 7), True),
  'resolution of zeros': (282, '2I', 1, (0, 0), True),
}


@pytest.mark.parametrize('name', ODD_TAGS)
def test_odd_tags_are_no_reason_to_fail(tmp_path, name):
  """P7: tags of unusual types, which do not concern pixels, were tracebacks."""
  path = tmp_path / 'x.tif'
  tags = [ODD_TAGS[name]]
  options = {'photometric': 'rgb', 'metadata': None, 'software': False}
  tifffile.imwrite(path, LEVELS, extratags=tags, **options)
  picture = read_image(path)
  np.testing.assert_array_equal(read_rgb(path), LEVELS)
  write_image(tmp_path / 'out.tif', picture)
  np.testing.assert_array_equal(read_rgb(tmp_path / 'out.tif'), LEVELS)

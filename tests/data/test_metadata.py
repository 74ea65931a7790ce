"""Metadata of image files is kept, or a message names what is lost."""

import logging
import struct

import numpy as np
import pytest
import tifffile
from PIL import Image

from sr_jax.data import metadata
from sr_jax.data.image_io import read_image, read_rgb, write_image
from sr_jax.data.metadata import Metadata
from sr_jax.errors import UserError
from tests.tiny_models import random_image

LEVELS = np.round(random_image(12, 16) * 255).astype(np.uint8)
COPYRIGHT, ARTIST, ORIENTATION, ISO, EXIF_IFD, WIDTH = (
  *(33432, 315, 274, 34855),
  *(0x8769, 40962),
)
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/">light</x:xmpmeta>'
CHUNKS = {
  b'gAMA': struct.pack('>I', 45455),
  b'cICP': bytes([9, 16, 0, 1]),
  b'tEXt': b'Copyright\0Somebody',
}


def exif():
  found = Image.Exif()
  found[COPYRIGHT] = 'Somebody'
  found[ORIENTATION] = 6
  found.get_ifd(EXIF_IFD)[ISO] = 400
  found.get_ifd(EXIF_IFD)[WIDTH] = 16
  return found


def source(path):
  """An image with all metadata that its format can hold."""
  image = Image.fromarray(LEVELS)
  options = {'exif': exif(), 'dpi': (300, 150), 'xmp': XMP}
  if path.suffix == '.png':
    image.save(path, exif=exif(), dpi=(300, 150))
    data = path.read_bytes()
    more = b''.join(metadata.png_chunk(*pair) for pair in CHUNKS.items())
    path.write_bytes(data[:33] + more + data[33:])
  elif path.suffix == '.jpg':
    image.save(path, quality=98, comment=b'a comment', **options)
  elif path.suffix == '.webp':
    options.pop('dpi')
    image.save(path, lossless=True, **options)
  else:
    image.save(path, dpi=(300, 150))
  return path


@pytest.mark.parametrize('target', ['.png', '.jpg', '.webp', '.bmp', '.tif'])
@pytest.mark.parametrize('suffix', ['.png', '.jpg', '.webp', '.bmp'])
def test_it_is_kept_or_named(tmp_path, suffix, target, caplog):
  """P8: all metadata but the colour profile was dropped without a message."""
  picture = read_image(source(tmp_path / f'x{suffix}'))
  assert picture.color.shape[:2] == ((12, 16) if suffix == '.bmp' else (16, 12))
  out = tmp_path / f'out{target}'
  with caplog.at_level(logging.WARNING):
    write_image(out, picture)
  assert len(caplog.records) <= 1
  with Image.open(out) as image:
    image.load()
    info, found = image.info, image.getexif()
  kept = {
    'EXIF': found.get(COPYRIGHT) == 'Somebody',
    'XMP': info.get('xmp', b'').startswith(XMP),
    'resolution': np.allclose(info.get('dpi', (0, 0)), (300, 150), rtol=1e-3),
    'comment': info.get('comment') in (b'a comment', 'a comment')
    or getattr(image, 'text', {}).get('Comment') == 'a comment',
    'gAMA': info.get('gamma') == pytest.approx(0.45455),
    'cICP': b'cICP' in out.read_bytes(),
    'tEXt': info.get('Copyright') == 'Somebody',
  }
  has = {
    '.png': {'EXIF', 'resolution', 'gAMA', 'cICP', 'tEXt'},
    '.jpg': {'EXIF', 'XMP', 'resolution', 'comment'},
    '.webp': {'EXIF', 'XMP'},
    '.bmp': {'resolution'},
  }[suffix]
  if suffix == target:
    assert all(kept[name] for name in has)
  for name in has:
    assert kept[name] != (name in caplog.text), name
  if kept['EXIF'] and has:
    assert ORIENTATION not in found
    inner = found.get_ifd(EXIF_IFD)
    assert inner.get(ISO) == 400
    assert WIDTH not in inner


def test_damaged_exif_is_no_reason_to_fail(tmp_path):
  image = Image.fromarray(LEVELS)
  image.save(tmp_path / 'x.jpg', exif=b'Exif\0\0II*\0\x08\0\0\0\xff\xff\x01')
  write_image(tmp_path / 'out.png', read_image(tmp_path / 'x.jpg'))
  assert read_rgb(tmp_path / 'out.png').shape == (12, 16, 3)


def test_exif_too_long_for_a_jpeg_is_named(tmp_path, caplog):
  found = exif()
  found[ARTIST] = 'x' * 70_000
  Image.fromarray(LEVELS).save(tmp_path / 'x.webp', lossless=True, exif=found)
  with caplog.at_level(logging.WARNING):
    write_image(tmp_path / 'out.jpg', read_image(tmp_path / 'x.webp'))
  assert '.jpg does not keep EXIF' in caplog.text


# TIFF

PLACE = {
  33550: ('d', (30.0, 20.0, 0.0)),
  33922: ('d', (0.0, 0.0, 0.0, 500_000.0, 4_100_000.0, 0.0)),
  34735: ('H', (1, 1, 0, 1, 1025, 0, 1, 1)),
  34736: ('d', (6378137.0,)),
  34737: ('s', 'WGS 84|'),
  42112: ('s', '<GDALMetadata></GDALMetadata>'),
}


def geotiff(path, values, nodata=None, **more):
  tags = PLACE | ({42113: ('s', nodata)} if nodata else {}) | more
  rows = [
    (tag, kind, 0 if kind == 's' else len(value), value, True)
    for tag, (kind, value) in tags.items()
  ]
  options = {'photometric': 'minisblack', 'metadata': None}
  tifffile.imwrite(path, values, extratags=rows, **options)
  return path


def tags_of(path):
  with tifffile.TiffFile(path) as tiff:
    return {tag.code: tag.value for tag in tiff.pages.first.tags}


def heights():
  y, x = np.mgrid[:12, :14]
  return np.float32(1000 + 3 * y - 2 * x)


def test_tags_of_a_tiff_are_kept(tmp_path):
  """P4, P8: place, owner, description and resolution were dropped."""
  texts = {33432: ('s', 'Jürgen'), 270: ('s', 'a hill'), 306: ('s', '2026')}
  path = geotiff(tmp_path / 'x.tif', heights(), **{})
  tags = [(tag, *row[:1], 0, row[1], True) for tag, row in texts.items()]
  tags = [(tag, kind, n, value.encode(), w) for tag, kind, n, value, w in tags]
  tifffile.imwrite(
    tmp_path / 'y.tif', LEVELS, photometric='rgb', metadata=None,
    software=False, extratags=tags, resolution=(90, 80), resolutionunit=3,
  )  # fmt: skip
  write_image(tmp_path / 'out.tif', read_image(path))
  found = tags_of(tmp_path / 'out.tif')
  assert all(found[tag] == value for tag, (_, value) in PLACE.items())
  write_image(tmp_path / 'out2.tif', read_image(tmp_path / 'y.tif'))
  found = tags_of(tmp_path / 'out2.tif')
  assert found[270] == 'a hill'
  assert found[306] == '2026'
  assert found[33432] in ('Jürgen', 'Jürgen'.encode())
  with Image.open(tmp_path / 'out2.tif') as image:
    assert image.info['dpi'] == pytest.approx((90 * 2.54, 80 * 2.54))


@pytest.mark.parametrize('kind', ['area', 'point'])
def test_pixels_of_an_enlargement_are_smaller_on_the_ground(kind):
  """P4: the place of an image on earth was dropped; pixel centres keep it."""
  keys = (1, 1, 0, 1, 1025, 0, 1, 1 if kind == 'area' else 2)
  matrix = (3.0, 0.5, 0, 50.0, 0.25, -2.0, 0, 60.0, *(0,) * 4, 0, 0, 0, 1)
  tags = {
    33550: (30.0, 20.0, 0.0),
    33922: (2.0, 1.0, 0.0, 500.0, 400.0, 0.0),
    34264: matrix,
    34735: keys,
  }
  large = Metadata(tags=tags).enlarged(4).tags
  middle = 0.5 if kind == 'area' else 0.0
  rows, columns = np.mgrid[:3, :5] + middle
  # Centres of LR pixels lie between SR pixels.
  fine = (4 * np.array([columns - middle, rows - middle]) + 1.5) + middle

  def by_ties(found, column, row):
    i, j, _, x, y, _ = found[33922]
    width, height = found[33550][:2]
    return x + width * (column - i), y - height * (row - j)

  def by_matrix(found, column, row):
    m = np.reshape(found[34264], (4, 4))
    places = np.stack(np.broadcast_arrays(column, row, 0, 1))
    return (m @ places.reshape(4, -1))[:2]

  for way in (by_ties, by_matrix):
    np.testing.assert_allclose(
      np.ravel(way(large, *fine)), np.ravel(way(tags, columns, rows))
    )


@pytest.mark.parametrize(
  ('dtype', 'nodata'),
  [
    ('f4', '-9999'),
    ('f4', '-3.4028234663852886e+38'),
    ('f8', 'nan'),
    ('i2', '-32768'),
    ('u2', '0'),
  ],
)
def test_pixels_without_data(tmp_path, dtype, nodata):
  """P4: heights beside pixels without data were wrong by hundreds."""
  values = heights().astype(dtype)
  values[:, :4] = np.float64(nodata)
  path = geotiff(tmp_path / 'x.tif', values, nodata)
  picture = read_image(path)
  present = np.broadcast_to(np.arange(14) >= 4, (12, 14))
  np.testing.assert_array_equal(picture.alpha[..., 0], present)
  assert picture.color[:, 4:].min() >= 0
  if dtype != 'u2':
    valid = values[:, 4:]
    assert (picture.low, picture.high) == (valid.min(), valid.max())
  write_image(tmp_path / 'out.tif', picture)
  back = tifffile.imread(tmp_path / 'out.tif')
  assert back.dtype == values.dtype
  np.testing.assert_allclose(back, values, rtol=1e-6)
  assert tags_of(tmp_path / 'out.tif')[42113] == nodata
  write_image(tmp_path / 'out.npy', picture)
  np.testing.assert_allclose(np.load(tmp_path / 'out.npy'), values, rtol=1e-6)
  with pytest.raises(UserError, match='48 of 168 pixels hold no data'):
    read_rgb(path)


def test_no_data_at_all_or_no_hole(tmp_path):
  path = geotiff(tmp_path / 'x.tif', np.full((4, 5), -1, 'f4'), '-1')
  with pytest.raises(UserError, match='all pixels are without data'):
    read_image(path)
  for nodata in ('-9999', 'none', '1e99'):
    geotiff(path, heights(), nodata)
    assert read_image(path).alpha is None
    assert read_image(path).nodata is None

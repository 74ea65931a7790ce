"""Reading and writing image files keeps depth, channels, colour, arrays.

Expected samples come from the arrays the fixtures were made of; PNGs that
Pillow cannot write are made here by hand (zlib, filter 0).
"""

import logging
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps

from sr_jax.data.image_io import Picture, read_image, read_rgb, write_image

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()


def random_samples(shape, dtype=np.uint8, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def smooth_photo(height, width):
  """Smooth uint8 RGB that JPEG keeps within a few levels."""
  y, x = np.mgrid[0:height, 0:width]
  planes = [y * 200 // height, x * 200 // width, (y + x) * 100 // height]
  return np.stack(planes, -1).astype(np.uint8)


def handmade_png(rows, width, depth, color_type, **chunks):
  """PNG bytes of packed scan lines; chunks are written before the pixels."""

  def chunk(name, data):
    body = name.encode() + data
    return (
      struct.pack('>I', len(data)) + body + struct.pack('>I', zlib.crc32(body))
    )

  header = struct.pack('>IIBBBBB', width, len(rows), depth, color_type, 0, 0, 0)
  pixels = zlib.compress(b''.join(b'\0' + row for row in rows))
  middle = b''.join(chunk(name, data) for name, data in chunks.items())
  return (
    b'\x89PNG\r\n\x1a\n'
    + chunk('IHDR', header)
    + middle
    + chunk('IDAT', pixels)
    + chunk('IEND', b'')
  )


def integers(x, bits):
  return np.round(x.astype(np.float64) * (2**bits - 1)).astype(int)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp('images')


@settings(max_examples=120, deadline=None)
@given(
  height=st.integers(1, 70),
  width=st.integers(1, 70),
  channels=st.sampled_from([1, 2, 3, 4]),
  dtype=st.sampled_from([np.uint8, np.uint16]),
  suffix=st.sampled_from(['.png', '.tif']),
)
def test_integers_survive_the_round_trip(
  folder, height, width, channels, dtype, suffix
):
  samples = random_samples((height, width, channels), dtype, height)
  bits = 8 * np.dtype(dtype).itemsize
  unit = (samples / (2**bits - 1)).astype(np.float32)
  alpha = unit[..., -1:] if channels in (2, 4) else None
  color = unit if alpha is None else unit[..., :-1]
  path = folder / f'round{suffix}'
  write_image(path, Picture(color, alpha, bits))
  back = read_image(path)
  assert back.bit_depth == bits
  np.testing.assert_array_equal(back.color, color)
  if alpha is None:
    assert back.alpha is None
  else:
    np.testing.assert_array_equal(back.alpha, alpha)
  assert back.color.dtype == np.float32
  assert back.color.flags.c_contiguous


@settings(max_examples=60, deadline=None)
@given(
  height=st.integers(1, 70),
  width=st.integers(1, 70),
  channels=st.sampled_from([0, 1, 2, 3, 5]),
  dtype=st.sampled_from(['uint8', 'uint16', 'float32']),
)
def test_npy_comes_back_alike(folder, height, width, channels, dtype):
  shape = (height, width, channels) if channels else (height, width)
  array = random_samples(shape, np.uint16, height).astype(dtype)
  np.save(folder / 'in.npy', array)
  picture = read_image(folder / 'in.npy')
  assert picture.color.shape == (height, width, channels or 1)
  assert picture.color.min() >= 0
  assert picture.color.max() <= 1
  write_image(folder / 'out.npy', picture)
  back = np.load(folder / 'out.npy')
  assert back.dtype == dtype
  assert back.shape == shape
  np.testing.assert_allclose(back, array, rtol=1e-6, atol=65535 * 1e-7)


@pytest.mark.parametrize('channels', [1, 2, 3, 4])
def test_16_bit_png_against_a_handmade_file(tmp_path, channels):
  samples = random_samples((5, 7, channels), np.uint16)
  rows = [row.astype('>u2').tobytes() for row in samples]
  color_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
  path = tmp_path / 'deep.png'
  path.write_bytes(handmade_png(rows, 7, 16, color_type))
  picture = read_image(path)
  assert picture.bit_depth == 16
  colors = channels if channels in (1, 3) else channels - 1
  np.testing.assert_array_equal(
    integers(picture.color, 16), samples[..., :colors]
  )
  if picture.alpha is not None:
    np.testing.assert_array_equal(
      integers(picture.alpha, 16), samples[..., -1:]
    )
  write_image(tmp_path / 'out.png', picture)
  header = (tmp_path / 'out.png').read_bytes()[24:26]
  assert tuple(header) == (16, color_type)


def test_png_transparent_colour_of_16_bit_and_2_bit_files(tmp_path):
  rows = [struct.pack('>6H', 1, 2, 3, 9, 9, 9)]
  trns = struct.pack('>3H', 1, 2, 3)
  (tmp_path / 'rgb.png').write_bytes(handmade_png(rows, 2, 16, 2, tRNS=trns))
  picture = read_image(tmp_path / 'rgb.png')
  assert integers(picture.color, 16).tolist() == [[[1, 2, 3], [9, 9, 9]]]
  assert picture.alpha is not None
  assert picture.alpha.ravel().tolist() == [0, 1]
  trns = struct.pack('>H', 1)
  grey = handmade_png([bytes([0b01110000])], 2, 2, 0, tRNS=trns)
  (tmp_path / 'grey.png').write_bytes(grey)
  picture = read_image(tmp_path / 'grey.png')
  assert integers(picture.color, 8).ravel().tolist() == [85, 255]
  assert picture.alpha is not None
  assert picture.alpha.ravel().tolist() == [0, 1]


@pytest.mark.parametrize('suffix', ['.png', '.bmp', '.webp', '.tif'])
@pytest.mark.parametrize('mode', ['1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'CMYK'])
def test_files_of_pillow(tmp_path, mode, suffix):
  cannot = {
    '.png': ('CMYK',),
    '.bmp': ('LA', 'RGBA', 'CMYK'),
    '.webp': ('1', 'P', 'CMYK'),
  }
  if mode in cannot.get(suffix, ()):
    return
  image = Image.fromarray(random_samples((9, 6, 4)))
  image = (image.convert('RGB') if mode == 'P' else image).convert(mode)
  options = {'lossless': True, 'exact': True} if suffix == '.webp' else {}
  image.save(tmp_path / f'x{suffix}', **options)
  picture = read_image(tmp_path / f'x{suffix}')
  assert picture.bit_depth == 8
  grey = mode in ('1', 'L', 'LA') and suffix != '.webp'
  expected = np.asarray(image.convert('L' if grey else 'RGB'))
  np.testing.assert_array_equal(
    integers(picture.color, 8), expected.reshape(picture.color.shape)
  )
  assert picture.color.shape[-1] == (1 if grey else 3)
  assert (picture.alpha is not None) == (mode in ('LA', 'RGBA'))
  if picture.alpha is not None:
    expected = np.asarray(image.getchannel('A'))
    np.testing.assert_array_equal(integers(picture.alpha[..., 0], 8), expected)
  rgb = read_rgb(tmp_path / f'x{suffix}')
  np.testing.assert_array_equal(
    rgb, np.broadcast_to(integers(picture.color, 8), rgb.shape)
  )


def test_palette_with_transparency(tmp_path):
  image = Image.new('P', (3, 1))
  image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
  image.putdata([0, 1, 2])
  image.save(tmp_path / 'p.png', transparency=bytes([0, 128, 255]))
  picture = read_image(tmp_path / 'p.png')
  colors = [[[10, 20, 30], [40, 50, 60], [70, 80, 90]]]
  assert integers(picture.color, 8).tolist() == colors
  assert picture.alpha is not None
  assert integers(picture.alpha, 8).ravel().tolist() == [0, 128, 255]
  assert read_rgb(tmp_path / 'p.png').tolist() == colors


@pytest.mark.parametrize('mode', ['L', 'RGB', 'CMYK'])
def test_jpeg(tmp_path, mode):
  photo = smooth_photo(40, 50)
  image = Image.fromarray(photo).convert(mode)
  image.save(tmp_path / 'x.jpg', quality=98, icc_profile=ICC)
  picture = read_image(tmp_path / 'x.jpg')
  channels = 1 if mode == 'L' else 3
  assert picture.color.shape == (40, 50, channels)
  expected = np.asarray(image.convert('L' if mode == 'L' else 'RGB'))
  difference = integers(picture.color, 8) - expected.reshape(40, 50, channels)
  assert np.abs(difference).max() <= 6
  # The profile of the CMYK data says nothing about the converted RGB.
  assert picture.icc_profile == (None if mode == 'CMYK' else ICC)


def test_written_jpeg_is_4_4_4(tmp_path):
  color = (smooth_photo(32, 32) / 255).astype(np.float32)
  write_image(tmp_path / 'x.jpg', Picture(color, bit_depth=16))
  with Image.open(tmp_path / 'x.jpg') as image:
    assert [layer[1:3] for layer in image.layer] == [(1, 1)] * 3
    difference = np.asarray(image) - color * 255
  assert np.abs(difference).max() < 5


@pytest.mark.parametrize('suffix', ['.jpg', '.png', '.webp', '.tif'])
@pytest.mark.parametrize('orientation', range(1, 9))
def test_exif_orientation_is_applied_once(tmp_path, orientation, suffix):
  image = Image.fromarray(smooth_photo(16, 24))
  exif = Image.Exif()
  exif[274] = orientation
  options = {'.jpg': {'quality': 98}, '.webp': {'lossless': True}}
  path = tmp_path / f'x{suffix}'
  image.save(path, exif=exif, **options.get(suffix, {}))
  with Image.open(path) as saved:
    expected = np.asarray(ImageOps.exif_transpose(saved).convert('RGB'))
  np.testing.assert_array_equal(read_rgb(path), expected)
  picture = read_image(path)
  np.testing.assert_array_equal(integers(picture.color, 8), expected)
  out = tmp_path / f'out{suffix}'
  write_image(out, picture)
  with Image.open(out) as written:
    assert written.getexif().get(274, 1) == 1
    assert written.size == expected.shape[1::-1]


def test_orientation_of_16_bit_png(tmp_path):
  samples = random_samples((3, 5, 3), np.uint16)
  exif = Image.Exif()
  exif[274] = 6
  rows = [row.astype('>u2').tobytes() for row in samples]
  data = handmade_png(rows, 5, 16, 2, eXIf=exif.tobytes()[6:])
  (tmp_path / 'x.png').write_bytes(data)
  picture = read_image(tmp_path / 'x.png')
  np.testing.assert_array_equal(
    integers(picture.color, 16), np.rot90(samples, -1)
  )


@pytest.mark.parametrize('suffix', ['.png', '.jpg', '.webp', '.tif'])
@pytest.mark.parametrize('depth', [8, 16])
def test_icc_profile_survives(tmp_path, suffix, depth):
  color = np.full((4, 5, 3), 0.5, np.float32)
  path = tmp_path / f'x{suffix}'
  write_image(path, Picture(color, None, depth, ICC))
  assert read_image(path).icc_profile == ICC
  with Image.open(path) as image:
    assert image.info['icc_profile'] == ICC


def test_read_rgb_rounds_16_bits_and_repeats_grey(tmp_path):
  samples = np.array([[0, 128, 129, 385, 65535]], np.uint16)
  tifffile.imwrite(tmp_path / 'x.tif', samples)
  rgb = read_rgb(tmp_path / 'x.tif')
  assert rgb.dtype == np.uint8
  assert rgb[0, :, 0].tolist() == [0, 0, 1, 1, 255]
  assert (rgb == rgb[..., :1]).all()
  rgb[0, 0] = 7  # training code may write to it


@pytest.mark.parametrize('low', [-3.0, 100.0, 0.25])
def test_value_range_of_arrays(tmp_path, low):
  array = np.linspace(low, low + 0.5, 12, dtype=np.float64).reshape(3, 4)
  np.save(tmp_path / 'x.npy', array)
  picture = read_image(tmp_path / 'x.npy')
  assert picture.bit_depth is None
  if low == 0.25:
    assert (picture.low, picture.high) == (0, 1)
    np.testing.assert_array_equal(
      picture.color[..., 0], array.astype(np.float32)
    )
  else:
    assert (picture.low, picture.high) == (low, low + 0.5)
    assert (picture.color.min(), picture.color.max()) == (0, 1)
  for name in ('out.npy', 'out.tif'):
    write_image(tmp_path / name, picture)
  np.testing.assert_allclose(np.load(tmp_path / 'out.npy'), array, rtol=2e-7)
  np.testing.assert_allclose(
    tifffile.imread(tmp_path / 'out.tif'), array, rtol=2e-7
  )


@pytest.mark.parametrize('value', [5.0, -2.0, 3e38, 0.5])
def test_constant_arrays(tmp_path, value):
  np.save(tmp_path / 'x.npy', np.full((3, 4, 2), min(value, 1e38), np.float32))
  picture = read_image(tmp_path / 'x.npy')
  assert np.isfinite(picture.color).all()
  write_image(tmp_path / 'out.npy', picture)
  np.testing.assert_array_equal(
    np.load(tmp_path / 'out.npy'), np.load(tmp_path / 'x.npy')
  )


def test_float_picture_becomes_16_bit_png(tmp_path):
  color = np.random.default_rng(0).random((4, 5, 3), np.float32)
  write_image(tmp_path / 'x.png', Picture(color, bit_depth=None))
  back = read_image(tmp_path / 'x.png')
  assert back.bit_depth == 16
  np.testing.assert_allclose(back.color, color, atol=0.51 / 65535)


@pytest.mark.parametrize(
  ('shape', 'options', 'channel_axis'),
  [
    ((9, 8), {}, None),
    ((9, 8, 3), {'photometric': 'rgb'}, 2),
    ((3, 9, 8), {'photometric': 'rgb', 'planarconfig': 'separate'}, 0),
    ((9, 8, 5), {'photometric': 'minisblack', 'planarconfig': 'contig'}, 2),
    ((5, 9, 8), {'photometric': 'minisblack', 'planarconfig': 'separate'}, 0),
    ((9, 8, 5), {'photometric': 'minisblack'}, 2),  # tifffile: 9 pages of 8x5
    ((5, 9, 8), {'photometric': 'minisblack'}, 0),
    ((8, 8, 11), {'photometric': 'minisblack'}, 2),
    ((11, 8, 8), {'photometric': 'minisblack'}, 0),
    ((9, 8, 3), {'photometric': 'rgb', 'compression': 'lzw'}, 2),
    ((9, 8, 3), {'photometric': 'rgb', 'tile': (16, 16)}, 2),
  ],
)
@pytest.mark.parametrize('dtype', ['uint8', 'uint16', 'float32'])
def test_tiff_axes(tmp_path, shape, options, channel_axis, dtype):
  array = random_samples(shape).astype(dtype)
  tifffile.imwrite(tmp_path / 'x.tif', array, **options)
  picture = read_image(tmp_path / 'x.tif')
  expected = array[..., None]
  if channel_axis is not None:
    expected = np.moveaxis(array, channel_axis, -1)
  scale = {'uint8': 255, 'uint16': 65535}.get(dtype)
  if scale is None:
    values = picture.low + picture.color * (picture.high - picture.low)
  else:
    values = picture.color * scale
  np.testing.assert_allclose(values, expected, atol=1e-2)
  out = tmp_path / 'out.tif'
  write_image(out, picture)
  np.testing.assert_allclose(tifffile.imread(out), array, atol=1e-2)
  again = read_image(out)  # whatever had to be guessed is labelled now
  np.testing.assert_allclose(again.color, picture.color, atol=1e-6)
  assert again.layout == picture.layout


def test_tiff_white_is_zero_and_12_bits(tmp_path):
  samples = np.array([[0, 100, 65535]], np.uint16)
  tifffile.imwrite(tmp_path / 'w.tif', samples, photometric='miniswhite')
  picture = read_image(tmp_path / 'w.tif')
  assert integers(picture.color, 16).ravel().tolist() == [65535, 65435, 0]
  samples = np.array([[0, 1000, 4095]], np.uint16)
  tifffile.imwrite(tmp_path / 'b.tif', samples, bitspersample=12)
  picture = read_image(tmp_path / 'b.tif')
  assert picture.bit_depth == 16
  np.testing.assert_allclose(
    picture.color.ravel(), samples.ravel() / 4095, rtol=1e-6
  )


def test_tiff_premultiplied_alpha_becomes_straight(tmp_path):
  samples = np.array([[[100, 50, 0, 200], [0, 0, 0, 0]]], np.uint8)
  tifffile.imwrite(
    tmp_path / 'x.tif', samples, photometric='rgb', extrasamples=['assocalpha']
  )
  picture = read_image(tmp_path / 'x.tif')
  np.testing.assert_allclose(picture.color[0, 0], [0.5, 0.25, 0], rtol=1e-6)
  np.testing.assert_array_equal(picture.color[0, 1], [0, 0, 0])
  assert picture.alpha is not None
  assert integers(picture.alpha, 8).ravel().tolist() == [200, 0]


@pytest.mark.parametrize('suffix', ['.png', '.webp', '.tif'])
def test_first_of_several_frames_is_taken_and_said(tmp_path, suffix, caplog):
  frames = [Image.fromarray(random_samples((8, 9, 3), seed=s)) for s in (1, 2)]
  options = {'lossless': True, 'exact': True} if suffix == '.webp' else {}
  path = tmp_path / f'x{suffix}'
  frames[0].save(path, save_all=True, append_images=frames[1:], **options)
  with caplog.at_level(logging.WARNING):
    rgb = read_rgb(path)
  np.testing.assert_array_equal(rgb, np.asarray(frames[0]))
  assert 'the first is taken' in caplog.text
  assert str(path) in caplog.text


def test_reading_holds_one_float_copy(tmp_path):
  Image.fromarray(smooth_photo(900, 1200)).save(tmp_path / 'x.jpg')
  read_image(tmp_path / 'x.jpg')
  tracemalloc.start()
  read_image(tmp_path / 'x.jpg')
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  samples = 900 * 1200 * 3
  assert peak < 1.1 * (4 + 1) * samples

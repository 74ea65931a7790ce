"""Multi-channel arrays in files keep their range, type and layout."""

import dataclasses

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from sr_jax.data.image_io import Picture, read_image, write_image
from sr_jax.errors import UserError

DTYPES = ('f2', 'f4', 'f8', 'i1', 'i2', 'i4', 'u4', 'i8', 'u8')


def scientific(shape, seed=0):
  """float64 of magnitudes 1e-6 to 1e3 by channel, sparse; one is constant."""
  rng = np.random.default_rng(seed)
  values = rng.normal(size=shape) * np.logspace(-6, 3, shape[-1])
  values[rng.random(shape) < 0.4] = 0
  values[..., shape[-1] // 2] = 7
  return values


def as_type(values, dtype):
  dtype = np.dtype(dtype)
  if dtype.kind == 'f':
    return values.astype(dtype)
  info = np.iinfo(dtype)
  return np.clip(np.rint(values), info.min, min(info.max, 2**40)).astype(dtype)


def save(path, values, layout='contig', **label):
  """Writes `[H, W, C]` to `.npy`, or to TIFF with a given channel layout."""
  if path.suffix == '.npy':
    np.save(path, values)
    return values
  options = label if layout == 'pages' else {'planarconfig': layout}
  if layout != 'contig':
    values = np.moveaxis(values, -1, 0)
  tifffile.imwrite(path, values, photometric='minisblack', **options)
  return values


def load(path):
  return np.load(path) if path.suffix == '.npy' else tifffile.imread(path)


def assert_close(got, expected, axis):
  """Equal to half a float32 step of each channel's span, or of the type."""
  assert got.dtype == expected.dtype
  assert got.shape == expected.shape
  others = tuple(i for i in range(3) if i != axis % 3)
  exact, values = expected.astype(np.float64), got.astype(np.float64)
  span = np.ptp(exact, axis=others, keepdims=True)
  step = 0
  if got.dtype.kind == 'f':
    step = np.spacing(abs(expected)).astype(np.float64)
  assert (abs(values - exact) <= span * 2.0**-25 * 1.001 + step).all()
  assert (values[exact == 0] == 0).all()


@settings(max_examples=150, deadline=None)
@given(
  height=st.integers(6, 12),
  width=st.integers(6, 12),
  channels=st.sampled_from([2, 4, 5]),
  dtype=st.sampled_from(DTYPES),
  layout=st.sampled_from(['npy', 'contig', 'separate', 'pages']),
  seed=st.integers(0, 99),
)
def test_type_range_and_layout_come_back(
  tmp_path_factory, height, width, channels, dtype, layout, seed
):
  folder = tmp_path_factory.getbasetemp()
  suffix = '.npy' if layout == 'npy' else '.tif'
  values = as_type(scientific((height, width, channels), seed), dtype)
  source, target = folder / f'in{suffix}', folder / f'out{suffix}'
  stored = save(source, values, layout)
  picture = read_image(source, per_channel=True)
  assert picture.color.shape == values.shape
  assert picture.dtype == dtype
  write_image(target, picture)
  axis = -1 if layout in ('npy', 'contig') else 0
  assert_close(load(target), stored, axis)
  if suffix == '.tif':
    with tifffile.TiffFile(target) as tiff:
      assert len(tiff.pages) == (channels if layout == 'pages' else 1)


def test_every_channel_has_its_own_range(tmp_path):
  values = scientific((9, 8, 6))
  values[..., 5] = 0
  np.save(tmp_path / 'x.npy', values)
  picture = read_image(tmp_path / 'x.npy', per_channel=True)
  low, high = picture.low, picture.high
  assert isinstance(low, np.ndarray)
  assert low.dtype == np.float64
  np.testing.assert_array_equal(low, values.min((0, 1)))
  np.testing.assert_array_equal(high, values.max((0, 1)))
  assert picture.mapped
  constant = low == high
  assert constant.tolist() == [False, False, False, True, False, True]
  assert not picture.color[..., constant].any()
  assert (picture.color[..., ~constant].max((0, 1)) == 1).all()
  assert (picture.color[..., ~constant].min((0, 1)) == 0).all()


def test_small_values_within_the_unit_range_are_stretched(tmp_path):
  values = np.random.default_rng(0).random((5, 6, 2)) * [1e-6, 1]
  np.save(tmp_path / 'x.npy', values)
  picture = read_image(tmp_path / 'x.npy', per_channel=True)
  assert picture.color.max((0, 1)).tolist() == [1, 1]
  together = read_image(tmp_path / 'x.npy')
  assert not together.mapped
  np.testing.assert_array_equal(together.color, values.astype(np.float32))


@pytest.mark.parametrize('shape', [(5, 6), (5, 6, 1), (5, 6, 3)])
def test_grey_and_colour_have_one_range(tmp_path, shape):
  values = np.random.default_rng(0).normal(size=shape)
  np.save(tmp_path / 'x.npy', values)
  picture = read_image(tmp_path / 'x.npy', per_channel=True)
  assert (picture.low, picture.high) == (values.min(), values.max())
  write_image(tmp_path / 'y.npy', picture)
  assert np.load(tmp_path / 'y.npy').shape == shape


def test_8_bit_channels_are_no_plain_numbers(tmp_path):
  values = np.arange(60, dtype=np.uint8).reshape(3, 4, 5)
  np.save(tmp_path / 'x.npy', values)
  picture = read_image(tmp_path / 'x.npy', per_channel=True)
  assert (picture.bit_depth, picture.dtype, picture.mapped) == (8, None, False)
  write_image(tmp_path / 'y.npy', picture)
  np.testing.assert_array_equal(np.load(tmp_path / 'y.npy'), values)


@pytest.mark.parametrize('layout', ['npy', 'contig', 'separate', 'pages'])
@pytest.mark.parametrize('size', [(64, 64), (24, 40)])
def test_150_channels(tmp_path, layout, size):
  suffix = '.npy' if layout == 'npy' else '.tif'
  values = scientific((*size, 150)).astype(np.float32)
  # The shape (150, 24, 40) is ambiguous; the label of the axes is not.
  label = {'metadata': {'axes': 'CYX'}} if size[0] != size[1] else {}
  stored = save(tmp_path / f'x{suffix}', values, layout, **label)
  picture = read_image(tmp_path / f'x{suffix}', per_channel=True)
  assert picture.color.shape == (*size, 150)
  enlarged = np.repeat(np.repeat(picture.color, 2, 0), 2, 1)
  write_image(
    tmp_path / f'y{suffix}', dataclasses.replace(picture, color=enlarged)
  )
  axis = -1 if layout in ('npy', 'contig') else 0
  for spatial in {0, 1, 2} - {axis % 3}:
    stored = np.repeat(stored, 2, spatial)
  assert_close(load(tmp_path / f'y{suffix}'), stored, axis)
  again = read_image(tmp_path / f'y{suffix}', per_channel=True)
  assert again.color.shape == (2 * size[0], 2 * size[1], 150)


def test_types_that_tiff_cannot_hold(tmp_path):
  values = scientific((4, 5, 2))
  for source, npy, tif in (
    (np.longdouble, np.longdouble, 'f4'),
    ('>f4', '>f4', 'f4'),
    ('>i8', '>i8', 'i8'),
    (bool, 'f4', 'f4'),
  ):
    np.save(tmp_path / 'x.npy', values.astype(source))
    picture = read_image(tmp_path / 'x.npy', per_channel=True)
    for suffix in ('.npy', '.tif'):
      write_image(tmp_path / f'y{suffix}', picture)
    assert np.load(tmp_path / 'y.npy').dtype == npy
    assert tifffile.imread(tmp_path / 'y.tif').dtype == tif


def test_big_endian_tiff(tmp_path):
  values = scientific((6, 7, 4)).astype('>f4')
  options = {'photometric': 'minisblack', 'planarconfig': 'contig'}
  tifffile.imwrite(tmp_path / 'x.tif', values, byteorder='>', **options)
  write_image(tmp_path / 'y.tif', read_image(tmp_path / 'x.tif'))
  assert tifffile.imread(tmp_path / 'y.tif').dtype == np.float32


def test_pictures_made_by_hand_are_float32(tmp_path):
  color = np.random.default_rng(0).random((3, 4, 2), np.float32)
  write_image(tmp_path / 'x.npy', Picture(color, bit_depth=None))
  np.testing.assert_array_equal(np.load(tmp_path / 'x.npy'), color)
  assert np.load(tmp_path / 'x.npy').dtype == np.float32


def test_refusals_are_one_line(tmp_path):
  values = scientific((4, 5, 2))
  np.save(tmp_path / 'x.npy', values)
  picture = read_image(tmp_path / 'x.npy', per_channel=True)
  with pytest.raises(UserError, match=r'cannot hold values of .* write .npy'):
    write_image(tmp_path / 'y.png', picture)
  values[1, 2, 0], values[0, 0, 1] = np.nan, np.inf
  np.save(tmp_path / 'x.npy', values)
  with pytest.raises(UserError, match='2 of 40 values are NaN or infinite'):
    read_image(tmp_path / 'x.npy', per_channel=True)
  picture.color[0] = np.inf
  with pytest.raises(UserError, match='10 values of the picture are NaN'):
    write_image(tmp_path / 'y.npy', picture)
  assert not (tmp_path / 'y.npy').exists()

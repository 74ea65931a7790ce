"""16-bit and float files: trained on and scored at their own levels (P3)."""

import jax
import numpy as np
import pytest
import tifffile
from PIL import Image

from sr_jax.data import batches, opening, references, sources
from sr_jax.data.degradation import Degradation
from sr_jax.errors import UserError
from sr_jax.methods.supervised import Degrader
from sr_jax.ops import levels
from sr_jax.ops.degrade import quantize

RAMP = np.linspace(0, 1, 48 * 40).reshape(48, 40, 1).repeat(3, 2)
SPEC = batches.BatchSpec(batch_size=2, patch=12, scales=(2,), seed=0)


def _save(path, values):
  path.parent.mkdir(parents=True, exist_ok=True)
  tifffile.imwrite(path, values, photometric='rgb')
  return values


@pytest.fixture
def photos(tmp_path):
  return tmp_path / 'photos'


def _open(folder, **options):
  options = {'min_size': 24, 'cache_dir': folder.parent / 'cache', **options}
  return opening.open_source(str(folder), **options)


def test_all_levels_of_16_bit_files_are_seen(photos):
  """They used to be rounded to the 256 levels of 8 bits."""
  full = _save(photos / 'a.tif', np.rint(RAMP * 65535).astype(np.uint16))
  source = _open(photos)
  assert source.dtype == np.uint16
  np.testing.assert_array_equal(source[0], full)
  batch, _ = batches.sample(source, SPEC, 0)
  assert batch['hr'].dtype == np.uint16
  assert np.isin(batch['hr'], full).all()
  assert len(np.unique(batch['hr'])) > 500
  crops = batches.fixed_crops(source, size=24, count=1, scale=2)['hr']
  np.testing.assert_array_equal(crops[0], full[12:36, 8:32])
  np.testing.assert_allclose(
    levels.to_unit(crops[0]), RAMP[12:36, 8:32], atol=1e-5
  )


def test_data_of_12_bits_warns_and_has_a_peak(photos, caplog):
  values = _save(photos / 'a.tif', np.rint(RAMP * 4095).astype(np.uint16))
  dark = _open(photos)
  assert 'no value exceeds 4095 of 65535' in caplog.text
  assert 'data.peak' in caplog.text
  np.testing.assert_array_equal(dark[0], values)
  caplog.clear()
  source = _open(photos, peak=4095)
  assert not caplog.records
  assert source[0].max() == 65535
  assert len(np.unique(source[0])) == len(np.unique(values))  # none is lost
  np.testing.assert_allclose(
    levels.to_unit(source[0]), values / 4095, atol=1e-5
  )
  with pytest.raises(
    UserError, match=r'values of 0 to 4095, but data.peak is 4000'
  ):
    _open(photos, peak=4000)


def test_a_bright_image_among_dark_ones_is_no_reason_to_warn(photos, caplog):
  _save(photos / 'a.tif', np.zeros((24, 24, 3), np.uint16))
  _save(photos / 'b.tif', np.full((24, 24, 3), 40_000, np.uint16))
  _open(photos)
  assert not caplog.records


@pytest.mark.parametrize(('peak', 'white'), [(0, 1.0), (200, 200.0)])
def test_floats_keep_their_values(photos, peak, white):
  photos.mkdir()
  np.save(photos / 'a.npy', (RAMP * white).astype(np.float32))
  source = _open(photos, peak=peak)
  batch, _ = batches.sample(source, SPEC, 0)
  assert batch['hr'].dtype == np.float32
  np.testing.assert_allclose(source[0], RAMP, atol=1e-6)
  assert levels.to_unit(batch['hr']) is not None


def test_8_bit_and_16_bit_files_in_one_folder(photos, tmp_path):
  """Every batch has the type with most levels; values are unchanged."""
  eight = np.rint(RAMP * 255).astype(np.uint8)
  photos.mkdir()
  Image.fromarray(eight).save(photos / 'a.png')
  assert _open(photos).dtype == np.uint8
  _save(photos / 'b.tif', np.rint(RAMP * 65535).astype(np.uint16))
  source = _open(photos)
  assert [image.dtype for image in source] == [np.uint8, np.uint16]
  crops = batches.fixed_crops(source, size=24, count=2, scale=2)['hr']
  assert crops.dtype == np.uint16
  np.testing.assert_array_equal(
    levels.to_unit(crops[0]), levels.to_unit(eight[12:36, 8:32])
  )


def test_pairs_each_on_levels_of_their_own(tmp_path):
  hr = _save(tmp_path / 'hr' / 'a.tif', np.rint(RAMP * 65535).astype('u2'))
  _save(tmp_path / 'lr' / 'a.tif', np.rint(RAMP[::2, ::2] * 255).astype('u1'))
  options = {'min_size': 24, 'cache_dir': tmp_path / 'cache'}
  folders = str(tmp_path / 'hr'), str(tmp_path / 'lr'), 2
  pairs = opening.open_labelled(*folders, **options)
  batch, _ = batches.sample(pairs, SPEC, 0)
  assert (batch['lr'].dtype, batch['hr'].dtype) == (np.uint8, np.uint16)
  mixed = sources.MixedSource(pairs, pairs.hr, 0.5)
  batch, _ = batches.sample(mixed, SPEC, 0)
  assert {k: v.dtype.name for k, v in batch.items()} == {
    **{'hr': 'uint16', 'lr': 'uint8', 'unlabelled': 'uint16'},
    'labelled': 'bool',
  }
  # A range of each image's own would make LR and HR of different brightness.
  _save(tmp_path / 'hr' / 'a.tif', (hr / 100).astype(np.float32))
  with pytest.raises(UserError, match=r'data.peak to the value of white'):
    opening.open_labelled(*folders, **options)


@pytest.mark.parametrize('name', ['self', 'shifted'])
def test_references_have_the_levels_of_their_images(photos, name):
  for seed in range(2):
    noise = np.random.default_rng(seed).integers(0, 65536, (48, 40, 3))
    _save(photos / f'{seed}.tif', noise.astype(np.uint16))
  images = _open(photos)
  source = references.with_references(
    images, name, folder=str(photos), on_bad='refuse'
  )
  batch, _ = batches.sample(source, SPEC, 0)
  assert batch['ref'].dtype == np.uint16
  assert batch['ref'].max() > 40_000
  beside = references.with_references(
    images, str(photos.parent / 'photos'), folder='', on_bad='refuse'
  )
  assert batches.sample(beside, SPEC, 0)[0]['ref'].dtype == np.uint16


def test_lr_is_made_on_the_levels_of_its_hr():
  """LR of 16-bit HR has steps of 1/65535; LR of floats is not rounded."""
  hr = np.random.default_rng(0).integers(0, 65536, (1, 16, 16, 3), np.uint16)
  degrader = Degrader(Degradation(), wide=False)
  seen = {}
  for values in (hr, (hr // 257).astype(np.uint8), levels.to_unit(hr)):
    lr, _ = degrader.pair(jax.random.key(0), {'hr': jax.numpy.array(values)}, 2)
    seen[values.dtype.name] = np.asarray(lr, np.float64)
  for name, white in (('uint8', 255), ('uint16', 65535)):
    steps = seen[name] * white
    np.testing.assert_allclose(steps, np.rint(steps), atol=0.01)
  np.testing.assert_allclose(seen['uint16'], seen['float32'], atol=1e-5)
  assert np.abs(seen['uint8'] - seen['float32']).max() > 1e-4


def test_rounding_to_the_levels_of_a_type():
  image = np.array([-1.0, 0.3, 0.30001, 2.0])
  np.testing.assert_array_equal(quantize(image) * 255, [0, 76, 77, 255])
  rounded = quantize(image, np.uint16) * 65535
  np.testing.assert_allclose(rounded, [0, 19660, 19661, 65535])
  np.testing.assert_array_equal(
    quantize(image, np.float32), [0, 0.3, 0.30001, 1]
  )


@pytest.mark.parametrize('peak', [-1, float('nan'), float('inf')])
def test_a_peak_out_of_range_is_refused(peak):
  data = {'peak': peak, 'source': 'embedded'}
  with pytest.raises(UserError, match=r'config\.data\.peak='):
    opening._peak({'data': data})

"""Files of 16 bits and of floats whose white is not the largest value."""

import logging

import numpy as np
import pytest
import tifffile

from sr_jax.data.image_io import Picture, read_image, read_rgb, write_image
from sr_jax.errors import UserError
from sr_jax.evaluation.benchmark import evaluate_folder
from sr_jax.inference.loading import load
from sr_jax.metrics.protocol import get_protocol
from tests.tiny_models import waves

UNIT = np.clip(waves(24, 28), 0, 1)
TWELVE = np.round(UNIT * 4095).astype(np.uint16)


def tiff(path, values):
  tifffile.imwrite(path, values, photometric='rgb')
  return path


def test_dim_values_are_warned_of(tmp_path, caplog):
  """P3: 12-bit data in 16-bit files use 6 % of the range; no warning came."""
  path = tiff(tmp_path / 'x.tif', TWELVE)
  with caplog.at_level(logging.WARNING):
    for _ in range(2):
      read_image(path)
      read_rgb(path)
  (record,) = caplog.records
  assert str(path) in record.getMessage()
  assert f'reach {TWELVE.max()} of 65535' in record.getMessage()
  assert record.getMessage().endswith('peak=4095')
  caplog.clear()
  read_image(path, peak=4095)
  read_image(tiff(tmp_path / 'y.tif', TWELVE * 16))
  read_image(tiff(tmp_path / 'z.tif', 0 * TWELVE))
  assert not caplog.records


@pytest.mark.parametrize('suffix', ['.tif', '.png'])
def test_values_come_back_on_their_own_levels(tmp_path, suffix):
  """P3: networks got images of 12-bit data whose white was 0.06."""
  picture = read_image(tiff(tmp_path / 'x.tif', TWELVE), peak=4095)
  np.testing.assert_allclose(picture.color, TWELVE / 4095, rtol=1e-6)
  write_image(tmp_path / f'out{suffix}', picture)
  back = read_image(tmp_path / f'out{suffix}', peak=4095)
  np.testing.assert_array_equal(np.round(back.color * 4095), TWELVE)
  write_image(tmp_path / 'out.jpg', picture)
  shown = read_rgb(tmp_path / 'out.jpg') / 255
  assert np.abs(shown - UNIT).mean() < 0.02


def test_transparency_has_all_of_its_range(tmp_path):
  color = (TWELVE / 4095).astype(np.float32)
  alpha = np.float32(np.ones((24, 28, 1)))
  alpha[0] = 0.5
  write_image(tmp_path / 'x.png', Picture(color, alpha, 16, peak=4095))
  back = read_image(tmp_path / 'x.png', peak=4095)
  np.testing.assert_allclose(back.color, color, atol=1e-6)
  np.testing.assert_allclose(back.alpha, alpha, atol=1e-4)


def test_floats_of_a_peak(tmp_path):
  np.save(tmp_path / 'x.npy', 5000 * np.float32(UNIT))
  picture = read_image(tmp_path / 'x.npy', peak=5000)
  assert (picture.low, picture.high) == (0, 5000)
  np.testing.assert_allclose(picture.color, UNIT, atol=1e-6)
  write_image(tmp_path / 'out.npy', picture)
  back = np.load(tmp_path / 'out.npy')
  np.testing.assert_allclose(back, 5000 * UNIT, rtol=1e-5)


@pytest.mark.parametrize('values', [TWELVE, np.float32(TWELVE), -UNIT])
def test_values_beyond_the_peak_are_refused(tmp_path, values):
  np.save(tmp_path / 'x.npy', values)
  with pytest.raises(
    UserError, match='not from 0 to the peak of 1023'
  ) as error:
    read_image(tmp_path / 'x.npy', peak=1023)
  assert str(tmp_path) in str(error.value)


def score(folder, **options):
  protocol = get_protocol('rgb')
  model = load('bicubic', scale=2)
  result = evaluate_folder(
    model, hr_dir=folder, protocols=[protocol], **options
  )
  return result['mean']['psnr']


@pytest.mark.parametrize('kind', ['12 bits', 'floats'])
def test_scores_are_those_of_the_same_picture_in_8_bits(tmp_path, kind):
  """P3: 59.24 dB instead of 46.56, because white was taken for nearly black."""
  values = TWELVE if kind == '12 bits' else np.float32(TWELVE)
  (tmp_path / 'own').mkdir()
  tiff(tmp_path / 'own' / 'x.tif', values)
  write_image(tmp_path / '8' / 'x.png', Picture(UNIT.astype(np.float32)))
  expected = score(tmp_path / '8')
  assert score(tmp_path / 'own', peak=4095) == pytest.approx(expected, abs=0.3)
  if kind == '12 bits':
    assert score(tmp_path / 'own') > expected + 10
  else:
    with pytest.raises(UserError, match='peak=N'):
      score(tmp_path / 'own')


def test_files_of_16_bits_are_scored_on_their_own_levels(tmp_path):
  """P3: scores of 16-bit images were those of images rounded to 8 bits."""
  levels = np.full((16, 16, 3), 0.5, np.float32)
  levels[::2] += 0.3 / 255  # lost by rounding to 8 bits
  write_image(tmp_path / '16' / 'x.tif', Picture(levels, bit_depth=16))
  write_image(tmp_path / '8' / 'x.tif', Picture(levels, bit_depth=8))
  assert score(tmp_path / '8') == np.inf
  assert 40 < score(tmp_path / '16') < 80

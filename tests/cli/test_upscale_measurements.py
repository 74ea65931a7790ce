"""sr-jax upscale of heights and other measured values."""

import numpy as np
import pytest
import tifffile

TAGS = [
  (33550, 'd', 3, (30.0, 30.0, 0.0), True),
  (33922, 'd', 6, (0.0, 0.0, 0.0, 5e5, 4e6, 0.0), True),
  (42113, 's', 0, '-9999', True),
]


@pytest.mark.parametrize('model', ['bicubic', 'edsr-small-x2'])
def test_heights_beside_a_hole_stay_right(run, tmp_path, model):
  """P4: heights beside a hole were wrong by hundreds, and tags were lost."""
  y, x = np.mgrid[:16, :18]
  values = np.float32(1000 + 3 * y - 2 * x)
  values[4:9, 6:11] = -9999
  tifffile.imwrite(tmp_path / 'a.tif', values, metadata=None, extratags=TAGS)
  options = ('-o', tmp_path, '--model', model, '--scale', 2)
  done = run('upscale', tmp_path / 'a.tif', *options)
  assert done.status == 0, done
  with tifffile.TiffFile(tmp_path / 'a_x2.tif') as tiff:
    found = {tag.code: tag.value for tag in tiff.pages.first.tags}
    result = tiff.asarray()
  assert found[33550] == (15.0, 15.0, 0.0)
  assert found[33922] == (0.0, 0.0, 0.0, 5e5, 4e6, 0.0)
  assert found[42113] == '-9999'
  hole = result == -9999
  np.testing.assert_array_equal(hole[::2, ::2], values == -9999)
  rows, columns = (np.mgrid[:32, :36] + 0.5) / 2 - 0.5
  expected = 1000 + 3 * rows - 2 * columns
  assert np.abs(result - expected)[~hole].max() < 6


def test_white_of_fewer_bits(run, tmp_path):
  """P3: 12-bit data in 16-bit files were taken for nearly black images."""
  y, x = np.mgrid[:16, :18]
  values = np.uint16(4095 * (x + y) / 32)
  tifffile.imwrite(tmp_path / 'a.tif', values)
  command = ('upscale', tmp_path / 'a.tif', '-o', tmp_path)
  done = run(*command, '--peak', 4095)
  assert done.status == 0, done
  result = tifffile.imread(tmp_path / 'a_x2.tif')
  assert result.dtype == np.uint16
  assert result.max() <= 4095
  rows, columns = (np.mgrid[:32, :36] + 0.5) / 2 - 0.5
  expected = 4095 * (rows + columns).clip(0, 32) / 32
  assert np.abs(result - expected)[2:-2, 2:-2].max() < 120
  assert run(*command, '--peak', 1023, '--overwrite').refused('peak of 1023')
  assert run(*command, '--peak', 0).refused('--peak')

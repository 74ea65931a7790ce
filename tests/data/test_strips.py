"""Images side by side, and labels that can be read whatever their width."""

import numpy as np
import pytest

from sr_jax.data import strips
from sr_jax.data.image_io import read_rgb


def _white_columns(picture):
  return (picture == 255).all((0, 2))


def test_images_stand_side_by_side(tmp_path):
  images = [np.full((20, 10, 3), v, np.float32) for v in (0.0, 0.2, 0.4)]
  strips.save_png_strip(tmp_path / 'a' / 's.png', images)
  strip = read_rgb(tmp_path / 'a' / 's.png')
  assert strip.shape == (20, 34, 3)
  for left, value in ((0, 0), (12, 51), (24, 102)):
    assert (strip[:, left : left + 10] == value).all()
  assert (strip[:, 10:12] == 255).all()


def test_short_labels_change_no_width(tmp_path):
  images = [np.full((h, 60, 3), 0.2, np.float32) for h in (20, 15)]
  strips.save_png_strip(tmp_path / 's.png', images, ['bicubic', 'SR'])
  strip = read_rgb(tmp_path / 's.png')
  assert strip.shape == (20 + 14, 122, 3)
  assert (strip[14:, :60] == 51).all()
  assert (strip[14:29, 62:] == 51).all()
  assert (strip[29:, 62:] == 255).all()
  for left in (0, 62):
    assert strip[:14, left : left + 60].min() < 128


def test_labels_of_narrow_images_do_not_overlap(tmp_path):
  """The columns between two cells stay white, so no label reaches over."""
  images = [np.full((20, 24, 3), 0.2, np.float32)] * 3
  labels = ['gaussian:0.5', 'gaussian:4.000,1.000,-0.512', 'auto']
  strips.save_png_strip(tmp_path / 's.png', images, labels)
  strip = read_rgb(tmp_path / 's.png')
  header = strip[:-20]
  assert len(header) == 14
  lefts = [x for x in range(strip.shape[1]) if (strip[-1, x] == 51).all()][::24]
  assert len(lefts) == 3
  widths = np.diff([*lefts, strip.shape[1] + 2]) - 2
  for label, left, width in zip(labels, lefts, widths, strict=True):
    assert _white_columns(header)[left + width : left + width + 2].all()
    # All of the label is there: alone it looks the same.
    strips.save_png_strip(tmp_path / 'one.png', images[:1], [label])
    alone = read_rgb(tmp_path / 'one.png')
    assert alone.shape[1] == width
    np.testing.assert_array_equal(header[:, left : left + width], alone[:14])


@pytest.mark.parametrize(
  ('label', 'lines'),
  [
    (
      'kernels/of/the/summer/holiday_at_the_lake.npy: edsr-small-x2',
      ['kernels/of/the/summer/holiday_', 'at_the_lake.npy: edsr-small-x2'],
    ),
    ('', []),
  ],
)
def test_long_labels_wrap_after_punctuation(label, lines):
  _, found = strips._cell(24, label)
  assert found == lines


def test_words_without_punctuation_wrap_anywhere():
  width, lines = strips._cell(24, 'W' * 60)
  assert ''.join(lines) == 'W' * 60
  assert len(lines) > 2
  assert width <= 160

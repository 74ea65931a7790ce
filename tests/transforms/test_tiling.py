"""Windows, shared shapes and memory."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from scipy import ndimage

from sr_jax.transforms import tiling


@hypothesis.given(
  size=st.integers(1, 300), halo=st.integers(0, 20), extra=st.integers(1, 50)
)
def test_windows_make_up_the_axis(size, halo, extra):
  tile = 2 * halo + extra
  found = tiling.windows(size, tile, halo)
  kept = [range(w.keep_from, w.keep_to) for w in found]
  assert [i for part in kept for i in part] == list(range(size))
  for w in found:
    assert w.stop - w.start == min(size, tile)
    assert w.start == 0 or w.keep_from - w.start >= halo
    assert w.stop == size or w.stop - w.keep_to == halo


def test_windows_without_an_inside_are_refused():
  with pytest.raises(ValueError, match='tile 8 leaves nothing'):
    tiling.windows(20, tile=8, halo=4)


def blur_and_repeat(image, radius, scale):
  """A local model of zero padding and a known radius."""
  taps = np.arange(1.0, (2 * radius + 1) ** 2 + 1)
  taps = taps.reshape(2 * radius + 1, -1, 1)
  blurred = ndimage.correlate(image, taps, mode='constant')
  return blurred.repeat(scale, 0).repeat(scale, 1)


@hypothesis.given(
  height=st.integers(1, 40),
  width=st.integers(1, 40),
  radius=st.integers(0, 3),
  scale=st.integers(1, 4),
  extra=st.integers(1, 20),
)
def test_tiled_equals_untiled(height, width, radius, scale, extra):
  image = np.random.default_rng(0).random((height, width, 2))
  shapes = set()

  def predict(part):
    shapes.add(part.shape)
    return blur_and_repeat(part, radius, scale)

  tile = 2 * radius + extra
  run = tiling.tiled(predict, scale=scale, halo=radius, tile=tile)
  np.testing.assert_array_equal(
    run(image), blur_and_repeat(image, radius, scale)
  )
  assert shapes == {(min(height, tile), min(width, tile), 2)}


@hypothesis.given(
  size=st.integers(1, 300),
  halo=st.integers(0, 20),
  cell=st.integers(1, 4),
  extra=st.integers(0, 50),
)
def test_windows_keep_to_cells(size, halo, cell, extra):
  tile = 2 * halo + 2 * cell - 1 + extra
  found = tiling.windows(size, tile, halo, cell)
  kept = [range(w.keep_from, w.keep_to) for w in found]
  assert [i for part in kept for i in part] == list(range(size))
  assert len({w.stop - w.start for w in found}) == 1
  for w in found:
    assert 0 <= w.start < w.stop <= size
    assert w.stop - w.start <= tile
    assert w.start % cell == (size - w.stop) % cell == 0
    assert w.start == 0 or w.keep_from - w.start >= halo
    assert w.stop == size or w.stop - w.keep_to >= halo


@hypothesis.given(
  height=st.integers(1, 40), width=st.integers(1, 40), extra=st.integers(0, 9)
)
@hypothesis.settings(deadline=None)
def test_tiles_of_a_model_with_cells(height, width, extra):
  """A model of means of 3x3 cells, smaller at the border."""
  image = np.random.default_rng(0).random((height, width, 2))

  def predict(part):
    out = np.empty_like(part)
    for y in range(0, part.shape[0], 3):
      for x in range(0, part.shape[1], 3):
        cell = part[y : y + 3, x : x + 3]
        out[y : y + 3, x : x + 3] = cell.mean((0, 1))
    return out

  run = tiling.tiled(predict, scale=1, halo=2, tile=9 + extra, cell=3)
  np.testing.assert_array_equal(run(image), predict(image))


def chop_oracle(height, width, row, column, shave, limit):
  """The rectangle (top, left, height, width) from which a pixel is computed."""
  top = left = 0
  while True:
    tall, wide = height // 2 + shave, width // 2 + shave
    if row - top >= height // 2:
      top += height - tall
    if column - left >= width // 2:
      left += width - wide
    height, width = tall, wide
    if height * width < limit:
      return top, left, height, width


@hypothesis.given(
  height=st.integers(6, 40),
  width=st.integers(6, 40),
  scale=st.integers(1, 3),
  limit=st.integers(100, 900),
)
@hypothesis.settings(max_examples=40, deadline=None)
def test_chopped_as_the_test_scripts(height, width, scale, limit):
  """A global model, against the rule for each pixel."""
  image = np.random.default_rng(0).random((1, height, width, 1))
  shapes = set()

  def predict(part):
    shapes.add(part.shape)
    return part.repeat(scale, 1).repeat(scale, 2) + part.mean()

  result = tiling.chopped(predict, scale=scale, shave=3, limit=limit)(image)
  expected = np.empty((height, width))
  for row in range(height):
    for column in range(width):
      top, left, tall, wide = chop_oracle(height, width, row, column, 3, limit)
      seen = image[0, top : top + tall, left : left + wide]
      expected[row, column] = image[0, row, column, 0] + seen.mean()
  expected = expected.repeat(scale, 0).repeat(scale, 1)
  np.testing.assert_allclose(result[0, ..., 0], expected, rtol=1e-12)
  assert len(shapes) == 1


def test_first_chop_is_always_made():
  calls = []
  image = np.zeros((1, 60, 81, 3))
  run = tiling.chopped(lambda part: calls.append(part.shape) or part, scale=1)
  assert run(image).shape == image.shape
  assert calls == 4 * [(1, 40, 50, 3)]


@pytest.mark.parametrize('shape', [(1, 1), (1, 50), (19, 3), (12, 12)])
def test_chopping_images_smaller_than_the_overlap(shape):
  image = np.random.default_rng(0).random((1, *shape, 2))
  run = tiling.chopped(lambda part: part.repeat(2, 1).repeat(2, 2), scale=2)
  np.testing.assert_array_equal(run(image), image.repeat(2, 1).repeat(2, 2))


def test_smaller_halo_shows():
  """The check above can fail."""
  image = np.random.default_rng(0).random((30, 30, 2))
  run = tiling.tiled(
    lambda part: blur_and_repeat(part, 3, 2), scale=2, halo=2, tile=12
  )
  assert np.abs(run(image) - blur_and_repeat(image, 3, 2)).max() > 0.1

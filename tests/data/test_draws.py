"""Crops with more than a flat area in them."""

import math
import operator

import numpy as np
import pytest

from sr_jax.data import draws
from sr_jax.data.batches import BatchSpec, sample
from sr_jax.data.sources import ImageSource
from sr_jax.errors import UserError


def _spec(**overrides):
  options = {'batch_size': 8, 'patch': 8, 'scales': (2,), 'seed': 3}
  return BatchSpec(**{**options, **overrides})


def _source(images):
  return ImageSource(
    names=tuple(f'{i}.png' for i in range(len(images))),
    openers=tuple((lambda image=image: image) for image in images),
  )


def _half_flat():
  image = np.full((64, 64, 3), 90, np.uint8)
  image[:, 40:] = np.random.default_rng(0).integers(0, 256, (64, 24, 3))
  return _source([image])


def test_gradient_of_a_crop_is_that_of_the_released_filter():
  """By hand: rows differ by 2 and columns by 1, so sqrt(4 + 1)."""
  image = (2 * np.arange(5)[:, None] + np.arange(6))[..., None]
  for dtype in (np.uint8, np.uint16, np.float32):
    white = 1.0 if dtype is np.float32 else np.iinfo(dtype).max
    levels = (image * (white / 255)).astype(dtype)
    assert draws.rms_gradient(levels) == pytest.approx(math.sqrt(5), rel=1e-5)


@pytest.mark.parametrize('margins', [(), (3,)])
def test_flat_crops_are_drawn_again(margins):
  source, some = _half_flat(), {'batch_size': 64, 'margins': margins}
  every, _ = sample(source, _spec(**some), 0)
  busy, _ = sample(source, _spec(min_gradient=5.0, **some), 0)
  inside = slice(6, -6) if margins else slice(None)
  cut = operator.itemgetter((slice(None), inside, inside))
  flat = [draws.rms_gradient(crop) < 5 for crop in cut(every['hr'])]
  assert sum(flat) > 10
  assert all(draws.rms_gradient(crop) >= 5 for crop in cut(busy['hr']))
  for is_flat, before, after in zip(flat, every['hr'], busy['hr'], strict=True):
    assert is_flat or (before == after).all()


def test_of_flat_crops_alone_the_busiest_is_taken():
  image = np.full((40, 60, 3), 90, np.uint8)
  image[20, 30] = 91
  batch, _ = sample(
    _source([image]), _spec(min_gradient=50.0, batch_size=32), 0
  )
  plain, _ = sample(_source([image]), _spec(batch_size=32), 0)
  seen = (batch['hr'] == 91).any((1, 2, 3))
  assert seen.sum() > 2 * (plain['hr'] == 91).any((1, 2, 3)).sum()


def test_crops_of_one_pixel_have_no_gradient():
  with pytest.raises(UserError, match='one pixel has no gradient'):
    _spec(patch=1, scales=(1,), min_gradient=1.0)

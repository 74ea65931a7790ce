"""Images that are fitted together have the same results as alone."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax import models
from sr_jax.inference import fitting
from sr_jax.inference.fitting import (
  back_projection_error,
  detailed_window,
  fit_images,
  image_key,
  overshoot,
)
from sr_jax.methods import Assumed, Fitting, zero_shot
from sr_jax.methods._gradient_fit import gradient_fitting
from sr_jax.ops.blur_kernels import gaussian_kernel
from sr_jax.ops.degrade import degrade

KERNEL = gaussian_kernel(1.0, size=5)


def picture(height, width, seed=0):
  """Waves and a little noise, within [0, 1]."""
  rng = np.random.default_rng(seed)
  y, x = np.mgrid[:height, :width][..., None] / 2
  waves = np.sin(y * rng.normal(size=3) + x * rng.normal(size=3))
  noise = 0.05 * rng.random((height, width, 3))
  return (0.5 + 0.4 * waves + noise).clip(0, 1).astype(np.float32)


@functools.cache
def mzsr():
  """The fit of a tiny MZSR, and its initial weights."""
  model = {'name': 'mzsr', 'scale': 2, 'depth': 2, 'features': 4}
  adapt = {'steps': 2, 'rates': (0.1, 0.05)}
  config = {
    'model': model,
    'method': {'name': 'meta_transfer', 'adapt': adapt},
    'degradation': {'name': 'direct'},
  }
  network = models.create(model)
  start = network.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))['params']
  # Noise makes the fit depend on the key as well.
  assumed = Assumed('direct', KERNEL, noise_sigma=5.0)
  fit = gradient_fitting(config, assumed, None)
  return fit, {'generator': start}


@functools.cache
def zssr():
  """The fit of a tiny ZSSR, which takes three steps from random weights."""
  config = {
    'method': {'name': 'zero_shot', 'gradual': False, 'channels': 'together'},
    'model': {'name': 'zssr', 'scale': 2, 'depth': 2, 'features': 4},
  }
  return zero_shot.fitting(config, Assumed(), 3), {}


def distance(a, b):
  """Largest difference of two fits' parameters."""
  differences = jax.tree.map(
    lambda x, y: float(np.abs(np.asarray(x) - np.asarray(y)).max()),
    a.params['generator'],
    b.params['generator'],
  )
  return max(jax.tree.leaves(differences))


@pytest.mark.parametrize(
  'made', [mzsr, pytest.param(zssr, marks=pytest.mark.nightly)]
)
def test_together_as_alone(made):
  fit, params = made()
  sizes = [(12, 14), (10, 12), (12, 14), (14, 12), (12, 14)]
  images = [picture(*size, seed=i) for i, size in enumerate(sizes)]
  together = fit_images(fit, params, images, seed=3)
  assert [one.steps for one in together] == [fitted_steps(made)] * 5
  alone = [fit_images(fit, params, [image], seed=3)[0] for image in images]
  for one, other in zip(together, alone, strict=True):
    assert distance(one, other) < 1e-5
  # Far less than what one image's parameters differ from another's.
  assert distance(together[0], together[2]) > 1e-4
  assert distance(together[0], together[3]) > 1e-4


def fitted_steps(made):
  return 2 if made is mzsr else 3


@pytest.mark.parametrize(
  'made', [mzsr, pytest.param(zssr, marks=pytest.mark.nightly)]
)
def test_more_images_of_one_size_than_one_program_takes(made):
  fit, params = made()
  images = [picture(12, 14, seed=i) for i in range(11)]
  sizes = []

  def watched(params, batch, keys):
    sizes.append(len(batch))
    return fit.fit(params, batch, keys)

  fits = fit_images(fit._replace(fit=watched), params, images, seed=0)
  assert sizes == [8, 3]
  assert len(fits) == 11
  backwards = fit_images(fit, params, images[::-1], seed=0)
  for i in (0, 7, 8, 10):
    assert distance(fits[i], backwards[10 - i]) < 1e-5
  assert distance(fits[7], fits[8]) > 1e-4


def test_another_seed_gives_another_fit():
  for made in (mzsr, zssr):
    fit, params = made()
    images = [picture(12, 14)]
    (one,), (other,) = (fit_images(fit, params, images, s) for s in (0, 1))
    assert distance(one, other) > 1e-6


def test_key_is_of_content_and_seed():
  image = picture(9, 10)

  def numbers(image, seed=0):
    return tuple(np.asarray(jax.random.key_data(image_key(image, seed))))

  assert numbers(image) == numbers(image.copy())
  # The same pixels, laid out otherwise in memory.
  assert numbers(image) == numbers(np.asfortranarray(image))
  changed = image.copy()
  changed[4, 4, 1] += 1e-3
  keys = {
    numbers(image),
    numbers(changed),
    numbers(image[::-1]),
    numbers(image, 1),
    numbers(image, 2**32 - 1),
  }
  assert len(keys) == 5


@pytest.mark.parametrize('corner', [(0, 0), (15, 40), (40, 10), (40, 60)])
def test_window_goes_where_the_detail_is(corner):
  """The corners are multiples of a quarter of the side, 5."""
  image = np.full((60, 80, 3), 0.5, np.float32)
  top, left = corner
  detail = np.random.default_rng(0).random((20, 20, 3), np.float32)
  image[top : top + 20, left : left + 20] = detail
  window = detailed_window(image, 20)
  np.testing.assert_array_equal(window, detail)


@pytest.mark.parametrize(
  ('size', 'expected'),
  [
    ((20, 20), (20, 20)),
    ((7, 9), (7, 9)),
    ((30, 9), (20, 9)),
    ((9, 30), (9, 20)),
    ((21, 300), (20, 20)),
  ],
)
def test_window_is_at_most_as_large_as_allowed(size, expected):
  image = picture(*size)
  window = detailed_window(image, 20)
  assert window.shape == (*expected, 3)
  if size == expected:
    np.testing.assert_array_equal(window, image)


def test_large_images_are_fitted_to_their_window():
  fit, params = mzsr()
  small = fit._replace(side=12)
  image = np.full((30, 40, 3), 0.5, np.float32)
  image[9:21, 24:36] = picture(12, 12)
  (one,) = fit_images(small, params, [image], seed=0)
  (window,) = fit_images(fit, params, [image[9:21, 24:36]], seed=0)
  assert distance(one, window) == 0


def test_no_images():
  assert fitting.fit_images(*mzsr(), [], 0) == []


def test_result_off_its_input_shows_a_wrong_kernel():
  """A kernel that was too wide made the result ring, without a warning."""
  hr = picture(40, 44)
  made = {'scale': 2, 'degradation': 'direct'}
  true, wide = gaussian_kernel(1.0), gaussian_kernel(6.0)
  lr = np.asarray(degrade(None, hr, kernel=true, **made))
  fit = Fitting(
    *(None, None, 0, 64, False, 0), degradation='direct', kernel=true
  )
  assert back_projection_error(fit, lr, hr, 2) < 1e-3
  error = back_projection_error(fit._replace(kernel=wide), lr, hr, 2)
  expected = np.asarray(degrade(None, hr, kernel=wide, **made)) - lr
  assert error == pytest.approx(255 * np.sqrt((expected**2).mean()), rel=1e-4)
  assert error > 1


def test_overshoot_counts_what_lies_beyond_the_neighbours():
  """Enlarging without new values has none; the unit makes no difference."""
  lr = picture(12, 14)
  sr = lr.repeat(2, 0).repeat(2, 1)
  assert overshoot(lr, sr) == 0
  sr[6, 8, 0] = 1.25  # the largest value around is below 1
  above = 1.25 - lr[2:5, 3:6, 0].max()
  sr[3, 3, 1] = -0.5
  below = lr[:3, :3, 1].min() + 0.5
  expected = (above + below) / sr.size / lr.std()
  assert overshoot(lr, sr) == pytest.approx(expected, rel=1e-5)
  assert overshoot(40 * lr, 40 * sr) == pytest.approx(expected, rel=1e-5)
  assert overshoot(np.zeros_like(lr), np.zeros_like(sr)) == 0


def test_overshoot_at_a_scale_that_is_not_whole():
  lr = picture(10, 12)
  assert overshoot(lr, np.full((25, 30, 3), lr.max(), np.float32)) > 0

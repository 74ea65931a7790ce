"""PSNR and SSIM against scikit-image."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from skimage import data
from skimage import metrics as skimage_metrics

from sr_jax.errors import UserError
from sr_jax.metrics.psnr import psnr
from sr_jax.metrics.ssim import ssim

PHOTO = data.astronaut()[100:140, 150:201].astype(np.float64)


def noisy(sigma):
  noise = np.random.default_rng(0).normal(0, sigma, PHOTO.shape)
  return np.clip(PHOTO + noise, 0, 255)


def skimage_ssim(a, b):
  _, similarity = skimage_metrics.structural_similarity(
    a,
    b,
    data_range=255,
    gaussian_weights=True,
    sigma=1.5,
    use_sample_covariance=False,
    channel_axis=-1,
    full=True,
  )
  # scikit-image mirrors the border; the papers take whole windows only.
  return similarity[5:-5, 5:-5].mean()


@pytest.mark.parametrize('sigma', [1.0, 10.0, 60.0])
def test_equals_scikit_image(sigma):
  other = noisy(sigma)
  expected = skimage_metrics.peak_signal_noise_ratio(
    PHOTO, other, data_range=255
  )
  assert psnr(PHOTO, other) == pytest.approx(expected, abs=1e-9)
  assert ssim(PHOTO, other) == pytest.approx(
    skimage_ssim(PHOTO, other), abs=1e-9
  )


def test_peak_sets_the_range():
  other = noisy(10.0)
  small = PHOTO / 255, other / 255
  assert psnr(*small, peak=1.0) == pytest.approx(psnr(PHOTO, other))
  assert ssim(*small, peak=1.0) == pytest.approx(ssim(PHOTO, other))


@pytest.mark.parametrize('xp', [np, jnp])
def test_equal_images(xp):
  image = xp.asarray(PHOTO)
  assert psnr(image, image) == np.inf
  assert float(ssim(image, image)) == pytest.approx(1.0, abs=1e-6)


def test_batches_are_measured_image_by_image():
  a = np.stack([PHOTO, PHOTO])
  b = np.stack([noisy(5.0), noisy(20.0)])
  for metric in (psnr, ssim):
    both = metric(a, b)
    assert both.shape == (2,)
    np.testing.assert_allclose(both[1], metric(a[1], b[1]), rtol=1e-12)


@hypothesis.settings(deadline=None, max_examples=6)
@hypothesis.given(st.integers(11, 16), st.integers(11, 16), st.integers(1, 4))
def test_jax_equals_numpy_and_both_are_symmetric(height, width, channels):
  rng = np.random.default_rng(height * 17 + width)
  a, b = rng.uniform(0, 255, (2, 1, height, width, channels))
  for metric, tolerance in ((psnr, 1e-4), (ssim, 1e-5)):
    host = metric(a, b)
    np.testing.assert_allclose(metric(b, a), host, rtol=1e-12)
    device = jax.jit(metric)(a, b)
    np.testing.assert_allclose(device, host, atol=tolerance)


def test_float32_is_enough_on_a_bright_smooth_image():
  # Variances near zero beside means near 255: the worst case of cancellation.
  a = np.linspace(250, 254, 32 * 32).reshape(32, 32, 1)
  b = a + np.random.default_rng(0).normal(0, 0.5, a.shape)
  device = jax.jit(ssim)(jnp.asarray(a), jnp.asarray(b))
  assert float(device) == pytest.approx(float(ssim(a, b)), abs=2e-5)


def test_ssim_has_a_gradient():
  gradient = jax.jit(jax.grad(ssim))(noisy(10.0), PHOTO)
  assert bool(jnp.isfinite(gradient).all())
  assert float(jnp.abs(gradient).max()) > 0


def test_refusals():
  with pytest.raises(UserError, match='10x20'):
    ssim(np.zeros((10, 20, 1)), np.zeros((10, 20, 1)))
  for metric in (psnr, ssim):
    with pytest.raises(ValueError, match='shapes differ'):
      metric(np.zeros((12, 12, 3)), np.zeros((12, 12, 1)))


# W10: types. Scores of uint16 images were infinite.


@pytest.mark.parametrize('metric', [psnr, ssim])
@pytest.mark.parametrize('on', [np.asarray, jnp.asarray])
def test_integers_have_the_peak_of_their_type(metric, on):
  a, b = PHOTO.astype(np.uint8), noisy(10.0).astype(np.uint8)
  expected = metric(a.astype(np.float64), b.astype(np.float64))
  np.testing.assert_allclose(metric(on(a), on(b)), expected, rtol=1e-5)
  wide = [on(x.astype(np.uint16) * 257) for x in (a, b)]
  np.testing.assert_allclose(metric(*wide), expected, rtol=1e-5)
  # Twelve bits in sixteen: only the caller knows.
  twelve = [x.astype(np.uint16) * 16 for x in (a, b)]
  np.testing.assert_allclose(metric(*twelve, 4080.0), expected, rtol=1e-5)


@pytest.mark.parametrize('metric', [psnr, ssim])
@pytest.mark.parametrize(
  ('first', 'second'),
  [
    ('uint8', 'uint16'),
    ('uint8', 'float32'),
    ('int64', 'int64'),
    ('bool', 'bool'),
  ],
)
def test_types_without_a_common_peak_are_refused(metric, first, second):
  a, b = (np.zeros((16, 16, 3), dtype) for dtype in (first, second))
  with pytest.raises(UserError, match='or say the peak'):
    metric(a, b)


@pytest.mark.parametrize('metric', [psnr, ssim])
def test_shapes_that_are_no_images_are_refused_and_nan_stays(metric):
  with pytest.raises(UserError, match='add the axis of channels'):
    metric(np.zeros((16, 16)), np.zeros((16, 16)))
  broken = PHOTO.copy()
  broken[3, 4, 0] = np.nan
  assert np.isnan(metric(broken, PHOTO))

"""Features of the power spectrum: their symmetries, and what blur does."""

import numpy as np
import pytest

from sr_jax.ops import power_spectrum
from sr_jax.ops.blur_kernels import gaussian_kernel
from sr_jax.ops.degrade import correlate


def _image(height=72, width=96, seed=0):
  """An image whose spectrum falls as that of a photograph, in grey levels."""
  rng = np.random.default_rng(seed)
  radius = np.hypot(
    np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
  )
  noise = np.fft.rfft2(rng.standard_normal((height, width)))
  image = np.fft.irfft2(noise / np.maximum(radius, 0.02), (height, width))
  return 128 + 40 * image / image.std()


def test_flat_images_have_no_power():
  spectra = power_spectrum.patch_spectra(np.full((40, 48), 200.0))
  assert spectra.shape == (2 * 3, 32, 17)
  assert spectra.max() < 1e-6


def test_parseval():
  """The windowed power of white noise is its variance, at every frequency."""
  rng = np.random.default_rng(0)
  spectra = power_spectrum.patch_spectra(rng.normal(0, 5, (600, 600)))
  np.testing.assert_allclose(spectra[..., 2:-1].mean(), 25, rtol=0.02)


def test_flips_and_transposition_are_those_of_the_image():
  image = _image()  # its grid of patches is symmetric
  found = power_spectrum.features(image)
  assert found.shape == power_spectrum.FEATURES
  np.testing.assert_allclose(
    power_spectrum.features(image[:, ::-1]),
    power_spectrum.flipped(found),
    atol=1e-3,
  )
  np.testing.assert_allclose(
    power_spectrum.features(image.T),
    power_spectrum.transposed(found),
    atol=1e-3,
  )


def test_contrast_and_brightness_make_no_difference():
  image = _image()
  np.testing.assert_allclose(
    power_spectrum.features(0.5 * image + 60),
    power_spectrum.features(image),
    atol=0.05,
  )


@pytest.mark.parametrize(('theta', 'across'), [(0.0, 0), (np.pi / 2, 4)])
def test_blur_lowers_the_bands_along_its_direction(theta, across):
  """A Gaussian along x of variance 4 takes (2 pi f)^2 * 4 off the log power."""
  image = _image(160, 160)
  kernel = gaussian_kernel(4.0, 0.01, theta)
  blurred = correlate(image[..., None], kernel)[..., 0]
  sharp, soft = (power_spectrum.features(x)[0] for x in (image, blurred))
  bands = power_spectrum.BANDS
  near, far = (int(np.argmin(np.abs(bands - f))) for f in (0.11, 0.18))
  lost = (sharp - soft)[far] - (sharp - soft)[near]
  expected = 4 * (2 * np.pi) ** 2 * (bands[far] ** 2 - bands[near] ** 2)
  assert abs(lost[across] - expected) < 0.3 * expected
  assert abs(lost[(across + 4) % 8]) < 0.1 * expected


def test_few_patches_are_read_of_a_large_image():
  large = np.broadcast_to(np.arange(4000.0) % 7, (3000, 4000))
  assert len(power_spectrum.patch_spectra(large)) == 1500

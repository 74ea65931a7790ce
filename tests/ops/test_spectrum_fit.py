"""Fits a Gaussian to the spectrum of images with known blur."""

import numpy as np
import pytest

from sr_jax.ops.blur_kernels import gaussian_kernel
from sr_jax.ops.degrade import correlate
from sr_jax.ops.spectrum_fit import fit_gaussian
from tests.ops.test_power_spectrum import _image


@pytest.mark.parametrize('kernel', [(1.0,), (4.0,), (4.0, 1.0, -0.5)], ids=str)
def test_blur_of_an_image_of_a_natural_spectrum(kernel):
  """After direct sampling by 2 the covariance is a quarter of the kernel's."""
  image = _image(400, 400)
  taps = gaussian_kernel(*kernel, size=25)
  lr = correlate(image[..., None], taps)[::2, ::2, 0]
  lr = np.round(lr)
  y, x = np.mgrid[-12:13, -12:13]
  expected = np.array(
    [
      [(taps * x * x).sum(), (taps * x * y).sum()],
      [(taps * x * y).sum(), (taps * y * y).sum()],
    ]
  )
  np.testing.assert_allclose(4 * fit_gaussian(lr), expected, atol=0.3)

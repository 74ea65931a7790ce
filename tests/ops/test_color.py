"""BT.601 colour."""

import jax.numpy as jnp
import numpy as np
import pytest
from skimage import color as skimage_color
from skimage import data

from sr_jax.ops import color


def test_equals_scikit_image():
  image = data.astronaut()[40:60, 200:230] / 255
  expected = skimage_color.rgb2ycbcr(image) / 255
  # scikit-image writes the MATLAB constants with three decimals too.
  np.testing.assert_allclose(color.rgb_to_ycbcr(image), expected, atol=1e-12)
  np.testing.assert_allclose(
    color.rgb_to_y(image), expected[..., :1], atol=1e-12
  )


def test_black_and_white():
  grey = np.stack([np.zeros((1, 1, 3)), np.ones((1, 1, 3))])
  expected = np.array([[16, 128, 128], [235, 128, 128]]) / 255
  np.testing.assert_allclose(
    color.rgb_to_ycbcr(grey)[:, 0, 0], expected, atol=1e-12
  )


@pytest.mark.parametrize('xp', [np, jnp])
def test_inverse_undoes(xp):
  image = xp.asarray(np.random.default_rng(0).random((2, 5, 4, 3), np.float32))
  back = color.ycbcr_to_rgb(color.rgb_to_ycbcr(image))
  np.testing.assert_allclose(back, image, atol=1e-5)


def test_jax_equals_numpy():
  image = np.random.default_rng(0).random((5, 4, 3), np.float32)
  np.testing.assert_allclose(
    color.rgb_to_ycbcr(jnp.asarray(image)), color.rgb_to_ycbcr(image), atol=1e-6
  )


def test_grey_is_the_luminance_of_ntsc():
  """rgb2gray's weights: the first row of the inverse of YIQ to RGB."""
  to_rgb = [[1, 0.956, 0.621], [1, -0.272, -0.647], [1, -1.106, 1.703]]
  image = np.random.default_rng(0).random((5, 4, 3))
  expected = image @ np.linalg.inv(to_rgb)[0]
  found = color.rgb_to_grey(image)
  assert found.shape == (5, 4, 1)
  np.testing.assert_allclose(found[..., 0], expected, atol=1e-12)

"""KernelGAN's choice of patches and its cleaning of kernels."""

import numpy as np
import pytest

from sr_jax.ops import kernel_cleaning, patch_sampling
from sr_jax.ops.blur_kernels import (
  centre_of_mass,
  covariance,
  gaussian_kernel,
)
from tests import kernelgan_goldens


def test_chances_and_corners():
  inputs = kernelgan_goldens.arrays('sampling', 'in')
  outputs = kernelgan_goldens.arrays('sampling', 'out')
  image = inputs['image']
  np.testing.assert_allclose(
    patch_sampling.gradient_map(image), outputs['gradient_map'], atol=1e-12
  )
  large, small = patch_sampling.chances(image, 64, 26)
  np.testing.assert_allclose(large, outputs['prob_g'], atol=1e-12)
  np.testing.assert_allclose(small, outputs['prob_d'], atol=1e-12)
  for side, name in ((64, 'g'), (26, 'd')):
    found = patch_sampling.corners_around(
      inputs['centres'], image.shape[:2], side
    )
    np.testing.assert_array_equal(found, outputs[f'top_left_{name}'])


def test_drawn_corners_follow_the_chances_and_fit():
  chance = np.zeros((90, 80))
  chance[40, 50], chance[33, 40] = 0.75, 0.25
  drawn = patch_sampling.corners(np.random.default_rng(0), chance, 64, 400)
  assert {tuple(corner) for corner in drawn} == {(8, 16), (0, 8)}
  assert (drawn[:, 0] == 8).mean() == pytest.approx(0.75, abs=0.05)


@pytest.mark.parametrize('where', ['stripes', 'border', 'middle'])
def test_every_image_has_places_for_patches(where):
  """Images of one large patch, of stripes, and flat but for their border."""
  image = np.zeros((64, 70, 3))
  if where == 'stripes':
    image[:, ::3] = 1
  elif where == 'border':
    image[:4] = 1
  else:
    image[30:34, 35] = 1
  for chance in patch_sampling.chances(image, 64, 26):
    assert chance.min() >= 0
    np.testing.assert_allclose(chance.sum(), 1)


@pytest.mark.parametrize('name', 'abcd')
def test_kernels_are_cleaned_as_released(name):
  inputs = kernelgan_goldens.arrays('postprocess', 'in')
  outputs = kernelgan_goldens.arrays('postprocess', 'out')
  kept = kernel_cleaning.without_small_taps(inputs[f'k_{name}'])
  np.testing.assert_allclose(kept, outputs[f'zeroize_{name}'], atol=1e-6)
  moved = kernel_cleaning.centred_as_released(kept, 2)
  np.testing.assert_allclose(moved, outputs[f'post_{name}'], atol=1e-6)
  twice = kernel_cleaning.composed_with_itself(moved)
  np.testing.assert_allclose(twice, outputs[f'x4_{name}'], atol=1e-6)


@pytest.mark.parametrize(
  ('name', 'scale'), [('e', 4), ('f', 2), ('g', 3), ('h', 2)]
)
def test_kernels_of_other_sizes_move_as_released(name, scale):
  kernel = kernelgan_goldens.arrays('postprocess', 'in')[f'k_{name}']
  moved = kernel_cleaning.centred_as_released(kernel, scale)
  expected = kernelgan_goldens.arrays('postprocess', 'out')[f'shift_{name}']
  np.testing.assert_allclose(moved, expected, atol=1e-12)


def test_the_kernel_of_x4_stays_centred_with_five_times_the_variance():
  kernel = gaussian_kernel(1.5, 0.6, 0.4, size=17)
  twice = kernel_cleaning.composed_with_itself(kernel)
  np.testing.assert_allclose(centre_of_mass(twice), [16, 16], atol=1e-9)
  np.testing.assert_allclose(
    covariance(twice), 5 * covariance(kernel), rtol=1e-6
  )


def test_kernels_are_centred_on_their_middle_tap():
  kernel = np.zeros((13, 13))
  kernel[4:7, 5:9] = 1 / 12
  moved = kernel_cleaning.centred(kernel, 17)
  assert moved.shape == (17, 17)
  np.testing.assert_allclose(centre_of_mass(moved), [8, 8], atol=1e-9)
  np.testing.assert_allclose(covariance(moved), covariance(kernel), atol=1e-9)
  small = kernel_cleaning.centred(kernel, 3)
  np.testing.assert_allclose(small.sum(), 1)

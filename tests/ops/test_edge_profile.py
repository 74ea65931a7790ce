"""Profiles of edges: their symmetries, and what tells reductions apart."""

import numpy as np
import pytest

from sr_jax.ops import edge_profile
from sr_jax.ops.blur_kernels import gaussian_kernel
from sr_jax.ops.degrade import degrade

# Columns of the statistics of a group of edges.
PART, DIFFERENCES, OVERSHOOTS = 0, slice(1, 7), slice(7, 11)


def _steps(seed=0, side=288):
  """Plateaus of random width and level, upright and lying, in grey levels."""
  rng = np.random.default_rng(seed)
  levels = rng.uniform(0, 255, side)
  starts = np.cumsum(rng.integers(30, 50, side))
  row = levels[np.searchsorted(starts, np.arange(side))]
  return row[None] / 2 + row[::-1][:, None] / 2


def _reduced(how):
  kernel = None if how == 'bicubic' else gaussian_kernel(2.24, size=25)
  return degrade(
    *(None, _steps()[..., None] / 255),
    scale=4,
    degradation=how,
    kernel=kernel,
  )[..., 0]


def test_flips_make_no_difference_and_transposition_exchanges_the_axes():
  image = np.random.default_rng(0).uniform(0, 255, (60, 84))
  found = edge_profile.profiles(image)
  assert found.shape == edge_profile.PROFILES
  for turned in (image[:, ::-1], image[::-1]):
    np.testing.assert_allclose(edge_profile.profiles(turned), found, atol=1e-5)
  np.testing.assert_array_equal(
    edge_profile.profiles(image.T), edge_profile.transposed(found)
  )
  assert np.abs(found[0] - found[1]).max() > 0.01


def test_contrast_and_brightness_make_no_difference():
  image = np.random.default_rng(0).uniform(0, 255, (60, 84))
  np.testing.assert_allclose(
    edge_profile.profiles(60 - 0.5 * image),
    edge_profile.profiles(image),
    atol=1e-4,
  )


def test_one_edge_by_hand():
  """Rows 0 0 0 0 2 12 16 16 16 16: differences 2, 10, 4 around the middle."""
  row = np.array([0, 0, 0, 0, 2, 12, 16, 16, 16, 16], float)
  found, across = edge_profile.profiles(np.tile(row, (50, 1)))
  assert not across.any()
  # The larger neighbour is 0.4 of the steepest: the third group.
  expected = 50 / (50 + 8) * np.array([0, 0, 0.2, 0.4, 0, 0])
  for share in found:
    np.testing.assert_allclose(share[:, PART], [0, 0, 1, 0])
    np.testing.assert_allclose(share[2, DIFFERENCES], expected, atol=1e-6)
    assert not share[[0, 1, 3]][:, 1:].any()
    assert not share[2, OVERSHOOTS].any()


def test_bicubic_reduction_overshoots_and_a_blur_of_its_width_does_not():
  """Their variance is the same."""
  cubic, blur = (
    edge_profile.profiles(_reduced(how))[:, 0] for how in ('bicubic', 'direct')
  )
  assert (cubic[..., OVERSHOOTS].max((1, 2)) > 0.3).all()
  assert not blur[..., OVERSHOOTS].any()


def test_images_without_edges():
  assert not edge_profile.profiles(np.full((40, 40), 7.0)).any()


@pytest.mark.parametrize('shape', [(1200, 1300), (1300, 1200)])
def test_large_images_are_looked_at_in_part(shape):
  """Every second line is enough; both directions count alike."""
  rows = np.sin(np.arange(shape[0]) / 3)[:, None]
  columns = np.sin(np.arange(shape[1]) / 3)[None]
  found = edge_profile.profiles(100 * (rows + columns))
  part = edge_profile.profiles(100 * (rows + columns)[:600, :600])
  np.testing.assert_allclose(found, part, atol=0.05)

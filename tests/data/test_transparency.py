"""The colour of transparent pixels does not affect visible pixels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sr_jax.data import transparency
from sr_jax.data.image_io import Picture, without_hidden_color
from tests.tiny_models import random_image, waves


@settings(max_examples=30, deadline=None)
@given(
  height=st.integers(1, 20), width=st.integers(1, 20), seed=st.integers(0, 99)
)
def test_one_colour_is_spread_over_all_of_an_image(height, width, seed):
  """P1: colours of transparent pixels changed those of visible ones."""
  rng = np.random.default_rng(seed)
  alpha = np.float32(rng.random((height, width, 1)) > 0.8)
  alpha[rng.integers(height), rng.integers(width)] = rng.choice([0.01, 0.5, 1])
  color = np.where(alpha > 0, np.float32([0.2, 0.4, 0.9]), rng.random(3))
  bled = transparency.bleed(color.astype(np.float32), alpha)
  assert bled.dtype == np.float32
  np.testing.assert_allclose(
    bled, np.broadcast_to(np.float32([0.2, 0.4, 0.9]), bled.shape), atol=1e-6
  )


def test_visible_colour_stays_and_hidden_colour_vanishes():
  color = np.float32(waves(24, 20))
  alpha = np.ones((24, 20, 1), np.float32)
  alpha[:, 12:] = 0
  alpha[:, 11] = 0.6
  bled = transparency.bleed(np.where(alpha > 0, color, 5), alpha)
  np.testing.assert_array_equal(bled[:, :12], color[:, :12])
  assert bled.max() <= color.max() + 1e-6
  # Beside the visible part the colour goes on from its edge.
  np.testing.assert_allclose(bled[:, 12], color[:, 11], atol=0.1)


def test_faint_pixels_take_the_colour_of_their_neighbours():
  """The colour of pixels with 1 % opacity is mostly rounding error."""
  color = np.full((8, 8, 1), 0.8, np.float32)
  alpha = np.ones((8, 8, 1), np.float32)
  color[4, 4], alpha[4, 4] = 0, 0.01
  assert transparency.bleed(color, alpha)[4, 4, 0] > 0.7


def test_without_transparency_nothing_is_done():
  color = random_image(6, 7)
  opaque = Picture(color, np.full((6, 7, 1), 0.1, np.float32))
  assert without_hidden_color(opaque).color is color
  assert without_hidden_color(Picture(color)).color is color


def test_a_picture_without_visible_pixel_becomes_black():
  picture = Picture(random_image(5, 3), np.zeros((5, 3, 1), np.float32))
  assert not without_hidden_color(picture).color.any()


def test_straight_colour_of_multiplied_colour():
  color, alpha = random_image(6, 7), random_image(6, 7, 1)
  back = transparency.straighten(color * alpha, alpha)
  np.testing.assert_allclose(back, color, atol=1e-6)
  assert not transparency.straighten(color, 0 * alpha).any()
  assert transparency.straighten(color + alpha, alpha).max() == 1
  assert transparency.straighten(
    np.float32([[[1e-6]]]), np.float32([[[1e-5]]])
  ) == pytest.approx(0.1)

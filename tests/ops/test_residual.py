"""Targets of SRNet's residual-aware task against Pillow and the release."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageChops, ImageFilter

from sr_jax.errors import UserError
from sr_jax.ops.residual import residual_image

GOLDEN = Path(__file__).parents[1] / 'golden'
FILTERS = {
  'bicubic': Image.Resampling.BICUBIC,
  'nearest': Image.Resampling.NEAREST,
}


def _by_pillow(hr, lr, upsampling):
  hr, lr = Image.fromarray(hr), Image.fromarray(lr)
  difference = ImageChops.difference(
    hr, lr.resize(hr.size, FILTERS[upsampling])
  )
  edges = difference.filter(ImageFilter.EDGE_ENHANCE_MORE)
  return np.asarray(edges.filter(ImageFilter.DETAIL)), np.asarray(edges)


def _check(found, expected):
  """At most one level apart, and seldom: Pillow rounds halves up or down."""
  off = np.abs(np.asarray(found, np.float64) * 255 - expected)
  assert off.max() < 1.01
  assert (off > 0.01).mean() < 0.03


@pytest.mark.parametrize('upsampling', FILTERS)
def test_targets_of_the_release(upsampling):
  """The released script makes them from 8-bit files with Pillow."""
  data = np.load(GOLDEN / 'srnet_rat_target.npz')
  expected = data[f'out:diff_{upsampling}'].astype(np.float64)
  hr, lr = (data[f'in:{k}'] / 255 for k in ('hr', 'lr'))
  _check(residual_image(hr, lr, upsampling), expected)
  on_device = jax.jit(residual_image, static_argnums=2)
  _check(on_device(jnp.float32(hr), jnp.float32(lr), upsampling), expected)


@pytest.mark.parametrize('upsampling', FILTERS)
@pytest.mark.parametrize(
  ('size', 'scale'), [((1, 1), 2), ((2, 5), 4), ((30, 41), 3), ((9, 4), 8)]
)
def test_pillow_agrees_but_for_halves(size, scale, upsampling):
  rng = np.random.default_rng(0)
  height, width = size
  lr = rng.integers(0, 256, (height, width, 3), np.uint8)
  hr = rng.integers(0, 256, (scale * height, scale * width, 3), np.uint8)
  expected, edges = _by_pillow(hr, lr, upsampling)
  found = residual_image(hr / 255, lr / 255, upsampling) * 255
  # What DETAIL is before it is rounded, in sixths of a level.
  wide = np.pad(edges.astype(int), ((1, 1), (1, 1), (0, 0)))
  sixths = 10 * wide[1:-1, 1:-1] - sum(
    (wide[:-2, 1:-1], wide[2:, 1:-1], wide[1:-1, :-2], wide[1:-1, 2:])
  )
  unlike = np.abs(found - expected) > 0.01
  assert not unlike[sixths % 6 != 3].any()
  assert np.abs(found - expected).max() < 1.01


def test_batches_and_the_device_agree_with_one_image_on_the_host():
  rng = np.random.default_rng(1)
  lr = np.float32(rng.integers(0, 256, (2, 5, 6, 3)) / 255)
  hr = np.float32(rng.integers(0, 256, (2, 20, 24, 3)) / 255)
  both = jax.jit(residual_image)(hr, lr)
  assert both.dtype == jnp.float32
  for i in range(2):
    np.testing.assert_allclose(both[i], residual_image(hr[i], lr[i]), atol=1e-6)


def test_constant_residuals_stay_and_edges_are_enhanced():
  lr = np.full((4, 4, 1), 0.2)
  hr = np.full((16, 16, 1), 0.6)
  np.testing.assert_allclose(residual_image(hr, lr), 0.4, atol=1e-12)
  hr[8, 8] = 0.8
  enhanced = residual_image(hr, lr)
  # 153 + 51 - 51 = 153 levels, far above white after the filters.
  assert enhanced[8, 8] == 1
  assert enhanced[8, 9] < 0.4


def test_unknown_upsampling_is_refused():
  with pytest.raises(UserError, match=r"config\.method\.upsampling='lanczos'"):
    residual_image(np.zeros((4, 4, 3)), np.zeros((2, 2, 3)), 'lanczos')

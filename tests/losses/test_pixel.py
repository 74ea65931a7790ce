"""Pixel losses."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax.errors import UserError
from sr_jax.losses import pixel

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / 'losses_pixel.npz'

# Golden name (PyTorch: BasicSR, the LapSRN and CrossNet ports), our loss, and
# the elements our mean divides by where theirs sums over them.
CASES = [
  ('l1', pixel.l1, 1),
  ('mse', pixel.l2, 1),
  ('charb_basicsr', lambda a, b: pixel.charbonnier(a, b, 1e-6), 1),
  ('charb_lapsrn', pixel.charbonnier, 2 * 3 * 5 * 6),
  ('charb_crossnet', pixel.charbonnier, 3 * 5 * 6),
  ('charb_crossnet', pixel.charbonnier_sum, 1),
  ('half_mse_vdsr', pixel.euclidean, 1),
]


@pytest.mark.parametrize(('name', 'loss', 'count'), CASES)
def test_equals_pytorch(name, loss, count):
  golden = np.load(GOLDEN)
  a, b = golden['in:a'], golden['in:b']
  assert loss(a, b) * count == pytest.approx(golden[f'out:{name}'], rel=1e-12)
  value, gradient = jax.value_and_grad(loss)(
    jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32)
  )
  np.testing.assert_allclose(value * count, golden[f'out:{name}'], rtol=1e-5)
  np.testing.assert_allclose(
    gradient * count, golden[f'out:{name}_g'], rtol=1e-4, atol=1e-6
  )


def test_low_precision_images_are_compared_in_float32():
  sr = jnp.full((1, 64, 64, 3), 0.5, jnp.bfloat16)
  value = pixel.l1(sr, jnp.full_like(sr, 0.25))
  assert value.dtype == jnp.float32
  assert value == 0.25


def test_refuses_shapes_that_would_broadcast():
  with pytest.raises(ValueError, match='shapes differ'):
    pixel.l1(np.zeros((1, 4, 4, 3)), np.zeros((4, 4, 3)))


@pytest.mark.parametrize('name', ['l1', 'l2', 'charbonnier', 'euclidean'])
@pytest.mark.parametrize('dtype', ['uint8', 'uint16', 'int32'])
def test_whole_levels_are_refused_and_nan_stays(name, dtype):
  """W10: levels of 0..255 were compared with images in [0, 1]."""
  loss = getattr(pixel, name)
  image = np.ones((1, 4, 4, 3), np.float32)
  for pair in ((image, image.astype(dtype)), (image.astype(dtype), image)):
    with pytest.raises(UserError, match=f'not as {dtype}'):
      loss(*pair)
  assert np.isnan(loss(image * np.nan, image))

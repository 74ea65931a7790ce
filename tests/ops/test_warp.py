"""Sampling images between their pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax.ops import warp
from sr_jax.ops.resize import imresize
from tests.golden_files import GOLDEN

sample_cubic = jax.jit(warp.sample_cubic)
IMAGE = np.random.default_rng(0).random((7, 5, 2), np.float32)


def grid(rows, columns):
  """`[R, C, 2]` points of a regular grid."""
  return np.stack(np.meshgrid(rows, columns, indexing='ij'), -1)


def test_exact_on_pixels():
  points = grid(np.arange(7.0), np.arange(5.0)).astype(np.float32)
  np.testing.assert_array_equal(sample_cubic(IMAGE, points), IMAGE)


@pytest.mark.parametrize('shape', [(), (3,), (2, 1, 3)])
def test_points_of_any_shape(shape):
  points = np.random.default_rng(1).uniform(-3, 9, (*shape, 2))
  points = points.astype(np.float32)
  values = sample_cubic(IMAGE, points)
  assert values.shape == (*shape, 2)
  for index in np.ndindex(shape):
    np.testing.assert_allclose(
      values[index], sample_cubic(IMAGE, points[index]), atol=1e-6
    )


def test_border_is_mirrored_with_its_edge_repeated():
  mirrored = np.pad(IMAGE, ((20, 20), (20, 20), (0, 0)), 'symmetric')
  whole = grid(np.arange(-20, 27), np.arange(-20, 25)).astype(np.float32)
  np.testing.assert_array_equal(sample_cubic(IMAGE, whole), mirrored)
  # Between them, as if the image did go on.
  between = np.random.default_rng(2).uniform(-15, 20, (50, 2))
  between = between.astype(np.float32)
  np.testing.assert_allclose(
    sample_cubic(IMAGE, between),
    sample_cubic(mirrored, between + 20),
    atol=2e-5,
  )


@pytest.mark.parametrize('scale', [2, 3, 2.5])
def test_regular_grid_is_a_cubic_enlargement(scale):
  expected = imresize(IMAGE, scale=scale)
  height, width = expected.shape[:2]
  rows, columns = ((np.arange(n) + 0.5) / scale - 0.5 for n in (height, width))
  values = sample_cubic(IMAGE, grid(rows, columns).astype(np.float32))
  np.testing.assert_allclose(values, expected, atol=1e-5)


def test_quadratics_are_reproduced_at_any_point():
  y, x = np.mgrid[:9.0, :9.0]
  image = (0.02 * y * y - 0.03 * x * y + 0.1 * x)[..., None]
  points = np.random.default_rng(3).uniform(2, 6, (40, 2))
  row, column = points.T
  expected = 0.02 * row**2 - 0.03 * row * column + 0.1 * column
  values = sample_cubic(image.astype(np.float32), points.astype(np.float32))
  np.testing.assert_allclose(values[:, 0], expected, atol=2e-6)


def test_gradients_of_image_and_points():
  image, point = jnp.asarray(IMAGE), jnp.asarray([2.3, 1.6])

  def first(image, point):
    return sample_cubic(image, point)[0]

  weights, slope = jax.jit(jax.grad(first, (0, 1)))(image, point)
  # Linear in the image: its gradient holds the weights of the pixels.
  np.testing.assert_allclose(weights.sum(), 1, atol=1e-6)
  np.testing.assert_allclose(
    (weights * image).sum(), first(image, point), atol=1e-6
  )
  for i in range(2):
    step = 1e-2 * np.eye(2, dtype=np.float32)[i]
    ahead, behind = first(image, point + step), first(image, point - step)
    np.testing.assert_allclose(slope[i], (ahead - behind) / 2e-2, atol=2e-3)


def test_warping_of_the_released_code():
  """CrossNet's layer (htzheng/ECCV2018_CrossNet_RefSR 03959f2), NCHW."""
  with np.load(GOLDEN / 'crossnet_warp.npz') as data:
    arrays = {
      k: jnp.asarray(data[k].transpose(0, 2, 3, 1))
      for k in data.files
      if k != 'meta'
    }
  x, flow, w = (arrays[f'in:{name}'] for name in ('x', 'flow', 'w'))
  y, transpose = jax.vjp(warp.warp, x, flow)
  found = dict(
    zip(('y', 'grad_x', 'grad_flow'), (y, *transpose(w)), strict=True)
  )
  for name, ours in found.items():
    expected = arrays[f'out:{name}']
    atol = 1e-6 * np.abs(expected).max()
    np.testing.assert_allclose(ours, expected, atol=atol, err_msg=name)


def test_flows_point_to_where_pixels_come_from():
  image = jnp.asarray(IMAGE)[None]
  flow = jnp.broadcast_to(jnp.array([2.0, 1.0]), (1, 7, 5, 2))  # right, down
  warped = jax.jit(warp.warp)(image, flow)
  np.testing.assert_array_equal(warped[:, :-1, :-2], image[:, 1:, 2:])
  # What is beyond the border is the border.
  np.testing.assert_array_equal(warped[0, -1, -1], IMAGE[-1, -1])


def test_warping_keeps_the_type_and_flows_stay_exact():
  image = jnp.asarray(IMAGE, jnp.bfloat16)[None].repeat(300, 2)
  flow = jnp.full((*image.shape[:3], 2), 0.5)
  warped = warp.warp(image, flow)
  assert warped.dtype == jnp.bfloat16
  exact = warp.warp(image.astype(jnp.float32), flow)
  np.testing.assert_allclose(warped.astype(jnp.float32), exact, atol=0.01)

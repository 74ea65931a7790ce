"""MATLAB's imresize."""

import pathlib

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from sr_jax.errors import UserError
from sr_jax.ops import resize

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden'
h, w, c = np.ogrid[:12, :12, :3]
TEST_IMAGE = ((7 * h + 13 * w + 29 * c) % 32) / 31

sizes = st.integers(1, 70)
scales = st.sampled_from([2, 3, 4, 8, 1 / 2, 1 / 3, 1 / 4, 1 / 8])


@pytest.mark.parametrize(
  'name', ['down_2', 'down_3', 'down_4', 'down_8', 'down_1.5']
)
def test_shrinks_as_basicsr_port_of_matlab(name):
  golden = np.load(GOLDEN / 'ops_matlab_imresize.npz')
  small = resize.imresize(golden['in:x'], scale=1 / float(name[5:]))
  expected = golden[f'out:{name}']
  assert small.shape == expected.shape
  np.testing.assert_allclose(small, expected, atol=1e-6)


@pytest.mark.parametrize('name', ['up_2', 'up_3', 'up_4', 'up_1.5'])
def test_enlarges_as_basicsr_port_of_matlab(name):
  golden = np.load(GOLDEN / 'ops_matlab_imresize.npz')
  large = resize.imresize(golden['in:x'], scale=float(name[3:]))
  expected = golden[f'out:{name}']
  assert large.shape == expected.shape
  # The port forms sample positions of up to 144 px in float32.
  np.testing.assert_allclose(large, expected, atol=5e-6)


@pytest.mark.parametrize('scale', [2, 3, 4, 8])
def test_enlarges_as_pytorch(scale):
  golden = np.load(GOLDEN / 'ops_resize.npz')
  image = golden['in:x'].transpose(0, 2, 3, 1)
  expected = golden[f'out:bicubic_x{scale}'].transpose(0, 2, 3, 1)
  for large in (
    resize.torch_bicubic(image, scale),
    jax.jit(resize.torch_bicubic, static_argnums=1)(image, scale),
  ):
    np.testing.assert_allclose(large, expected, atol=1e-6)


def test_values_of_mzsr_imresize():
  # Computed by MZSR's imresize.py (JWSoh/MZSR, commit 0e214345).
  down = resize.imresize(TEST_IMAGE, scale=0.5)
  assert down.mean() == pytest.approx(0.49820788, abs=1e-8)
  np.testing.assert_allclose(
    down[0, 0], [0.31021609, 0.54824534, 0.45189641], atol=1e-8
  )
  np.testing.assert_allclose(
    down[3, 3], [0.57632938, 0.48387096, 0.56837512], atol=2e-8
  )
  up = resize.imresize(TEST_IMAGE, scale=2)
  np.testing.assert_allclose(
    up[0, 0], [-0.06048387, 1.07762097, 0.98084674], atol=1e-8
  )
  np.testing.assert_allclose(
    up[11, 11], [0.15801411, 0.06123992, 0.73695814], atol=1e-8
  )


@hypothesis.settings(deadline=None)
@hypothesis.given(sizes, scales, st.sampled_from(['cubic', 'linear']))
def test_weights_sum_to_one(size, scale, method):
  out = resize.resized_size(size, scale)
  matrix = resize.resize_matrix(size, out, scale, method=method)
  assert matrix.shape == (out, size)
  np.testing.assert_allclose(matrix.sum(axis=1), 1.0, atol=1e-12)


@hypothesis.settings(deadline=None)
@hypothesis.given(st.integers(16, 70), st.sampled_from([2, 3, 4, 0.5, 1 / 3]))
def test_straight_ramp_stays_straight_inside(size, scale):
  # Keys' cubic reproduces polynomials; the ramp shows the pixel geometry.
  out = resize.resized_size(size, scale)
  ramp = resize.resize_matrix(size, out, scale) @ np.arange(size)
  expected = (np.arange(out) + 0.5) / scale - 0.5
  margin = 2 / min(scale, 1) + 1
  inside = (expected > margin) & (expected < size - 1 - margin)
  tolerance = 1e-9 if scale > 1 else 0.02  # the widened kernel is sampled
  np.testing.assert_allclose(ramp[inside], expected[inside], atol=tolerance)


@hypothesis.settings(deadline=None)
@hypothesis.given(sizes, st.integers(2, 8), st.integers(1, 9))
def test_size_is_the_exact_ceiling(size, numerator, denominator):
  scale = numerator / denominator
  assert resize.resized_size(size, scale) == -(-size * numerator // denominator)


@hypothesis.settings(deadline=None, max_examples=12)
@hypothesis.given(sizes, sizes, scales, st.integers(1, 4))
def test_jax_equals_numpy(height, width, scale, channels):
  rng = np.random.default_rng(height * 71 + width)
  image = rng.random((height, width, channels), np.float32)
  host = resize.imresize(image, scale=scale)
  device = jax.jit(lambda x: resize.imresize(x, scale=scale))(image)
  assert host.dtype == np.float64
  assert device.dtype == jnp.float32
  np.testing.assert_allclose(device, host, atol=1e-5)


def test_shape_sets_the_size_and_scale_the_geometry():
  image = np.random.default_rng(0).random((9, 11, 3))
  by_scale = resize.imresize(image, scale=1 / 2)
  assert by_scale.shape == (5, 6, 3)
  both = resize.imresize(image, scale=1 / 2, shape=(4, 5))
  np.testing.assert_array_equal(both, by_scale[:4, :5])
  by_shape = resize.imresize(image, shape=(18, 33))
  np.testing.assert_allclose(
    by_shape, resize.imresize(image, scale=(2.0, 3.0)), atol=1e-12
  )


def test_antialias_off_samples_the_same_kernel():
  image = np.random.default_rng(0).random((12, 12, 1))
  plain = resize.imresize(image, scale=1 / 3, antialias=False)
  # Shrinking by 3 without a filter lands on every middle pixel.
  np.testing.assert_allclose(plain, image[1::3, 1::3], atol=1e-12)


def test_batches_jit_vmap_and_gradient():
  images = jnp.asarray(
    np.random.default_rng(0).random((2, 7, 9, 3), np.float32)
  )

  def shrink(x):
    return resize.imresize(x, scale=1 / 2)

  batch = shrink(images)
  np.testing.assert_allclose(jax.jit(shrink)(images), batch, atol=1e-6)
  np.testing.assert_allclose(jax.vmap(shrink)(images), batch, atol=1e-6)
  gradient = jax.grad(lambda x: shrink(x).sum())(images)
  # A linear map: the gradient of the sum is the sum of the weights.
  rows = resize.resize_matrix(7, 4, 0.5).sum(axis=0)
  columns = resize.resize_matrix(9, 5, 0.5).sum(axis=0)
  expected = np.broadcast_to(np.outer(rows, columns)[:, :, None], (2, 7, 9, 3))
  np.testing.assert_allclose(gradient, expected, atol=1e-5)


def test_integers_and_bfloat16_are_computed_in_float():
  image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
  expected = resize.imresize(image.astype(np.float64), scale=2)
  np.testing.assert_array_equal(resize.imresize(image, scale=2), expected)
  half = resize.imresize(jnp.asarray(image, jnp.bfloat16), scale=2)
  assert half.dtype == jnp.float32
  np.testing.assert_allclose(half, expected, atol=1e-4)


@pytest.mark.parametrize(
  ('arguments', 'reason'),
  [
    ({'scale': 0.0}, 'positive'),
    ({'scale': float('nan')}, 'positive'),
    ({'shape': (0, 4)}, 'positive'),
    ({'scale': 2, 'shape': (0, 4)}, 'empty'),
  ],
)
def test_refuses_impossible_sizes(arguments, reason):
  with pytest.raises(UserError, match=reason):
    resize.imresize(np.zeros((4, 4, 3)), **arguments)


def test_refuses_what_is_no_image():
  with pytest.raises(UserError, match=r'\(4, 4\)'):
    resize.imresize(np.zeros((4, 4)), scale=2)
  with pytest.raises(UserError, match='cannot resize'):
    resize.imresize(np.zeros((0, 4, 3)), scale=2)
  with pytest.raises(ValueError, match='scale, shape'):
    resize.imresize(np.zeros((4, 4, 3)))


@pytest.mark.parametrize('scale', [2, 3, 4, 2.5, 0.5])
def test_default_offset_maps_the_area(scale):
  image = np.random.default_rng(0).random((9, 11, 2))
  middle = ((scale - 1) / 2,) * 2
  np.testing.assert_array_equal(
    resize.imresize(image, scale=scale, offset=middle),
    resize.imresize(image, scale=scale),
  )


@pytest.mark.parametrize('xp', [np, jnp])
def test_offset_is_where_the_first_pixel_goes(xp):
  image = xp.asarray(np.random.default_rng(0).random((6, 5, 2)), 'float32')
  large = resize.imresize(image, scale=3, offset=(0, 0))
  assert large.shape == (18, 15, 2)
  np.testing.assert_allclose(large[::3, ::3], image, atol=1e-6)
  # Each axis has its own; beyond the border the image goes on mirrored.
  large = resize.imresize(image, scale=3, offset=(2, -1))
  columns = [1, 2, 3, 4, 4]
  np.testing.assert_allclose(large[2::3, 2::3], image[:, columns], atol=1e-6)

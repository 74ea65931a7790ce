"""Degradations from HR to LR."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from scipy import ndimage

from sr_jax.errors import UserError
from sr_jax.ops.blur_kernels import Kernel, align, flip, gaussian_kernel
from sr_jax.ops.degrade import (
  correlate,
  degrade,
  lr_offset,
  quantize,
  reduction_tables,
  sample_indices,
)
from sr_jax.ops.resize import apply_matrices, imresize, resized_size

h, w, c = np.ogrid[:12, :12, :3]
TEST_IMAGE = ((7 * h + 13 * w + 29 * c) % 32) / 31


# Computed by MZSR's imresize.py (JWSoh/MZSR, commit 0e214345) with its g20
# kernel: mean, LR pixel [0, 0], LR pixel [3, 3].
MZSR = {
  'direct': (
    0.49757700,
    [0.33805603, 0.55851842, 0.46225673],
    [0.54838979, 0.47174995, 0.53818745],
  ),
  'blur-bicubic': (
    0.49820788,
    [0.38298451, 0.55020921, 0.45371014],
    [0.53554972, 0.48339150, 0.51709401],
  ),
}


@pytest.mark.parametrize('degradation', MZSR)
@pytest.mark.parametrize('xp', [np, jnp])
def test_values_of_mzsr(degradation, xp):
  mean, first, inner = MZSR[degradation]
  lr = degrade(
    None,
    xp.asarray(TEST_IMAGE),
    scale=2,
    degradation=degradation,
    kernel=gaussian_kernel(2.0),
  )
  tolerance = 2e-8 if xp is np else 1e-6
  np.testing.assert_allclose(lr.mean(), mean, atol=tolerance)
  np.testing.assert_allclose(lr[0, 0], first, atol=tolerance)
  np.testing.assert_allclose(lr[3, 3], inner, atol=tolerance)


def test_bicubic_is_imresize():
  hr = np.random.default_rng(0).random((2, 9, 10, 3))
  np.testing.assert_array_equal(
    degrade(None, hr, scale=3), imresize(hr, scale=1 / 3)
  )


@hypothesis.settings(deadline=None)
@hypothesis.given(st.integers(1, 70), st.integers(1, 8))
def test_sample_indices(size, scale):
  rows = sample_indices(size, scale)
  assert len(rows) == -(-size // scale)
  assert rows[0] == 0
  assert rows[-1] < size
  if size % scale == 0:
    np.testing.assert_array_equal(rows, np.arange(0, size, scale))


def test_uneven_sampling_of_sizes_that_do_not_divide():
  # The indices of the MZSR and ZSSR code.
  np.testing.assert_array_equal(sample_indices(5, 2), [0, 2, 3])
  assert sample_indices(171, 2)[-1] == 169


@hypothesis.settings(deadline=None, max_examples=10)
@hypothesis.given(
  st.integers(1, 12), st.integers(1, 12), st.integers(1, 7), st.integers(1, 7)
)
def test_correlate_equals_scipy_per_channel(height, width, rows, columns):
  rng = np.random.default_rng(0)
  image, kernel = rng.random((2, height, width, 3)), rng.random((rows, columns))
  expected = np.stack(
    [
      [ndimage.correlate(x[..., i], kernel, mode='reflect') for i in range(3)]
      for x in image
    ]
  ).transpose(0, 2, 3, 1)
  np.testing.assert_allclose(correlate(image, kernel), expected, atol=1e-12)
  device = jax.jit(correlate)(image, kernel)
  np.testing.assert_allclose(device, expected, rtol=1e-5, atol=1e-5)


def test_traced_kernel_and_noise_level_per_image():
  hr = jnp.asarray(np.random.default_rng(0).random((3, 8, 8, 3), np.float32))
  variances = jnp.asarray([0.5, 1.0, 2.0])
  sigmas = jnp.zeros(3)
  key = jax.random.key(0)

  def one(image, variance, sigma):
    return degrade(
      key,
      image,
      scale=2,
      degradation='direct',
      kernel=gaussian_kernel(variance),
      noise_sigma=sigma,
    )

  lr = jax.jit(jax.vmap(one))(hr, variances, sigmas)
  assert lr.shape == (3, 4, 4, 3)
  for i, variance in enumerate([0.5, 1.0, 2.0]):
    expected = degrade(
      None,
      np.asarray(hr[i]),
      scale=2,
      degradation='direct',
      kernel=gaussian_kernel(variance),
    )
    np.testing.assert_allclose(lr[i], expected, atol=1e-5)


@pytest.mark.parametrize('xp', [np, jnp])
@pytest.mark.parametrize('key', [7, jax.random.key(7), jax.random.PRNGKey(7)])
def test_noise_is_in_grey_levels_clipped_and_repeatable(xp, key):
  hr = xp.full((128, 128, 3), 0.5)
  lr = degrade(key, hr, scale=2, noise_sigma=10.0)
  assert float(lr.std()) == pytest.approx(10 / 255, rel=0.03)
  assert float(lr.mean()) == pytest.approx(0.5, abs=2e-3)
  again = degrade(key, hr, scale=2, noise_sigma=10.0)
  np.testing.assert_array_equal(lr, again)
  bright = degrade(key, xp.ones((16, 16, 3)), scale=2, noise_sigma=10.0)
  assert bright.max() == 1.0
  assert bright.min() < 1.0


def test_without_noise_nothing_is_clipped_or_rounded():
  hr = np.zeros((8, 8, 1))
  hr[:4] = 1.0
  lr = degrade(None, hr, scale=2)
  assert lr.max() > 1.0
  assert not np.allclose(lr * 255, np.round(lr * 255))


def test_jpeg_comes_last():
  hr = np.random.default_rng(0).random((32, 32, 3))
  lr = degrade(3, hr, scale=2, noise_sigma=5.0, jpeg_quality=50)
  np.testing.assert_allclose(lr * 255, np.round(lr * 255), atol=1e-9)


@pytest.mark.parametrize('xp', [np, jnp])
def test_quantize(xp):
  image = xp.asarray([[-0.1, 0.0, 100.4 / 255], [100.6 / 255, 1.0, 1.2]])
  levels = np.array([[0, 0, 100], [101, 255, 255]])
  np.testing.assert_allclose(quantize(image) * 255, levels, atol=1e-5)


@pytest.mark.parametrize(
  ('arguments', 'reason'),
  [
    ({'degradation': 'nearest'}, 'nearest'),
    ({'degradation': 'direct'}, 'needs a blur kernel'),
    ({'degradation': 'blur-bicubic'}, 'needs a blur kernel'),
    ({'kernel': np.ones((3, 3)) / 9}, 'takes no kernel'),
    ({'scale': 0}, 'scale'),
    ({'noise_sigma': -1.0}, 'noise sigma'),
    ({'jpeg_quality': 0}, 'quality'),
  ],
)
def test_refuses_contradictions(arguments, reason):
  hr = np.zeros((8, 8, 3))
  with pytest.raises(UserError, match=reason):
    degrade(0, hr, **({'scale': 2} | arguments))


def test_noise_without_a_key_is_an_error():
  with pytest.raises(ValueError, match='key'):
    degrade(None, np.zeros((8, 8, 3)), scale=2, noise_sigma=1.0)


TABLE_SCALES = (2.0, 2.2, 3.0, 3.4, 4.0)


@pytest.mark.parametrize('degradation', ['direct', 'blur-bicubic'])
@pytest.mark.parametrize('size', [(16, 16), (13, 24), (64, 5)])
def test_tables_are_the_degradation_enlarged_again(size, degradation):
  hr = np.random.default_rng(0).random((2, *size, 3))
  kernel = gaussian_kernel(3.0, 1.0, 0.4, size=7)
  blurred = correlate(hr, kernel)
  tables = [reduction_tables(n, TABLE_SCALES, degradation) for n in size]
  for i, scale in enumerate(TABLE_SCALES):
    (down_rows, up_rows), (down_columns, up_columns) = (
      (down[i], up[i]) for down, up in tables
    )
    lr = degrade(None, hr, scale=scale, degradation=degradation, kernel=kernel)
    padded = apply_matrices(down_rows, down_columns, blurred)
    np.testing.assert_allclose(
      padded[:, : lr.shape[1], : lr.shape[2]], lr, atol=1e-12
    )
    enlarged = apply_matrices(up_rows, up_columns, padded)
    expected = imresize(lr, scale=scale, shape=size)
    np.testing.assert_allclose(enlarged, expected, atol=1e-12)
    # Noise in the padding has no effect either.
    padded[:, lr.shape[1] :] = padded[:, :, lr.shape[2] :] = 7.0
    again = apply_matrices(up_rows, up_columns, padded)
    np.testing.assert_array_equal(again, enlarged)


def test_tables_choose_a_scale_by_a_traced_index():
  down, up = (
    jnp.asarray(table, jnp.float32)
    for table in reduction_tables(12, TABLE_SCALES, 'direct')
  )
  image = jnp.asarray(TEST_IMAGE, jnp.float32)

  @jax.jit
  def reduced(index):
    small = apply_matrices(down[index], down[index], image)
    return apply_matrices(up[index], up[index], small)

  for i, scale in enumerate(TABLE_SCALES):
    rows = sample_indices(12, scale)
    lr = TEST_IMAGE[rows][:, rows]
    expected = imresize(lr, scale=scale, shape=(12, 12))
    np.testing.assert_allclose(reduced(i), expected, atol=1e-6)


# Where LR pixels lie.


def off_centre_kernel():
  """A skewed kernel whose centre of mass is far from the middle tap."""
  kernel = np.zeros((11, 8))
  kernel[6:10, 1:3] = [[1, 2], [4, 3], [2, 2], [1, 0.5]]
  kernel[2, 6] = -0.3  # as estimated kernels have
  return kernel / kernel.sum()


KERNELS = {
  'odd': gaussian_kernel(1.5, 0.7, 0.4, size=9),
  'large': gaussian_kernel(3.0, 1.0, -0.5, size=21),
  'even': gaussian_kernel(2.0, size=14),
  'off-centre': off_centre_kernel(),
  'mixed': gaussian_kernel(2.0, size=14)[2:11],
}


def blob():
  """A Gaussian `[144, 144, 1]` several pixels wide, and its centre."""
  centre = np.array([70.3, 75.8])
  y, x = np.mgrid[:144, :144]
  image = np.exp(-((y - centre[0]) ** 2 + (x - centre[1]) ** 2) / (2 * 9**2))
  return image[..., None], centre


def centroid(image):
  y, x = np.mgrid[: image.shape[0], : image.shape[1]]
  weights = image[..., 0] / image.sum()
  return np.array([(weights * y).sum(), (weights * x).sum()])


@pytest.mark.parametrize('scale', [2, 3, 4])
@pytest.mark.parametrize('degradation', ['direct', 'blur-bicubic'])
@pytest.mark.parametrize('name', KERNELS)
def test_offset_shows_an_image_where_it_was(name, degradation, scale):
  """For kernels of any size and centre."""
  image, centre = blob()
  kernel = KERNELS[name]
  lr = degrade(None, image, scale=scale, degradation=degradation, kernel=kernel)
  offset = lr_offset(scale, degradation, kernel)
  sr = imresize(lr, scale=scale, offset=offset)
  np.testing.assert_allclose(centroid(sr), centre, atol=1e-3)
  # Without it the image moves by what the offset is off the block's middle.
  moved = centroid(imresize(lr, scale=scale)) - centre
  np.testing.assert_allclose(
    moved, (scale - 1) / 2 - np.array(offset), atol=0.01
  )


@pytest.mark.parametrize('scale', [2, 3, 4])
@pytest.mark.parametrize('name', KERNELS)
def test_kernels_of_zssr_need_no_offset(name, scale):
  image, centre = blob()
  kernel = align(KERNELS[name], to='zssr', frm='mzsr', scale=scale)
  lr = degrade(None, image, scale=scale, degradation='direct', kernel=kernel)
  np.testing.assert_allclose(
    centroid(imresize(lr, scale=scale)), centre, atol=1e-3
  )
  np.testing.assert_allclose(
    lr_offset(scale, 'direct', kernel), (scale - 1) / 2, atol=1e-6
  )


def test_offset_of_no_kernel_and_of_a_convolution_kernel():
  assert lr_offset(3, 'bicubic', None) == (1.0, 1.0)
  taps = off_centre_kernel()
  given = Kernel(flip(taps), 'convolution')
  np.testing.assert_allclose(
    lr_offset(2, 'direct', given), lr_offset(2, 'direct', taps), atol=1e-12
  )


@pytest.mark.parametrize('degradation', ['bicubic', 'direct'])
@pytest.mark.parametrize('scale', [2.37, 1.3])
def test_shape_of_an_image_made_by_a_scale_that_is_not_whole(
  scale, degradation
):
  """LR -> SR -> LR gives the size it began with, which ceil alone does not."""
  kernel = None if degradation == 'bicubic' else gaussian_kernel(1.0, size=5)
  for height in (1, 2, 5, 31):
    lr = np.random.default_rng(0).random((height, 7, 1))
    sr = imresize(lr, scale=scale)
    again = degrade(
      None,
      sr,
      scale=scale,
      degradation=degradation,
      kernel=kernel,
      shape=lr.shape[:2],
    )
    assert again.shape == lr.shape


@pytest.mark.parametrize('scale', [1.2, 2.37, 2.5, 4])
@pytest.mark.parametrize('count', [1, 7, 64])
def test_rows_of_an_enlarged_image_are_found_again(scale, count):
  """Row i of LR lies at s * i, without drift towards the end."""
  size = resized_size(count, scale)
  rows = sample_indices(size, scale, count)
  assert rows.shape == (count,)
  assert rows.max() < size
  assert abs(rows - scale * np.arange(count)).max() <= 0.5

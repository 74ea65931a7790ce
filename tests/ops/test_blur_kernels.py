"""Gaussian kernels, and the alignment of kernels."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from scipy import ndimage

from sr_jax.errors import UserError
from sr_jax.ops import blur_kernels
from sr_jax.ops.degrade import correlate, degrade


def covariance(kernel):
  """Second moments (xx, xy, yy) about the centre of mass."""
  row, column = blur_kernels.centre_of_mass(kernel)
  y, x = np.indices(kernel.shape)
  y, x = y - row, x - column
  return [(kernel * m).sum() for m in (x * x, x * y, y * y)]


def test_isotropic_gaussian_is_the_published_mzsr_kernel():
  # Taps [10, 10], [10, 11], [11, 11] of MZSR's Input/g20/kernel.mat.
  kernel = blur_kernels.gaussian_kernel(2.0)
  assert kernel.shape == (21, 21)
  np.testing.assert_allclose(
    [kernel[10, 10], kernel[10, 11], kernel[11, 11]],
    [0.07957747154595424, 0.0619749971548316, 0.04826617631503094],
    rtol=1e-12,
  )
  assert kernel.sum() == pytest.approx(1.0, abs=1e-15)


def test_anisotropic_gaussian_of_mzsr():
  # Computed by MZSR's gkernel.py: variances 4 and 1, theta -0.5 rad, 15x15.
  kernel = blur_kernels.gaussian_kernel(4.0, 1.0, -0.5, size=15)
  taps = [kernel[7, 7], kernel[7, 9], kernel[9, 7], kernel[5, 9], kernel[9, 9]]
  expected = [0.07957986, 0.03419187, 0.01520363, 0.02308003, 0.00184883]
  np.testing.assert_allclose(taps, expected, atol=5e-9)


@hypothesis.settings(deadline=None)
@hypothesis.given(
  st.floats(1.0, 4.0), st.floats(1.0, 4.0), st.floats(-np.pi, np.pi)
)
def test_gaussian_has_its_covariance(var1, var2, theta):
  kernel = blur_kernels.gaussian_kernel(var1, var2, theta, size=41)
  xx, xy, yy = covariance(kernel)
  c, s = np.cos(theta), np.sin(theta)
  np.testing.assert_allclose(xx, var1 * c * c + var2 * s * s, atol=1e-6)
  np.testing.assert_allclose(yy, var1 * s * s + var2 * c * c, atol=1e-6)
  np.testing.assert_allclose(xy, (var1 - var2) * c * s, atol=1e-6)


def test_gaussian_of_traced_parameters():
  draw = jax.jit(jax.vmap(blur_kernels.gaussian_kernel))
  variances = jnp.asarray([0.2, 2.0, 4.0])
  angles = jnp.asarray([0.0, 1.0, -0.5])
  kernels = draw(variances, variances / 2, angles)
  for kernel, var, theta in zip(
    kernels, [0.2, 2, 4], [0, 1, -0.5], strict=True
  ):
    expected = blur_kernels.gaussian_kernel(var, var / 2, theta)
    np.testing.assert_allclose(kernel, expected, atol=1e-6)


def test_size_follows_a_large_variance():
  assert blur_kernels.gaussian_kernel(4.0, size=None).shape == (21, 21)
  wide = blur_kernels.gaussian_kernel(25.0, 1.0, size=None)
  assert wide.shape == (51, 51)
  assert wide[:, 0].sum() < 1e-6


@pytest.mark.parametrize('shape', [(3, 5), (4, 4), (5, 2)])
def test_flip_turns_correlation_into_convolution(shape):
  rng = np.random.default_rng(0)
  kernel, image = rng.random(shape), rng.random((9, 8))
  correlated = ndimage.correlate(
    image, blur_kernels.flip(kernel), mode='constant'
  )
  convolved = ndimage.convolve(image, kernel, mode='constant')
  np.testing.assert_allclose(correlated, convolved, atol=1e-12)


@hypothesis.settings(deadline=None)
@hypothesis.given(
  st.integers(1, 9),
  st.integers(1, 9),
  st.tuples(st.floats(-4, 4), st.floats(-4, 4)),
  st.integers(0, 2**31),
)
def test_shift_keeps_sum_and_shape(height, width, shift, seed):
  kernel = np.random.default_rng(seed).random((height, width))
  kernel /= kernel.sum()
  moved = blur_kernels.shift_kernel(kernel, shift)
  assert moved.sum() == pytest.approx(1.0, abs=1e-12)
  # Tap K // 2 is the origin on both sides of the padding.
  before = blur_kernels.centre_of_mass(kernel) - np.array(kernel.shape) // 2
  after = blur_kernels.centre_of_mass(moved) - np.array(moved.shape) // 2
  np.testing.assert_allclose(after - before, shift, atol=1e-9)
  np.testing.assert_allclose(covariance(moved), covariance(kernel), atol=1e-9)


def lr_positions(kernel, scale):
  """HR coordinates [rows, columns] of the LR pixels, read off two ramps."""
  n = 24 * scale
  ramps = np.stack(np.mgrid[:n, :n].astype(float), axis=-1)
  lr = degrade(None, ramps, scale=scale, degradation='direct', kernel=kernel)
  # Away from the border, where the ramp is mirrored.
  inside = slice(8, 16)
  steps = scale * np.stack(np.mgrid[inside, inside], axis=-1)
  return (lr[inside, inside] - steps).reshape(-1, 2)


@pytest.mark.parametrize('scale', [2, 3, 4])
@pytest.mark.parametrize('size', [5, 6, 9])
@pytest.mark.parametrize('frm', ['mzsr', 'zssr', 'kair'])
def test_every_family_puts_an_impulse_where_it_should(scale, size, frm):
  impulse = np.zeros((size, size))
  impulse[size // 2, 1] = 1.0
  middle = (scale - 1) / 2
  for to, expected in (('mzsr', 0.0), ('zssr', middle), ('kair', middle)):
    if to == frm:
      continue
    kernel = blur_kernels.align(impulse, to=to, frm=frm, scale=scale)
    assert kernel[1:] == blur_kernels.FAMILIES[to]
    offsets = lr_positions(kernel, scale)
    np.testing.assert_allclose(offsets, expected, atol=1e-3)


@pytest.mark.parametrize('size', [14, 15])
def test_symmetric_kernels_of_either_parity_land_in_the_middle(size):
  offsets = np.arange(size) - (size - 1) / 2
  line = np.exp(-0.25 * offsets**2)
  kernel = np.outer(line, line) / line.sum() ** 2
  aligned = blur_kernels.align(kernel, to='zssr', frm='mzsr', scale=2)
  np.testing.assert_allclose(lr_positions(aligned, 2), 0.5, atol=1e-3)


def test_align_flips_a_lopsided_kernel_once():
  kernel = np.array([[0.0, 0, 0], [0.7, 0.2, 0.1], [0, 0, 0]])
  there = blur_kernels.align(kernel, to='kair', frm='zssr', scale=1)
  back = blur_kernels.align(there.array, to='zssr', frm='kair', scale=1)

  # The mean is centred; the sign of the skewness shows the orientation.
  def skewness(k):
    x = np.arange(k.shape[1]) - blur_kernels.centre_of_mass(k)[1]
    return (k.sum(axis=0) * x**3).sum()

  assert skewness(kernel) > 0
  assert skewness(there.array) == pytest.approx(-skewness(back.array))
  assert skewness(back.array) > 0


def test_convolution_kernel_is_convolved():
  rng = np.random.default_rng(0)
  image, array = rng.random((12, 12, 1)), rng.random((4, 5))
  kernel = blur_kernels.Kernel(array, 'convolution', 'block')
  ours = correlate(image, blur_kernels.correlation_taps(kernel))
  expected = ndimage.convolve(image[..., 0], array, mode='reflect')
  np.testing.assert_allclose(ours[..., 0], expected, atol=1e-12)


@pytest.mark.parametrize(
  ('kernel', 'reason'),
  [
    (np.zeros((3, 3)), 'sums to 0'),
    (np.array([[1.0, -2.0]]), 'sums to -1'),
    (np.full((3, 3), np.nan), 'NaN'),
    (np.array([[1.0, np.inf]]), 'infinite'),
    (np.full((3, 3), 1e308), 'above 1e'),
    (np.ones((3, 3, 2)), r'not of shape \(3, 3, 2\)'),
    (np.ones((3, 3), complex), 'real numbers'),
    ([[1.0], [1.0, 2.0]], 'unequal length'),
    ('box', 'real numbers'),
    (jnp.zeros((3, 3)), 'sums to 0'),
    (blur_kernels.Kernel(np.zeros((3, 3)), 'convolution'), 'sums to 0'),
  ],
)
def test_arrays_that_are_no_kernel_are_refused(kernel, reason):
  """W9: kernels that are no blur gave black images or NaN."""
  with pytest.raises(UserError, match=reason):
    blur_kernels.normalized_kernel(kernel)
  with pytest.raises(UserError, match=reason):
    degrade(
      None, np.ones((8, 8, 1)), scale=2, degradation='direct', kernel=kernel
    )


@pytest.mark.parametrize('xp', [np, jnp])
@pytest.mark.parametrize('shape', [(61, 61), (4, 6)])
def test_arrays_are_normalised(xp, shape):
  """A box of ones made an image 3,721 times as bright (W9)."""
  image = xp.ones((8, 8, 1))
  lr = degrade(
    None, image, scale=2, degradation='direct', kernel=xp.ones(shape)
  )
  assert isinstance(lr, type(image))
  np.testing.assert_allclose(lr, np.ones((4, 4, 1)), rtol=1e-5)
  wrapped = blur_kernels.Kernel(xp.ones(shape), 'convolution', 'block')
  normalized = blur_kernels.normalized_kernel(wrapped)
  assert normalized[1:] == ('convolution', 'block')
  np.testing.assert_allclose(normalized.array, 1 / np.prod(shape))

"""Kernels, blurs, resizes and noise with parameters of their own per image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage, special, stats

from sr_jax.ops import kernel_families, noise, per_image
from sr_jax.ops.blur_kernels import gaussian_kernel
from sr_jax.ops.jpeg import jpeg
from sr_jax.ops.kernel_families import FAMILIES, Blur
from sr_jax.ops.resize import imresize, torch_bicubic

RNG = np.random.default_rng(0)
PLANES = RNG.random((2, 3, 20, 24))
SIZES = np.array([[20, 24], [13, 9]])


def _kernels(*sizes):
  each = [RNG.random((2, n, n)) for n in sizes]
  return [k / k.sum((1, 2), keepdims=True) for k in each]


def _content(planes, image):
  height, width = SIZES[image]
  return planes[image, :, :height, :width]


def test_each_image_is_correlated_with_its_own_kernels():
  """SciPy correlates one image after the other; also the smaller content."""
  kernels = _kernels(7, 3)
  device = jax.jit(per_image.correlate)(
    jnp.asarray(PLANES, jnp.float32), SIZES, kernels
  )
  for i in range(2):
    expected = _content(PLANES, i)
    first = np.stack(
      [ndimage.correlate(x, kernels[0][i], mode='reflect') for x in expected]
    )
    alone = per_image.correlate(PLANES, SIZES, kernels[:1])
    np.testing.assert_allclose(_content(alone, i), first, atol=1e-12)
    # Two kernels: the image is extended once, so only the inner part agrees.
    both = [ndimage.correlate(x, kernels[1][i]) for x in first]
    found = _content(per_image.correlate(PLANES, SIZES, kernels), i)
    inner = np.s_[:, 2:-2, 2:-2]
    np.testing.assert_allclose(found[inner], np.stack(both)[inner], atol=1e-12)
    np.testing.assert_allclose(_content(device, i), found, atol=1e-5)


def test_families_follow_their_formulas():
  names = (
    *('isotropic', 'anisotropic', 'generalised_anisotropic'),
    *('plateau_isotropic', 'sinc', 'none'),
  )
  blur = Blur(
    family=np.array([FAMILIES.index(n) for n in names]),
    taps=np.array([7, 21, 9, 11, 21, 7]),
    sigma_x=np.array([1.0, 2.0, 1.0, 2.0, 1.0, 1.0]),
    sigma_y=np.array([1.0, 0.5, 1.5, 2.0, 1.0, 1.0]),
    angle=np.array([0.0, 0.7, 0.0, 0.0, 0.0, 0.0]),
    beta=np.array([1.0, 1.0, 0.7, 1.5, 1.0, 1.0]),
    cutoff=np.full(6, 0.5),
  )
  found = kernel_families.kernels(blur, 21)
  y, x = np.mgrid[-10:11, -10:11]
  radius = np.hypot(x, y)
  omega = np.pi / 2
  ring = omega / (2 * np.pi * np.maximum(radius, 1e-9))
  expected = [
    gaussian_kernel(1.0, size=21) * (np.maximum(abs(x), abs(y)) <= 3),
    gaussian_kernel(4.0, 0.25, 0.7, size=21),
    np.exp(-0.5 * (x**2 + (y / 1.5) ** 2) ** 0.7)
    * (np.maximum(abs(x), abs(y)) <= 4),
    1 / (1 + (radius / 2) ** 3) * (np.maximum(abs(x), abs(y)) <= 5),
    np.where(
      radius == 0, omega**2 / (4 * np.pi), ring * special.j1(omega * radius)
    ),
    1.0 * (radius == 0),
  ]
  for kernel, one in zip(found, expected, strict=True):
    np.testing.assert_allclose(kernel, one / one.sum(), atol=1e-6)
  assert found[4].min() < 0  # sinc rings
  device = kernel_families.kernels(jax.tree.map(jnp.asarray, blur), 21)
  np.testing.assert_allclose(device, found, atol=1e-5)


def test_every_resize_is_that_of_its_method():
  targets = np.array([[10, 12], [7, 15]])
  sigmas = np.full(2, 1.3)

  def resized(method, planes=PLANES, shape=(10, 15)):
    methods = np.full(2, per_image.METHODS.index(method))
    return per_image.resize(planes, SIZES, targets, methods, sigmas, shape)

  whole = PLANES[0]
  area = resized('area')[0, :, :, :12]
  blocks = whole.reshape(3, 10, 2, 12, 2).mean((2, 4))
  np.testing.assert_allclose(area, blocks, atol=1e-12)
  linear = resized('linear')[0, :, :, :12]
  np.testing.assert_allclose(linear, blocks, atol=1e-12)  # halving averages
  cubic = resized('antialiased')[0, :, 3:-3, 3:9]
  matlab = np.moveaxis(imresize(np.moveaxis(whole, 0, -1), scale=0.5), -1, 0)
  np.testing.assert_allclose(cubic, matlab[:, 3:-3, 3:9], atol=1e-12)
  for method in per_image.METHODS:
    flat = resized(method, np.ones_like(PLANES))
    np.testing.assert_allclose(flat, 1, atol=1e-12)
    # What lies beyond the content has no influence.
    noisy = PLANES.copy()
    noisy[1, :, 13:] = noisy[1, :, :, 9:] = 7
    np.testing.assert_array_equal(resized(method, noisy), resized(method))
    # Rows beyond a target repeat its edge.
    np.testing.assert_array_equal(
      resized(method)[1, :, 7:], resized(method)[1, :, 6:7].repeat(3, 1)
    )


def test_cubic_enlargement_is_pytorchs():
  matrix = per_image.resize_matrices(
    *(np.array([9]), np.array([27]), np.array([2]), np.ones(1)),
    rows=np.arange(27),
    count=9,
  )
  rows = RNG.random((9, 1, 1))
  expected = torch_bicubic(rows.repeat(9, 1), 3)[:, 0]
  np.testing.assert_allclose(matrix[0] @ rows[:, 0], expected, atol=1e-12)


def test_gaussian_sampling_blurs_and_takes_the_middle_of_blocks():
  matrix = per_image.resize_matrices(
    *(np.array([64]), np.array([16]), np.array([per_image.GAUSSIAN])),
    np.array([1.5]),
    rows=np.arange(16),
    count=64,
  )[0]
  inner = matrix[4:-4]
  middle = 4 * np.arange(4, 12) + 1.5
  np.testing.assert_allclose(inner @ np.arange(64), middle, atol=1e-9)
  spread = inner @ np.arange(64) ** 2 - middle**2
  np.testing.assert_allclose(spread, 1.5**2, rtol=1e-3)


def _noise(kind, level, colour, mixing=None):
  return noise.Noise(
    np.array([noise.KINDS.index(kind)]),
    np.array([level]),
    np.array([noise.COLOURS.index(colour)]),
    np.eye(3)[None] if mixing is None else mixing[None],
  )


def _added(each, value=0.5):
  planes = np.full((1, 3, 200, 200), value)
  return noise.add(planes, noise.uniform(RNG, planes.shape), each) - planes


def test_noise_has_its_level_and_its_colour():
  each = _added(_noise('gaussian', 10.0, 'channels'))[0].reshape(3, -1)
  np.testing.assert_allclose(each.std(1) * 255, 10, rtol=0.02)
  assert abs(np.corrcoef(each)[0, 1]) < 0.02
  grey = _added(_noise('gaussian', 10.0, 'grey'))[0]
  np.testing.assert_array_equal(grey[0], grey[2])
  mixing = RNG.random((3, 3))
  mixed = _added(_noise('gaussian', 5.0, 'covariance', mixing))[0]
  covariance = np.cov(mixed.reshape(3, -1)) * 255**2
  np.testing.assert_allclose(covariance, 25 * mixing @ mixing.T, rtol=0.05)
  # Poisson noise grows with the brightness: 256 photons at white.
  for value in (0.1, 0.6):
    poisson = _added(_noise('poisson', 2.0, 'channels'), value)
    assert poisson.std() == pytest.approx(2 * np.sqrt(value / 256), rel=0.03)
  assert not _added(_noise('none', 9.0, 'grey')).any()


@pytest.mark.parametrize('mean', [0, 0.1, 0.8, 1.2, 4, 30, 250])
def test_poisson_numbers(mean):
  u = (np.arange(100_000) + 0.5) / 100_000
  counts = noise.poisson_numbers(u, special.ndtri(u), np.full_like(u, mean))
  values = np.arange(400)
  found = np.searchsorted(np.sort(counts), values, 'right') / len(u)
  np.testing.assert_allclose(found, stats.poisson.cdf(values, mean), atol=0.01)


def test_random_numbers_of_the_device_are_uniform():
  numbers = np.asarray(noise.uniform(jax.random.key(1), (2, 3, 50, 101)))
  assert numbers.shape == (2, 3, 50, 101)
  assert 0 < numbers.min() < 1e-3
  assert 1 - 1e-3 < numbers.max() < 1
  assert stats.kstest(numbers.ravel(), 'uniform').pvalue > 1e-3
  neighbours = np.corrcoef(numbers[..., :-1].ravel(), numbers[..., 1:].ravel())
  assert abs(neighbours[0, 1]) < 0.03


def test_jpeg_quality_of_each_image():
  photos = RNG.random((3, 17, 24, 3))
  qualities = np.array([30, 95, 61])
  batch = jpeg(photos, qualities)
  for photo, quality, found in zip(photos, qualities, batch, strict=True):
    np.testing.assert_allclose(found, jpeg(photo, int(quality)), atol=1e-12)

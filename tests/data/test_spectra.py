"""Spectra and edges of reduced photographs, examples for the blur estimator."""

import dataclasses

import numpy as np
import pytest

from sr_jax.data import spectra
from sr_jax.data.batches import BatchSpec, sample
from sr_jax.data.sources import ImageSource
from sr_jax.ops import edge_profile, power_spectrum
from sr_jax.ops.blur_kernels import gaussian_kernel


def _photo(seed, height=160, width=150):
  rng = np.random.default_rng(seed)
  radius = np.hypot(
    np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
  )
  noise = np.fft.rfft2(rng.standard_normal((height, width)))
  image = np.fft.irfft2(noise / np.maximum(radius, 0.02), (height, width))
  grey = np.clip(128 + 40 * image / image.std(), 0, 255).astype(np.uint8)
  return np.repeat(grey[..., None], 3, axis=2)


def _source(workers=0, per_image=3):
  photos = [_photo(0), _photo(1)]
  images = ImageSource(
    ('a', 'b'), tuple(lambda photo=photo: photo for photo in photos)
  )
  return spectra.make(
    images, scales=(2, 3), per_image=per_image, seed=5, workers=workers
  )


@pytest.fixture(scope='module')
def source():
  return _source()


def test_every_photograph_is_reduced_by_every_scale(source):
  assert len(source) == 2 * 2 * 3
  assert source.stacked.features.shape == (12, *power_spectrum.FEATURES)
  assert source.stacked.edges.shape == (12, *edge_profile.PROFILES)
  for seen in (source.stacked.features, source.stacked.edges):
    assert np.isfinite(seen.astype(np.float32)).all()
  assert sorted(set(source.stacked.scale)) == [2, 3]


def test_threads_make_no_difference(source):
  again = _source(workers=3)
  for ours, theirs in zip(source.stacked, again.stacked, strict=True):
    np.testing.assert_array_equal(ours, theirs)
  assert again.digest() == source.digest()


def test_batches_turn_features_and_kernels_alike(source):
  """A turned example has the features and the kernel of a turned image."""
  spec = BatchSpec(batch_size=64, patch=36, scales=(2, 3), seed=0)
  batch, _ = sample(source, spec, 0)
  known = source.stacked
  seen = set()
  fields = (batch[name] for name in ('features', 'root', 'edges'))
  for features, root, edges in zip(*fields, strict=True):
    for turned in range(2):
      for flipped in range(2):
        values, expected = known.features, known.root
        if flipped:
          values, expected = (
            power_spectrum.flipped(values),
            expected * [1, -1, 1],
          )
        if turned:
          values = power_spectrum.transposed(values)
          expected = expected[:, ::-1]
        same = (values == features).all((1, 2, 3))
        if same.any():
          np.testing.assert_allclose(expected[same][0], root)
          profile = known.edges[same][0]
          if turned:
            profile = edge_profile.transposed(profile)
          np.testing.assert_array_equal(profile, edges)
          seen.add((turned, flipped))
  assert len(seen) == 4


def test_covariance_is_that_of_the_kernel():
  """`gaussian:4,1,-0.5` has this covariance, x to the right before y down."""
  kernel = np.asarray(gaussian_kernel(4.0, 1.0, -0.5, size=31))
  y, x = np.mgrid[-15:16, -15:16]
  moments = [[(kernel * a * b).sum() for b in (x, y)] for a in (x, y)]
  covariance = spectra.covariance(4.0, 1.0, -0.5)
  np.testing.assert_allclose(covariance, moments, atol=1e-3)
  xx, xy, yy = spectra.root_of(covariance)
  root = np.array([[xx, xy], [xy, yy]])
  np.testing.assert_allclose(root @ root, covariance)


def _moments(kernel):
  reach = len(kernel) // 2
  y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
  assert kernel.sum() == pytest.approx(1)
  return [(kernel * a * b).sum() for a, b in ((x, x), (x, y), (y, y))]


def test_kernels_that_are_no_gaussians():
  """The variance of a line of length L is L^2 / 12, of a disk R^2 / 4."""
  xx, xy, yy = _moments(spectra.motion_kernel(12.0, 0.0))
  assert xx == pytest.approx(12, rel=0.05)
  assert xy == pytest.approx(0, abs=1e-9)
  assert yy < 0.3
  xx, xy, yy = _moments(spectra.motion_kernel(12.0, np.pi / 4))
  assert xy == pytest.approx(6, rel=0.1)
  xx, xy, yy = _moments(spectra.defocus_kernel(6.0))
  assert xx == pytest.approx(9, rel=0.05)
  assert yy == pytest.approx(xx)


def test_rows_of_a_batch_are_drawn_alike_by_every_process(source):
  spec = BatchSpec(batch_size=8, patch=36, scales=(2, 3), seed=3)
  whole, _ = sample(source, spec, 5)
  part = dataclasses.replace(spec, process_index=1, process_count=2)
  half, _ = sample(source, part, 5)
  for key, values in half.items():
    np.testing.assert_array_equal(values, whole[key][4:])
    one = source.example(spec.draw(5, 6, 2))[key]
    np.testing.assert_array_equal(one, whole[key][6])
  other, _ = sample(source, spec, 6)
  assert (other['features'] != whole['features']).any()

"""NIQE against a block by block NumPy version, and known mistakes of ports.

That version gives the figures that are known of the authors' parameters, which
are not the package's to carry: 62.348155 for `random_image`, 11.218624 for
`smooth_image`.
"""

from __future__ import annotations

import io
import tracemalloc
import zipfile

import numpy as np
import pytest
import scipy.io
from skimage import data

from sr_jax.errors import UserError
from sr_jax.metrics import niqe
from tests.metrics import niqe_oracle as oracle

PRISTINE = niqe.own_pristine()


def flat_patch():
  image = oracle.smooth_image()
  image[40:140, 60:210] = 128
  return image


def test_images_are_those_of_the_known_figures():
  image = oracle.random_image()
  assert image[0, :6].tolist() == [220, 4, 101, 170, 31, 173]
  assert image.sum() == 7051792
  smooth = oracle.smooth_image()
  assert smooth[0, :4].tolist() == [161, 150, 116, 103]
  assert smooth.sum() == 7051978


@pytest.mark.parametrize(
  'image', [oracle.random_image, oracle.smooth_image, flat_patch]
)
def test_equals_numpy(image):
  expected = oracle.niqe(image(), *PRISTINE)
  assert float(niqe.niqe(image(), PRISTINE)) == pytest.approx(
    expected, rel=1e-9
  )


@pytest.mark.parametrize(
  'wrong',
  [
    {'half': 'no antialias'},
    {'half': 'mean'},
    {'half': 'decimated'},
    {'half': 'rounded'},
    {'border': 'reflect'},
    {'border': 'mirror'},
    {'border': 'constant'},
    {'ddof': 0},
    {'snap': 0},
  ],
  ids=str,
)
def test_every_known_mistake_would_show(wrong):
  image = flat_patch() if 'snap' in wrong else oracle.smooth_image()
  score = float(niqe.niqe(image, PRISTINE))
  assert score == pytest.approx(oracle.niqe(image, *PRISTINE), rel=1e-9)
  assert abs(score - oracle.niqe(image, *PRISTINE, **wrong)) > 1e-3


def test_features_and_sharpness_of_blocks():
  image = oracle.smooth_image()
  expected, sharp = oracle.features(image)
  found, sharpness = niqe.features(image[None])
  np.testing.assert_allclose(found[0], expected, rtol=1e-9, atol=1e-12)
  np.testing.assert_allclose(sharpness[0], sharp, rtol=1e-9)


def test_batches_and_what_is_beyond_the_last_block():
  first, second = oracle.smooth_image(), oracle.random_image()
  both = niqe.niqe(np.stack([first, second]), PRISTINE)
  assert both.shape == (2,)
  wider = np.pad(first, ((0, 95), (0, 60)))
  for score, image in ((both[0], wider), (both[1], second)):
    np.testing.assert_allclose(score, niqe.niqe(image, PRISTINE), rtol=1e-12)


def test_sizes_share_one_program():
  before = niqe._block_features._cache_size()
  image = oracle.random_image()
  for part in (image, image[:96], image[:, :96], np.tile(image, (2, 2))):
    niqe.niqe(part, PRISTINE)
  assert niqe._block_features._cache_size() <= max(before, 1)


def test_blocks_without_detail_do_not_enter_the_covariance():
  image = np.concatenate([oracle.smooth_image(), np.full((96, 288), 7.0)])
  found, _ = niqe.features(image[None])
  assert np.isnan(found[0, 6:]).any(axis=1).all()
  assert not np.isnan(found[0, :6]).any()
  expected = oracle.niqe(image, *PRISTINE)
  assert float(niqe.niqe(image, PRISTINE)) == pytest.approx(expected, rel=1e-9)


def test_photographs_score_better_than_noise_and_blur():
  photo = data.camera().astype(np.float64)[:384, :384]
  noise = np.random.default_rng(0).normal(0, 25, photo.shape)
  blurred = oracle.ndimage.gaussian_filter(photo, 2.5)
  noisy = np.round(np.clip(photo + noise, 0, 255))
  scores = niqe.niqe(np.stack([photo, noisy, np.round(blurred)]), PRISTINE)
  assert scores[0] < 5 < scores[1:].min()


@pytest.mark.parametrize(
  ('size', 'words'),
  [((95, 400), '95x400'), ((96, 191), '96x191'), ((150, 150), '150x150')],
)
def test_small_images(size, words):
  with pytest.raises(UserError, match=f'2 blocks of 96x96.*has {words}'):
    niqe.niqe(np.zeros(size), PRISTINE)


def test_flat_images():
  with pytest.raises(UserError, match='2 of 2 here are flat'):
    niqe.niqe(np.full((96, 192), 9.0), PRISTINE)
  half_flat = np.full((96, 192), 9.0)
  half_flat[:, :96] = oracle.random_image()[:96, :96]
  with pytest.raises(UserError, match='1 of 2 here are flat'):
    niqe.niqe(half_flat, PRISTINE)


def test_fit_takes_the_sharp_blocks_of_each_image():
  rng = np.random.default_rng(0)
  images = []
  for amplitude in (10, 60):
    image = rng.normal(128, amplitude, (480, 480))
    image[:, :288] = oracle.ndimage.gaussian_filter(image[:, :288], 1.5)
    images.append(np.round(image.clip(0, 255)))
  with pytest.raises(UserError, match='have 20: give more'):
    niqe.fit_pristine(images)
  images = [*images, *(x.T for x in images)]
  fitted = niqe.fit_pristine(images)
  rows = []
  for image in images:
    found, sharpness = oracle.features(image)
    assert 5 < (sharpness > 0.75 * sharpness.max()).sum() < 15
    rows.append(found[sharpness > 0.75 * sharpness.max()])
  rows = np.concatenate(rows)
  np.testing.assert_allclose(fitted.mean, rows.mean(axis=0), rtol=1e-9)
  np.testing.assert_allclose(
    fitted.covariance, np.cov(rows, rowvar=False), rtol=1e-6, atol=1e-12
  )


def test_files_of_parameters(tmp_path):
  ours, theirs = tmp_path / 'ours.npz', tmp_path / 'modelparameters.mat'
  niqe.write_pristine(ours, PRISTINE)
  scipy.io.savemat(
    theirs,
    {
      'mu_prisparam': PRISTINE.mean[None],
      'cov_prisparam': PRISTINE.covariance,
    },
  )
  for path in (ours, theirs):
    read = niqe.read_pristine(path)
    np.testing.assert_array_equal(read.mean, PRISTINE.mean)
    np.testing.assert_array_equal(read.covariance, PRISTINE.covariance)
    assert read.source == PRISTINE.source
  other = PRISTINE._replace(mean=PRISTINE.mean + 1)
  assert PRISTINE.source.startswith('of sr_jax (')
  assert other.source.startswith('other (')
  assert other.source != PRISTINE._replace(mean=PRISTINE.mean + 2).source


def test_bad_files_of_parameters(tmp_path):
  missing = tmp_path / 'modelparameters.mat'
  with pytest.raises(UserError, match=r'No such file.*fit-niqe'):
    niqe.read_pristine(missing)
  scipy.io.savemat(missing, {'net': np.zeros(3)})
  damaged = missing.read_bytes()[:150]
  for name, content in {
    'text.npz': b'no numbers',
    'cut.mat': damaged,
    'other.mat': missing.read_bytes(),
    'large.npz': bytes(2 << 20),
  }.items():
    bad = tmp_path / name
    bad.write_bytes(content)
    with pytest.raises(UserError, match=f'{name}: holds no NIQE parameters'):
      niqe.read_pristine(bad)
  shapes = {
    'short': (np.zeros(35), np.eye(36)),
    'square': (np.zeros(36), np.eye(35)),
    'nan': (np.zeros(36), np.full((36, 36), np.nan)),
  }
  for name, arrays in shapes.items():
    niqe.write_pristine(tmp_path / f'{name}.npz', niqe.Pristine(*arrays))
    with pytest.raises(UserError, match=name):
      niqe.read_pristine(tmp_path / f'{name}.npz')


def _zip(path, name, data, **facts):
  """An archive of one member; `facts` are its declared sizes."""
  with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
    archive.writestr(name, data)
    for key, value in facts.items():
      setattr(archive.getinfo(name), key, value)


@pytest.mark.nightly
def test_files_that_unpack_to_far_more_than_parameters(tmp_path):
  """W3: a file of NIQE parameters of 0.8 MB took 1.2 GiB of memory."""
  zeros = np.zeros((4096, 4096))
  buffer = io.BytesIO()
  np.save(buffer, zeros)
  member = 'mu_pris_param.npy'
  _zip(tmp_path / 'bomb.npz', member, buffer.getvalue())
  _zip(tmp_path / 'lies.npz', member, buffer.getvalue(), file_size=400)
  with zipfile.ZipFile(tmp_path / 'lzma.npz', 'w', zipfile.ZIP_LZMA) as file:
    file.writestr(member, buffer.getvalue())
  scipy.io.savemat(
    tmp_path / 'bomb.mat', {'mu_prisparam': zeros}, do_compression=True
  )
  header = buffer.getvalue()[:8] + b'\x76\x00' + b'(' * 118
  _zip(tmp_path / 'header.npz', member, header)
  for path in tmp_path.iterdir():
    assert path.stat().st_size < 1 << 20
    tracemalloc.start()
    with pytest.raises(UserError, match=f'{path.name}: holds no NIQE') as error:
      niqe.read_pristine(path)
    assert tracemalloc.get_traced_memory()[1] < 2**24, path
    tracemalloc.stop()
    assert '\n' not in str(error.value)


def test_pixels_that_are_not_finite_are_refused():
  """W10: blocks with NaN were left out of the score without a warning."""
  levels = np.random.default_rng(0).integers(0, 256, (96, 192)).astype(float)
  levels[5, 5] = np.nan
  with pytest.raises(UserError, match='not finite'):
    niqe.niqe(levels, niqe.own_pristine())

"""Networks with zero padding leave no trace at the borders of images.

Convolutions that pad with zeros take what lies beyond an image for black:
corners of a flat white image came out 40 levels too dark (P2).
"""

import jax
import numpy as np
import pytest

import sr_jax
from sr_jax import models
from sr_jax.data.image_io import Picture, write_image
from sr_jax.evaluation.benchmark import evaluate_folder
from sr_jax.inference import loading
from sr_jax.inference.automatic import upscale
from sr_jax.inference.options import UpscaleOptions
from sr_jax.inference.upscaler import Upscaler
from sr_jax.metrics.protocol import PROTOCOLS, get_protocol
from sr_jax.ops.resize import imresize
from tests.nightly import nightly_of
from tests.tiny_models import random_image, tiny

# Small networks of all kinds: local, luma alone, transposed convolutions, and
# of global statistics.
NETWORKS = {
  'edsr': {'blocks': 2, 'features': 4},
  'vdsr': {'depth': 3, 'features': 4},
  'lapsrn': {'depth': 2, 'features': 4},
  'rcan': {'groups': 1, 'blocks': 1, 'features': 4, 'reduction': 1},
}


def untrained(name, scale=2):
  config = {
    'method': {'name': 'supervised'},
    'model': {'name': name, 'scale': scale, **NETWORKS[name]},
  }
  network = models.create(config['model'])
  channels = 1 if network.luma else 3
  init = jax.jit(network.init)
  params = init(jax.random.key(0), np.ones((1, 8, 8, channels)))['params']
  return loading.from_params(config, {'generator': params}, name=name)


def deviation(sr, value):
  """Largest difference from a flat image, in levels of 8 bit."""
  return np.abs(sr * 255.0 - value).max()


@pytest.mark.parametrize('size', [(48, 48), (1, 1), (2, 5)])
@pytest.mark.parametrize('value', [255, 128, 0])
def test_flat_images_stay_flat_with_the_default_model(size, value):
  """P2: images smaller than the receptive radius keep their level too."""
  model = sr_jax.load('edsr-small-x2')
  image = np.full((*size, 3), value, np.uint8)
  assert deviation(sr_jax.upscale(model, image), value) <= 2
  if size == (48, 48) and value == 255:
    bare = Upscaler(model, UpscaleOptions(mirror_border=False))(image)
    assert deviation(bare, value) > 40


@pytest.mark.nightly
@pytest.mark.parametrize('name', ['mzsr-x2', 'mzsr-x4', 'mzsr-bicubic-x2'])
def test_flat_images_stay_flat_with_fitted_models(name):
  """P2: models that adapt to the image keep the level of its borders too."""
  model = sr_jax.load(name)
  image = np.full((48, 48, 3), 255, np.uint8)
  sr = sr_jax.upscale(model, image, kernel='gaussian:2.0')
  assert deviation(sr, 255) <= 2


@pytest.mark.parametrize('name', nightly_of(NETWORKS, ['rcan']))
def test_border_pixels_are_as_those_inside(name):
  """P2: all cells of SR pixels of a flat image equal the one in the middle."""
  model = untrained(name)
  image = np.full((12, 10, 3), 0.7, np.float32)
  sr = upscale(model, image).reshape(12, 2, 10, 2, 3)
  middle = sr[6:7, :, 5:6]
  assert np.abs(sr - middle).max() < 1e-5
  bare = Upscaler(model, UpscaleOptions(mirror_border=False))(image).reshape(
    sr.shape
  )
  assert np.abs(bare - bare[6:7, :, 5:6]).max() > 1e-3


def test_bicubic_is_unchanged():
  """MATLAB's resize mirrors by itself: the baseline of every table stays."""
  image = random_image(9, 7)
  expected = np.float32(imresize(image, scale=3).clip(0, 1))
  sr = upscale(loading.load('bicubic', scale=3), image)
  np.testing.assert_array_equal(sr, expected)


@pytest.mark.nightly
def test_the_inside_is_unchanged_at_a_scale_that_is_not_whole():
  """The border is a whole number of SR pixels, so the image does not move."""
  config = {
    'method': {'name': 'supervised'},
    'model': {
      'name': 'metasr',
      'scale': 2.5,
      'blocks': 1,
      'features': 4,
      'layers': 1,
      'growth': 4,
    },
  }
  network = models.create(config['model'])
  params = network.init(jax.random.key(0), np.ones((1, 6, 6, 3)))['params']
  model = loading.from_params(config, {'generator': params}, name='real')
  image = random_image(31, 29)
  sr = upscale(model, image)
  bare = Upscaler(model, UpscaleOptions(mirror_border=False))(image)
  assert sr.shape == bare.shape == (78, 73, 3)
  np.testing.assert_allclose(
    sr[30:-30, 30:-30], bare[30:-30, 30:-30], atol=1e-5
  )
  assert np.abs(sr - bare).max() > 1e-3


def test_evaluate_keeps_to_the_published_protocol(tmp_path):
  """Published scores are measured with the networks' own zero padding."""
  hr = np.full((24, 24, 3), 1, np.float32)
  write_image(tmp_path / 'white.png', Picture(hr))
  model = tiny()
  result = evaluate_folder(
    model, hr_dir=tmp_path, protocols=[get_protocol('rgb', 0)]
  )
  raw = np.asarray(model.predict(model.params, np.ones((1, 12, 12, 3))))[0]
  error = np.mean((np.round(raw.clip(0, 1) * 255) - 255.0) ** 2)
  expected = 10 * np.log10(255**2 / error)
  assert result['mean']['psnr'] == pytest.approx(expected, abs=1e-3)
  assert 'without an added border' in result['protocol']['border']
  assert 'border' in PROTOCOLS['y-uint8'].to_dict()

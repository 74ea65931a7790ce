"""Images of unknown blur: what the estimate of it makes of a model."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax import models
from sr_jax.errors import UserError
from sr_jax.inference import automatic
from sr_jax.inference.automatic import AutomaticKernel, needs_kernel
from sr_jax.inference.blind import KernelEstimate
from sr_jax.inference.loading import from_params, load
from sr_jax.inference.options import UpscaleOptions
from sr_jax.inference.upscaler import Upscaler
from sr_jax.ops.resize import imresize
from tests.tiny_models import waves

BLURRED = KernelEstimate((2.0, 1.0), 0.5, 2, 0.1, {'blurred': 0.9})
CLEAN = dataclasses.replace(BLURRED, origins={'blurred': 0.1})


def mzsr(scale=2, degradation='direct'):
  config = {
    'model': {'name': 'mzsr', 'scale': scale, 'depth': 2, 'features': 4},
    'method': {
      'name': 'meta_transfer',
      'adapt': {'steps': 1, 'rates': (0.01,)},
    },
    'degradation': {'name': degradation},
  }
  network = models.create(config['model'])
  params = network.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))['params']
  return from_params(config, {'generator': params}, name='tiny')


@pytest.fixture
def image():
  return waves(24, 20, 3, seed=0).clip(0, 1).astype(np.float32)


def prepared(monkeypatch, model, estimate, image, **options):
  monkeypatch.setattr(
    automatic, 'estimate_kernel', lambda *args, **kwargs: estimate
  )
  return AutomaticKernel(model, UpscaleOptions(**options)).prepare(image)


def test_blurred_images_get_their_estimated_kernel(monkeypatch, image):
  one = prepared(monkeypatch, mzsr(), BLURRED, image)
  assert one.upscaler.model.name == 'tiny'
  np.testing.assert_allclose(one.upscaler.fitting.kernel, BLURRED.kernel)
  assert one.line == (
    'kernel gaussian:2.000,1.000,0.500, an estimate, widths within about'
    ' 0.10: override it by kernel=SPEC'
  )
  # Another estimate needs no other program.
  other = dataclasses.replace(BLURRED, variances=(7.0, 0.2))
  again = prepared(monkeypatch, mzsr(), other, image)
  assert again.upscaler.fitting.kernel.shape == BLURRED.kernel.shape
  assert again.upscaler.fitting.fit.func is one.upscaler.fitting.fit.func


def test_blurs_that_no_gaussian_fits_are_named(monkeypatch, image):
  odd = dataclasses.replace(BLURRED, origins={'blurred': 0.2, 'other': 0.7})
  one = prepared(monkeypatch, mzsr(), odd, image)
  assert 'looks like motion or defocus, which no Gaussian fits' in one.line
  np.testing.assert_allclose(one.upscaler.fitting.kernel, BLURRED.kernel)


def test_clean_images_go_to_the_plain_network(monkeypatch, image):
  one = prepared(monkeypatch, mzsr(), CLEAN, image)
  assert one.upscaler.model.name == 'edsr-small-x2'
  assert one.upscaler.fitting is None
  assert 'looks like a clean reduction or an untouched photograph' in one.line
  assert 'gaussian:2.000,1.000,0.500' in one.line
  assert one.line.endswith('override it by kernel=SPEC')


def test_without_a_plain_network_the_result_is_moved(monkeypatch, image):
  """Bicubic reduction puts pixels at the middle of their blocks."""
  model = mzsr(scale=3)
  clean = dataclasses.replace(CLEAN, scale=3)
  one = prepared(monkeypatch, model, clean, image)
  assert 'result moved by 1 pixels' in one.line
  still = Upscaler(model, UpscaleOptions(kernel=clean.kernel))(image)
  moved = one.upscaler(image)
  # By a whole pixel here, which interpolates nothing.
  np.testing.assert_allclose(moved[1:, 1:], still[:-1, :-1], atol=1e-6)
  assert one.upscaler.back_projection_error(image, moved) is None


def test_moving_by_half_a_pixel(monkeypatch, image):
  sr = Upscaler(load('bicubic', scale=2), UpscaleOptions())(image)
  moved = Upscaler(
    load('bicubic', scale=2), UpscaleOptions(block_centred=True)
  )(image)
  expected = imresize(sr, scale=1, offset=(0.5, 0.5)).clip(0, 1)
  np.testing.assert_allclose(moved, expected, atol=1e-6)


def test_models_that_need_no_kernel_go_without(monkeypatch, image):
  zssr = load('zssr', scale=2)
  assert not needs_kernel(zssr, None)
  one = prepared(monkeypatch, zssr, CLEAN, image, adapt_steps=1)
  assert one.upscaler.fitting.kernel is None
  assert 'enlarged without a kernel' in one.line
  one = prepared(monkeypatch, zssr, BLURRED, image, adapt_steps=1)
  np.testing.assert_allclose(one.upscaler.fitting.kernel, BLURRED.kernel)


def test_cubic_reduction_is_no_part_of_the_blur_before_it(monkeypatch, image):
  wide = dataclasses.replace(BLURRED, variances=(4.0, 0.5))
  model = mzsr(degradation='blur-bicubic')
  one = prepared(monkeypatch, model, wide, image)
  taps = one.upscaler.fitting.kernel
  narrower = dataclasses.replace(wide, variances=(4.0 - 0.56, 0.01)).kernel
  np.testing.assert_allclose(taps, narrower, atol=1e-12)


@pytest.mark.parametrize(
  ('model', 'options', 'reason'),
  [
    ('bicubic', {}, 'uses a kernel only for back-projection'),
    ('edsr-small-x2', {}, 'only for back-projection: .* such as mzsr-x2, add'),
    ('zssr-gradual', {}, 'gradual ZSSR needs a kernel for every'),
    ('zssr', {'self_ensemble': True}, 'would rotate the image'),
  ],
)
def test_options_are_refused_before_an_image_is_seen(model, options, reason):
  loaded = load(model, scale=2)
  with pytest.raises(UserError, match=reason) as error:
    AutomaticKernel(loaded, UpscaleOptions(**options))
  assert '\n' not in str(error.value)


def test_kernel_is_needed_only_to_fit():
  assert needs_kernel(mzsr(), None)
  assert needs_kernel(mzsr(), 'auto')
  assert not needs_kernel(mzsr(), 0)
  assert not needs_kernel(load('bicubic', scale=2), None)

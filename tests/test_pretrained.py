"""Every pretrained model of the package enlarges images well."""

import pytest
import skimage.data

import sr_jax
from sr_jax.data.kernel_files import parse_kernel_spec
from sr_jax.inference import loading
from sr_jax.metrics.protocol import PROTOCOLS, measure
from sr_jax.ops.degrade import degrade, quantize
from tests.nightly import first_by_default

# Blurs for the models that fit themselves to one, by their sampling.
KERNELS = {'direct': 'gaussian:2.0', 'blur-bicubic': 'gaussian:1.3'}


def _psnr(sr, hr, scale):
  return measure(sr, hr, protocol=PROTOCOLS['y-uint8'], scale=scale)['psnr']


def test_the_default_of_the_command_line_is_there():
  assert 'edsr-small-x2' in loading.pretrained()


@pytest.mark.parametrize('name', first_by_default(loading.pretrained()))
def test_it_beats_bicubic(name):
  model = sr_jax.load(name)
  scale = model.scale
  kernel, made = None, {}
  if model.fitting:
    sampling = model.config['degradation']['name']
    kernel = KERNELS[sampling]
    made = {'degradation': sampling, 'kernel': parse_kernel_spec(kernel)}
  photo = skimage.data.astronaut()[:240, 120:360] / 255
  lr = quantize(degrade(None, photo, scale=scale, **made))
  sr = sr_jax.upscale(model, lr, kernel=kernel)
  baseline = sr_jax.upscale(loading.load('bicubic', scale=scale), lr)
  assert _psnr(sr, photo, scale) > _psnr(baseline, photo, scale) + 2

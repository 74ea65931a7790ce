"""Every model that comes with the package does its work."""

import pytest
import skimage.data

import sr_jax
from sr_jax import loading
from sr_jax.metrics.protocol import PROTOCOLS, measure
from sr_jax.ops.blur_kernels import parse_kernel_spec
from sr_jax.ops.degrade import degrade, quantize

# What the LR images of a model that fits itself to a blur are made by.
BLUR = {'degradation': 'direct', 'kernel': parse_kernel_spec('gaussian:2.0')}


def _psnr(name, lr, hr, scale):
  model = sr_jax.load(name)
  kernel = 'gaussian:2.0' if model.fitting else None
  sr = sr_jax.upscale(model, lr, kernel=kernel)
  return measure(sr, hr, protocol=PROTOCOLS['y-uint8'], scale=scale)['psnr']


def test_the_default_of_the_command_line_is_there():
  assert 'edsr-small-x2' in loading.pretrained()


@pytest.mark.parametrize('name', loading.pretrained())
def test_it_beats_bicubic(name):
  model = sr_jax.load(name)
  scale = model.scale
  made = BLUR if model.fitting else {}
  photo = skimage.data.astronaut()[:240, 120:360] / 255
  lr = quantize(degrade(None, photo, scale=scale, **made))
  bicubic = loading.load('bicubic', scale=scale)
  baseline = sr_jax.upscale(bicubic, lr)
  floor = measure(baseline, photo, protocol=PROTOCOLS['y-uint8'], scale=scale)[
    'psnr'
  ]
  assert _psnr(name, lr, photo, scale) > floor + 2

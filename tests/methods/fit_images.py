"""Images, kernels and weights for tests of adapting to an image."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from sr_jax import models
from sr_jax.ops.blur_kernels import gaussian_kernel
from tests.tiny_models import waves

RATES = (0.02, 0.01, 0.01, 0.01, 0.005)
KERNEL = gaussian_kernel(2.0, 0.7, 0.4, size=7)


def smooth(height, width, channels=3, *, seed=0):
  """Waves of a few pixels, within [0, 1]."""
  image = waves(height, width, channels, seed=seed)
  return image.clip(0, 1).astype(np.float32)


def off_centre(height=6, width=9):
  kernel = np.random.default_rng(0).random((height, width)) ** 3
  kernel[:, : width // 2] /= 9
  return kernel / kernel.sum()


def meta_config(*, scale=2, degradation='direct', steps=3, rates=RATES):
  return {
    'model': {'name': 'mzsr', 'scale': scale, 'depth': 3, 'features': 4},
    'method': {
      'name': 'meta_transfer',
      'adapt': {'steps': steps, 'rates': rates},
    },
    'degradation': {'name': degradation},
  }


@functools.cache
def meta_weights():
  """Weights of `meta_config`, whatever the scale."""
  network = models.create(meta_config()['model'])
  return network.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))['params']


def fit_alone(fitting, params, image, seed=0):
  """Fits one image; returns its parameters and the number of steps."""
  keys = jax.random.key(seed)[None]
  fitted, report = fitting.fit(params, image[None], keys)
  return jax.tree.map(lambda leaf: leaf[0], fitted), int(report['steps'][0])

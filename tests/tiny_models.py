"""Models and images small enough for tests."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from sr_jax import models
from sr_jax.inference.model import SRModel
from sr_jax.methods import supervised


def tiny_config(scale=2, channels=3):
  model = {'name': 'edsr', 'scale': scale, 'variant': 'small', 'blocks': 1}
  return {
    'method': {'name': 'supervised'},
    'model': {**model, 'features': 4, 'channels': channels},
  }


@functools.cache
def tiny(scale=2, channels=3):
  """An untrained EDSR; halo 6."""
  config = tiny_config(scale, channels)
  network = models.create(config['model'])
  variables = network.init(jax.random.key(0), jnp.ones((1, 8, 8, channels)))
  return SRModel(
    name='tiny',
    scale=scale,
    channels=channels,
    halo=network.halo,
    config=config,
    params={'generator': variables['params']},
    predict=supervised.inference(config).predict,
  )


def counting(model):
  """A model, and the list of LR shapes for which it was compiled."""
  traced = []

  def predict(params, lr, mask=None):
    traced.append(lr.shape[1:3])
    return model.predict(params, lr, mask)

  return dataclasses.replace(model, predict=predict), traced


def random_image(height, width, channels=3):
  rng = np.random.default_rng(0)
  return rng.random((height, width, channels), np.float32)


def waves(
  height, width, channels=3, *, terms=4, period=3, amplitude=0.12, seed=0
):
  """A sum of random waves around 0.5, `[H, W, C]` float64.

  Args:
    height: Rows.
    width: Columns.
    channels: Channels, each with phases and directions of its own.
    terms: Number of waves.
    period: Pixels per radian of a wave of unit frequency.
    amplitude: Amplitude of each wave.
    seed: Seed of directions and phases.
  """
  rng = np.random.default_rng(seed)
  y, x = np.mgrid[:height, :width][..., None] / period
  found = [
    np.sin(fy * y + fx * x + phase)
    for fy, fx, phase in rng.normal(size=(terms, 3, channels))
  ]
  return 0.5 + amplitude * sum(found)

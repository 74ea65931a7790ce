"""LPIPS: a learned distance of two images (Zhang et al., CVPR 2018).

This is version 0.1, in which images are normalised as for the training of the
networks. The release does the same by a shift and a scale of images in [-1, 1].
Version 0.0 lacked the scale and gives other scores. Lower is better.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Backbone(NamedTuple):
  """A network whose features LPIPS compares.

  Attributes:
    model: One of `models.feature_names()`.
    variant: Variant of the model.
    layers: Names of the layers, in the order of LPIPS's weights.
    channels: Number of channels of each layer.
    smallest: Smallest side in pixels of an image whose features reach the last
      layer.
  """

  model: str
  variant: str
  layers: tuple[str, ...]
  channels: tuple[int, ...]
  smallest: int


BACKBONES = {
  'alex': Backbone(
    'alexnet',
    'alexnet',
    ('relu1', 'relu2', 'relu3', 'relu4', 'relu5'),
    (64, 192, 384, 256, 256),
    31,
  ),
  'vgg': Backbone(
    'vgg',
    'vgg16',
    ('relu1_2', 'relu2_2', 'relu3_3', 'relu4_3', 'relu5_3'),
    (64, 128, 256, 512, 512),
    16,
  ),
}


def lpips(
  a: Sequence[jax.Array], b: Sequence[jax.Array], weights: Sequence[jax.Array]
) -> jax.Array:
  """Distances `[B]` of pairs of images, from their features.

  Args:
    a: Features of the first images, `[B, h, w, C]` for each layer.
    b: Features of the second images, of the same shapes.
    weights: Weights of the channels, `[C]` for each layer, not negative.
  """
  distances = []
  for x, y, weight in zip(a, b, weights, strict=True):
    squares = (_unit(x) - _unit(y)) ** 2
    distance = (squares * weight.reshape(1, 1, 1, -1)).sum(-1)
    distances.append(distance.mean((1, 2)))
  return jnp.stack(distances).sum(0)


def _unit(x: jax.Array) -> jax.Array:
  """Scales vectors `[..., C]` to length 1."""
  norm = jnp.sqrt((x**2).sum(-1, keepdims=True))
  return x / (norm + 1e-10)

"""Perceptual losses: distances between features, and total variation.

The features are layers of a frozen network such as VGG19
(`models.features.vgg`). The features of HR get no gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sr_jax.losses.pixel import l1, l2
from sr_jax.ops.namespace import Array, array_namespace
from sr_jax.ops.precision import as_float, check_floats


def squared(sr: Array, hr: Array) -> Any:
  """Squared distance of feature vectors `[..., C]`, averaged over positions.

  SRGAN's equation 5 divides by width and height, not by the number of channels.
  Most code averages over channels as well, which is `l2`.
  """
  return sr.shape[-1] * l2(sr, hr)


class Recipe(NamedTuple):
  """The definition of one perceptual loss.

  Attributes:
    layers: Weight of each layer, by its name: `convN_M` is the output of a
      convolution, `reluN_M` that of the activation after it.
    distance: Distance between two feature maps of one layer.
    scale: Factor by which features are multiplied before the distance.
  """

  layers: Mapping[str, float]
  distance: Callable[[Array, Array], Any] = l1
  scale: float = 1.0


# All layers are VGG19's. SRGAN: Ledig et al., CVPR 2017, which scales features
# by 1/12.75, that is squared distances by about 0.006. ESRGAN: Wang et al.,
# ECCVW 2018; RankSRGAN, SPSR and BasicSR's SRGAN use the same. BSRGAN: Zhang et
# al., ICCV 2021. SRNTT: Zhang et al., CVPR 2019, as in its code; TTSR uses the
# same.
RECIPES = {
  'srgan-vgg22': Recipe({'relu2_2': 1.0}, squared, 1 / 12.75),
  'srgan-vgg54': Recipe({'relu5_4': 1.0}, squared, 1 / 12.75),
  'esrgan': Recipe({'conv5_4': 1.0}),
  # For small trainings, not from a paper: needs a fourteenth of VGG's weights.
  'esrgan-early': Recipe({'conv3_1': 1.0}),
  'srntt': Recipe({'relu5_1': 1.0}, l2),
  'bsrgan': Recipe(
    {
      'conv1_2': 0.1,
      'conv2_2': 0.1,
      'conv3_4': 1.0,
      'conv4_4': 1.0,
      'conv5_4': 1.0,
    }
  ),
}


def feature_distance(
  sr: Mapping[str, jax.Array], hr: Mapping[str, jax.Array], recipe: Recipe
) -> jax.Array:
  """Weighted sum of the feature distances at all layers of a recipe.

  Args:
    sr: Features of SR by layer, `[B, h, w, C]` each.
    hr: Features of HR by layer, of the same shapes; they get no gradient.
    recipe: Layers, weights and distance, for example one of `RECIPES`.
  """
  distances = [
    weight
    * recipe.distance(
      recipe.scale * sr[layer], recipe.scale * jax.lax.stop_gradient(hr[layer])
    )
    for layer, weight in recipe.layers.items()
  ]
  return jnp.stack(distances).sum()


def total_variation(image: Array) -> Any:
  """Sum of absolute differences of neighbouring pixels, averaged over images.

  The differences of an image `[B, H, W, C]` are summed, not averaged: SRGAN's
  weight of 2e-8 (for VGG22) is meant for the sum. SRGAN's images are in
  [-1, 1], where the sum is twice as large as in [0, 1].
  """
  check_floats(image)
  image = as_float(image)
  rows = image[:, 1:] - image[:, :-1]
  columns = image[:, :, 1:] - image[:, :, :-1]
  xp = array_namespace(image)
  return (xp.abs(rows).sum() + xp.abs(columns).sum()) / image.shape[0]

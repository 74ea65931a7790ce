"""Perceptual losses: distances of features, and total variation.

Features come by layer from a network that no loss changes, such as VGG19
(`models.vgg`); those of HR get no gradient.
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
  """Squared distance of the vectors `[..., C]`, averaged over their places.

  Of SRGAN's equation 5, which divides by width and height and not by channels;
  most code takes the mean over channels as well, which is `l2`.
  """
  return sr.shape[-1] * l2(sr, hr)


class Recipe(NamedTuple):
  """One perceptual loss.

  Attributes:
    layers: Weights by layer: `convN_M` before its activation, `reluN_M` after.
    distance: Of the features of one layer.
    scale: Factor on the features beforehand.
  """

  layers: Mapping[str, float]
  distance: Callable[[Array, Array], Any] = l1
  scale: float = 1.0


# Layers of VGG19. SRGAN: Ledig et al., CVPR 2017, where features are scaled by
# 1/12.75, about 0.006 on the squared distance. ESRGAN: Wang et al., ECCVW 2018,
# and after it RankSRGAN, SPSR and BasicSR's SRGAN. BSRGAN: Zhang et al., 2021.
# SRNTT: Zhang et al., CVPR 2019, as in its code; TTSR's is the same.
RECIPES = {
  'srgan-vgg22': Recipe({'relu2_2': 1.0}, squared, 1 / 12.75),
  'srgan-vgg54': Recipe({'relu5_4': 1.0}, squared, 1 / 12.75),
  'esrgan': Recipe({'conv5_4': 1.0}),
  # Ours, for small trainings: looks at a fourteenth of the weights.
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
  """Weighted sum of the distances of all layers of a recipe.

  Args:
    sr: Features `[B, h, w, C]` by layer.
    hr: The same of the target.
    recipe: Such as one of `RECIPES`.
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
  """Summed absolute differences of neighbours, averaged over images.

  Over all of `[B, H, W, C]`, as the weight 2e-8 of SRGAN's VGG22 needs it; its
  images are in [-1, 1], where this is twice as much as in [0, 1].
  """
  check_floats(image)
  image = as_float(image)
  rows = image[:, 1:] - image[:, :-1]
  columns = image[:, :, 1:] - image[:, :, :-1]
  xp = array_namespace(image)
  return (xp.abs(rows).sum() + xp.abs(columns).sum()) / image.shape[0]

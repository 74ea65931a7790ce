"""Texture loss and back-projection loss of SRNTT (Zhang et al., CVPR 2019).

Textures are compared by the Gram matrices of features, which do not depend on
positions. Where the reference matches badly, its texture should count less: the
features of SR and of the reference are weighted by a soft threshold of the
similarity.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from sr_jax.losses.pixel import l1
from sr_jax.ops.precision import einsum
from sr_jax.ops.resize import imresize


class Threshold(NamedTuple):
  """A soft threshold: sigmoid(sign * slope * (similarity - centre)).

  SRNTT's paper describes a threshold that keeps similar matches. Its code
  computes sigmoid(-20 * similarity + 0.65), which is sign -1, slope 20 and
  centre 0.0325 here, and gives good matches a weight near zero.

  Attributes:
    sign: 1 for weights that rise with the similarity, -1 for weights that fall.
    centre: Similarity at which the weight is 1/2.
    slope: Steepness of the threshold, per unit of similarity.
  """

  sign: float = 1.0
  centre: float = 0.65
  slope: float = 20.0

  def __call__(self, similarity: jax.Array) -> jax.Array:
    """Returns weights in [0, 1], of the shape of `similarity`."""
    return jax.nn.sigmoid(self.sign * self.slope * (similarity - self.centre))


def gram(features: jax.Array) -> jax.Array:
  """Gram matrices `[B, C, C]` of features `[B, H, W, C]`."""
  return einsum('bhwi,bhwj->bij', features, features)


def texture(
  sr: Mapping[str, jax.Array],
  maps: Mapping[str, jax.Array],
  weights: Mapping[str, jax.Array] | None = None,
) -> jax.Array:
  """Texture loss: mean squared difference of Gram matrices, over the layers.

  The term of each layer is divided by 4 (H W C)^2.

  Args:
    sr: Features of SR by layer, `[B, H, W, C]`.
    maps: Features swapped from the reference by layer, of the same shapes; they
      get no gradient.
    weights: Weights of both features by layer, `[B, H, W]`; None means 1.
  """
  values = []
  for layer, target in maps.items():
    features, target = sr[layer], jax.lax.stop_gradient(target)
    if weights is not None:
      weight = weights[layer][..., None]
      features, target = weight * features, weight * target
    size = features[0].size
    distance = (gram(features) - gram(target)) / size
    values.append((distance**2).mean() / 4)
  return jnp.stack(values).mean()


def at_sizes_of(
  similarity: jax.Array, maps: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
  """Enlarges a similarity `[B, h, w]` to the size of each layer's maps."""
  return {
    layer: imresize(similarity[..., None], shape=(x.shape[1], x.shape[2]))[
      ..., 0
    ]
    for layer, x in maps.items()
  }


def back_projection(sr: jax.Array, lr: jax.Array) -> jax.Array:
  """Mean absolute difference of LR and the bicubically reduced SR image."""
  return l1(imresize(sr, shape=(lr.shape[1], lr.shape[2])), lr)

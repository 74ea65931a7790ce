"""Texture loss and back-projection loss of SRNTT (Zhang et al., CVPR 2019).

Textures are compared by Gram matrices of features, which forget where things
are. Where the reference matches badly its texture should not count: features of
both sides are weighted by a soft threshold of the similarity.
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
  """Weights sigmoid(sign * slope * (similarity - centre)).

  Its authors meant a threshold between similar and dissimilar matches; their
  code has sigmoid(-20 * similarity + 0.65), which is sign -1, slope 20 and
  centre 0.0325 here, and turns off what matches well.

  Attributes:
    sign: 1 for weights that rise with the similarity, -1 for the reverse.
    centre: Similarity of weight 1/2.
    slope: Steepness.
  """

  sign: float = 1.0
  centre: float = 0.65
  slope: float = 20.0

  def __call__(self, similarity: jax.Array) -> jax.Array:
    """Weights of the same shape."""
    return jax.nn.sigmoid(self.sign * self.slope * (similarity - self.centre))


def gram(features: jax.Array) -> jax.Array:
  """Inner products of the channels of `[B, H, W, C]`, `[B, C, C]`."""
  return einsum('bhwi,bhwj->bij', features, features)


def texture(
  sr: Mapping[str, jax.Array],
  maps: Mapping[str, jax.Array],
  weights: Mapping[str, jax.Array] | None = None,
) -> jax.Array:
  """Mean over the layers of their Gram matrices' mean squared distance.

  That of each layer is divided by 4 (H W C)^2.

  Args:
    sr: Features `[B, H, W, C]` by layer.
    maps: The swapped ones.
    weights: Of both, `[B, H, W]` by layer; None for 1.
  """
  values = []
  for layer, target in maps.items():
    ours, theirs = sr[layer], jax.lax.stop_gradient(target)
    if weights is not None:
      weight = weights[layer][..., None]
      ours, theirs = weight * ours, weight * theirs
    size = ours[0].size
    distance = (gram(ours) - gram(theirs)) / size
    values.append((distance**2).mean() / 4)
  return jnp.stack(values).mean()


def at_sizes_of(
  similarity: jax.Array, maps: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
  """A similarity `[B, h, w]`, enlarged to the size of each layer's maps."""
  return {
    layer: imresize(similarity[..., None], shape=(x.shape[1], x.shape[2]))[
      ..., 0
    ]
    for layer, x in maps.items()
  }


def back_projection(sr: jax.Array, lr: jax.Array) -> jax.Array:
  """Mean absolute difference of LR and SR reduced again by bicubic."""
  return l1(imresize(sr, shape=(lr.shape[1], lr.shape[2])), lr)

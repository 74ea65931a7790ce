"""Masks of objects, background and boundaries (Rad et al., SROBB, ICCV 2019).

A label map holds the id of a class in every pixel. It is divided into three
regions:

  boundary    pixels within a given distance of an edge between two labels
  background  of the other pixels, those of sky, water, ground and plants
  object      all remaining pixels, including those without a label

The ids are those of COCO-Stuff (Caesar et al., CVPR 2018): 0 for no label, 1 to
91 for things, 92 to 182 for stuff.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

NAMES = ('boundary', 'background', 'object')

# Clouds, other sky.
_SKY = (106, 157)
# Fog, river, sea, other water, waterdrops.
_WATER = (120, 148, 155, 178, 179)
# Dirt, gravel, other ground, mud, pavement, platform, playing field, railroad,
# road, sand, snow.
_GROUND = (111, 125, 126, 136, 140, 144, 145, 147, 149, 154, 159)
# Branch, bush, flower, grass, leaves, moss, other plants, straw, tree.
_PLANTS = (94, 97, 119, 124, 129, 134, 142, 163, 169)
BACKGROUND = (*_SKY, *_WATER, *_GROUND, *_PLANTS)


def regions(labels: jax.Array, radius: int) -> dict[str, jax.Array]:
  """Makes a mask of each region; every pixel is in exactly one region.

  Args:
    labels: Class ids, `[B, H, W]`.
    radius: Largest distance in pixels of a boundary pixel from an edge pixel.

  Returns:
    A mask for each name in `NAMES`: float32 `[B, H, W, 1]` of zeros and ones.
  """
  boundary = dilate(edges(labels), radius)
  background = jnp.isin(labels, jnp.asarray(BACKGROUND, labels.dtype))
  masks = (boundary, background & ~boundary, ~background & ~boundary)
  return {
    name: mask[..., None].astype(jnp.float32)
    for name, mask in zip(NAMES, masks, strict=True)
  }


def edges(labels: jax.Array) -> jax.Array:
  """Pixels of `[B, H, W]` that have a neighbour with another id.

  Neighbours are the pixels above, below, left and right, within the image.
  """
  down = labels[:, 1:] != labels[:, :-1]
  across = labels[:, :, 1:] != labels[:, :, :-1]
  above, below = (
    jnp.pad(down, ((0, 0), side, (0, 0))) for side in ((0, 1), (1, 0))
  )
  left, right = (
    jnp.pad(across, ((0, 0), (0, 0), side)) for side in ((0, 1), (1, 0))
  )
  return above | below | left | right


def dilate(mask: jax.Array, radius: int) -> jax.Array:
  """Grows a boolean mask `[B, H, W]` by a disk of `radius` pixels."""
  offsets = np.arange(-radius, radius + 1)
  disk = offsets[:, None] ** 2 + offsets**2 <= radius**2
  count = jax.lax.conv_general_dilated(
    mask[..., None].astype(jnp.float32),
    jnp.asarray(disk[..., None, None], jnp.float32),
    window_strides=(1, 1),
    padding='SAME',
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )
  return count[..., 0] > 0.5

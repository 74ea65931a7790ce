"""Objects, backgrounds and boundaries (Rad et al., SROBB, ICCV 2019).

From a label map, which has the id of a class in every pixel:

  boundary    no further from an edge of the labels than a disk reaches
  background  of the rest, sky, water, ground and plants
  object      all that is left, pixels without a label too

Ids are those of COCO-Stuff (Caesar et al., CVPR 2018): 0 for no label, 1 to 91
for things, 92 to 182 for stuff.
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
  """Masks by name; every pixel is in exactly one.

  Args:
    labels: Ids `[B, H, W]`.
    radius: Of the disk in pixels; 0 leaves the edges as they are.

  Returns:
    float32 `[B, H, W, 1]` of zeros and ones for each of `NAMES`.
  """
  boundary = dilate(edges(labels), radius)
  background = jnp.isin(labels, jnp.asarray(BACKGROUND, labels.dtype))
  masks = (boundary, background & ~boundary, ~background & ~boundary)
  return {
    name: mask[..., None].astype(jnp.float32)
    for name, mask in zip(NAMES, masks, strict=True)
  }


def edges(labels: jax.Array) -> jax.Array:
  """Pixels of `[B, H, W]` beside one of another id, on both sides of it.

  Beside is above, below, left or right; beyond the image is nothing.
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
  """Pixels of a boolean `[B, H, W]` no further than `radius` from a set one."""
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

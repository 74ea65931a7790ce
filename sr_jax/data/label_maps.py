"""Label maps: the id of a class for every pixel of an image.

Files are PNGs of one channel; the value of a pixel is its grey level or its
index into the palette. `ids` says what the values stand for:

  coco-stuff      ids of COCO-Stuff's list: 0 for no label, 1 to 182
  stuffthingmaps  as COCO-Stuff's own PNGs have them: one less, 255 for no label
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from sr_jax.data import image_formats
from sr_jax.errors import UserError

IDS = ('coco-stuff', 'stuffthingmaps')
_LARGEST_ID = 182

# Labels that `made_up` assigns (person, grass and other sky), and the side in
# pixels of the blocks that share a label.
_MADE_UP, _BLOCK = (1, 124, 157), 32


def read_label_map(path: str | os.PathLike[str], ids: str) -> np.ndarray:
  """Reads a label map as COCO-Stuff's ids, uint8 `[H, W, 1]`.

  Raises:
    UserError: The file does not exist, is no label map, or has a value that
      `ids` does not have.
  """
  path = Path(path)
  values = image_formats.decode_indices(path)
  shifted = ids == 'stuffthingmaps'
  # The addition is unsigned, so that 255 becomes 0.
  labels = values + np.uint8(1) if shifted else values
  unknown = np.unique(values[labels > _LARGEST_ID])
  if unknown.size:
    known = f'0 to {_LARGEST_ID}'
    if shifted:
      known = f'0 to {_LARGEST_ID - 1} and 255'
    other = ' or label_ids=stuffthingmaps' if unknown.tolist() == [255] else ''
    raise UserError(
      f'{path}: unknown ids {", ".join(map(str, unknown[:5]))}: {ids} has'
      f' {known}; give such ids{other}'
    )
  return labels[..., None]


def made_up(image: np.ndarray) -> np.ndarray:
  """Makes labels `[H, W, 1]` for an image `[H, W, 3]`, to try things out.

  The darkest third of the image's blocks is labelled person, the middle third
  grass and the brightest third sky, whatever the image shows.
  """
  height, width = image.shape[:2]
  means = np.stack(
    [
      [
        image[y : y + _BLOCK, x : x + _BLOCK].mean()
        for x in range(0, width, _BLOCK)
      ]
      for y in range(0, height, _BLOCK)
    ]
  )
  thirds = np.digitize(means, np.quantile(means, (1 / 3, 2 / 3)))
  labels = np.array(_MADE_UP, np.uint8)[thirds]
  labels = labels.repeat(_BLOCK, axis=0).repeat(_BLOCK, axis=1)
  return labels[:height, :width, None]

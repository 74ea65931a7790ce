"""Random patches of an image, more of them where its gradients are large.

This is how KernelGAN (NeurIPS 2019) chooses its patches.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from sr_jax.ops.resize import imresize

# Share of the pixels whose gradient is too small to count.
_SMALL = 0.97
# Side of the blur of the gradients, and the border that does not count.
_BLUR = 5
_GREY = (0.299, 0.587, 0.114)


def gradient_map(image: np.ndarray) -> np.ndarray:
  """Measures how much an image changes around each pixel: `[H, W]`, mean 1.

  Three maps of equal sum are added and blurred: where the vertical changes are
  largest, where the horizontal ones are, and the gradient's size. Pixels at the
  border do not count.

  Args:
    image: `[H, W, 3]`.
  """
  rows, columns = np.gradient(image @ np.array(_GREY))
  rows, columns = _inside(rows, _BLUR), _inside(columns, _BLUR)
  maps = np.stack(
    [
      _largest(np.abs(rows)),
      _largest(np.abs(columns)),
      np.hypot(rows, columns),
    ]
  )
  sums = maps.sum((1, 2), keepdims=True)
  # Stripes change in only one direction; the map of the other has sum 0.
  total = (maps / np.where(sums > 0, sums, 1)).sum(0)
  blurred = ndimage.uniform_filter(total, _BLUR, mode='constant')
  return blurred / max(blurred.mean(), np.finfo(float).tiny)


def _inside(values: np.ndarray, border: int) -> np.ndarray:
  """The values of an array `[H, W]`, and zero near its border.

  At least one row and one column stay.
  """
  kept = np.zeros_like(values)
  middle = tuple(
    slice(border, max(n - border, border + 1)) for n in values.shape
  )
  kept[middle] = values[middle]
  return kept


def _largest(values: np.ndarray) -> np.ndarray:
  """One at the largest values, zero elsewhere."""
  threshold = np.sort(values, axis=None)[int(_SMALL * values.size)]
  return (values > threshold).astype(np.float64)


def chances(
  image: np.ndarray, large: int, small: int
) -> tuple[np.ndarray, np.ndarray]:
  """Computes how likely each pixel is the centre of a large or a small patch.

  As published, the large patches are chosen by the gradients of the halved
  image and the small ones by those of the image itself.

  Args:
    image: `[H, W, 3]` with even sides.
    large: Side of the large patches.
    small: Side of the small patches.

  Returns:
    Two arrays `[H, W]` with sum 1 each.
  """
  halved = gradient_map(imresize(image, scale=0.5))
  return (
    _chance(halved.repeat(2, 0).repeat(2, 1), large),
    _chance(gradient_map(image), small),
  )


def _chance(gradients: np.ndarray, side: int) -> np.ndarray:
  half = side // 2
  blurred = ndimage.uniform_filter(gradients, half, mode='constant')
  # The filter's running sums leave rounding errors below zero.
  chance = _inside(np.maximum(blurred, 0), half)
  if not chance.any():  # all gradients lie near the border
    chance = _inside(np.ones_like(blurred), half)
  return chance / chance.sum()


def corners(
  rng: np.random.Generator, chance: np.ndarray, side: int, count: int
) -> np.ndarray:
  """Draws upper left corners of patches, `[count, 2]`, all of them even.

  Args:
    rng: Random generator.
    chance: Probability of each pixel as a centre, see `chances`.
    side: Side of the patches.
    count: Number of patches.
  """
  centres = rng.choice(chance.size, count, p=chance.ravel())
  return corners_around(centres, chance.shape, side)


def corners_around(
  centres: np.ndarray, shape: tuple[int, ...], side: int
) -> np.ndarray:
  """Corners `[N, 2]` of patches whose centres are indices of the flat image."""
  row, column = np.unravel_index(centres, shape)
  found = np.stack([row, column], -1) - side // 2
  found = np.clip(found, 0, np.array(shape) - side)
  return found // 2 * 2

"""Large images in windows of one shape, without seams.

A local network's output depends on the input within its receptive radius, the
halo. Windows that overlap by twice the halo, of which only the inner part is
kept, therefore give the whole-image result itself. At the border of the image
they are shifted inwards instead of clipped: one shape compiles once, and the
border is padded as the whole image's is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from sr_jax.ops.scales import enlarged_size


class Window(NamedTuple):
  """One window along one axis, in input pixels.

  Attributes:
    start: First pixel that is read.
    stop: End of what is read.
    keep_from: First pixel that is written.
    keep_to: End of what is written.
  """

  start: int
  stop: int
  keep_from: int
  keep_to: int


def windows(size: int, tile: int, halo: int, cell: int = 1) -> list[Window]:
  """Windows of min(tile, size) pixels whose kept parts make up `size`.

  With cells they are up to cell - 1 pixels smaller, so that they begin, and
  counted from the other end stop, at the border of one.

  Raises:
    ValueError: the tile leaves nothing inside its halo.
  """
  if size <= tile:
    return [Window(0, size, 0, size)]
  tile -= (tile - size) % cell
  if tile <= 2 * halo + cell - 1:
    raise ValueError(f'tile {tile} leaves nothing inside a halo of {halo}')
  cut, kept = [], 0
  while kept < size:
    start = min(max(kept - halo, 0) // cell * cell, size - tile)
    stop = start + tile
    end = size if stop == size else stop - halo
    cut.append(Window(start, stop, kept, end))
    kept = end
  return cut


def tiled(
  predict: Callable[[np.ndarray], np.ndarray],
  *,
  scale: int,
  halo: int,
  tile: int,
  cell: int = 1,
) -> Callable[[np.ndarray], np.ndarray]:
  """`predict` on windows of one image, put together on the host.

  Args:
    predict: `[h, w, C]` -> `[scale * h, scale * w, C']`.
    scale: Enlargement.
    halo: Receptive radius of `predict` in input pixels.
    tile: Side of the windows with their halo; an axis not longer than it is
      not divided.
    cell: Shifts of its input by multiples of it alone shift what `predict`
      gives.

  Returns:
    A function of `[H, W, C]` that equals `predict` where the halo is right.
  """

  def run(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    if max(height, width) <= tile:
      return predict(image)
    out = None
    for y in windows(height, tile, halo, cell):
      for x in windows(width, tile, halo, cell):
        part = predict(image[y.start : y.stop, x.start : x.stop])
        if out is None:
          shape = (scale * height, scale * width, part.shape[2])
          out = np.empty(shape, part.dtype)
        rows, columns = _inside(y, scale), _inside(x, scale)
        out[_outside(y, scale), _outside(x, scale)] = part[rows, columns]
    assert out is not None
    return out

  return run


def mirrored(
  predict: Callable[[np.ndarray], np.ndarray], *, scale: float, border: int
) -> Callable[[np.ndarray], np.ndarray]:
  """`predict` on an image that its mirror image continues on all sides.

  Convolutions with zero padding take what lies beyond the image for black and
  darken its outermost pixels. The border keeps the zeros away from them.

  Args:
    predict: `[H, W, C]` -> `[sH, sW, C']`.
    scale: Enlargement s; times `border` it is a whole number.
    border: Width of the mirrored border in input pixels.

  Returns:
    A function of `[H, W, C]`, whose result has no border.
  """
  if not border:
    return predict

  def run(image: np.ndarray) -> np.ndarray:
    # The outermost pixels are repeated, like in the resize that makes LR.
    sides = ((border, border), (border, border), (0, 0))
    sr = predict(np.pad(image, sides, 'symmetric'))
    start = round(scale * border)
    height, width = (enlarged_size(n, scale) for n in image.shape[:2])
    return sr[start : start + height, start : start + width]

  return run


def chopped(
  predict: Callable[[np.ndarray], np.ndarray],
  *,
  scale: int,
  shave: int = 10,
  limit: int = 160_000,
) -> Callable[[np.ndarray], np.ndarray]:
  """`predict` on quarters, as the test scripts of RCAN and SAN do.

  Their networks see all of what they are given, so that the division changes
  the result: published scores hold with it alone. An image of any size is
  divided into four parts, and these again unless they are below the limit.

  Args:
    predict: `[B, h, w, C]` -> `[B, scale * h, scale * w, C']`.
    scale: Enlargement.
    shave: Pixels by which the parts reach over the middle. Where an image has
      fewer beyond its middle, the part is the whole axis.
    limit: Pixels of a part from which on it is divided itself.

  Returns:
    A function of `[B, H, W, C]`.
  """

  def run(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[1:3]
    tall, wide = (min(n // 2 + shave, n) for n in (height, width))
    part = predict if tall * wide < limit else run
    rows = [slice(0, tall), slice(height - tall, height)]
    columns = [slice(0, wide), slice(width - wide, width)]
    # The first part of an axis gives its first half, the second the rest.
    upper = slice(0, scale * (height // 2))
    lower = slice(scale * (tall - (height - height // 2)), None)
    left = slice(0, scale * (width // 2))
    right = slice(scale * (wide - (width - width // 2)), None)
    return np.concatenate(
      [
        np.concatenate(
          [
            np.asarray(part(image[:, y, x]))[:, keep_y, keep_x]
            for x, keep_x in zip(columns, (left, right), strict=True)
          ],
          axis=2,
        )
        for y, keep_y in zip(rows, (upper, lower), strict=True)
      ],
      axis=1,
    )

  return run


def _inside(window: Window, scale: int) -> slice:
  """What is kept of a window's output, seen from the window."""
  first = window.keep_from - window.start
  last = window.keep_to - window.start
  return slice(scale * first, scale * last)


def _outside(window: Window, scale: int) -> slice:
  """The same, seen from the whole output."""
  return slice(scale * window.keep_from, scale * window.keep_to)

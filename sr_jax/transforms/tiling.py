"""Large images in windows of one shape, without seams.

A local network's output depends on the input within its receptive radius, the
halo. Windows that overlap by twice the halo, of which only the inner part is
kept, therefore give the whole-image result itself. At the border of the image
they are shifted inwards instead of clipped: one shape compiles once, and the
border is padded as the whole image's is.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import numpy as np

from sr_jax.ops.scales import enlarged_size

# Beyond it larger windows gain little and the machine has other work.
_CPU_LIMIT = 2**30
# Share of an accelerator's free memory: convolutions need work space too.
_DEVICE_SHARE = 0.7
# More distinct sizes than this are rounded up before they are grouped.
_MAX_GROUPED = 64

Size = tuple[int, int]


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
  found, kept = [], 0
  while kept < size:
    start = min(max(kept - halo, 0) // cell * cell, size - tile)
    stop = start + tile
    end = size if stop == size else stop - halo
    found.append(Window(start, stop, kept, end))
    kept = end
  return found


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


def program_bytes(program: Any, *args: Any) -> int:
  """Memory a jitted function needs beside its arguments, by its compiler."""
  memory = program.lower(*args).compile().memory_analysis()
  return memory.temp_size_in_bytes + memory.output_size_in_bytes


def available_bytes(device: jax.Device) -> int:
  """Free memory of an accelerator; of the machine for a CPU device."""
  stats = device.memory_stats() if device.platform != 'cpu' else None
  if stats and 'bytes_limit' in stats:
    free = stats['bytes_limit'] - stats.get('bytes_in_use', 0)
    return int(_DEVICE_SHARE * free)
  return _available_ram()


def _available_ram() -> int:
  """Half of the memory that programs can still get; a guess where unknown."""
  try:
    with open('/proc/meminfo') as file:
      lines = dict(line.split(':', 1) for line in file)
    return int(lines['MemAvailable'].split()[0]) * 1024 // 2
  except (OSError, KeyError, ValueError):
    return _CPU_LIMIT


def plan_side(bytes_per_pixel: float, device: jax.Device) -> int:
  """Side of the largest square window that fits the device's memory.

  Args:
    bytes_per_pixel: What the program needs per input pixel.
    device: Where it runs. Of a CPU's memory at most 1 GiB is taken.
  """
  budget = available_bytes(device)
  if device.platform == 'cpu':
    budget = min(budget, _CPU_LIMIT)
  return math.isqrt(int(budget / bytes_per_pixel))


def shared_shapes(sizes: Iterable[Size], count: int) -> dict[Size, Size]:
  """The shape to pad each size to, so that at most `count` shapes arise.

  Up to `count` distinct sizes keep their own. Otherwise the two groups whose
  union adds the fewest pixels to compute are merged until few enough are left.

  Args:
    sizes: (height, width) of every image.
    count: Number of shapes, 1 or more.
  """
  sizes = list(sizes)
  rounded = _rounded(sizes)
  members = collections.Counter(rounded[size] for size in sizes)
  groups = dict(members)
  shape_of = {size: size for size in members}
  while len(groups) > count:
    a, b = min(_pairs(groups), key=lambda pair: _added(groups, *pair))
    union = (max(a[0], b[0]), max(a[1], b[1]))
    merged = groups.pop(a) + groups.pop(b)
    groups[union] = groups.get(union, 0) + merged
    for size, shape in shape_of.items():
      if shape in (a, b):
        shape_of[size] = union
  return {size: shape_of[rounded[size]] for size in sizes}


def _pairs(groups: dict[Size, int]) -> Iterable[tuple[Size, Size]]:
  shapes = list(groups)
  return ((a, b) for i, a in enumerate(shapes) for b in shapes[:i])


def _added(groups: dict[Size, int], a: Size, b: Size) -> int:
  """Pixels that two groups cost more in their common shape."""
  area = max(a[0], b[0]) * max(a[1], b[1])
  more_a, more_b = area - a[0] * a[1], area - b[0] * b[1]
  return groups[a] * more_a + groups[b] * more_b


def _rounded(sizes: list[Size]) -> dict[Size, Size]:
  """Sizes rounded up on a grid so coarse that few enough are distinct."""
  top = max(h for h, _ in sizes), max(w for _, w in sizes)
  grid = 1
  while True:
    rounded = {
      (h, w): (min(_up(h, grid), top[0]), min(_up(w, grid), top[1]))
      for h, w in sizes
    }
    if len(set(rounded.values())) <= _MAX_GROUPED:
      return rounded
    grid *= 2


def _up(size: int, grid: int) -> int:
  return -(-size // grid) * grid

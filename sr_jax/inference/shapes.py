"""Which shapes images of many sizes are padded to, so that few are compiled."""

from __future__ import annotations

import collections
import functools
from collections.abc import Iterable

# More distinct sizes than this are rounded up before they are grouped.
_MAX_GROUPED = 64
# Number of shapes that are compiled for images of announced sizes.
_MOST = 8

Size = tuple[int, int]


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


@functools.lru_cache(maxsize=16)
def padded_shapes(sizes: tuple[Size, ...], side: int) -> dict[Size, Size]:
  """The shapes for the windows of images of these sizes; empty for few."""
  windows = [(min(h, side), min(w, side)) for h, w in sizes]
  if len(set(windows)) <= _MOST:
    return {}
  return shared_shapes(windows, _MOST)

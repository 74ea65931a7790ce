"""Profiles of an image's strong edges, which show how it was reduced.

A blur and a bicubic reduction can have the same width and nearly the same power
spectrum. At edges they differ: the cubic kernel has negative lobes and
overshoots, which a blur never does. The profile of an edge is the row of
differences of neighbouring pixels around its steepest place. It depends on
where the edge lies between two pixels, so edges are grouped by that.
"""

from __future__ import annotations

import numpy as np

# Shares of the pixels whose edges are looked at, the steepest first, and the
# smallest number of edges.
_SHARES, _LEAST = (0.02, 0.1), 50
# Number of differences on either side of the steepest one.
_REACH = 3
# Bounds of the groups: the larger neighbour of the steepest difference,
# relative to it.
_BOUNDS = (0.1, 0.4, 0.7)
# A neighbour below this counts as overshoot.
_OVERSHOOT = -0.02
# Means are drawn to zero as if a group had so many more edges of no profile.
_PRIOR = 8.0
# Largest number of pixels that are looked at along either axis.
_MOST = 1_000_000

# Shape of the profiles of one image: along rows and along columns, by share of
# edges and by group, the part that the group is, the mean differences, and how
# often the nearest overshoot.
PROFILES = (2, len(_SHARES), len(_BOUNDS) + 1, 1 + 2 * _REACH + 4)


def profiles(luma: np.ndarray) -> np.ndarray:
  """Mean profiles of the edges of an image, along rows and columns.

  They are the same for an image that is flipped.

  Args:
    luma: `[H, W]` in any unit; H and W are more than `2 * _REACH + 1`.

  Returns:
    float32 of shape `PROFILES`. Differences are relative to the steepest.
  """
  return np.stack([_along_lines(luma), _along_lines(luma.T)])


def transposed(values: np.ndarray) -> np.ndarray:
  """Profiles `[..., *PROFILES]` of the transposed image."""
  return np.flip(values, -len(PROFILES))


def _along_lines(lines: np.ndarray) -> np.ndarray:
  """Mean profiles along the last axis, `PROFILES[1:]`."""
  lines = lines[:: -(-lines.size // _MOST)]
  steepness, beside = _edges(lines)
  order = np.argsort(-steepness, kind='stable')
  return np.stack(
    [
      _grouped(beside[order[: max(int(share * lines.size), _LEAST)]])
      for share in _SHARES
    ]
  )


def _edges(lines: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Finds the edges across lines.

  Returns:
    The steepness of each edge, `[N]`, and the differences beside it relative
    to the steepest, `[N, 2 * _REACH]`, with the larger direct neighbour after
    the middle.
  """
  steps = np.diff(lines.astype(np.float32), axis=1)
  height = np.abs(steps)
  inner = height[:, _REACH:-_REACH]
  before = height[:, _REACH - 1 : -_REACH - 1]
  after = height[:, _REACH + 1 : steps.shape[1] - _REACH + 1]
  rows, columns = np.nonzero((inner >= before) & (inner >= after) & (inner > 0))
  columns = columns + _REACH
  offsets = [o for o in range(-_REACH, _REACH + 1) if o != 0]
  steepest = steps[rows, columns]
  beside = steps[rows[:, None], columns[:, None] + offsets]
  beside = (beside / steepest[:, None]).clip(-1, 1)
  turned = beside[:, _REACH - 1] > beside[:, _REACH]
  beside = np.where(turned[:, None], beside[:, ::-1], beside)
  return np.abs(steepest), beside


def _grouped(beside: np.ndarray) -> np.ndarray:
  """Statistics of each group of edges, `PROFILES[2:]`."""
  group = np.searchsorted(_BOUNDS, beside[:, _REACH], side='right')
  rows = []
  for i in range(len(_BOUNDS) + 1):
    members = beside[group == i]
    near = members[:, [_REACH - 2, _REACH - 1, _REACH + 1, _REACH + 2]]
    count = len(members)
    rows.append(
      np.concatenate(
        [
          [count / max(len(beside), 1)],
          members.sum(0) / (count + _PRIOR),
          (near < _OVERSHOOT).sum(0) / (count + _PRIOR),
        ]
      )
    )
  return np.array(rows, np.float32)

"""How well two orders of the same things agree."""

from __future__ import annotations

import numpy as np
from scipy import stats


def spearman(a: np.ndarray, b: np.ndarray) -> float:
  """Rank correlation of `[N]` and `[N]`; equal values share their mean rank.

  0 where all values of one are equal, which put nothing in order.
  """
  ranks = np.stack([stats.rankdata(a), stats.rankdata(b)])
  ranks -= ranks.mean(axis=1, keepdims=True)
  lengths = np.sqrt((ranks**2).sum(axis=1))
  if not lengths.all():
    return 0.0
  return float(ranks[0] @ ranks[1] / lengths.prod())

"""Rank correlation: how well two orders of the same items agree."""

from __future__ import annotations

import numpy as np


def spearman(a: np.ndarray, b: np.ndarray) -> float:
  """Spearman's rank correlation of two arrays `[N]`, in [-1, 1].

  Equal values share their mean rank. The result is 0 if all values of one array
  are equal, because they define no order.
  """
  from scipy import stats  # slow to import

  ranks = np.stack([stats.rankdata(a), stats.rankdata(b)])
  ranks -= ranks.mean(axis=1, keepdims=True)
  lengths = np.sqrt((ranks**2).sum(axis=1))
  if not lengths.all():
    return 0.0
  return float(ranks[0] @ ranks[1] / lengths.prod())

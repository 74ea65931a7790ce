"""Spearman's rank correlation by hand."""

import numpy as np
import pytest

from sr_jax.metrics.correlation import spearman


@pytest.mark.parametrize(
  ('a', 'b', 'expected'),
  [
    # 1 - 6 * (0 + 1 + 1) / (3 * (9 - 1))
    ([1, 2, 3], [10, 30, 20], 0.5),
    ([1, 2, 3, 4], [0.1, 0.2, 30, 400], 1.0),
    ([1, 2, 3], [3, 2, 1], -1.0),
    # Ranks 1 2 3.5 5 3.5: 8 / sqrt(10 * 9.5).
    ([1, 2, 3, 4, 5], [5, 6, 7, 8, 7], 0.82078268),
    ([1, 2, 3], [7, 7, 7], 0.0),
  ],
)
def test_spearman(a, b, expected):
  found = spearman(np.array(a), np.array(b))
  assert found == pytest.approx(expected, abs=1e-7)

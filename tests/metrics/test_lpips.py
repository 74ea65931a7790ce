"""LPIPS of features against plain NumPy; test_scores tests whole networks."""

import jax
import numpy as np
import pytest

from sr_jax.metrics.lpips import BACKBONES, lpips
from tests import feature_oracle as oracle


def test_equals_numpy_image_by_image():
  rng = np.random.default_rng(0)
  shapes = [(2, 5, 4, 8), (2, 3, 2, 6)]
  a, b = ([rng.random(s, np.float32) for s in shapes] for _ in range(2))
  a[1][0, 1, 1] = 0  # a place without features
  weights = [rng.random(s[-1], np.float32) for s in shapes]
  found = jax.jit(lpips)(a, b, weights)
  assert found.shape == (2,)
  for i in range(2):
    expected = oracle.lpips([x[i] for x in a], [x[i] for x in b], weights)
    assert float(found[i]) == pytest.approx(expected, rel=1e-5)
  np.testing.assert_array_equal(lpips(a, a, weights), np.zeros(2))


@pytest.mark.parametrize('name', BACKBONES)
def test_one_weight_per_channel_and_layer(name):
  backbone = BACKBONES[name]
  assert len(backbone.layers) == len(backbone.channels) == 5

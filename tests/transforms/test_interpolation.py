"""Network interpolation."""

import jax
import numpy as np
import pytest

from sr_jax.errors import UserError
from sr_jax.weights.interpolation import interpolate

A = {'conv': {'kernel': np.float32([[1, 2]]), 'bias': np.float32([-0.0])}}
B = {'conv': {'kernel': np.float32([[3, np.inf]]), 'bias': np.float32([1])}}


def test_exact_at_the_ends_and_linear_between():
  for alpha, end in ((0, A), (1, B)):
    found = interpolate(A, B, alpha)
    jax.tree.map(np.testing.assert_array_equal, found, end)
    assert np.signbit(found['conv']['bias']) == np.signbit(end['conv']['bias'])
  found = interpolate(A, B, 0.25)
  assert found['conv']['kernel'].tolist() == [[1.5, np.inf]]
  assert found['conv']['bias'] == np.float32(0.25)
  assert {x.dtype for x in jax.tree.leaves(found)} == {np.dtype('float32')}


@pytest.mark.parametrize('alpha', [-0.1, 1.01, float('nan')])
def test_alpha_outside(alpha):
  with pytest.raises(UserError, match=r'alpha must be in \[0, 1\]'):
    interpolate(A, B, alpha)


@pytest.mark.parametrize(
  ('other', 'words'),
  [
    ({'conv': {'kernel': A['conv']['kernel']}}, 'conv/bias is .* and missing'),
    (
      {'conv': {'kernel': np.zeros((2, 2)), 'bias': A['conv']['bias']}},
      r'conv/kernel is \(1, 2\) in one and \(2, 2\)',
    ),
  ],
)
@pytest.mark.parametrize('alpha', [0.0, 0.5])
def test_unlike_networks(other, words, alpha):
  with pytest.raises(UserError, match=words):
    interpolate(A, other, alpha)

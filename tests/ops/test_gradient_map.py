"""Gradient maps against SPSR's code under PyTorch, in both paddings."""

import pathlib

import jax
import numpy as np
import pytest

from sr_jax.losses import pixel
from sr_jax.ops.gradient_map import gradient_map

GOLDEN = np.load(
  pathlib.Path(__file__).parents[1] / 'golden/ops_spsr_gradient.npz'
)


def _array(key):
  return GOLDEN[key].transpose(0, 2, 3, 1).astype(np.float32)


@pytest.mark.parametrize('padding', [1, 2])
def test_map_and_its_derivative(padding):
  image, weight = _array('in:x'), _array(f'in:w{padding}')
  found = gradient_map(image, padding)
  np.testing.assert_allclose(found, _array(f'out:pad{padding}'), atol=1e-6)
  slope = jax.grad(lambda x: (gradient_map(x, padding) * weight).sum())(image)
  np.testing.assert_allclose(slope, _array(f'out:grad_pad{padding}'), atol=2e-5)


def test_losses_of_maps():
  x, y = (gradient_map(_array(f'in:{k}'), 2) for k in 'xy')
  assert pixel.l2(x, y) == pytest.approx(
    float(GOLDEN['out:grad_mse']), rel=1e-5
  )
  branch = pixel.l1(_array('in:branch'), gradient_map(_array('in:y')))
  assert branch == pytest.approx(float(GOLDEN['out:branch_l1']), rel=1e-5)


def test_flat_images_have_a_finite_derivative():
  slope = jax.grad(lambda x: gradient_map(x).sum())(
    np.zeros((1, 4, 4, 1), 'f4')
  )
  np.testing.assert_array_equal(slope, 0)

"""Losses over several outputs, in closed form."""

import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax.losses import outputs, pixel
from sr_jax.ops.resize import imresize


def flat(value, side=8):
  return jnp.full((2, side, side, 1), value)


HR = flat(0.5)


def test_final_and_steps():
  images = (flat(0.6), flat(0.8), flat(0.9))
  final = outputs.final(pixel.l1, images, HR, 0)
  assert final == pytest.approx(0.4)
  steps = outputs.steps(pixel.l1, images, HR, 0)
  assert steps == pytest.approx(0.1 + 0.3 + 0.4)


def test_pyramid_sums_over_bicubic_targets():
  images = (flat(0.7, 2), flat(0.6, 4), flat(0.9))
  value = outputs.pyramid(pixel.l1, images, HR, 0)
  assert value == pytest.approx(0.2 + 0.1 + 0.4)
  hr = jnp.asarray(np.random.default_rng(0).random((2, 8, 8, 1), np.float32))
  exact = (imresize(hr, scale=1 / 4), imresize(hr, scale=1 / 2), hr)
  assert outputs.pyramid(pixel.l2, exact, hr, 0) < 1e-12


@pytest.mark.parametrize(
  ('step', 'alpha'), [(0, 1.0), (25, 0.75), (100, 0.0), (900, 0.0)]
)
def test_recursive_supervision_fades(step, alpha):
  images = (flat(0.6), flat(0.8), flat(0.9))
  value = outputs.recursive(
    pixel.l1, images, HR, jnp.asarray(step), alpha_steps=100
  )
  assert value == pytest.approx(alpha * 0.2 + (1 - alpha) * 0.4, rel=1e-5)


def test_residuals_are_worth_as_much_as_sr():
  """The enhanced residual of flat images is their difference."""
  sr, predicted = (jnp.full((2, 8, 8, 3), value) for value in (0.7, 0.25))
  hr = jnp.full((2, 8, 8, 3), 0.6)
  lr = jnp.full((2, 4, 4, 3), 0.4)
  value = outputs.residual(
    pixel.l1, sr, predicted, hr, lr, upsampling='bicubic'
  )
  assert value == pytest.approx(0.1 + 0.05, rel=1e-5)

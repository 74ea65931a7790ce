"""Iterative back-projection."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
import skimage.data

from sr_jax.ops.blur_kernels import gaussian_kernel
from sr_jax.ops.degrade import degrade
from sr_jax.ops.resize import imresize
from sr_jax.transforms.back_projection import back_project


def test_one_correction_by_hand():
  """Reduces by means of two pixels and enlarges by repetition."""
  projected = back_project(
    lambda lr: np.zeros(2 * lr.size),
    degrade=lambda sr: sr.reshape(-1, 2).mean(1),
    upsample=lambda lr: lr.repeat(2),
    iterations=1,
  )
  np.testing.assert_array_equal(projected(np.array([1.0, 3.0])), [1, 1, 3, 3])


def test_no_correction_is_the_prediction_itself():
  def refuse(x):
    raise AssertionError(x)

  projected = back_project(lambda lr: lr * 2, refuse, refuse, iterations=0)
  assert projected(21) == 42


@pytest.mark.parametrize('scale', [2, 3, 4])
@pytest.mark.parametrize('variance', [None, 2.0, 6.0])
def test_consistent_with_the_input_in_the_end(scale, variance):
  """For every degradation of the command line."""
  kernel = None if variance is None else gaussian_kernel(variance)
  made = functools.partial(
    degrade,
    None,
    scale=scale,
    degradation='bicubic' if kernel is None else 'direct',
    kernel=kernel,
  )
  enlarge = functools.partial(imresize, scale=scale)
  lr = made(skimage.data.astronaut()[None, :96, 200:296] / 255)
  residuals = []
  for iterations in (0, 10):
    sr = back_project(enlarge, made, enlarge, iterations=iterations)(lr)
    residuals.append(np.sqrt(np.mean((made(sr) - lr) ** 2)))
  assert residuals[1] < 0.25 * residuals[0]
  assert residuals[1] < 2 / 255


def test_works_on_device_arrays():
  lr = np.random.default_rng(0).random((1, 6, 7, 3))
  enlarge = functools.partial(imresize, scale=2)
  made = functools.partial(degrade, None, scale=2)
  projected = back_project(enlarge, made, enlarge, iterations=2)
  np.testing.assert_allclose(
    projected(jnp.asarray(lr)), projected(lr), atol=1e-5
  )

"""Geometric self-ensemble."""

import itertools
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from sr_jax.ops.pixel_shuffle import pixel_shuffle
from sr_jax.transforms.ensemble import self_ensemble

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / 'ops_self_ensemble.npz'


def golden_model(golden):
  """Convolution, pixel shuffle, times a global gate, in float64."""
  weight, bias = golden['sd:conv.weight'], golden['sd:conv.bias']

  def predict(lr):
    planes = lr[0].transpose(2, 0, 1)
    convolved = np.stack(
      [
        sum(
          ndimage.correlate(plane, taps, mode='constant')
          for plane, taps in zip(planes, kernels, strict=True)
        )
        + b
        for kernels, b in zip(weight, bias, strict=True)
      ],
      axis=-1,
    )[None]
    gate = 1 / (1 + np.exp(-convolved.mean()))
    return pixel_shuffle(convolved, 2) * gate

  return predict


def test_equals_forward_x8_of_rcan():
  """Released code (yulunzhang/RCAN, `Model.forward_x8`) under PyTorch."""
  golden = np.load(GOLDEN)
  predict = golden_model(golden)
  lr = golden['in:x'].transpose(0, 2, 3, 1)
  plain = golden['out:plain'].transpose(0, 2, 3, 1)
  np.testing.assert_allclose(predict(lr), plain, atol=1e-12)
  mean = golden['out:x8_mean'].transpose(0, 2, 3, 1)
  np.testing.assert_allclose(self_ensemble(predict)(lr), mean, atol=1e-12)


@pytest.mark.parametrize('xp', [np, jnp])
def test_result_turns_with_the_input(xp):
  lr = xp.asarray(np.random.default_rng(0).random((2, 5, 7, 3)), 'float32')

  def predict(lr):
    ramp = xp.arange(lr.shape[1] * lr.shape[2], dtype='float32')
    return lr * ramp.reshape(1, *lr.shape[1:3], 1)

  once = self_ensemble(predict)(lr)
  turned = self_ensemble(predict)(lr[:, ::-1].swapaxes(1, 2))
  np.testing.assert_allclose(turned, once[:, ::-1].swapaxes(1, 2), rtol=1e-5)
  assert np.abs(once - predict(lr)).max() > 1


def test_all_inputs_turn_and_none_stays_none():
  rng = np.random.default_rng(0)
  lr, mask = rng.random((1, 4, 6, 3)), rng.random((1, 4, 6, 1))
  seen = []

  def predict(lr, mask, nothing):
    seen.append(lr.shape[1:3])
    assert nothing is None
    return lr * mask

  out = self_ensemble(predict)(lr, mask, None)
  np.testing.assert_allclose(out, lr * mask, rtol=1e-12)
  assert seen.count((4, 6)) == seen.count((6, 4)) == 4


@pytest.mark.parametrize('xp', [np, jnp])
def test_median_of_the_eight_versions(xp):
  lr = xp.asarray(np.random.default_rng(0).random((2, 4, 4, 3), np.float32))
  seen = []

  def predict(x):
    # What no symmetry keeps, so that the eight versions differ.
    y = x * (1 + xp.arange(4, dtype=x.dtype).reshape(1, 4, 1, 1)) ** 2
    seen.append(y)
    return y

  found = self_ensemble(predict, 'median')(lr)
  versions = []
  for version, (rows, columns, transpose) in zip(
    seen, itertools.product((False, True), repeat=3), strict=True
  ):
    y = np.asarray(version)
    y = y.swapaxes(1, 2) if transpose else y
    versions.append(y[:, :: -1 if rows else 1, :: -1 if columns else 1])
  np.testing.assert_allclose(found, np.median(versions, 0), rtol=1e-6)
  assert found.shape == lr.shape

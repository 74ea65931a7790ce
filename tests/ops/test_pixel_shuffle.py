"""Sub-pixel rearrangement."""

import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax.ops.pixel_shuffle import pixel_shuffle, pixel_unshuffle

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / 'ops_shuffle.npz'


def nhwc(x):
  return np.moveaxis(x, 1, -1)


@pytest.mark.parametrize('scale', [2, 3, 4])
@pytest.mark.parametrize('xp', [np, jnp])
def test_equals_pytorch(scale, xp):
  # Made with torch 2.13 pixel_shuffle and pixel_unshuffle.
  golden = np.load(GOLDEN)
  shuffled = pixel_shuffle(xp.asarray(nhwc(golden['in:x'])), scale)
  expected = xp.asarray(nhwc(golden[f'out:shuffle_r{scale}']))
  np.testing.assert_array_equal(shuffled, expected)
  unshuffled = pixel_unshuffle(xp.asarray(nhwc(golden['in:y'])), scale)
  expected = xp.asarray(nhwc(golden[f'out:unshuffle_r{scale}']))
  np.testing.assert_array_equal(unshuffled, expected)


@pytest.mark.parametrize('shape', [(3, 5, 8), (2, 3, 5, 8), (2, 2, 3, 5, 8)])
def test_unshuffle_undoes_for_any_batch(shape):
  x = np.arange(np.prod(shape)).reshape(shape)
  np.testing.assert_array_equal(pixel_unshuffle(pixel_shuffle(x, 2), 2), x)


def test_refuses_sizes_that_do_not_divide():
  with pytest.raises(ValueError, match='6 channels'):
    pixel_shuffle(np.zeros((2, 2, 6)), 2)
  with pytest.raises(ValueError, match='3x2'):
    pixel_unshuffle(np.zeros((3, 2, 1)), 2)

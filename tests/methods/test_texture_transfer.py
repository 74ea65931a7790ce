"""References are matched by blurred images; sharp features are copied."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax.methods import _texture
from sr_jax.ops.degrade import quantize
from sr_jax.ops.resize import imresize
from tests.tiny_models import waves


def _mean(image, factor):
  batch, height, width, channels = image.shape
  shape = (batch, height // factor, factor, width // factor, factor, channels)
  return image.reshape(shape).mean((2, 4))


def features(image):
  """Features by layer: means of blocks, and their products."""
  found = {}
  for i, layer in enumerate(reversed(_texture.RATIOS)):
    small = _mean(image, 2**i)
    found[layer] = jnp.concatenate([small, small**2, 1 - small], -1)
  return found


def _image(height, width, seed=0):
  return jnp.asarray(waves(height, width, seed=seed)[None], jnp.float32)


@jax.jit
def _swapped(lr, *references):
  looked = [_texture.look_at(features, x) for x in references]
  return _texture.swapped(features, lr, looked)


def test_hr_as_reference_gives_its_own_features():
  hr = quantize(_image(24, 32))
  lr = quantize(imresize(hr, scale=1 / 4))
  texture = _swapped(lr, hr)
  own = _texture.truth(features, hr)
  for layer, ratio in _texture.RATIOS.items():
    assert texture.maps[layer].shape[1:3] == (6 * ratio, 8 * ratio)
    np.testing.assert_allclose(texture.maps[layer], own.maps[layer], atol=1e-6)
  np.testing.assert_allclose(texture.similarity, own.similarity, atol=1e-6)


def test_a_batch_is_its_samples():
  lr = jnp.concatenate([_image(5, 6, seed) for seed in (0, 1)])
  references = jnp.concatenate([_image(20, 16, seed) for seed in (2, 3)])
  both = _swapped(lr, references)
  for i in range(2):
    one = _swapped(lr[i : i + 1], references[i : i + 1])
    for ours, theirs in zip(
      jax.tree.leaves(one), jax.tree.leaves(both), strict=True
    ):
      np.testing.assert_allclose(ours[0], theirs[i], atol=1e-6)


def test_of_several_references_the_best_is_taken():
  hr = quantize(_image(24, 32))
  lr = quantize(imresize(hr, scale=1 / 4))
  other = _image(16, 20, seed=5)
  alone, both = _swapped(lr, other), _swapped(lr, other, hr)
  assert (both.similarity >= alone.similarity).all()
  np.testing.assert_allclose(both.similarity, 1, atol=1e-6)


@pytest.mark.parametrize('size', [(1, 1), (2, 7)])
def test_images_smaller_than_a_patch(size):
  lr = _image(*size)
  itself = _texture.itself(lr)
  assert min(itself.shape[1:3]) >= _texture.LEAST_SIDE
  texture = _swapped(lr, itself)
  assert texture.similarity.shape == (1, *size)
  for layer, ratio in _texture.RATIOS.items():
    assert texture.maps[layer].shape[1:3] == (ratio * size[0], ratio * size[1])
    assert jnp.isfinite(texture.maps[layer]).all()


@pytest.mark.nightly
def test_rows_beyond_a_multiple_of_four_are_cut():
  reference = _image(23, 18)
  looked = _texture.look_at(features, reference)
  assert looked.blurred.shape[1:3] == (5, 4)
  assert looked.maps['relu1_1'].shape[1:3] == (20, 16)
  cut = _texture.look_at(features, reference[:, :20, :16])
  np.testing.assert_array_equal(looked.blurred, cut.blurred)


def test_a_constant_reference():
  texture = _swapped(_image(6, 6), jnp.full((1, 16, 16, 3), 0.5))
  for leaf in jax.tree.leaves(texture):
    assert jnp.isfinite(leaf).all()


def test_nothing_is_learned_through_the_matching():
  reference = _image(16, 16, seed=1)

  def total(lr):
    return sum(x.sum() for x in jax.tree.leaves(_swapped(lr, reference)))

  np.testing.assert_array_equal(jax.grad(total)(_image(5, 5)), 0)

"""Matching and swapping against a plain loop and the released code's arrays."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax.ops import patch_match
from tests.golden_files import GOLDEN
from tests.nightly import nightly_of

every_form = pytest.mark.parametrize('form', patch_match.FORMS)
# MiB of scores: all at once, some rows of a reference, one row.
every_chunk = pytest.mark.parametrize('chunk', [16, 0.02, 1e-6])


def _features(height, width, channels=6, seed=0):
  """Features like VGG's after a ReLU; sums are exact in any order."""
  rng = np.random.default_rng(seed)
  return np.maximum(rng.integers(-8, 9, (height, width, channels)), 0) / 8.0


def _loop(content, references):
  """(index, score) of every patch, one by one; float64."""
  patches = [
    reference[y : y + 3, x : x + 3].ravel()
    for reference in references
    for y in range(reference.shape[0] - 2)
    for x in range(reference.shape[1] - 2)
  ]
  norms = np.array([max(np.linalg.norm(p), 1e-12) for p in patches])
  height, width = content.shape[0] - 2, content.shape[1] - 2
  scores = np.array(
    [
      [
        np.stack(patches) @ content[y : y + 3, x : x + 3].ravel() / norms
        for x in range(width)
      ]
      for y in range(height)
    ]
  )
  return scores.argmax(-1), scores.max(-1)


def _golden(name, count):
  with np.load(GOLDEN / 'srntt_swap.npz') as data:
    return [jnp.asarray(data[f'in:{name}{i}']) for i in range(count)]


@every_chunk
@every_form
@pytest.mark.parametrize('count', [1, 2])
def test_released_matches(count, form, chunk):
  with np.load(GOLDEN / 'srntt_swap.npz') as data:
    content = jnp.asarray(data['in:content'])
    expected = {k: v for k, v in data.items() if k.endswith(f'_{count}ref')}
  found = patch_match.match(
    content, _golden('cond', count), form=form, chunk=chunk
  )
  np.testing.assert_array_equal(found.index, expected[f'out:idx_{count}ref'])
  for ours, theirs in (
    (found.score, 'score'),
    (found.similarity, 'similarity_padded'),
  ):
    np.testing.assert_allclose(
      ours, expected[f'out:{theirs}_{count}ref'], rtol=1e-6
    )


@pytest.mark.parametrize(
  ('ratio', 'name'), [(1, 'style'), (2, 'style2_'), (4, 'style4_')]
)
@pytest.mark.parametrize('count', [1, 2])
def test_released_swaps(count, ratio, name):
  with np.load(GOLDEN / 'srntt_swap.npz') as data:
    index = jnp.asarray(data[f'out:idx_{count}ref'])
    expected = data[f'out:map_r{ratio}_{count}ref']
    covered = data[f'out:count_r{ratio}']
  swapped = patch_match.swap(index, _golden(name, count), ratio)
  np.testing.assert_allclose(swapped, expected, atol=1e-6)
  height, width = (n + 2 for n in index.shape)
  np.testing.assert_array_equal(
    patch_match.overlap(height, width, ratio), covered
  )


@every_chunk
@every_form
def test_equals_a_loop_over_blocks_and_bands(form, chunk, monkeypatch):
  monkeypatch.setattr(patch_match, '_BLOCK', 3)
  content = _features(9, 12)
  references = [_features(7, 5, seed=1), _features(3, 11, seed=2)]
  index, score = _loop(content, references)
  found = patch_match.match(
    jnp.asarray(content, jnp.float32),
    [jnp.asarray(x, jnp.float32) for x in references],
    form=form,
    chunk=chunk,
  )
  np.testing.assert_array_equal(found.index, index)
  np.testing.assert_allclose(found.score, score, rtol=1e-6)


@every_chunk
@every_form
def test_of_equals_the_first_wins(form, chunk):
  tile = _features(4, 4, seed=3)
  # Each of the tile's patches is there many times, in two references.
  reference = jnp.asarray(np.tile(tile, (3, 4, 1)), jnp.float32)
  found = patch_match.match(
    reference, [reference, reference], form=form, chunk=chunk
  )
  rows, columns = np.mgrid[:10, :14] % 4
  np.testing.assert_array_equal(found.index, rows * 14 + columns)


@pytest.mark.parametrize('form', nightly_of(patch_match.FORMS, ['box']))
def test_an_image_matches_itself_and_is_rebuilt(form):
  features = jnp.asarray(_features(6, 9), jnp.float32)
  found = patch_match.match(features, [features], form=form)
  np.testing.assert_array_equal(found.index, np.arange(28).reshape(4, 7))
  np.testing.assert_allclose(found.similarity, np.ones((6, 9)), rtol=1e-6)
  for ratio in (1, 2, 4):
    fine = jax.random.normal(jax.random.key(0), (6 * ratio, 9 * ratio, 3))
    rebuilt = patch_match.swap(found.index, [fine], ratio)
    np.testing.assert_allclose(rebuilt, fine, atol=1e-6)


@every_form
def test_patches_without_any_feature_score_nothing(form):
  content = jnp.asarray(_features(4, 5), jnp.float32)
  empty = jnp.zeros((4, 4, 6))
  found = patch_match.match(content, [empty], form=form)
  np.testing.assert_array_equal(found.index, np.zeros((2, 3)))
  np.testing.assert_array_equal(found.similarity, np.zeros((4, 5)))
  found = patch_match.match(content, [empty, content], form=form)
  np.testing.assert_array_equal(found.index, 4 + np.arange(6).reshape(2, 3))
  found = patch_match.match(empty, [content], form=form)
  np.testing.assert_array_equal(found.similarity, np.zeros((4, 4)))


def test_scores_do_not_depend_on_brightness():
  content = jnp.asarray(_features(5, 6), jnp.float32)
  reference = jnp.asarray(_features(6, 5, seed=1), jnp.float32)
  plain = patch_match.match(content, [reference])
  darker = patch_match.match(content, [reference / 4])
  np.testing.assert_array_equal(plain.index, darker.index)
  np.testing.assert_allclose(plain.similarity, darker.similarity, rtol=1e-6)


def test_gradients_reach_the_swapped_features_as_often_as_they_are_used():
  index = jnp.zeros((1, 2), jnp.int32)  # the first patch, twice
  total = functools.partial(patch_match.swap, index, ratio=2)
  fine = jnp.ones((8, 8, 1))
  grads = jax.grad(lambda x: total([x]).sum())(fine)[..., 0]
  assert grads.sum() == pytest.approx(6 * 8)  # of all output pixels
  np.testing.assert_array_equal(grads[6:], 0)
  np.testing.assert_array_equal(grads[:, 6:], 0)


def test_memory_is_bounded_by_the_chunk_and_not_by_the_images():
  def held(side, chunk):
    features = jax.ShapeDtypeStruct((side, side, 4), jnp.float32)
    matching = jax.jit(functools.partial(patch_match.match, chunk=chunk))
    memory = matching.lower(features, [features]).compile().memory_analysis()
    return memory.temp_size_in_bytes

  # All scores of the larger would take 400 MB.
  assert held(102, 1) < 4 * 2**20
  assert held(102, 16) > 4 * held(102, 1)

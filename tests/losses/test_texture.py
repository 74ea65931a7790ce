"""Texture and back-projection losses against the released code's numbers.

ZZUTK/SRNTT's model.py (as yeoyi519/SRNTT 30a4a45) under TensorFlow 2.21.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax.losses import texture
from tests.golden_files import GOLDEN

LEVELS = {'relu3_1': '3', 'relu2_1': '2', 'relu1_1': '1'}
# sigmoid(-20 S + 0.65) of the code.
RELEASED = texture.Threshold(sign=-1.0, centre=0.0325, slope=20.0)


@pytest.fixture(scope='module')
def golden():
  with np.load(GOLDEN / 'srntt_tf_losses.npz') as data:
    return {
      k: jnp.asarray(data[k], jnp.float32) for k in data.files if k != 'meta'
    }


def _features(golden, kind):
  return {layer: golden[f'in:{kind}{n}'] for layer, n in LEVELS.items()}


def _close(ours, theirs):
  np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_released_values(golden):
  ours, maps = _features(golden, 'f'), _features(golden, 'map')
  _close(texture.texture(ours, maps), golden['out:texture'])
  for layer, n in LEVELS.items():
    one = texture.texture({layer: ours[layer]}, {layer: maps[layer]})
    _close(one, golden[f'out:texture_level{n}_f64'])
  np.testing.assert_allclose(
    texture.gram(maps['relu1_1']), golden['out:gram_map1'], rtol=1e-5
  )


def test_released_weights_by_similarity(golden):
  # TensorFlow's own enlargement of the similarity, as it gave it.
  weights = {
    'relu3_1': RELEASED(golden['in:score']),
    'relu2_1': RELEASED(golden['out:score_x2'][..., 0]),
    'relu1_1': RELEASED(golden['out:score_x4'][..., 0]),
  }
  value = texture.texture(
    _features(golden, 'f'), _features(golden, 'map'), weights
  )
  _close(value, golden['out:texture_weighted'])


def test_released_back_projection(golden):
  value = texture.back_projection(golden['in:bp_sr'], golden['in:bp_lr'])
  _close(value, golden['out:bp'])


def test_the_threshold_that_was_meant():
  weights = texture.Threshold()(jnp.array([0.4, 0.65, 0.8]))
  np.testing.assert_allclose(weights, [0.0067, 0.5, 0.9526], atol=1e-4)
  mirrored = texture.Threshold(sign=-1.0)(jnp.array([0.4, 0.65, 0.8]))
  np.testing.assert_allclose(weights + mirrored, np.ones(3), rtol=1e-6)


def test_similarity_at_the_sizes_of_the_maps():
  similarity = jnp.full((2, 4, 5), 0.7)
  maps = {'fine': jnp.zeros((2, 16, 20, 3)), 'coarse': jnp.zeros((2, 4, 5, 7))}
  sizes = texture.at_sizes_of(similarity, maps)
  for layer, x in maps.items():
    assert sizes[layer].shape == x.shape[:3]
    np.testing.assert_allclose(sizes[layer], 0.7, rtol=1e-6)


def test_bad_matches_do_not_count():
  rng = np.random.default_rng(0)
  ours, maps = (
    {'relu1_1': jnp.asarray(rng.random((1, 4, 4, 3), np.float32))}
    for _ in range(2)
  )
  bad = {'relu1_1': texture.Threshold(slope=200.0)(jnp.full((1, 4, 4), 0.3))}
  assert texture.texture(ours, maps, bad) < 1e-20
  assert texture.texture(ours, maps) > 1e-6


def test_textures_forget_where_things_are_and_teach_sr_alone():
  rng = np.random.default_rng(0)
  features = jnp.asarray(rng.random((1, 4, 4, 3), np.float32))
  moved = {'a': jnp.roll(features, (1, 2), (1, 2))}
  assert texture.texture(moved, {'a': features}) == pytest.approx(0, abs=1e-12)

  def value(sr, target):
    return texture.texture({'a': sr}, {'a': target})

  by_sr, by_target = jax.grad(value, (0, 1))(features, 2 * features)
  assert (by_sr != 0).all()
  assert (by_target == 0).all()

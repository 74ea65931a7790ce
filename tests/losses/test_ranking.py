"""Losses around a ranker against RankSRGAN's code under PyTorch."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax.losses import ranking

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / 'golden/losses_rank.npz')
SCORES = [jnp.asarray(GOLDEN[f'in:score{i}'], 'float32') for i in (1, 2)]
LABELS = [jnp.asarray(GOLDEN[f'in:label{i}'], 'float32') for i in (1, 2)]


def test_order():
  value, slopes = jax.value_and_grad(ranking.order, (0, 1))(*SCORES, *LABELS)
  assert value == pytest.approx(float(GOLDEN['out:margin']), rel=1e-6)
  for i, slope in enumerate(slopes, 1):
    np.testing.assert_allclose(slope, GOLDEN[f'out:margin_g{i}'], atol=1e-7)


def test_right_order_by_the_margin_costs_nothing():
  first, second = jnp.asarray([2.0, -1.0]), jnp.asarray([1.5, -0.4])
  labels = jnp.asarray([5.0, 1.0]), jnp.asarray([4.0, 2.0])
  value, slope = jax.value_and_grad(ranking.order)(first, second, *labels)
  assert value == 0
  assert not slope.any()


def test_content():
  value, slope = jax.value_and_grad(ranking.content)(SCORES[0])
  assert value == pytest.approx(float(GOLDEN['out:rank_content']), rel=1e-6)
  np.testing.assert_allclose(slope, GOLDEN['out:rank_content_g'], atol=1e-6)


def test_scores_that_are_nan_have_no_loss_of_zero():
  scores = jnp.asarray([[jnp.nan], [1.0]])
  labels = jnp.asarray([[1.0], [2.0]])
  assert jnp.isnan(ranking.order(scores, -scores, labels, labels))

"""Losses around a ranker: a network that orders images as a metric does.

RankSRGAN (Zhang et al., ICCV 2019): it is trained on pairs, then its score of
an SR image is a loss for the generator. Higher scores are worse, as NIQE's.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

# Scores beyond it get no gradient.
_LIMIT = 5.0


def order(
  first: jax.Array,
  second: jax.Array,
  label_first: jax.Array,
  label_second: jax.Array,
  margin: float = 0.5,
) -> jax.Array:
  """Mean hinge loss of pairs of scores `[B, ...]` that labels put in order.

  Of equal labels the first counts as the higher.
  """
  # jax.grad of clip halves at the limit, PyTorch's does not.
  first, second = (
    jnp.where(jnp.abs(x) <= _LIMIT, x, _LIMIT * jnp.sign(x))
    for x in (first, second)
  )
  direction = jnp.where(label_first >= label_second, 1.0, -1.0)
  short = margin - direction * (first - second)
  # Not `short > 0`, which would make a loss of 0 of scores that are NaN.
  return jnp.where(short <= 0, 0.0, short).mean()


def content(scores: jax.Array) -> jax.Array:
  """Sum of the sigmoids of scores over the batch, for the generator.

  A sum, as in the released code: with its batch of 8 the weight of 0.03 is 0.24
  on a mean.
  """
  return jax.nn.sigmoid(scores).sum()

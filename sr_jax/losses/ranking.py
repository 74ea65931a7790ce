"""Losses of RankSRGAN (Zhang et al., ICCV 2019): for its ranker and with it.

The ranker is a network that is trained on pairs of images to order them as a
metric such as NIQE does. Its score of an SR image is then a loss for the
generator. Higher scores are worse, as with NIQE.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

# Scores are clipped to [-_LIMIT, _LIMIT]; clipped scores get no gradient.
_LIMIT = 5.0


def order(
  first: jax.Array,
  second: jax.Array,
  label_first: jax.Array,
  label_second: jax.Array,
  margin: float = 0.5,
) -> jax.Array:
  """Mean hinge loss of pairs of scores, whose right order the labels give.

  Args:
    first: Scores of the first images, `[B, ...]`.
    second: Scores of the second images, of the same shape.
    label_first: Values of the metric for the first images.
    label_second: Values of the metric for the second images. If both values are
      equal, the first image should get the higher score.
    margin: Difference of scores above which the loss is zero.
  """
  # Not jnp.clip, whose gradient at the limit is half of PyTorch's.
  first, second = (
    jnp.where(jnp.abs(x) <= _LIMIT, x, _LIMIT * jnp.sign(x))
    for x in (first, second)
  )
  direction = jnp.where(label_first >= label_second, 1.0, -1.0)
  short = margin - direction * (first - second)
  # `short > 0` would turn NaN scores into a loss of 0; this keeps the NaN.
  return jnp.where(short <= 0, 0.0, short).mean()


def content(scores: jax.Array) -> jax.Array:
  """Rank-content loss of the generator: the summed sigmoids of all scores.

  The released code takes the sum over the batch. With its batch of 8, the
  weight 0.03 on the sum equals a weight of 0.24 on the mean.
  """
  return jax.nn.sigmoid(scores).sum()

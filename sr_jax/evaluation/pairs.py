"""Evaluation of a ranker on held-out pairs of images."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from sr_jax import methods
from sr_jax.data import batches, opening, ranked
from sr_jax.methods import Method, ranking
from sr_jax.metric_writers import MetricWriter
from sr_jax.metrics.correlation import spearman
from sr_jax.ops.compilation import jit

# Number of patches that are scored at once.
_TOGETHER = 8


class PairEvaluation:
  """Pair accuracy and rank correlation on held-out patches.

  Attributes:
    rules: The protocol of the scores, which is stored in checkpoints.
    names: Names of the scores that may choose a checkpoint.
  """

  names: Sequence[str] = ('accuracy', 'spearman')

  def __init__(self, config: Mapping[str, Any], method: Method):
    """Opens the held-out patches of `config.eval.source`.

    An empty name stands for the held-out patches of the training data.

    Raises:
      UserError: The data set has no held-out patches.
    """
    section = config['eval']
    source = opening.held_out_patches(config)
    self.rules = {
      'name': 'pairs',
      'metric': config['method']['metric'],
      'better': config['method']['better'],
      'images': section['source'] or config['data']['source'],
    }
    self._count = section['crops']
    self._predict = jit(methods.inference(config).predict)
    if isinstance(source, ranked.RankedSource):
      self._batches = functools.partial(_of_patches, source, self._count)
      return
    hr = batches.fixed_crops(
      source, size=section['crop_size'], count=self._count, scale=1
    )['hr']
    images, labels = ranking.pairs(
      method.degrade, jax.random.key(0), {'hr': hr}
    )
    pair = np.stack(images), np.stack(labels, axis=1)
    self._batches = lambda: iter([pair])

  def __call__(
    self, step: int, params: Mapping[str, Any], writer: MetricWriter
  ) -> dict[str, float]:
    """Scores parameters (by slot), and writes the scores.

    Returns:
      `accuracy` over the pairs of levels of each patch, also pair by pair as
      `accuracy_0_1`, and `spearman` over all patches.
    """
    local = jax.device_get(params)
    scores, labels = [], []
    for images, known in self._batches():
      columns = [np.asarray(self._predict(local, level)) for level in images]
      scores.append(np.stack(columns, axis=1)[: len(known)])
      labels.append(known)
    values = agreement(np.concatenate(scores), np.concatenate(labels))
    writer.scalars(step, {f'held_out/{k}': v for k, v in values.items()})
    return values


def agreement(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
  """How well scores `[N, levels]` put labels `[N, levels]` in order."""
  pairs = list(itertools.combinations(range(labels.shape[1]), 2))
  right = {
    f'accuracy_{i}_{j}': float(
      np.mean((scores[:, i] >= scores[:, j]) == (labels[:, i] >= labels[:, j]))
    )
    for i, j in pairs
  }
  return {
    'accuracy': float(np.mean(list(right.values()))),
    'spearman': spearman(scores.ravel(), labels.ravel()),
    **right,
  }


def _of_patches(
  source: ranked.RankedSource, count: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Evenly spaced patches as `[levels, B, S, S, 3]`, and labels `[b, levels]`.

  All batches have one shape: the last one is filled up with its own patches.
  """
  count = min(count, len(source))
  chosen = [i * len(source) // count for i in range(count)]
  for start in range(0, count, _TOGETHER):
    part = chosen[start : start + _TOGETHER]
    full = np.resize(part, _TOGETHER)
    images = np.stack(
      [[source.image(i, level) for i in full] for level in range(source.levels)]
    )
    yield images.astype(np.float32) / 255, source.scores[part]

"""Evaluation of the kernel estimator on photographs not used for training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from sr_jax import methods
from sr_jax.data import opening
from sr_jax.metric_writers import MetricWriter
from sr_jax.metrics.correlation import spearman
from sr_jax.models.estimators.spectrum_mlp import ORIGINS
from sr_jax.ops.compilation import jit


class SpectraEvaluation:
  """Errors of the estimates for reductions of `config.eval.source`.

  Attributes:
    rules: The protocol of the scores, which is stored in checkpoints.
    names: Names of the scores that may choose a checkpoint.
  """

  names: Sequence[str] = ('root_error', 'origin_accuracy')

  def __init__(self, config: Mapping[str, Any]):
    """Reduces the photographs once.

    Raises:
      UserError: The source has no photographs.
    """
    source = opening.held_out_spectra(config)
    self.rules = {'name': 'spectra', 'images': config['eval']['source']}
    self._known = source.stacked
    self._predict = jit(methods.inference(config).predict)

  def __call__(
    self, step: int, params: Mapping[str, Any], writer: MetricWriter
  ) -> dict[str, float]:
    """Scores parameters (by slot), and writes the scores.

    Returns:
      `root_error`, the mean error of the square root of the covariance in LR
      pixels, `too_wide`, the mean of its trace's error, `error_correlation`,
      Spearman's of the expected error with the real one, and
      `origin_accuracy`, the mean share of each origin that is recognised.
    """
    known = self._known
    seen = [x.astype(np.float32) for x in (known.features, known.edges)]
    answers = self._predict(jax.device_get(params), *seen, known.scale)
    root, error, logits = map(np.asarray, answers)
    off = (root - known.root)[known.known]
    distance = np.abs(off).mean(-1)
    guessed = logits.argmax(-1)
    recalls = [
      np.mean(guessed[known.origin == i] == i)
      for i in range(len(ORIGINS))
      if (known.origin == i).any()
    ]
    values = {
      'root_error': float(distance.mean()),
      'too_wide': float(off[:, [0, 2]].mean()),
      'error_correlation': spearman(error[known.known], distance),
      'origin_accuracy': float(np.mean(recalls)),
    }
    writer.scalars(step, {f'held_out/{k}': v for k, v in values.items()})
    return values

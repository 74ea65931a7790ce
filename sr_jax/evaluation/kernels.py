"""Evaluation of estimates of known kernels, on images not used for training."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sr_jax import methods
from sr_jax.data import batches, opening
from sr_jax.methods.kernel_game import draw_task
from sr_jax.metric_writers import MetricWriter
from sr_jax.metrics.correlation import spearman
from sr_jax.ops.compilation import jit
from sr_jax.ops.levels import to_unit

# Kernels by which every crop is reduced.
_KERNELS = 4


class KernelEvaluation:
  """Errors of the kernels of reductions of `config.eval.source`.

  Attributes:
    rules: The protocol of the scores, which is stored in checkpoints.
    names: Names of the scores that may choose a checkpoint.
  """

  names: Sequence[str] = ('kernel_distance', 'variance_correlation')

  def __init__(self, config: Mapping[str, Any]):
    """Reduces the crops once.

    Raises:
      UserError: No image is large enough.
    """
    section, method = config['eval'], config['method']
    self.rules = {'name': 'kernels', 'images': section['source']}
    hr = batches.fixed_crops(
      opening.held_out(config),
      size=section['crop_size'],
      count=section['crops'],
      scale=2,
    )['hr']
    keys = jax.random.split(jax.random.key(config['seed']), _KERNELS * len(hr))
    draw = functools.partial(
      draw_task,
      min_variance=method['min_variance'],
      max_variance=method['max_variance'],
    )
    images = to_unit(jnp.asarray(hr.repeat(_KERNELS, 0)))
    self._lr, self._true = jit(jax.vmap(draw))(keys, images)
    self._keys = keys
    predict = methods.inference(config).predict

    def kernels(params: Any, lr: jax.Array, keys: jax.Array) -> jax.Array:
      return jax.lax.map(lambda task: predict(params, *task), (lr, keys))

    self._predict = jit(kernels)

  def __call__(
    self, step: int, params: Mapping[str, Any], writer: MetricWriter
  ) -> dict[str, float]:
    """Scores parameters (by slot), and writes the scores.

    Returns:
      `kernel_distance`, the mean sum of absolute differences of taps, and
      `variance_correlation`, Spearman's of estimated and true variance.
    """
    found = self._predict(params, self._lr, self._keys)
    found, true = np.asarray(found), np.asarray(self._true)
    values = {
      'kernel_distance': float(np.abs(found - true).sum((1, 2)).mean()),
      'variance_correlation': spearman(_variance(found), _variance(true)),
    }
    writer.scalars(step, {f'held_out/{k}': v for k, v in values.items()})
    return values


def _variance(kernels: np.ndarray) -> np.ndarray:
  """Mean variance along the axes of kernels `[N, K, K]`, around the middle."""
  offsets = np.arange(kernels.shape[1]) - kernels.shape[1] // 2
  squares = (offsets**2 + offsets[:, None] ** 2) / 2
  return (kernels * squares).sum((1, 2)) / kernels.sum((1, 2))

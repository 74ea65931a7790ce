"""Geometric self-ensemble: the '+' of published results."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from sr_jax.ops.namespace import array_namespace

Reduction = Literal['mean', 'median']


def self_ensemble(
  predict: Callable[..., Any], reduce: Reduction = 'mean'
) -> Callable[..., Any]:
  """Combines the outputs for the eight flips and rotations of the input.

  The mean is that of Lim et al. (2017), the median that of ZSSR (Shocher et
  al., CVPR 2018). Each output is turned back before, all in float.

  Args:
    predict: `(*inputs) -> output`, all `[B, H, W, C]` (of any resolution),
      NumPy or JAX.
    reduce: 'mean' or 'median', pixel by pixel.

  Returns:
    A function of the same inputs. Inputs that are None stay None.
  """

  def ensembled(*inputs: Any) -> Any:
    total, versions = 0.0, []
    for symmetry in itertools.product((False, True), repeat=3):
      turned = (x if x is None else _turn(x, *symmetry) for x in inputs)
      version = _turn_back(predict(*turned), *symmetry)
      if reduce == 'mean':
        total = total + version
      else:
        versions.append(version)
    if reduce == 'mean':
      return total / 8
    return _median(versions)

  return ensembled


def _median(versions: list[Any]) -> Any:
  """Median of arrays `[B, H, W, C]`, pixel by pixel."""
  if array_namespace(*versions) is not np:
    return jnp.median(jnp.stack(versions), axis=0)
  # By rows: stacked, the versions of a large image would be there twice.
  medians = np.empty_like(versions[0])
  for row in range(medians.shape[1]):
    medians[:, row] = np.median([x[:, row] for x in versions], axis=0)
  return medians


def _turn(x: Any, rows: bool, columns: bool, transpose: bool) -> Any:
  x = x[:, :: -1 if rows else 1, :: -1 if columns else 1]
  return x.swapaxes(1, 2) if transpose else x


def _turn_back(x: Any, rows: bool, columns: bool, transpose: bool) -> Any:
  x = x.swapaxes(1, 2) if transpose else x
  return x[:, :: -1 if rows else 1, :: -1 if columns else 1]

"""Geometric self-ensemble: the '+' of published results."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any


def self_ensemble(predict: Callable[..., Any]) -> Callable[..., Any]:
  """Mean over the eight flips and rotations of the input (Lim et al., 2017).

  Each output is turned back before the mean, which is taken in float.

  Args:
    predict: `(*inputs) -> output`, all `[B, H, W, C]` (of any resolution),
      NumPy or JAX.

  Returns:
    A function of the same inputs. Inputs that are None stay None.
  """

  def ensembled(*inputs: Any) -> Any:
    total = 0.0
    for symmetry in itertools.product((False, True), repeat=3):
      turned = (x if x is None else _turn(x, *symmetry) for x in inputs)
      total = total + _turn_back(predict(*turned), *symmetry)
    return total / 8

  return ensembled


def _turn(x: Any, rows: bool, columns: bool, transpose: bool) -> Any:
  x = x[:, :: -1 if rows else 1, :: -1 if columns else 1]
  return x.swapaxes(1, 2) if transpose else x


def _turn_back(x: Any, rows: bool, columns: bool, transpose: bool) -> Any:
  x = x.swapaxes(1, 2) if transpose else x
  return x[:, :: -1 if rows else 1, :: -1 if columns else 1]

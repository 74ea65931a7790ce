"""Iterative back-projection (Irani & Peleg, CVGIP 1991)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def back_project(
  predict: Callable[..., Any],
  degrade: Callable[[Any], Any],
  upsample: Callable[[Any], Any],
  *,
  iterations: int,
) -> Callable[..., Any]:
  """Moves the output towards images that `degrade` takes to the input.

  Each iteration adds the enlarged error of the small image,
  sr + upsample(lr - degrade(sr)).

  Args:
    predict: `(lr, *others) -> sr`.
    degrade: sr -> lr, the process that made lr.
    upsample: lr -> sr, how an error is spread; it decides what converges.
    iterations: number of corrections; 0 leaves `predict` as it is.

  Returns:
    A function of the same inputs; its output is not clipped.
  """

  def projected(lr: Any, *others: Any) -> Any:
    sr = predict(lr, *others)
    for _ in range(iterations):
      sr = sr + upsample(lr - degrade(sr))
    return sr

  return projected

"""Seconds that a computation takes, apart from those of compiling."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np


@functools.cache
def _compile_spans() -> list[tuple[float, float]]:
  """A list to which JAX adds (start, end) of all tracing and compiling."""
  spans: list[tuple[float, float]] = []

  def listen(
    event: str, start_time: float, end_time: float, **unused: Any
  ) -> None:
    del unused
    if event.startswith('/jax/core/compile/'):
      spans.append((start_time, end_time))

  jax.monitoring.register_event_time_span_listener(listen)
  return spans


def _covered(spans: Sequence[tuple[float, float]]) -> Iterator[float]:
  """Lengths of the parts of the time line that (nested) spans cover."""
  reached = -math.inf
  for start, end in sorted(spans):
    yield max(0.0, end - max(start, reached))
    reached = max(reached, end)


def timed(
  upscale: Callable[[np.ndarray], np.ndarray], lr: np.ndarray
) -> tuple[np.ndarray, float, float]:
  """SR, the seconds it took without compiling, and those of compiling."""
  spans = _compile_spans()
  spans.clear()
  start = time.perf_counter()
  sr = upscale(lr)
  total = time.perf_counter() - start
  compiling = min(total, sum(_covered(spans)))
  return sr, total - compiling, compiling

"""Stops a run on SIGTERM and Ctrl-C.

Before the first step both end the run at once. During training the first signal
makes the run save and end after the current step. A second Ctrl-C ends it
without saving.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Generator
from typing import Any

import jax


class StoppedEarly(KeyboardInterrupt):
  """SIGTERM came before the first step, so there was nothing to save."""


class Stop:
  """Handles signals, and says whether the run should save and end."""

  def __init__(self) -> None:
    self._asked = threading.Event()
    self._waits = False

  def begin(self) -> None:
    """Notes that training begins; from now on a step is finished first."""
    self._waits = jax.process_count() == 1

  def __call__(self, step: int) -> bool:
    """Whether to save and end after this step; all processes agree on it."""
    if jax.process_count() > 1:
      from jax.experimental import multihost_utils

      # JAX notices SIGTERM too, and makes the processes agree on a step.
      return multihost_utils.reached_preemption_sync_point(step)
    return self._asked.is_set()

  def ask(self, number: int, frame: Any) -> None:
    """Handles a signal."""
    del frame
    if self._waits and not self._asked.is_set():
      self._asked.set()
    elif number == signal.SIGTERM and not self._waits:
      raise StoppedEarly
    else:
      raise KeyboardInterrupt


@contextlib.contextmanager
def on_signals() -> Generator[Stop]:
  """Yields a `Stop` that handles SIGTERM and Ctrl-C.

  Only the main thread receives signals. In another thread nothing stops the
  run.
  """
  stop = Stop()
  if threading.current_thread() is not threading.main_thread():
    yield stop
    return
  signals = (signal.SIGTERM, signal.SIGINT)
  before = [signal.signal(number, stop.ask) for number in signals]
  try:
    yield stop
  finally:
    for number, handler in zip(signals, before, strict=True):
      signal.signal(number, handler)

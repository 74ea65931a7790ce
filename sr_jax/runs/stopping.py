"""What SIGTERM and Ctrl-C do to a run.

While it starts, they end it at once. Once it trains, the first one asks it to
save after the current step, and another Ctrl-C ends it without saving.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Generator
from typing import Any

import jax


class StoppedEarly(KeyboardInterrupt):
  """SIGTERM came before the first step: there was nothing to save."""


class Stop:
  """Whether a signal asked the run to save and end."""

  def __init__(self) -> None:
    self._asked = threading.Event()
    self._waits = False

  def begin(self) -> None:
    """Training begins: from now on a signal waits for the end of a step."""
    self._waits = jax.process_count() == 1

  def __call__(self, step: int) -> bool:
    """Whether to save and end after this step, the same on all processes."""
    if jax.process_count() > 1:
      from jax.experimental import multihost_utils

      # JAX's own notice of SIGTERM makes the processes agree on a step.
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
  """Gives a `Stop` that listens to SIGTERM and Ctrl-C.

  Signals reach the main thread only: in another one it never asks to stop.
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

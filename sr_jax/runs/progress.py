"""Output of a run on the terminal, and warnings about its metrics."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from sr_jax.errors import UserError
from sr_jax.metric_writers import MetricWriter

_log = logging.getLogger(__name__)

# Seconds after which a long task is named, and between the lines that follow.
_FIRST_SIGN, _NEXT_SIGN = 2.0, 10.0
# Factor between the mean losses of two intervals at which a warning is printed.
_JUMP = 4.0
# Consecutive non-finite updates after which a run stops.
_PATIENCE = 10


class Diverged(UserError):
  """The updates are no longer finite, so the state should not be saved."""


class Monitor:
  """Averages the metrics of the steps, writes them, and warns of bad ones."""

  def __init__(
    self,
    progress: Progress,
    writer: MetricWriter,
    advice: Callable[[Mapping[str, float]], str | None],
  ):
    """Starts without metrics.

    Args:
      progress: Shows the main metrics.
      writer: Writes all metrics.
      advice: Function of the metrics that returns what the user should do, or
        None. It belongs to the method.
    """
    self._progress, self._writer, self._advice = progress, writer, advice
    self._history: list[dict[str, jax.Array]] = []
    self._means: dict[str, float] = {}
    self._advised = False

  def add(self, metrics: dict[str, jax.Array]) -> None:
    """Adds the metrics of one step, which may not be computed yet.

    It waits for the metrics of the step before. The loop is therefore at most
    one step ahead of the device, and its waiting times are measured correctly.
    """
    if self._history:
      jax.block_until_ready(self._history[-1])
    self._history.append(metrics)

  def report(self, step: int) -> None:
    """Writes the means since the last report, and warns if they look bad.

    Raises:
      Diverged: Too many updates in a row were not finite.
    """
    fetched: list[dict[str, Any]] = jax.device_get(self._history)
    self._history = []
    means = {
      name: float(np.mean([metrics[name] for metrics in fetched]))
      for name in fetched[0]
    }
    for name in ('skipped_in_a_row', 'skipped', 'learning_rate'):
      means[name] = float(fetched[-1][name])
    values = means | self._progress.speed(step)
    self._writer.scalars(step, values)
    shown = ('loss', 'samples_per_second', 'data_wait', 'eta_seconds')
    self._progress.report(step, {k: values[k] for k in shown if k in values})
    in_a_row = max(int(metrics['skipped_in_a_row']) for metrics in fetched)
    if in_a_row >= _PATIENCE:
      raise Diverged(
        f'{in_a_row} updates in a row were not finite at step {step}; lower'
        ' config.optimizer.learning_rate or set config.optimizer.clip_norm; the'
        ' last checkpoint is kept'
      )
    earlier, self._means = self._means, means
    advice = self._advice(means) or _jump(earlier, means)
    if advice and not self._advised:  # once, until there is no advice
      _log.warning('step %d: %s', step, advice)
    self._advised = bool(advice)


def _jump(earlier: Mapping[str, float], now: Mapping[str, float]) -> str | None:
  """Returns advice if the loss is many times that of the interval before."""
  if not earlier or not now['loss'] > _JUMP * earlier['loss'] > 0:
    return None
  return (
    f'the loss jumped from {earlier["loss"]:.3g} to {now["loss"]:.3g}; if it'
    ' does not come down, lower config.optimizer.learning_rate or set'
    ' config.optimizer.clip_norm'
  )


class Progress:
  """Measures and shows the speed of a run.

  A terminal shows a bar. Elsewhere every call of `report` prints one line.
  """

  def __init__(self, steps: int, batch_size: int, *, enabled: bool):
    """Sets the number of steps; if not `enabled`, nothing is printed."""
    self._steps, self._batch_size = steps, batch_size
    self._enabled = enabled
    self._bar = None
    self._restart()

  def begin(self, start: int) -> None:
    """Notes that training begins at step `start`.

    The clock starts after the first step, which includes compilation.
    """
    if self._enabled and sys.stderr.isatty():
      self._bar = tqdm(total=self._steps, initial=start, unit='step')

  def say(self, text: str) -> None:
    """Prints a line."""
    if not self._enabled:
      return
    if self._bar is not None:
      self._bar.write(text)
    else:
      print(text, flush=True)

  @contextlib.contextmanager
  def busy(self, what: str) -> Generator[None]:
    """Prints what the program is doing if it takes more than a moment."""
    began, done = time.perf_counter(), threading.Event()

    def repeat() -> None:
      wait = _FIRST_SIGN
      while not done.wait(wait):
        wait = _NEXT_SIGN
        self.say(f'{what} ({time.perf_counter() - began:.0f} s)')

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
      yield
    finally:
      done.set()
      thread.join()

  def _restart(self) -> None:
    self._began: float | None = None
    self._done, self._waited = 0, 0.0

  def step(self, waited: float) -> None:
    """Counts one finished step that waited so many seconds for its batch."""
    if self._bar is not None:
      self._bar.update()
    if self._began is None:  # the first step compiles
      self._began = time.perf_counter()
      return
    self._done += 1
    self._waited += waited

  def speed(self, step: int) -> dict[str, float]:
    """Returns the speed since the last call.

    Returns:
      `samples_per_second`, `data_wait` (the share of time, 0 to 1, in which
      steps waited for data) and `eta_seconds`.
    """
    if self._began is None or not self._done:
      return {}
    seconds = time.perf_counter() - self._began
    pace = seconds / self._done
    speed = {
      'samples_per_second': self._batch_size / pace,
      'data_wait': self._waited / seconds,
      'eta_seconds': (self._steps - step) * pace,
    }
    self._done, self._waited = 0, 0.0
    self._began = time.perf_counter()
    return speed

  def report(self, step: int, values: Mapping[str, float]) -> None:
    """Prints the named values of a step."""
    text = '  '.join(f'{k} {_short(k, v)}' for k, v in values.items())
    self.say(f'step {step}/{self._steps}  {text}')

  def close(self) -> None:
    """Removes the bar."""
    if self._bar is not None:
      self._bar.close()


def _short(name: str, value: float) -> str:
  if name == 'eta_seconds':
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02}:{seconds:02}'
  return f'{value:.1%}' if name == 'data_wait' else f'{value:.5g}'

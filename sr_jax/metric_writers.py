"""Where the numbers of a run go: JSON lines always, TensorBoard if it can.

TensorBoard needs the `tf` extra: clu writes its files through TensorFlow.
"""

from __future__ import annotations

import importlib.util
import json
import math
import pathlib
import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from tqdm import tqdm


class MetricWriter:
  """Appends `{"step": ..., name: value, ...}` lines to `metrics.jsonl`.

  After a crash the steps since the last checkpoint are done, and written,
  again: of two lines of one step the later counts.
  """

  def __init__(self, workdir: pathlib.Path, *, enabled: bool):
    """Opens the log; a disabled writer (not process 0) writes nothing."""
    self._file = None
    self._tensorboard: Any = None
    if not enabled:
      return
    path = workdir / 'metrics.jsonl'
    # A line cut off by a crash must not swallow the next one.
    written = path.read_bytes() if path.exists() else b''
    cut_off = written and not written.endswith(b'\n')
    self._file = path.open('a')
    if cut_off:
      self._file.write('\n')
    needed = ('tensorflow', 'tensorboard')
    if all(importlib.util.find_spec(name) for name in needed):
      from clu import metric_writers

      self._tensorboard = metric_writers.SummaryWriter(str(workdir))

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Writes one line; non-finite numbers become null, as JSON needs."""
    if self._file is None:
      return
    line = {'step': step} | {
      k: float(v) if math.isfinite(v) else None for k, v in values.items()
    }
    self._file.write(json.dumps(line) + '\n')
    self._file.flush()
    if self._tensorboard:
      self._tensorboard.write_scalars(step, dict(values))

  def images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
    """Sends strips `[H, W, 3]` in [0, 1] to TensorBoard, if there is one."""
    if self._tensorboard:
      batches = {name: image[None] for name, image in images.items()}
      self._tensorboard.write_images(step, batches)

  def close(self) -> None:
    """Flushes and closes."""
    if self._file is not None:
      self._file.close()
    if self._tensorboard:
      self._tensorboard.close()


class Progress:
  """Speed of a run: samples per second, share of waiting for data, ETA.

  A bar on a terminal, otherwise one plain line for each call of `report`.
  """

  def __init__(self, start: int, steps: int, batch_size: int, *, enabled: bool):
    """Begins at step `start` of `steps`; the clock starts with step two."""
    self._steps, self._batch_size = steps, batch_size
    self._enabled = enabled
    self._bar = None
    if enabled and sys.stderr.isatty():
      self._bar = tqdm(total=steps, initial=start, unit='step')
    self._restart()

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
    """`samples_per_second`, `data_wait` (0..1), `eta_seconds`, since last."""
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
    if not self._enabled:
      return
    text = '  '.join(f'{k} {_short(k, v)}' for k, v in values.items())
    line = f'step {step}/{self._steps}  {text}'
    if self._bar is not None:
      self._bar.write(line)
    else:
      print(line, flush=True)

  def close(self) -> None:
    """Ends the bar."""
    if self._bar is not None:
      self._bar.close()


def _short(name: str, value: float) -> str:
  if name == 'eta_seconds':
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02}:{seconds:02}'
  return f'{value:.1%}' if name == 'data_wait' else f'{value:.5g}'

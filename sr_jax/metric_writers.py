"""Writes the metrics of a run to JSON lines, and to TensorBoard if possible.

TensorBoard needs the `tf` extra: clu writes its files through TensorFlow.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import json
import math
import pathlib
from collections.abc import Generator, Mapping
from typing import Any

import numpy as np

from sr_jax.errors import UserError


class MetricWriter:
  """Appends `{"step": ..., name: value, ...}` lines to `metrics.jsonl`.

  After a crash the steps since the last checkpoint are repeated and written
  again. If a step has two lines, the later one is valid.
  """

  def __init__(self, workdir: pathlib.Path, *, enabled: bool):
    """Opens the log; a disabled writer (not process 0) writes nothing."""
    self._file = None
    self._tensorboard: Any = None
    if not enabled:
      return
    self._path = workdir / 'metrics.jsonl'
    with _named(self._path):
      self._file = self._path.open('ab', buffering=0)
      _cut_broken_line(self._path)
    needed = ('tensorflow', 'tensorboard')
    if all(importlib.util.find_spec(name) for name in needed):
      from clu import metric_writers

      self._tensorboard = metric_writers.SummaryWriter(str(workdir))

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Writes one line; non-finite numbers become null, as JSON needs.

    Raises:
      UserError: The line cannot be written.
    """
    if self._file is None:
      return
    line = {'step': step} | {
      k: float(v) if math.isfinite(v) else None for k, v in values.items()
    }
    data = (json.dumps(line) + '\n').encode()
    with _named(self._path):
      while data:  # a full disk takes the first part without complaint
        data = data[self._file.write(data) or 0 :]
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


@contextlib.contextmanager
def _named(path: pathlib.Path) -> Generator[None]:
  """Adds the file's name to errors of the file system."""
  try:
    yield
  except OSError as error:
    mend = '; free some space' if error.errno == errno.ENOSPC else ''
    raise UserError(f'cannot write {path}: {error.strerror}{mend}') from error


def _cut_broken_line(path: pathlib.Path) -> None:
  """Removes a last line that is incomplete after a crash or on a full disk."""
  with path.open('rb+') as file:
    written = file.read()
    file.truncate(written.rfind(b'\n') + 1)

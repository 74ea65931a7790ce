"""JSON lines, TensorBoard through clu, and the speed of a run."""

import errno
import importlib.util
import json
import os
import sys
import types

import numpy as np
import pytest

from sr_jax import metric_writers
from sr_jax.errors import UserError


def _lines(folder):
  text = (folder / 'metrics.jsonl').read_text()
  return [json.loads(line) for line in text.splitlines()]


def test_scalars_become_json_lines(tmp_path):
  writer = metric_writers.MetricWriter(tmp_path, enabled=True)
  writer.scalars(1, {'loss': 0.5, 'psnr': float('inf')})
  writer.scalars(2, {'loss': np.float32(0.25)})
  writer.close()
  assert _lines(tmp_path) == [
    {'step': 1, 'loss': 0.5, 'psnr': None},
    {'step': 2, 'loss': 0.25},
  ]


def test_a_line_cut_off_by_a_crash_is_removed(tmp_path):
  """T12: half a line from a full disk stayed, and broke readers of the file."""
  path = tmp_path / 'metrics.jsonl'
  path.write_text('{"step": 1, "loss": 1.0}\n{"step": 2, "lo')
  writer = metric_writers.MetricWriter(tmp_path, enabled=True)
  writer.scalars(2, {'loss': 0.5})
  writer.close()
  assert _lines(tmp_path) == [
    {'step': 1, 'loss': 1.0},
    {'step': 2, 'loss': 0.5},
  ]


class _FullDisk:
  """A file on a disk that has room for a few bytes more."""

  def __init__(self, file, room):
    self._file, self._room = file, room

  def write(self, data):
    if not self._room:
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    taken, self._room = self._room, 0
    return self._file.write(data[:taken])

  def close(self):
    self._file.close()


def test_a_full_disk_is_named_and_leaves_whole_lines(tmp_path):
  """T12: on a full disk the error named neither the file nor a remedy."""
  writer = metric_writers.MetricWriter(tmp_path, enabled=True)
  writer.scalars(1, {'loss': 0.5})
  writer._file = _FullDisk(writer._file, room=7)
  with pytest.raises(UserError) as error:
    writer.scalars(2, {'loss': 0.25})
  assert str(error.value) == (
    f'cannot write {tmp_path / "metrics.jsonl"}: No space left on device; free'
    ' some space'
  )
  writer.close()
  assert not (tmp_path / 'metrics.jsonl').read_bytes().endswith(b'\n')
  writer = metric_writers.MetricWriter(tmp_path, enabled=True)  # resumed
  writer.scalars(2, {'loss': 0.25})
  writer.close()
  assert _lines(tmp_path) == [
    {'step': 1, 'loss': 0.5},
    {'step': 2, 'loss': 0.25},
  ]


def test_other_processes_write_nothing(tmp_path):
  writer = metric_writers.MetricWriter(tmp_path, enabled=False)
  writer.scalars(1, {'loss': 0.5})
  writer.images(1, {'crop': np.zeros((2, 2, 3))})
  writer.close()
  assert not list(tmp_path.iterdir())


def test_tensorboard_gets_scalars_and_images(tmp_path, monkeypatch):
  """A stand-in for clu's writer, which needs TensorFlow."""
  written = {}

  class SummaryWriter:
    def __init__(self, folder):
      written['folder'] = folder

    def write_scalars(self, step, values):
      written[step] = values

    def write_images(self, step, images):
      written['shape'] = {name: image.shape for name, image in images.items()}

    def close(self):
      written['closed'] = True

  module = types.ModuleType('clu.metric_writers')
  module.SummaryWriter = SummaryWriter
  monkeypatch.setitem(sys.modules, 'clu.metric_writers', module)
  monkeypatch.setattr('clu.metric_writers', module, raising=False)
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: object())
  writer = metric_writers.MetricWriter(tmp_path, enabled=True)
  writer.scalars(3, {'loss': 0.5})
  writer.images(3, {'crop': np.zeros((4, 12, 3))})
  writer.close()
  assert written == {
    'folder': str(tmp_path),
    3: {'loss': 0.5},
    'shape': {'crop': (1, 4, 12, 3)},
    'closed': True,
  }

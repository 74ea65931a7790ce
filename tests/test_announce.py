"""What a run says before its first step, and files on a full disk."""

import errno
import logging
import os
import types

import jax.numpy as jnp
import pytest

from sr_jax import experiment
from sr_jax.errors import UserError
from sr_jax.runs import preparing


def _announced(steps, source, caplog):
  lines = []
  run = types.SimpleNamespace(
    config={'data': {'source': source}, 'steps': steps},
    source=types.SimpleNamespace(names=['a', 'b', 'c']),
    progress=types.SimpleNamespace(say=lines.append),
    folder='runs/x',
  )
  state = types.SimpleNamespace(params={'w': jnp.zeros(5)}, step=jnp.array(0))
  caplog.clear()
  with caplog.at_level(logging.WARNING):
    preparing.announce(run, state)
  return lines, caplog.text


def test_a_long_run_on_the_embedded_photographs_is_warned_of(caplog):
  """Without data.source whole experiments ran on them in silence."""
  lines, warning = _announced(100_000, 'embedded', caplog)
  assert lines[0].startswith('3 images of embedded, 5 parameters, ')
  assert 'config.data.source is embedded: 3 photographs are enough' in warning
  assert '--config.data.source=folder:PATH' in warning
  for steps, source in ((100, 'embedded'), (100_000, 'folder:photos')):
    assert _announced(steps, source, caplog)[1] == ''


def test_a_full_disk_leaves_the_config_as_it_was(tmp_path, monkeypatch):
  """T12: on a full disk half a file of a run stayed."""
  experiment.write(tmp_path, {'steps': 1}, 'digest')
  before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

  def replace(*unused):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr(os, 'replace', replace)
  with pytest.raises(UserError, match='No space left on device') as error:
    experiment.write(tmp_path, {'steps': 2}, 'other')
  assert '\n' not in str(error.value)
  assert str(tmp_path) in str(error.value)
  assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before

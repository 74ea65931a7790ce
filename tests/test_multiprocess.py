"""Two processes train as one; when one of them fails, both end at once."""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from sr_jax import checkpoints, experiment
from sr_jax.runs import peers
from tests import tiny

CODE = """
import json, sys
from sr_jax import train_loop
train_loop.train_and_evaluate(json.loads(sys.argv[1]), sys.argv[2])
"""
# Process 1 meets a fault of its data after the tenth step.
FAULTY = """
import jax
from sr_jax import train_loop
from sr_jax.errors import UserError
stream = train_loop._stream
def faulty(run, start):
  for item in stream(run, start):
    if item[0] == 10 and jax.process_index() == 1:
      raise UserError('photo.png: no such file')
    yield item
train_loop._stream = faulty
"""


def _start(config, folder, devices, code=CODE, **environment):
  names = os.environ | {
    'JAX_NUM_CPU_DEVICES': str(devices),
    'JAX_PLATFORMS': 'cpu',
    **environment,
  }
  return subprocess.Popen(
    [sys.executable, '-c', code, json.dumps(config), folder],
    env=names,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def _pair(configs, folder, devices, code=CODE):
  """Starts the two processes of a run."""
  address = f'localhost:{_free_port()}'
  return [
    _start(
      config | {'multihost': True},
      folder,
      devices,
      code,
      JAX_COORDINATOR_ADDRESS=address,
      JAX_NUM_PROCESSES='2',
      JAX_PROCESS_ID=str(i),
    )
    for i, config in enumerate(configs)
  ]


def _free_port():
  """A free port that other programs are unlikely to be given meanwhile.

  Systems choose from 32768 on. Two test runs may have the same seed.
  """
  chance = random.SystemRandom()
  while True:
    port = chance.randrange(15_000, 32_000)
    with socket.socket() as s, contextlib.suppress(OSError):
      s.bind(('localhost', port))
      return port


def _finish(processes):
  try:
    for process in processes:
      _, err = process.communicate(timeout=150)
      assert process.returncode == 0, err
  finally:
    _end(processes)


def _end(processes):
  for process in processes:
    process.kill()
    process.communicate()


@pytest.mark.nightly
def test_two_processes_equal_one(tmp_path):
  config = experiment.to_plain(tiny.config())
  one = _start(config, tmp_path / 'one', 4)
  two = _pair([config] * 2, tmp_path / 'two', 2)
  _finish([one, *two])
  names = ('one', 'two')
  ours, theirs = (checkpoints.load_params(tmp_path / n) for n in names)
  assert ours.step == theirs.step == 4
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    ours.params,
    theirs.params,
  )
  logs = [
    [json.loads(line) for line in text.splitlines()]
    for text in ((tmp_path / n / 'metrics.jsonl').read_text() for n in names)
  ]
  losses = [[line['loss'] for line in log if 'loss' in line] for log in logs]
  np.testing.assert_allclose(*losses, rtol=1e-5)


@pytest.mark.nightly
def test_processes_with_other_configs_are_refused(tmp_path):
  """T7: processes with different configs trained to a loss of 1e8, or hung."""
  configs = [experiment.to_plain(tiny.config(seed=i)) for i in range(2)]
  processes = _pair(configs, tmp_path / 'run', 1)
  try:
    errors = [process.communicate(timeout=150)[1] for process in processes]
  finally:
    _end(processes)
  for error in errors:
    last = error.strip().splitlines()[-1]
    assert 'UserError: process 1 on ' in last
    assert 'was started differently: seed is 1 there, 0 in process 0' in last
  assert not (tmp_path / 'run' / 'checkpoints').exists()


def _long_run():
  """A run that is long enough for a test to watch."""
  sections = {'eval': {'every': 10**6}, 'checkpoint': {'every': 10**6}}
  return experiment.to_plain(tiny.config(steps=10**6, **sections))


@pytest.mark.nightly
def test_a_killed_process_ends_the_others_in_one_line(tmp_path):
  """T8: if a process was killed, the other aborted late with 75 lines."""
  log = tmp_path / 'run' / 'metrics.jsonl'
  processes = _pair([_long_run()] * 2, tmp_path / 'run', 1)
  survivor, killed = processes
  try:
    began = time.monotonic()
    while not (log.exists() and log.stat().st_size):  # until both train
      assert time.monotonic() - began < 150
      assert survivor.poll() is None, survivor.communicate()[1]
      time.sleep(0.1)
    killed.send_signal(signal.SIGKILL)
    _, error = survivor.communicate(timeout=60)
  finally:
    _end(processes)
  assert survivor.returncode == 2
  warning, line = error.strip().splitlines()
  assert 'photographs are enough' in warning
  assert line == (
    f'error: process 1 on {socket.gethostname()} ended unexpectedly; the last'
    ' checkpoint is kept: start all processes again to resume'
  )


@pytest.mark.nightly
def test_a_fault_in_one_process_ends_all_in_one_line(tmp_path):
  """T2: if one process could not read its data, the others waited for it."""
  processes = _pair([_long_run()] * 2, tmp_path / 'run', 1, FAULTY + CODE)
  try:
    errors = [process.communicate(timeout=150)[1] for process in processes]
  finally:
    _end(processes)
  assert [process.returncode for process in processes] == [2, 2]
  tail = (
    'photo.png: no such file; the last checkpoint is kept: start all processes'
    ' again to resume'
  )
  lines = [error.strip().splitlines()[1:] for error in errors]
  assert lines == [
    [f'error: process 1 on {socket.gethostname()}: {tail}'],
    [f'error: {tail}'],
  ]


class _Left(Exception):
  """Raised in place of the end of the process."""


@pytest.fixture
def connection(monkeypatch):
  """A link, its end of a connection, and the end of the peer."""

  def leave(status):
    raise _Left(status)

  monkeypatch.setattr(os, '_exit', leave)
  monkeypatch.setattr(peers, '_DEAD_AFTER', 0.2)
  here, there = socket.socketpair()
  with here, there:
    yield peers.Link(), here, there


def test_a_peer_that_cannot_be_reached_ends_the_run(connection, capfd):
  """T8: if a host lost its network, the others waited for it."""
  link, here, there = connection
  there.sendall(b'{}\n')
  with pytest.raises(_Left):
    link.listen(3, 'host3', here)
  error = capfd.readouterr().err
  assert error.startswith('error: process 3 on host3 gave no sign of life for')
  assert error.count('\n') == 1


def test_a_peer_that_ends_well_ends_nothing(connection, capfd):
  link, here, there = connection
  there.sendall(b'{}\n{"bye": true}\n')
  there.close()
  link.listen(3, 'host3', here)
  assert capfd.readouterr() == ('', '')


def test_strangers_are_sent_away(connection, capfd):
  link, here, there = connection
  there.sendall(b'{"token": "guessed", "process": 0}\n{"fault": "boo"}\n')
  peers._greet(link, here, 'secret', ['host0'])
  assert here.fileno() < 0  # closed
  assert capfd.readouterr() == ('', '')

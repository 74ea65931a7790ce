"""Two processes with two devices each train as one process with four."""

import json
import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from sr_jax import checkpoints, experiment
from tests import tiny

CODE = """
import json, sys
from sr_jax import train_loop
train_loop.train_and_evaluate(json.loads(sys.argv[1]), sys.argv[2])
"""


def _start(config, folder, devices, **environment):
  names = os.environ | {
    'JAX_NUM_CPU_DEVICES': str(devices),
    'JAX_PLATFORMS': 'cpu',
    'JAX_DISABLE_MOST_OPTIMIZATIONS': '1',
    **environment,
  }
  return subprocess.Popen(
    [sys.executable, '-c', CODE, json.dumps(config), folder],
    env=names,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def _free_port():
  with socket.socket() as s:
    s.bind(('localhost', 0))
    return s.getsockname()[1]


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
  address = f'localhost:{_free_port()}'
  two = [
    _start(
      config | {'multihost': True},
      tmp_path / 'two',
      2,
      JAX_COORDINATOR_ADDRESS=address,
      JAX_NUM_PROCESSES='2',
      JAX_PROCESS_ID=str(i),
    )
    for i in range(2)
  ]
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


def test_processes_with_other_configs_are_refused(tmp_path):
  """T7: unlike processes trained on, with a loss of 1e8, or never ended."""
  address = f'localhost:{_free_port()}'
  configs = [
    experiment.to_plain(tiny.config(seed=i)) | {'multihost': True}
    for i in range(2)
  ]
  processes = [
    _start(
      config,
      tmp_path / 'run',
      1,
      JAX_COORDINATOR_ADDRESS=address,
      JAX_NUM_PROCESSES='2',
      JAX_PROCESS_ID=str(i),
    )
    for i, config in enumerate(configs)
  ]
  try:
    errors = [process.communicate(timeout=150)[1] for process in processes]
  finally:
    _end(processes)
  for error in errors:
    last = error.strip().splitlines()[-1]
    assert 'UserError: process 1 on ' in last
    assert 'was started differently: seed is 1 there, 0 in process 0' in last
  assert not (tmp_path / 'run' / 'checkpoints').exists()

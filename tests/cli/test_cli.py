"""The command's frame: help without JAX, and how failures are told."""

import subprocess
import sys
import time
import types

import pytest

from sr_jax.cli import main as cli

COMMANDS = ('doctor', 'upscale', 'evaluate', 'degrade', 'import', 'export')
COMMANDS += ('interpolate', 'fit-niqe', 'rank-data', 'info')


def python(code, **options):
  return subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, **options
  )


def test_help_is_quick_and_loads_nothing_heavy():
  code = """
import sys
from sr_jax import cli
try:
  cli.main(['--help'])
finally:
  assert not {'jax', 'numpy', 'PIL', 'flax'} & set(sys.modules)
"""
  seconds = []
  for _ in range(3):
    start = time.perf_counter()
    done = python(code)
    seconds.append(time.perf_counter() - start)
    assert done.returncode == 0, done.stderr
  assert min(seconds) < 0.5
  listed = [
    line.split()[0]
    for line in done.stdout.splitlines()
    if line[:4] == '    ' and line[4] != ' '
  ]
  assert listed == [*COMMANDS]


@pytest.mark.parametrize('command', COMMANDS)
def test_every_command_explains_itself(command, capsys):
  with pytest.raises(SystemExit) as stop:
    cli.main([command, '--help'])
  assert stop.value.code == 0
  assert capsys.readouterr().out.startswith(f'usage: sr-jax {command}')


@pytest.mark.parametrize(
  ('error', 'status', 'line'),
  [
    (KeyboardInterrupt(), 130, 'interrupted'),
    (MemoryError('7 GiB'), 2, 'not enough memory: 7 GiB'),
    (MemoryError(), 2, 'not enough memory: MemoryError'),
    (PermissionError(13, 'Permission denied', 'a/b'), 2,
     'a/b: Permission denied'),
    (OSError(28, 'No space left on device'), 2, 'No space left on device'),
  ],
)  # fmt: skip
def test_failures_in_one_line(error, status, line, monkeypatch, capsys):
  def run(args):
    raise error

  module = types.SimpleNamespace(run=run)
  monkeypatch.setitem(sys.modules, 'sr_jax.cli.info', module)
  assert cli.main(['info', 'x']) == status
  assert capsys.readouterr() == ('', f'sr-jax: error: {line}\n')


def test_faults_of_ours_keep_their_traceback(monkeypatch):
  def run(args):
    raise TypeError('a bug')

  module = types.SimpleNamespace(run=run)
  monkeypatch.setitem(sys.modules, 'sr_jax.cli.info', module)
  with pytest.raises(TypeError, match='a bug'):
    cli.main(['info', 'x'])


def test_reader_that_goes_away():
  code = """
import sys, types
from sr_jax import cli
run = lambda args: print('x' * 1000000) or 0
sys.modules['sr_jax.cli.info'] = types.SimpleNamespace(run=run)
sys.exit(cli.main(['info', 'x']))
"""
  process = subprocess.Popen(
    [sys.executable, '-c', code],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  assert process.stdout is not None
  process.stdout.read(5)
  process.stdout.close()
  with process, process.stderr as stderr:
    assert stderr.read() == (
      'sr-jax: error: the reader of the output went away\n'
    )
  assert process.returncode == 2

"""The sr-jax command: help without importing JAX, and messages of failures."""

import resource
import subprocess
import sys

import jax
import pytest

from sr_jax import errors, train_loop
from sr_jax.cli import info
from sr_jax.cli.main import main
from tests import tiny

COMMANDS = ('doctor', 'upscale', 'estimate-kernel', 'evaluate', 'degrade')
COMMANDS += (
  'import',
  'export',
  'interpolate',
  'fit-niqe',
  'prepare',
  'rank-data',
  'info',
)


def python(code, **options):
  return subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, **options
  )


def _seconds_of_children():
  """Processor time of child processes, which other programs do not lengthen."""
  used = resource.getrusage(resource.RUSAGE_CHILDREN)
  return used.ru_utime + used.ru_stime


def test_help_is_quick_and_loads_nothing_heavy():
  code = """
import sys
from sr_jax.cli.main import main
try:
  main(['--help'])
finally:
  assert not {'jax', 'numpy', 'PIL', 'flax'} & set(sys.modules)
"""
  seconds = []
  for _ in range(3):
    start = _seconds_of_children()
    done = python(code)
    seconds.append(_seconds_of_children() - start)
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
    main([command, '--help'])
  assert stop.value.code == 0
  assert capsys.readouterr().out.startswith(f'usage: sr-jax {command}')


def raising(error):
  def run(args):
    raise error

  return run


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
  monkeypatch.delenv('SR_JAX_TRACEBACK', raising=False)
  monkeypatch.setattr(info, 'run', raising(error))
  assert main(['info', 'x']) == status
  assert capsys.readouterr() == ('', f'sr-jax: error: {line}\n')


def test_faults_of_ours_keep_their_traceback(monkeypatch):
  monkeypatch.setattr(info, 'run', raising(TypeError('a bug')))
  with pytest.raises(TypeError, match='a bug'):
    main(['info', 'x'])


@pytest.mark.parametrize('how', ['before', 'after', 'environment'])
def test_traceback_on_demand(how, monkeypatch):
  """B14: errors of one line hid where in the code a fault was."""
  monkeypatch.setenv('SR_JAX_TRACEBACK', '0')
  if how == 'environment':
    monkeypatch.setenv('SR_JAX_TRACEBACK', '1')
  error = errors.UserError('one line')
  monkeypatch.setattr(info, 'run', raising(error))
  flag = ['--debug']
  arguments = {
    'before': [*flag, 'info', 'x'],
    'after': ['info', 'x', *flag],
    'environment': ['info', 'x'],
  }
  with pytest.raises(errors.UserError) as caught:
    main(arguments[how])
  assert caught.value is error


@pytest.mark.parametrize(
  'repeated',
  [
    ['upscale', 'x.png', '-o', 'out', '--model', 'a', '--model', 'b'],
    ['upscale', 'x.png', '-o', 'out', '--reference', 'a', '--reference', 'b'],
    ['degrade', '--hr', 'a', '-o', 'b', '--scale', '2', '--scale', '3'],
  ],
)
def test_option_given_twice_is_refused(repeated, capsys):
  """Argparse would take the last one in silence."""
  assert main(repeated) == 2
  option = repeated[-2]
  assert f'{option} is given twice: give it once' in capsys.readouterr().err


def test_options_that_may_be_repeated(capsys):
  command = ['upscale', 'none.png', '-o', 'out', '--option', 'a=1']
  assert main([*command, '--option', 'b=2']) == 2
  assert 'none.png: no such file' in capsys.readouterr().err


@pytest.mark.parametrize('module', ['sr_jax', 'sr_jax.cli'])
def test_module_is_the_command(module):
  """`python -m sr_jax` was refused, `python -m sr_jax.cli` printed nothing."""
  done = subprocess.run(
    [sys.executable, '-m', module, '--version'],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.stdout.startswith('sr_jax ')


def test_reader_that_goes_away():
  code = """
import sys
from sr_jax.cli import info
from sr_jax.cli.main import main
info.run = lambda args: print('x' * 1000000) or 0
sys.exit(main(['info', 'x']))
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


@pytest.mark.parametrize(
  'command',
  [
    ('upscale', 'PHOTO', '-o', 'OUT', '--model', 'bicubic', '--scale', '2'),
    ('upscale', 'PHOTO', '-o', 'OUT'),
    ('evaluate', '--hr', 'PHOTO', '--model', 'bicubic', '--scale', '2'),
    ('info', 'edsr-small-x2'),
    ('doctor',),
  ],
  ids=' '.join,
)
def test_jax_that_cannot_start(run, command, photos, tmp_path, monkeypatch):
  """T11: JAX_PLATFORMS=cuda without a GPU ended in tracebacks."""

  def devices(*unused):
    raise RuntimeError("Unable to initialize backend 'cuda':\nno device")

  monkeypatch.setattr(jax, 'devices', devices)
  places = {'PHOTO': photos / 'one.png', 'OUT': tmp_path / 'out'}
  done = run(*(places.get(word, word) for word in command))
  assert done.refused("backend 'cuda': no device", 'check JAX_PLATFORMS')


def test_training_with_jax_that_cannot_start(tmp_path, monkeypatch):
  """T11: on a platform that JAX does not have train.py was a traceback."""

  def devices(*unused):
    raise RuntimeError("Unable to initialize backend 'cuda'")

  monkeypatch.setattr(jax, 'devices', devices)
  with pytest.raises(errors.UserError, match='check JAX_PLATFORMS'):
    train_loop.train_and_evaluate(tiny.config(steps=1), tmp_path / 'run')

"""train.py: wrong flags, signals, kills."""

import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import skimage.data
import skimage.io

from sr_jax import checkpoints, train_loop
from tests import tiny

ROOT = pathlib.Path(__file__).parent.parent
# The same tiny experiment through train.py's flags.
FLAGS = (
  '--config.data.batch_size=8',
  '--config.data.patch=8',
  '--config.eval.crop_size=32',
  '--config.eval.crops=1',
  '--config.optimizer.ema_decay=0.9',
)


def _train_py(workdir, *flags):
  config = f'{ROOT / "configs/edsr_small.py"}:smoke'
  command = [sys.executable, ROOT / 'train.py', '--config', config]
  return [*command, '--workdir', workdir, *FLAGS, *flags]


def _start(workdir, *flags):
  return subprocess.Popen(
    _train_py(workdir, *flags),
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def _one_line(arguments, **environment):
  """The last line of train.py's output, which must be the only one."""
  result = subprocess.run(
    [sys.executable, ROOT / 'train.py', *map(str, arguments)],
    capture_output=True,
    text=True,
    timeout=120,
    check=False,
    cwd=ROOT,
    env=os.environ | environment,
  )
  lines = [line for line in result.stderr.splitlines() if line.strip()]
  assert result.returncode == 2
  assert len(lines) == 1, result.stderr
  assert lines[0].startswith('train.py: error: ')
  return lines[0]


@pytest.mark.parametrize(
  ('flags', 'reason'),
  [
    (
      ['--config=configs/edsr_small.py', '--config.modle.scale=2'],
      '--config.modle: no such key; did you mean --config.model?',
    ),
    (
      ['--config=configs/edsr_small.py', '--config.optimizer.lr=1e-4'],
      'did you mean --config.optimizer.learning_rate? config.optimizer has b1',
    ),
    (
      ['--config', 'configs/edsr_small.py', '--config.loss.x=1'],
      '--config.loss.x: no such key; config.loss has no keys',
    ),
    (['--config=configs/edsr_small.py', '--config.steps=many'], 'steps'),
    (
      ['--config', 'configs/edsr_smal.py'],
      'no such file; did you mean configs/edsr_small.py? configs has carn',
    ),
    (['--config=configs/edsr_small.py:smke'], "unknown preset 'smke'"),
  ],
)
def test_a_wrong_flag_is_answered_in_one_line(tmp_path, flags, reason):
  """The answer to `--config.optimizer.lr` was 'lr'; wrong files got no list."""
  assert reason in _one_line([*flags, '--workdir', tmp_path / 'run'])
  assert not (tmp_path / 'run').exists()


def test_a_wrong_config_file_is_answered_in_one_line(tmp_path):
  """Typos in a config file were ignored, and defaults used."""
  path = tmp_path / 'mine.py'
  path.write_text(
    'from configs import edsr_small\n'
    'def get_config(preset=None):\n'
    '  config = edsr_small.get_config(preset)\n'
    '  config.data.batchsize = 2\n'
    '  return config\n'
  )
  line = _one_line(['--config', path, '--workdir', tmp_path / 'run'])
  assert "config.data has no key 'batchsize': did you mean batch_size?" in line


@pytest.mark.nightly
def test_a_missing_accelerator_is_answered_in_one_line(tmp_path):
  """T11: a platform that JAX does not have was a traceback."""
  flags = ['--config=configs/edsr_small.py', '--workdir', tmp_path / 'run']
  line = _one_line(flags, JAX_PLATFORMS='cuda')
  assert 'JAX cannot start' in line
  assert 'check JAX_PLATFORMS' in line


# Runs a program, and waits for a signal where it first imports a module.
HALT = """
import runpy, sys, time
class Halt:
  def find_spec(self, name, *unused):
    if name == module:
      print('halted', flush=True)
      time.sleep(600)
_, module, *sys.argv = sys.argv
sys.meta_path.insert(0, Halt())
runpy.run_path(sys.argv[0], run_name='__main__')
"""


def test_sigterm_during_the_imports_is_a_clean_exit(tmp_path):
  """T13: SIGTERM before the first step gave status -15 and no message."""
  python, *command = _train_py(tmp_path / 'run')
  with subprocess.Popen(
    [python, '-c', HALT, 'absl', *command],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    cwd=ROOT,
  ) as process:
    assert process.stdout.readline() == 'halted\n'
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
  assert process.returncode == 0
  assert err == 'train.py: stopped by a signal before the first step\n'


@pytest.mark.nightly
def test_sigterm_once_the_folder_is_locked_is_a_clean_exit(tmp_path):
  lock = tmp_path / 'run' / '.lock'
  with _start(lock.parent, '--config.steps=100000') as process:
    while not lock.exists():
      assert process.poll() is None, process.stderr.read()
      time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
  assert process.returncode == 0
  assert 'Traceback' not in err
  # A quick machine has already said that the embedded photographs are few.
  *earlier, last = err.splitlines()
  assert 'stopped by a signal' in last
  assert all('data.source is embedded' in line for line in earlier)


@pytest.mark.nightly
def test_train_py_names_the_files_it_skips(tmp_path):
  photo = skimage.data.astronaut()
  for name, side in (('large', 80), ('small', 9)):
    path = tmp_path / 'photos' / f'{name}.png'
    path.parent.mkdir(exist_ok=True)
    skimage.io.imsave(path, photo[:side, :side], check_contrast=False)
  source = f'--config.data.source=folder:{path.parent}'
  with _start(tmp_path / 'run', source, '--config.steps=1') as process:
    _, err = process.communicate(timeout=120)
  assert process.returncode == 0, err
  assert 'small.png does not serve: 9x9 is smaller' in err
  assert len(err.splitlines()) == 2


def test_sigterm_saves_and_exits_with_status_0(tmp_path):
  flags = ('--config.steps=100000', '--config.log_every=1')
  with _start(tmp_path, *flags) as process:
    begun = _first_step(process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
  assert process.returncode == 0
  step = checkpoints.load_params(tmp_path).step
  assert step >= begun
  assert f'stopped by a signal; step {step} is saved' in err


def _first_step(process):
  """Waits for the first logged step of a run and returns its number."""
  for line in process.stdout:
    if line.startswith('step'):
      return int(line.split()[1].split('/')[0])
  raise AssertionError(process.stderr.read())


def kill_and_resume(folder, kills, seed=0):
  """Kills a run at random moments; it must end as one never killed."""
  flags = (
    '--config.steps=60',
    '--config.checkpoint.every=1',
    '--config.log_every=1',
  )
  whole, killed = folder / 'whole', folder / 'killed'
  with _start(whole, *flags) as process:
    process.communicate(timeout=300)
  moments = random.Random(seed)
  reached = 0
  for _ in range(kills):
    with _start(killed, *flags) as process:
      begun = _first_step(process)
      rest = [process.stdout.readline() for _ in range(moments.randrange(9))]
      time.sleep(moments.uniform(0, 0.02))
      process.kill()
      rest += process.stdout.read().splitlines()
    # The first step after a resume: at most one checkpoint was lost, the one
    # that was being written, and the step that was being done.
    assert begun >= reached - 1
    done = [int(s.split()[1].split('/')[0]) for s in rest if s[:5] == 'step ']
    reached = max([begun, *done])
  with _start(killed, *flags) as process:
    process.communicate(timeout=300)
  ours, theirs = (checkpoints.load_params(p) for p in (killed, whole))
  assert ours.step == theirs.step == 60
  jax.tree.map(np.testing.assert_array_equal, ours.params, theirs.params)


@pytest.mark.nightly
def test_kill_9_at_random_moments_always_resumes(tmp_path):
  kill_and_resume(tmp_path, kills=2)


@pytest.mark.nightly
def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(tmp_path):
  """Runs in a separate process: other reads of Orbax outlive a failed one."""
  train_loop.train_and_evaluate(tiny.config(), tmp_path)
  newest = tmp_path / 'checkpoints' / '4'
  for path in newest.rglob('*'):
    if path.is_file() and path.parent.name == 'd':
      path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  code = """
import json, logging, sys
from sr_jax import train_loop
logging.basicConfig()
config = json.load(open(sys.argv[1] + '/config.json')) | {'steps': 6}
print(int(train_loop.train_and_evaluate(config, sys.argv[1]).step))
"""
  result = subprocess.run(
    [sys.executable, '-c', code, tmp_path],
    capture_output=True,
    text=True,
    timeout=120,
    check=False,
  )
  assert result.stdout.split()[-1] == '6', result.stderr
  assert 'resuming from step 2 instead' in result.stderr
  # Done anew, it replaces the damaged one.
  assert checkpoints.load_params(newest).step == 4

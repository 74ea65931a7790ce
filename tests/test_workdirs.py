"""The folder of a run: lock, leftover files, allowed names."""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import threading
import time

import pytest

from sr_jax.errors import UserError
from sr_jax.runs import workdirs

# Holds the lock of a folder until it gets a line of input or is killed.
HOLD = """
import pathlib, sys
from sr_jax.runs import workdirs
with workdirs.claimed(pathlib.Path(sys.argv[1]), 'config.json'):
  print('held', flush=True)
  sys.stdin.read()
"""


@contextlib.contextmanager
def _held(folder):
  command = [sys.executable, '-c', HOLD, folder]
  pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE}
  with subprocess.Popen(command, **pipes, text=True) as process:
    assert process.stdout.readline() == 'held\n'
    yield process
    process.kill()


def _claimed(folder):
  return workdirs.claimed(folder, 'config.json')


def _claim(folder):
  """Locks a folder and releases it."""
  with _claimed(folder):
    pass


def test_a_second_run_is_refused_by_name(tmp_path):
  """T1: two runs in one workdir both trained, and died when they saved."""
  with _held(tmp_path) as process:
    with pytest.raises(UserError) as error:
      _claim(tmp_path)
    message = str(error.value)
    assert f'{tmp_path} is in use by another run' in message
    assert f'process {process.pid} on {os.uname().nodename}' in message
    assert '\n' not in message
    # It ends by itself: the folder is free.
    process.stdin.close()
    assert process.wait(timeout=120) == 0
    _claim(tmp_path)
  assert not list(tmp_path.iterdir())


def test_two_runs_in_one_process_are_two_runs(tmp_path):
  with _claimed(tmp_path):
    with pytest.raises(UserError, match=f'process {os.getpid()} on'):
      _claim(tmp_path)
    assert (tmp_path / '.lock').exists()


def test_the_lock_of_a_killed_run_is_taken_over_at_once(tmp_path, caplog):
  with _held(tmp_path) as process:
    process.kill()
    process.wait(timeout=120)
    assert (tmp_path / '.lock').stat().st_size
    with _claimed(tmp_path):
      pid = json.loads((tmp_path / '.lock').read_text())['pid']
    assert pid == os.getpid()
    assert 'watching' not in caplog.text


@pytest.mark.parametrize('alive', [False, True])
def test_a_run_on_another_machine_is_watched(
  tmp_path, monkeypatch, caplog, alive
):
  """Locks may not work between machines; the time of the lock file does."""
  monkeypatch.setattr(workdirs, '_BEAT', 0.1)
  if alive:  # a busy machine may renew the lock late
    monkeypatch.setattr(workdirs, '_DEAD_AFTER', 600)
  path = tmp_path / '.lock'
  holder = {'host': 'node7', 'pid': 12, 'since': '1', 'machine': 'another'}
  path.write_text(json.dumps(holder))
  done = threading.Event()

  def beat():
    while alive and not done.wait(0.05):
      with contextlib.suppress(FileNotFoundError):
        os.utime(path)

  thread = threading.Thread(target=beat)
  thread.start()
  try:
    if alive:
      with pytest.raises(UserError, match='process 12 on node7'):
        _claim(tmp_path)
      assert json.loads(path.read_text()) == holder
    else:
      with _claimed(tmp_path):
        assert json.loads(path.read_text())['pid'] == os.getpid()
  finally:
    done.set()
    thread.join()
  assert 'watching' in caplog.text


def test_a_held_lock_is_renewed(tmp_path, monkeypatch):
  monkeypatch.setattr(workdirs, '_BEAT', 0.05)
  with _claimed(tmp_path):
    path = tmp_path / '.lock'
    os.utime(path, (1.0, 1.0))
    deadline = time.monotonic() + 60
    while path.stat().st_mtime == 1.0 and time.monotonic() < deadline:
      time.sleep(0.02)
    assert path.stat().st_mtime > 1.0


def test_without_locks_of_the_file_system_the_file_alone_decides(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(workdirs, '_BEAT', 0.05)
  monkeypatch.setattr(workdirs, '_DEAD_AFTER', 1200)
  monkeypatch.setattr(workdirs, '_flock', lambda file: None)
  with _claimed(tmp_path), pytest.raises(UserError, match='is in use'):
    _claim(tmp_path)
  _claim(tmp_path)


def test_leftovers_of_interrupted_writes_are_swept(tmp_path):
  """T13: files of interrupted writes stayed in the workdir forever."""
  (tmp_path / 'images').mkdir()
  kept = ['config.json', 'images/step_1.png', 'images/.notes.tmp', 'my.tmp']
  swept = ['config.tmp', '.0123456789abcdef.tmp']
  swept += ['images/.fedcba9876543210.tmp']
  for name in (*kept, *swept):
    (tmp_path / name).write_text('x')
  _claim(tmp_path)
  left = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob('*')}
  assert left == {'images', *kept}


def test_a_folder_made_in_vain_is_removed_again(tmp_path):

  def start():
    with _claimed(tmp_path / 'a' / 'b'):
      (tmp_path / 'a' / 'b' / 'checkpoints').mkdir()
      raise UserError('refused')

  with pytest.raises(UserError, match='refused'):
    start()
  assert not list(tmp_path.iterdir())
  with _claimed(tmp_path / 'a'):
    (tmp_path / 'a' / 'config.json').write_text('{}')
  assert os.listdir(tmp_path / 'a') == ['config.json']


def test_where_a_workdir_lies(tmp_path, monkeypatch):
  """F9: folders `gs:` and `~` were made, and the run died when it saved."""
  monkeypatch.setenv('HOME', str(tmp_path))
  assert workdirs.locate('~/runs/x') == tmp_path / 'runs' / 'x'
  assert workdirs.locate(tmp_path / 'x') == tmp_path / 'x'
  assert workdirs.locate('x') == pathlib.Path.cwd() / 'x'
  for url in ('gs://bucket/run', 's3://bucket/run', 'https://a.example/b'):
    with pytest.raises(UserError, match='mount the bucket') as error:
      workdirs.locate(url)
    assert url in str(error.value)
    assert '\n' not in str(error.value)
  (tmp_path / 'file').write_text('')
  with pytest.raises(UserError, match='it is a file'):
    workdirs.locate(tmp_path / 'file')


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(UserError, match=r'cannot write .*file'):
    _claim(tmp_path / 'file' / 'run')

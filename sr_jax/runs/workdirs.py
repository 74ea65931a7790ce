"""The folder of a run: its path, its lock and its clean-up.

A lock keeps other runs out of the folder. It is a file that names host and
process of the run, on which the run holds a `flock`. The kernel releases this
when the process dies. Some hosts share folders but not locks; for these the run
also renews the time of the file every few seconds.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pathlib
import re
import socket
import threading
import time
from collections.abc import Callable, Generator
from types import ModuleType
from typing import Any, TextIO

from sr_jax.errors import UserError

try:
  import fcntl as _fcntl
except ImportError:  # Windows
  _fcntl = None

_log = logging.getLogger(__name__)

_LOCK = '.lock'
# Seconds between two signs of life of a run, and the number of missing signs
# after which it counts as dead.
_BEAT = 5.0
_DEAD_AFTER = 3
# Files that interrupted writes leave: those of `files.open_atomically`, and the
# config's in older versions.
_REMAINS = re.compile(r'config\.tmp|\.[0-9a-f]{16}\.tmp')


def locate(workdir: str | os.PathLike[str]) -> pathlib.Path:
  """Returns the absolute path of a workdir; `~` is the home folder.

  Raises:
    UserError: The workdir is a URL or a file.
  """
  text = os.fspath(workdir)
  if re.match(r'[A-Za-z][A-Za-z0-9+.-]*://', text):
    raise UserError(
      f'workdir={text}: a run writes to a folder of this machine; mount the'
      ' bucket (gcsfuse, s3fs) and name the mounted folder, or copy the run'
      ' when it is done'
    )
  try:
    path = pathlib.Path(text).expanduser().absolute()
  except RuntimeError as error:
    raise UserError(f'workdir={text}: {error}') from None
  if path.exists() and not path.is_dir():
    raise UserError(f'workdir={text}: it is a file; name a folder')
  return path


@contextlib.contextmanager
def claimed(folder: pathlib.Path, lasting: str) -> Generator[None]:
  """Makes the folder if needed, and locks it for one run.

  Files that interrupted writes left are removed first. A new folder is removed
  again if the run ends before it has written `lasting`.

  Args:
    folder: The workdir.
    lasting: Name of the first file that is worth keeping.

  Raises:
    UserError: Another run uses the folder, or it cannot be written.
  """
  made = [p for p in (folder, *folder.parents) if not p.exists()]
  try:
    with contextlib.ExitStack() as stack:
      try:
        folder.mkdir(parents=True, exist_ok=True)
        stack.enter_context(_locked(folder))
        _sweep(folder)
      except OSError as error:
        where = error.filename or folder
        raise UserError(f'cannot write {where}: {error.strerror}') from error
      yield
  finally:
    if made and not (folder / lasting).exists():
      _remove_empty(made)


def _remove_empty(folders: list[pathlib.Path]) -> None:
  """Removes folders, the innermost first, if they hold only empty folders."""
  if folders[0].is_dir():
    for inner in folders[0].iterdir():
      with contextlib.suppress(OSError):
        inner.rmdir()
  for folder in folders:
    with contextlib.suppress(OSError):
      folder.rmdir()


def _sweep(folder: pathlib.Path) -> None:
  """Removes the files that interrupted writes left."""
  for place in (folder, folder / 'images'):
    if place.is_dir():
      for path in place.iterdir():
        if _REMAINS.fullmatch(path.name):
          path.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(folder: pathlib.Path) -> Generator[None]:
  """Holds the lock of a folder.

  Raises:
    UserError: Another run holds it.
  """
  path = folder / _LOCK
  file, alone = _opened(path)
  with file:
    holder = _holder(file)
    if alone is False or (
      holder
      and not (alone and holder.get('machine') == _machine())
      and _beats(path, holder)
    ):
      raise UserError(_held(folder, holder))
    file.seek(0)
    file.truncate()
    json.dump(
      {
        'host': socket.gethostname(),
        'pid': os.getpid(),
        'since': time.strftime('%Y-%m-%d %H:%M:%S'),
        'machine': _machine(),
      },
      file,
    )
    file.flush()
    with _repeated(lambda: os.utime(path), _BEAT):
      try:
        yield
      finally:
        path.unlink(missing_ok=True)


def _opened(path: pathlib.Path) -> tuple[TextIO, bool | None]:
  """Opens the file of the lock and locks it, see `_flock`."""
  while True:
    file = path.open('a+')
    file.seek(0)
    alone = _flock(file)
    # If a run that ended meanwhile has removed the file, its lock is void.
    with contextlib.suppress(FileNotFoundError):
      if os.path.samestat(os.fstat(file.fileno()), path.stat()):
        return file, alone
    file.close()


def _flock(file: TextIO) -> bool | None:
  """Locks a file; returns whether this succeeded, or None without locks."""
  if not isinstance(_fcntl, ModuleType):
    return None
  try:
    _fcntl.flock(file, _fcntl.LOCK_EX | _fcntl.LOCK_NB)
  except BlockingIOError:
    return False
  except OSError:
    return None  # the file system has no locks
  return True


def _holder(file: TextIO) -> dict[str, Any]:
  """Reads who holds the lock; {} if the file says nothing readable."""
  try:
    holder = json.loads(file.read())
  except ValueError:
    return {}
  return holder if isinstance(holder, dict) else {}


def _machine() -> str:
  """Identifies this machine; locks may not work between machines."""
  with contextlib.suppress(OSError):
    return pathlib.Path('/proc/sys/kernel/random/boot_id').read_text().strip()
  return socket.gethostname()


def _beats(path: pathlib.Path, holder: dict[str, Any]) -> bool:
  """Watches whether the holder renews the lock, as a living run does."""
  _log.warning(
    'watching for %g s whether the run of %s is still alive',
    *(_BEAT * _DEAD_AFTER, holder.get('host')),
  )
  first = path.stat().st_mtime_ns
  for _ in range(5 * _DEAD_AFTER):
    time.sleep(_BEAT / 5)
    # A network file system asks the server when a file is opened.
    with contextlib.suppress(OSError), path.open() as file:
      if os.fstat(file.fileno()).st_mtime_ns != first:
        return True
  return False


def _held(folder: pathlib.Path, holder: dict[str, Any]) -> str:
  who = ''
  if holder:
    who = (
      f' (process {holder.get("pid")} on {holder.get("host")}, since'
      f' {holder.get("since")})'
    )
  return (
    f'{folder} is in use by another run{who}; wait for it, stop it, or use'
    ' another workdir'
  )


@contextlib.contextmanager
def _repeated(action: Callable[[], None], seconds: float) -> Generator[None]:
  """Repeats an action every few seconds, in a separate thread."""
  done = threading.Event()

  def repeat() -> None:
    while not done.wait(seconds):
      with contextlib.suppress(OSError):
        action()

  thread = threading.Thread(target=repeat, daemon=True)
  thread.start()
  try:
    yield
  finally:
    done.set()
    thread.join()

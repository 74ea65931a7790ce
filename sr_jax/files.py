"""Whole files and folders, or none."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any, BinaryIO

from sr_jax.errors import UserError

# How the hidden files are called that are written before their place is taken.
_TEMPORARY = re.compile(r'\.[0-9a-f]{16}\.tmp')


@contextlib.contextmanager
def open_atomically(path: str | os.PathLike[str]) -> Generator[BinaryIO]:
  """Opens `path` for writing so that it appears whole or not at all.

  The bytes go to a hidden file in the same folder (made if missing), which
  replaces `path` at the end and is removed on any failure.

  Raises:
    UserError: the file cannot be written (permissions, disk full).
  """
  path = Path(path)
  temporary = path.with_name(f'.{secrets.token_hex(8)}.tmp')
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
      with temporary.open('xb') as file:
        yield file
      os.replace(temporary, path)
    except BaseException:
      temporary.unlink(missing_ok=True)
      raise
  except OSError as error:
    reason = error.strerror or ' '.join(str(error).split())
    raise UserError(
      f'{path}: cannot be written ({reason}): free the disk or choose another '
      'place'
    ) from error


def remove_leftovers(folder: str | os.PathLike[str]) -> None:
  """Removes what killed writers left of `open_atomically` in a folder.

  For folders that have one writer at a time, when it starts.
  """
  with contextlib.suppress(OSError):  # there is no such folder yet
    for entry in os.scandir(folder):
      if _TEMPORARY.fullmatch(entry.name):
        with contextlib.suppress(OSError):
          os.unlink(entry)


@contextlib.contextmanager
def folder_atomically(path: str | os.PathLike[str]) -> Generator[Path]:
  """A folder to fill, which becomes `path` at the end, or nothing does.

  It lies hidden beside `path`, on the same disk, and is removed on any failure.

  Raises:
    UserError: `path` exists, or its folder cannot be written.
  """
  path = Path(path).absolute()
  if path.exists():
    raise UserError(f'{path} exists; choose another name or remove it')
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    hidden = Path(tempfile.mkdtemp(prefix=f'.{path.name}.', dir=path.parent))
  except OSError as error:
    raise UserError(
      f'{path}: cannot be made ({error.strerror}): choose another place'
    ) from error
  try:
    yield hidden / 'new'
    (hidden / 'new').rename(path)
  finally:
    shutil.rmtree(hidden, ignore_errors=True)


def refuse_links(folder: Path, path: Path) -> None:
  """Refuses to write below a folder through a link to another folder.

  Args:
    folder: The folder of the results, which may be a link itself.
    path: A file to write below it.

  Raises:
    UserError: a folder between them is a link.
  """
  for parent in path.relative_to(folder).parents:
    if parent.parts and (folder / parent).is_symlink():
      raise UserError(
        f'{folder / parent}: is a link, through which results would be written'
        f' elsewhere than into {folder}: remove it'
      )


def write_json(path: str | os.PathLike[str], value: Any) -> None:
  """Writes JSON, whole or not at all; infinities as the string "Infinity".

  Raises:
    UserError: the file cannot be written.
  """
  text = json.dumps(_finite(value), indent=2, allow_nan=False) + '\n'
  with open_atomically(path) as file:
    file.write(text.encode())


def _finite(value: Any) -> Any:
  if isinstance(value, dict):
    return {key: _finite(item) for key, item in value.items()}
  if isinstance(value, list):
    return [_finite(item) for item in value]
  if isinstance(value, float) and math.isinf(value):
    return 'Infinity' if value > 0 else '-Infinity'
  return value

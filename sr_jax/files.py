"""Whole files or none."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO

from sr_jax.errors import UserError


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

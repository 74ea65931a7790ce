"""Whole files or none."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from sr_jax.errors import UserError


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
  """Writes `data` beside `path`, then renames it into place.

  Raises:
    UserError: the folder is missing or cannot be written.
  """
  target = Path(path)
  temporary = None
  try:
    handle, temporary = tempfile.mkstemp(
      prefix=f'.{target.name[:100]}.', dir=target.parent
    )
    with os.fdopen(handle, 'wb') as file:
      file.write(data)
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(temporary, 0o666 & ~umask)  # mkstemp's files are private
    os.replace(temporary, target)
  except OSError as error:
    raise UserError(f'{target}: {error.strerror or error}') from None
  finally:
    if temporary is not None and os.path.exists(temporary):
      os.remove(temporary)

"""The JSON beside the arrays of a checkpoint, and whether both are intact."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import math
import pathlib
from collections.abc import Generator, Mapping
from typing import Any

from sr_jax.checkpoints import checksums
from sr_jax.errors import UserError

_log = logging.getLogger(__name__)

FORMAT = 1


@contextlib.contextmanager
def one_line(action: str, path: str | pathlib.Path) -> Generator[None]:
  """Turns exceptions of Orbax and the file system into one clear line."""
  try:
    yield
  except UserError:
    raise
  except OSError as error:
    raise UserError(
      f'cannot {action} {path}: {error.strerror or error}'
      + ('; free some space' if error.errno == errno.ENOSPC else '')
    ) from error
  except Exception as error:
    reason = str(error).strip().split('\n')[0][:200]
    if 'No space left' in str(error):
      reason = 'No space left on device; free some space'
    raise UserError(f'cannot {action} {path}: {reason}') from error


def read_about(folder: pathlib.Path) -> dict[str, Any]:
  """The JSON of a checkpoint, if it is intact and this version can read it.

  Raises:
    UserError: it is neither.
  """
  with one_line('read checkpoint', folder):
    about = json.loads(about_file(folder).read_text())
  if not isinstance(about, dict) or not isinstance(about.get('config'), dict):
    raise UserError(f'cannot read checkpoint {folder}: it holds no config')
  if about.get('format') != FORMAT:
    raise UserError(
      f'cannot read checkpoint {folder}: its format {about.get("format")} is'
      f' not {FORMAT}; use the sr_jax that wrote it, or a newer one'
    )
  if not checksums.intact(about):
    raise UserError(
      f'cannot read checkpoint {folder}: it is damaged, its config is not what'
      ' was saved'
    )
  return about


def about_file(folder: pathlib.Path) -> pathlib.Path:
  return folder / 'about' / 'metadata'


def compare_checksum(
  about: Mapping[str, Any], item: str, tree: Any, folder: pathlib.Path
) -> None:
  """Refuses arrays that are not those that were saved.

  Checkpoints from before there were checksums pass.
  """
  stored = about.get('checksums')
  if stored and stored.get(item) != checksums.of_arrays(tree):
    raise UserError(
      f'cannot restore {folder}: it is damaged, its {item} is not what was'
      ' saved'
    )


def set_aside_damaged_scores(root: pathlib.Path) -> None:
  """Renames what older versions wrote where Orbax would stumble over it.

  Orbax reads all such files when it opens a folder: one that is damaged would
  block the run.
  """
  for path in root.glob('*/metrics/metrics'):
    try:
      json.loads(path.read_text())
    except (OSError, ValueError):
      _log.warning('%s is damaged; its scores are not compared', path)
      with contextlib.suppress(OSError):
        path.rename(path.with_name('metrics.damaged'))


def stored_scores(folder: pathlib.Path) -> dict[str, float]:
  """Scores of a checkpoint; none if they cannot be read, which is harmless."""
  with contextlib.suppress(UserError, OSError, ValueError):
    about = read_about(folder)
    if 'scores' in about:
      return about['scores'] or {}
    # Older versions let Orbax write them to a file of its own.
    scores = json.loads((folder / 'metrics' / 'metrics').read_text())
    return scores if isinstance(scores, dict) else {}
  return {}


def json_scores(
  scores: Mapping[str, float] | None,
) -> dict[str, float | None] | None:
  """Scores as JSON can hold them: null for what is not finite."""
  if scores is None:
    return None
  return {
    name: float(value) if math.isfinite(value) else None
    for name, value in scores.items()
  }

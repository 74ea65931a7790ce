"""The JSON item of a checkpoint, and checks that JSON and arrays are intact."""

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
  """Turns errors of Orbax and the file system into one-line `UserError`s."""
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
  """Reads the JSON item `about` of a checkpoint.

  Raises:
    UserError: The item is missing, damaged or of another format version.
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
  """Raises an error if arrays differ from those that were saved.

  Old checkpoints without checksums are accepted.
  """
  stored = about.get('checksums')
  if stored and stored.get(item) != checksums.of_arrays(tree):
    raise UserError(
      f'cannot restore {folder}: it is damaged, its {item} is not what was'
      ' saved'
    )


def set_aside_damaged_scores(root: pathlib.Path) -> None:
  """Renames damaged score files of older versions.

  Orbax reads all score files when it opens a folder, so that a damaged one
  would prevent the run from resuming.
  """
  for path in root.glob('*/metrics/metrics'):
    try:
      json.loads(path.read_text())
    except (OSError, ValueError):
      _log.warning('%s is damaged; its scores are not compared', path)
      with contextlib.suppress(OSError):
        path.rename(path.with_name('metrics.damaged'))


def stored_scores(folder: pathlib.Path) -> dict[str, float]:
  """Scores of a checkpoint by name; empty if they cannot be read."""
  with contextlib.suppress(UserError, OSError, ValueError):
    about = read_about(folder)
    if 'scores' in about:
      return about['scores'] or {}
    # Older versions let Orbax write the scores to a separate file.
    scores = json.loads((folder / 'metrics' / 'metrics').read_text())
    return scores if isinstance(scores, dict) else {}
  return {}


def json_scores(
  scores: Mapping[str, float] | None,
) -> dict[str, float | None] | None:
  """Scores for JSON; a score that is not finite becomes None."""
  if scores is None:
    return None
  return {
    name: float(value) if math.isfinite(value) else None
    for name, value in scores.items()
  }

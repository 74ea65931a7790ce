"""Files of the results of `sr-jax upscale`, and which of them are finished.

A hidden file beside the results, `.sr-jax.jsonl`, records for every result the
input that it was made of (a digest of its bytes) and how it was made (model,
weights and options). An input is finished only if this record has a result of
the same input, made in the same way. The name of a file does not matter.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sr_jax.data.image_io import IMAGE_SUFFIXES
from sr_jax.errors import UserError
from sr_jax.files import refuse_links

RECORD = '.sr-jax.jsonl'
# Formats, mostly of images, that cannot be written. If the name after -o ends
# in one of them, the user means a file, not a folder.
_FOREIGN = re.compile(
  r'\.(ai|arw|avif|bpg|cr2|cr3|dds|dng|eps|exr|fits?|gif|h5|hdf5|hdr|hei[cf]|ico'
  r'|j2k|jls|jp2|jpe|jpf|jpx|jxl|jxr|mat|mov|mp4|nef|npz|orf|pcx|pdf|pfm|p[bgnp]m'
  r'|psd|qoi|raf|raw|rw2|svg|tga|xcf)'
)
# Texts that look like the suffix of a file; the number in x_1.5 does not.
_SUFFIX = re.compile(r'\.[a-z][a-z0-9]{1,4}')
_LONGEST_LABEL = 100


class Job(NamedTuple):
  """One input and its result.

  Attributes:
    source: The input file.
    target: The file to write.
    place: The plain name of the result, below the output folder.
    digest: Digest of the bytes of the input.
  """

  source: Path
  target: Path
  place: str
  digest: str


class Output:
  """The folder of the results, or the file of the only result, and the record.

  Attributes:
    folder: The folder of the results and of the record.
    file: The file that -o names; None if -o names a folder.
  """

  def __init__(self, output: Path, *, for_one_file: bool = False):
    """Reads the record.

    Args:
      output: The path that -o names.
      for_one_file: Whether there is one input, which is not a folder. A name
        with a suffix then means a file.

    Raises:
      UserError: -o names a file of a format that cannot be written.
    """
    suffix = output.suffix.lower()
    is_file = not output.is_dir() and suffix in IMAGE_SUFFIXES
    foreign = _SUFFIX if for_one_file else _FOREIGN
    if not output.is_dir() and not is_file and foreign.fullmatch(suffix):
      raise UserError(
        f'{output}: cannot write {suffix}: choose from'
        f' {" ".join(IMAGE_SUFFIXES)}, or name a folder'
      )
    self.file = output if is_file else None
    self.folder = output.parent if is_file else output
    self._results = _read(self.folder / RECORD)

  def results(self) -> set[Path]:
    """Every recorded file that exists, with links resolved."""
    files = (self.folder / name for name in self._results)
    return {file.resolve() for file in files if file.exists()}

  def finished(self, place: str, digest: str, made_by: Any) -> Path | None:
    """Returns the result of this input that was made in this way, or None."""
    for name, entry in self._results.items():
      if (
        entry.get('place') == place
        and entry.get('input') == digest
        and entry.get('made_by') == made_by
        and (self.folder / name).exists()
      ):
        return self.folder / name
    return None

  def target(
    self,
    place: str,
    label: str,
    inputs: Collection[Path],
    made_by: Mapping[str, Any],
    *,
    overwrite: bool,
  ) -> Path:
    """Returns the file to write a result to.

    It has the plain name of the result if no file has it, or if that file may
    be replaced. If that file was made by another model or option, the name also
    says how the result was made.

    Args:
      place: The plain name.
      label: Text that is added to the name if the plain name is taken.
      inputs: Files that must not be replaced, with links resolved.
      made_by: How the result is made.
      overwrite: Whether earlier results may be replaced.

    Raises:
      UserError: Both names are taken, or a link leads out of the folder.
    """
    own = self.folder / place
    labelled = own.with_name(f'{own.stem}_{label}{own.suffix}')
    names = [own] if self.file else [own, labelled]
    for path in names:
      refuse_links(self.folder, path)
      if path.resolve() in inputs:
        continue
      if overwrite or not self._is_taken(path, place):
        return path
      if self._made(place, made_by):
        raise UserError(
          f'{path}: is the result of another input of this name: choose another'
          ' folder, or replace it with --overwrite'
        )
    raise UserError(
      f'{names[-1]}: exists already, and is no result of this input by these'
      ' options: choose another name, or replace it with --overwrite'
    )

  def _made(self, place: str, made_by: Any) -> bool:
    """Whether the same options made a result of this name, of any input."""
    return any(
      entry.get('place') == place
      and entry.get('made_by') == made_by
      and (self.folder / name).exists()
      for name, entry in self._results.items()
    )

  def _is_taken(self, path: Path, place: str) -> bool:
    """Whether the file exists, or the PNG that was written in its place."""
    if path.exists():
      return True
    png = path.with_suffix('.png')
    entry = self._results.get(png.relative_to(self.folder).as_posix(), {})
    return entry.get('place') == place and png.exists()

  def forget(self, path: Path) -> None:
    """Records that a file is about to be replaced."""
    if path.exists():
      self._append(path, {})

  def add(
    self,
    path: Path,
    job: Job | None,
    made_by: Any = None,
    other_model: str | None = None,
  ) -> None:
    """Records a result, or another file that is written beside results.

    Args:
      path: The file.
      job: The input and its result; None for another file.
      made_by: How the result was made.
      other_model: The model that made it, if that is not the requested one.
    """
    entry: dict[str, Any] = {'with_results': True}
    if job is not None:
      entry = {'place': job.place, 'input': job.digest, 'made_by': made_by}
      if other_model is not None:
        entry['other_model'] = other_model
    self._append(path, entry)

  def other_model(self, path: Path) -> str | None:
    """The model that made a result, if that is not the requested one."""
    entry = self._results.get(path.relative_to(self.folder).as_posix(), {})
    return entry.get('other_model')

  def _append(self, path: Path, entry: dict[str, Any]) -> None:
    name = path.relative_to(self.folder).as_posix()
    self._results[name] = entry
    record = self.folder / RECORD
    try:
      record.parent.mkdir(parents=True, exist_ok=True)
      with record.open('a') as file:
        file.write(json.dumps({'file': name, **entry}) + '\n')
    except OSError as error:
      raise UserError(
        f'{record}: cannot be written ({error.strerror}): free the disk or'
        ' choose another place'
      ) from error


def _read(record: Path) -> dict[str, dict[str, Any]]:
  """Reads the entries by file. Damaged lines and older lines are ignored."""
  try:
    lines = record.read_text(errors='replace').splitlines()
  except OSError:
    return {}
  results = {}
  for line in lines:
    try:
      entry = json.loads(line)
      results[str(entry.pop('file'))] = entry
    except (ValueError, AttributeError, TypeError, LookupError, RecursionError):
      continue
  return {name: entry for name, entry in results.items() if entry}


def digest_of(path: Path) -> str:
  """Digest of a file's bytes; '' for a file that cannot be read."""
  try:
    with path.open('rb') as file:
      return hashlib.file_digest(file, 'sha256').hexdigest()[:16]
  except OSError:
    return ''  # the fault is reported when the file is enlarged


def digest_of_array(array: np.ndarray) -> str:
  """Digest of an array's numbers, short enough for a file name."""
  return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:8]


def label_of(parts: Collection[str]) -> str:
  """Joins texts to a part of a file name, or to their digest if it is long."""
  label = '_'.join(re.sub(r'[^\w.,=-]+', '-', part) for part in parts)
  if len(label) <= _LONGEST_LABEL:
    return label
  return hashlib.sha256(label.encode()).hexdigest()[:16]


def summary(done: int, there: list[Path], failed: list[Path]) -> str:
  """Describes what was done with all inputs."""
  parts = [f'{done} enlarged']
  if there:
    parts.append(f'{len(there)} already there ({_names(there)})')
  if failed:
    parts.append(f'{len(failed)} failed ({_names(failed)})')
  return ', '.join(parts)


def _names(paths: Sequence[Path]) -> str:
  listed = ', '.join(map(str, paths[:5]))
  return listed if len(paths) <= 5 else f'{listed}, ...'

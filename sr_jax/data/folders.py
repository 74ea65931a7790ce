"""Finds the images of a folder, and matches HR and LR images of two folders."""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from sr_jax.data.image_formats import IMAGE_SUFFIXES
from sr_jax.errors import UserError
from sr_jax.ops.scales import whole

Skipped = tuple[tuple[str, str], ...]

# Name of the record that `sr-jax degrade` writes into the folder of images.
DEGRADATION_RECORD = 'degradation.json'
# Ending of the records of single images that `sr-jax degrade` writes.
IMAGE_RECORD = '.degradation.json'
# Names, in lower case, of files and folders that operating systems and programs
# create among images.
_FOREIGN = {
  'thumbs.db',
  'ehthumbs.db',
  'ehthumbs_vista.db',
  'desktop.ini',
  'icon\r',
  'picasa.ini',
  '@eadir',
  '__macosx',
  '$recycle.bin',
  'system volume information',
  'lost+found',
  DEGRADATION_RECORD,
}


def passed_over(name: str) -> bool:
  """Whether all readers of folders ignore files or folders of this name.

  Ignored are hidden files (`.DS_Store`, `._photo.png`), files that operating
  systems create among images (`Thumbs.db`, `desktop.ini`, `@eaDir`), and the
  records of `sr-jax degrade`.
  """
  name = name.lower()
  if name.startswith('.') or name.endswith(IMAGE_RECORD):
    return True
  return name in _FOREIGN


def distinct_names(paths: Sequence[str | os.PathLike[str]]) -> list[str]:
  """Returns different names for several folders: the fewest last path parts.

  `sets/Set5` gets the name `Set5`, unless `other/Set5` is given as well: then
  the names are `sets/Set5` and `other/Set5`.
  """
  parts = [pathlib.Path(os.path.abspath(path)).parts for path in paths]
  names = []
  for own in parts:
    others = [other for other in parts if other != own]
    count = 1
    while any(own[-count:] == other[-count:] for other in others):
      count += 1
    names.append(pathlib.PurePath(*own[-count:]).as_posix())
  return names


def list_images(
  path: str | os.PathLike[str],
) -> tuple[dict[str, pathlib.Path], Skipped]:
  """Lists the files of a folder and its subfolders.

  Returns:
    Files with the suffix of an image, by relative path; and (name, reason) of
    all other files. Names that `passed_over` accepts are in neither.
  """
  root = pathlib.Path(path)
  if not root.is_dir():
    raise UserError(f'{path}: no such folder: check the path')
  images: dict[str, pathlib.Path] = {}
  bad: list[tuple[str, str]] = []
  visited: set[str] = set()

  def closed(error: OSError) -> None:
    bad.append((os.path.relpath(error.filename, root), str(error.strerror)))

  for folder, subfolders, files in os.walk(root, True, closed, True):
    # A link to a folder above would make the walk endless.
    real = os.path.realpath(folder)
    if real in visited:
      subfolders.clear()
      continue
    visited.add(real)
    subfolders[:] = sorted(s for s in subfolders if not passed_over(s))
    for name in sorted(f for f in files if not passed_over(f)):
      file = pathlib.Path(folder, name)
      relative = file.relative_to(root).as_posix()
      if not file.is_file():
        bad.append((relative, 'not a regular file'))
      elif file.suffix.lower() not in IMAGE_SUFFIXES:
        bad.append((relative, 'not an image file'))
      else:
        images[relative] = file
  return dict(sorted(images.items())), tuple(bad)


# Endings of names in public sets: x2 (DIV2K; m, d and w are its degradations),
# _x2 (BasicSR), _SRF_2 (Urban100), _HR, _GT, _LR, _LR4 (RealSR), _LRBI (RCAN),
# _bicLR; folders also as X2, LR_bicubic, GTmod12.
_SCALE = re.compile(
  r'(?P<rest>|.*[^_\-. ])[_\-. ]?(?:x|srf[_\-. ]?)'
  r'(?P<scale>\d+(?:\.\d+)?)(?:[md]|w\d?)?',
  re.IGNORECASE,
)
_ROLE = re.compile(
  r'(?:(?P<rest>.*[^_\-. ])[_\-. ])?(?:(?P<hr>(?:hr|gt)(?:mod\d*)?)'
  r'|(?P<lr>(?:bic)?lr(?:bi|bd|dn|bic|mod)?)(?P<scale>\d*))',
  re.IGNORECASE,
)
_DEGRADED = re.compile(
  r'(?:(?P<rest>.*[^_\-. ])[_\-. ])?(?:bicubic|unknown|mild|difficult|wild)',
  re.IGNORECASE,
)


class _Reading(NamedTuple):
  """One interpretation of a name, after removing endings of public sets.

  Attributes:
    base: The path without suffix and without the removed endings.
    scale: The scale that the endings state; None if they state none.
    role: 'hr' or 'lr' if the endings state it, else None.
  """

  base: str
  scale: float | None
  role: str | None

  def shorter(self, *endings: re.Pattern[str]) -> _Reading | None:
    """Removes one more ending, or returns None; the last ending decides."""
    for ending in endings:
      if found := ending.fullmatch(self.base):
        known = found.groupdict()
        scale = float(known['scale']) if known.get('scale') else None
        role = next((r for r in ('hr', 'lr') if known.get(r)), None)
        return _Reading(
          known['rest'] or '',
          scale if self.scale is None else self.scale,
          self.role or role,
        )
    return None


def _readings(name: str) -> list[_Reading]:
  """All interpretations of a name; the first removes no ending."""
  folder, _, file = os.path.splitext(name)[0].rpartition('/')
  readings = [_Reading(os.path.join(folder, file), None, None)]
  place, parts = _Reading('', None, None), []
  for part in folder.split('/'):
    place = place._replace(base=part)
    while shorter := place.shorter(_SCALE, _ROLE, _DEGRADED):
      place = shorter
    parts.append(place.base)
  folder = '/'.join(filter(None, parts))
  reading: _Reading | None = _Reading(file, None, None)
  while reading is not None and reading.base:
    readings.append(
      _Reading(
        os.path.join(folder, reading.base),
        # The scale of a file name takes precedence over that of its folders.
        place.scale if reading.scale is None else reading.scale,
        reading.role or place.role,
      )
    )
    reading = reading.shorter(_SCALE, _ROLE)
  return readings


class Matched(NamedTuple):
  """Matched HR and LR images, by relative paths.

  Attributes:
    pairs: LR path by HR path, in the order of HR.
    faults: Reason why an HR image has no LR image, by HR path.
    unused: LR images without an HR image.
  """

  pairs: dict[str, str]
  faults: dict[str, str]
  unused: list[str]


def match_lr(hr: Iterable[str], lr: Iterable[str], scale: float) -> Matched:
  """Matches HR and LR images by their relative paths.

  At scale 2 the LR image of `a/0001.png` is `a/0001`, `a/0001x2` (DIV2K) or
  `a/0001_x2` (BasicSR) with any suffix. If there is none, endings of the public
  sets such as `_HR`, `_LR`, `_bicLRx2`, `_SRF_2_LR` and `X2/` are removed from
  the names of files and folders. LR images of other scales are left out. If HR
  and LR images are in the same folder, they are separated by their names.

  If two LR images match an HR image, neither is taken.
  """
  scale = whole(scale)
  large, small = _of_role(hr, 'hr'), _of_role(lr, 'lr')
  by_base: dict[str, dict[str, int]] = {}
  for name, readings in small.items():
    for cost, reading in enumerate(readings):
      if reading.scale in (None, scale):
        by_base.setdefault(reading.base, {}).setdefault(name, cost)
  # Matches by the number of removed endings; the simplest names come first.
  claims: dict[int, dict[str, list[str]]] = {}
  for name, readings in large.items():
    costs: dict[str, int] = {}
    for cost, reading in enumerate(readings):
      if reading.scale in (None, 1, scale):
        for lr_name, more in by_base.get(reading.base, {}).items():
          costs.setdefault(lr_name, cost + more)
    simple = _simple_names(readings[0].base, scale)
    for lr_name, cost in costs.items():
      if small[lr_name][0].base in simple:
        cost = min(cost, 1)
      claims.setdefault(cost, {}).setdefault(name, []).append(lr_name)
  pairs, faults, owners = _settled(claims)
  for name, readings in large.items():
    if name not in pairs and name not in faults:
      looked = ', '.join(_simple_names(readings[0].base, scale))
      faults[name] = f'no LR image (looked for {looked})'
  known = {reading.base for found in large.values() for reading in found}
  unused = [
    name
    for name, found in small.items()
    if name not in owners
    # LR images of the same picture at other scales are not reported.
    and not (
      found[-1].scale not in (None, scale)
      and any(reading.base in known for reading in found)
    )
  ]
  in_order = {name: pairs[name] for name in large if name in pairs}
  return Matched(in_order, faults, unused)


def _simple_names(stem: str, scale: float) -> tuple[str, ...]:
  return stem, f'{stem}x{scale}', f'{stem}_x{scale}'


def _of_role(names: Iterable[str], role: str) -> dict[str, list[_Reading]]:
  """Interpretations by name, without the other role if this role occurs."""
  readings = {name: _readings(name) for name in names}
  stated = {name: found[-1].role for name, found in readings.items()}
  if role not in stated.values():
    return readings
  return {
    n: found for n, found in readings.items() if stated[n] in (None, role)
  }


def _settled(
  claims: dict[int, dict[str, list[str]]],
) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
  """Decides on the pairs.

  Args:
    claims: Candidate LR images by HR image, by cost (the number of removed
      endings). An LR image belongs to the HR image with the smallest cost.

  Returns:
    Pairs, faults, and the HR image of each LR image.
  """
  pairs: dict[str, str] = {}
  faults: dict[str, str] = {}
  owners: dict[str, str] = {}
  for _, wanted in sorted(claims.items()):
    settled = set(owners)
    for name, candidates in wanted.items():
      new = [candidate for candidate in candidates if candidate not in settled]
      if not new or name in faults:
        continue
      rivals = ([pairs[name]] if name in pairs else []) + new
      if len(rivals) > 1:
        faults[name] = f'{rivals[0]} and {rivals[1]} are both its LR image'
        pairs.pop(name, None)
      elif (owner := owners.get(new[0])) is not None:
        faults[name] = f'its LR image {new[0]} belongs to {owner} too'
      else:
        pairs[name] = new[0]
      owners |= {
        candidate: name for candidate in new if candidate not in owners
      }
  return pairs, faults, owners

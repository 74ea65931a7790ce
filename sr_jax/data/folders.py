"""Which files of a folder are images, and which of two folders are pairs."""

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

# The record that `sr-jax degrade` writes beside its images.
DEGRADATION_RECORD = 'degradation.json'
# Files and folders that systems and programs leave among images, in lower case.
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
  """Whether every reader of folders ignores a file or folder of this name.

  Those are hidden ones (`.DS_Store`, `._photo.png`), what systems leave among
  images (`Thumbs.db`, `desktop.ini`, `@eaDir`), and the record of `sr-jax
  degrade`.
  """
  return name.startswith('.') or name.lower() in _FOREIGN


def distinct_names(paths: Sequence[str | os.PathLike[str]]) -> list[str]:
  """A name for each of several folders: the fewest last parts that differ.

  `sets/Set5` is `Set5`, unless `other/Set5` is there as well: then they are
  `sets/Set5` and `other/Set5`.
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
  """Files with an image's suffix by relative path; the others as bad.

  What `passed_over` names is neither.
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
    # A link back up the tree would go on for ever.
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


# How names of the public sets end: x2 (DIV2K; m, d and w are its degradations),
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
  """One way to read a name.

  Attributes:
    base: The path without suffix, less the endings that are read.
    scale: The scale that they state, None for none.
    role: 'hr' or 'lr' as they state, None for neither.
  """

  base: str
  scale: float | None
  role: str | None

  def shorter(self, *endings: re.Pattern[str]) -> _Reading | None:
    """Without one more ending, or None; what ends the name counts most."""
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
  """All ways to read a name, beginning with that as it stands."""
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
        # What the file states counts before what its folders state.
        place.scale if reading.scale is None else reading.scale,
        reading.role or place.role,
      )
    )
    reading = reading.shorter(_SCALE, _ROLE)
  return readings


class Matched(NamedTuple):
  """Which LR image belongs to which HR image, by relative paths.

  Attributes:
    pairs: LR by HR, in the order of HR.
    faults: Why an HR image has no LR image, by HR.
    unused: LR images that belong to none.
  """

  pairs: dict[str, str]
  faults: dict[str, str]
  unused: list[str]


def match_lr(hr: Iterable[str], lr: Iterable[str], scale: float) -> Matched:
  """Matches HR and LR images by their relative paths.

  The LR image of `a/0001.png` is `a/0001`, `a/0001x2` (DIV2K) or `a/0001_x2`
  (BasicSR) with any suffix, at scale 2. Else endings of the public sets are
  read off both names and folders, such as `_HR`, `_LR`, `_bicLRx2`,
  `_SRF_2_LR`, `X2/`. LR images of other scales are left out, and in a folder
  of both also the LR images among HR and the HR images among LR.

  Two LR images of one HR image are a fault: neither is taken.
  """
  scale = whole(scale)
  large, small = _of_role(hr, 'hr'), _of_role(lr, 'lr')
  by_base: dict[str, dict[str, int]] = {}
  for name, readings in small.items():
    for cost, reading in enumerate(readings):
      if reading.scale in (None, scale):
        by_base.setdefault(reading.base, {}).setdefault(name, cost)
  # By how much must be read off; the simplest names first.
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
    # The same picture at another scale is none too many.
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
  """Readings by name; where some state this role, none that state the other."""
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
  """Pairs, faults, and the HR image that each LR image belongs to.

  Args:
    claims: LR images that may belong to an HR image, by HR, by cost; an LR
      image belongs to the HR image of the least cost.
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

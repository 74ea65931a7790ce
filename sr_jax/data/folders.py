"""Image files of folders, and which of two folders belong together."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterable
from typing import NamedTuple

from sr_jax.data import cache, image_io
from sr_jax.errors import UserError

Skipped = tuple[tuple[str, str], ...]


def list_images(
  path: cache.PathLike,
) -> tuple[dict[str, pathlib.Path], Skipped]:
  """Files with an image's suffix by relative path; the others as bad."""
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
    subfolders[:] = sorted(s for s in subfolders if not s.startswith('.'))
    for name in sorted(f for f in files if not f.startswith('.')):
      file = pathlib.Path(folder, name)
      relative = file.relative_to(root).as_posix()
      if not file.is_file():
        bad.append((relative, 'not a regular file'))
      elif file.suffix.lower() not in image_io.IMAGE_SUFFIXES:
        bad.append((relative, 'not an image file'))
      else:
        images[relative] = file
  return dict(sorted(images.items())), tuple(bad)


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
  (BasicSR) with any suffix, at scale 2. Two such files are a fault: neither
  is taken.
  """
  unused = dict.fromkeys(lr)
  by_stem: dict[str, list[str]] = {}
  for name in unused:
    by_stem.setdefault(os.path.splitext(name)[0], []).append(name)
  pairs: dict[str, str] = {}
  faults: dict[str, str] = {}
  owner: dict[str, str] = {}
  for name in hr:
    stem = os.path.splitext(name)[0]
    stems = (stem, f'{stem}x{scale}', f'{stem}_x{scale}')
    found = [lr_name for s in stems for lr_name in by_stem.get(s, ())]
    for lr_name in found:
      unused.pop(lr_name, None)
    if not found:
      faults[name] = f'no LR image (looked for {", ".join(stems)})'
    elif len(found) > 1:
      faults[name] = f'{found[0]} and {found[1]} are both its LR image'
    elif (first := owner.setdefault(found[0], name)) != name:
      faults[name] = f'its LR image {found[0]} belongs to {first} too'
    else:
      pairs[name] = found[0]
  return Matched(pairs, faults, list(unused))

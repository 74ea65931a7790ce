"""Rank data sets: the same patches from several generators, with their scores.

`sr-jax rank-data` writes such a data set as a folder:

  rank.json               how it was made, and the names of its patches
  0/a_0_148.png, 1/...    patches of the first generator, of the second, ...
  niqe.txt                lines `0/a_0_148.png SCORE`; one such file per metric
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
import os
import pathlib
from typing import Any

import numpy as np

from sr_jax.data import draws, image_io
from sr_jax.data.draws import Arrays, Draw
from sr_jax.errors import UserError

PathLike = str | os.PathLike[str]

# The prefix by which a config names such a folder.
PREFIX = 'ranked:'
RECORD = 'rank.json'
FORMAT = 1
PARTS = ('training', 'held_out')
# Whether lower or higher scores of a metric are better.
BETTER = {'niqe': 'lower', 'pi': 'lower', 'ma': 'higher'}


@dataclasses.dataclass(frozen=True, eq=False)
class RankedSource:
  """Patches by (index, level).

  Attributes:
    root: The folder.
    names: Names of the patches, such as `a_0_148.png`.
    scores: `[N, levels]`; higher is worse, whatever the metric.
    size: Side of every patch.
  """

  root: pathlib.Path
  names: tuple[str, ...]
  scores: np.ndarray
  size: int

  # No patch is left out.
  skipped = ()

  @property
  def levels(self) -> int:
    return self.scores.shape[1]

  def __len__(self) -> int:
    return len(self.names)

  def example(self, draw: Draw) -> Arrays:
    """The same crop of two levels of a patch, and their scores.

    Patches, crops and pairs of levels are drawn uniformly. The order of the two
    levels is drawn as well: otherwise the statistics of a batch could reveal
    which image is the better one.
    """
    words = draw.words(draws.EXAMPLES)
    index, coins = words[0] % len(self), words[3]
    places = self.size - draw.patch + 1
    top, left = words[1] % places, words[2] % places
    pairs = list(itertools.permutations(range(self.levels), 2))
    pair = pairs[coins // 8 % len(pairs)]  # below are the coins of flips
    crops = [
      self.image(index, level)[top : top + draw.patch, left : left + draw.patch]
      for level in pair
    ]
    scores = self.scores[index, list(pair)].astype(np.float32)
    return {
      'first': draw.turned(crops[0], coins),
      'second': draw.turned(crops[1], coins),
      'score_first': scores[:1].reshape(()),
      'score_second': scores[1:].reshape(()),
    }

  def check_scales(self, scales: tuple[float, ...]) -> None:
    """Accepts all scales, because patches are used at their own size."""

  def digest(self) -> str:
    """Digest of the names, scores and file sizes of all patches.

    File sizes stand for the contents, which are many gigabytes. A PNG file with
    other pixels hardly ever has the same size.
    """
    digest = hashlib.sha256(json.dumps([self.size, self.names]).encode())
    digest.update(self.scores.tobytes())
    for level in range(self.levels):
      folder = self.root / str(level)
      digest.update(
        json.dumps([_file_size(folder / name) for name in self.names]).encode()
      )
    return digest.hexdigest()

  def image(self, index: int, level: int) -> np.ndarray:
    """The uint8 patch `[size, size, 3]`.

    Raises:
      UserError: The file is missing, damaged or of another size.
    """
    path = self.root / str(level) / self.names[index]
    image = image_io.read_rgb(path)
    if image.shape[:2] != (self.size, self.size):
      raise UserError(
        f'{path}: {image.shape[1]}x{image.shape[0]} pixels, but {RECORD} '
        f'says {self.size}x{self.size}: make the data set again'
      )
    return image


def _file_size(path: pathlib.Path) -> int:
  try:
    return path.stat().st_size
  except OSError as error:
    raise UserError(f'{path}: {error.strerror}') from error


def check_metric(metric: str, better: str) -> None:
  """Checks the value of `better`, the orientation of a metric.

  Raises:
    UserError: It is neither 'lower' nor 'higher', or wrong for a known metric.
  """
  if better not in ('lower', 'higher'):
    raise UserError(f'better={better!r}: choose lower or higher')
  if BETTER.get(metric, better) != better:
    raise UserError(
      f'better={better!r}: {BETTER[metric]} scores of {metric} are the better '
      'ones'
    )


def open_ranked(
  path: PathLike, *, metric: str, better: str, part: str, min_size: int
) -> RankedSource:
  """Opens the patches of a rank data set for training, or those held out.

  Args:
    path: The folder.
    metric: Name of the metric, whose scores are in `METRIC.txt`.
    better: Whether lower or higher scores are the better ones.
    part: One of `PARTS`.
    min_size: Smallest accepted side of a patch.

  Raises:
    UserError: The folder is no rank data set, scores of this metric are missing
      for some or all patches, or the patches are too small.
  """
  check_metric(metric, better)
  root = pathlib.Path(path)
  record = _read_record(root)
  names, levels = tuple(record['patches'][part]), len(record['levels'])
  if record['patch'] < min_size:
    raise UserError(
      f'{root}: patches of {record["patch"]} are smaller than the crop of '
      f'{min_size}'
    )
  if not names:
    raise UserError(
      f'{root}: has no {part} patches: make it of more photographs, or hold '
      'out another share of them'
    )
  file = root / f'{metric}.txt'
  if not file.exists():
    raise UserError(
      f'{file}: no such scores: put lines NAME SCORE there, with names such as '
      f'0/{names[0]}'
    )
  known = read_scores(file)
  keys = [f'{level}/{name}' for name in names for level in range(levels)]
  if missing := [key for key in keys if key not in known]:
    raise UserError(f'{file}: has no score of {missing[0]}')
  scores = np.array([known[key] for key in keys]).reshape(-1, levels)
  return RankedSource(
    root, names, scores if better == 'lower' else -scores, record['patch']
  )


def _read_record(root: pathlib.Path) -> dict[str, Any]:
  """Reads and checks `rank.json`."""
  if not root.is_dir():
    raise UserError(f'{root}: no such folder: check the path')
  file = root / RECORD
  try:
    record = json.loads(file.read_text())
    fits = record['format'] == FORMAT and len(record['levels']) > 1
    fits = fits and all(isinstance(record['patches'][p], list) for p in PARTS)
    fits = fits and isinstance(record['patch'], int)
  except FileNotFoundError:
    raise UserError(
      f'{root}: holds no {RECORD}: give a folder that sr-jax rank-data wrote'
    ) from None
  except (OSError, ValueError, KeyError, TypeError):
    fits, record = False, {}
  if not fits:
    raise UserError(
      f'{file}: damaged or of another version: make the data set again'
    )
  return record


def read_scores(path: PathLike) -> dict[str, float]:
  """Reads the scores of a text file with lines `NAME SCORE`.

  Raises:
    UserError: The file cannot be read, or a line is no such pair.
  """
  try:
    lines = pathlib.Path(path).read_text().splitlines()
  except OSError as error:
    raise UserError(f'{path}: {error.strerror}') from None
  except UnicodeDecodeError:
    raise UserError(f'{path}: is no text file') from None
  known = {}
  for number, line in enumerate(lines, 1):
    if not line.strip():
      continue
    try:
      name, value = line.rsplit(None, 1)
      known[name.strip()] = float(value)
      if not math.isfinite(known[name.strip()]):
        raise ValueError
    except ValueError:
      raise UserError(
        f'{path}: line {number} is not NAME SCORE: {line[:60]!r}'
      ) from None
  return known

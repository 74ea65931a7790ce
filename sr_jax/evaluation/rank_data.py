"""Makes the data set that RankSRGAN's ranker is trained on.

Zhang et al., ICCV 2019: the same patches enlarged by three generators, from the
one for PSNR to the most perceptual one, labelled by NIQE. `data.ranked`
describes the files of the folder.
"""

from __future__ import annotations

import collections
import math
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sr_jax.data import ranked
from sr_jax.data.degradation import Degradation
from sr_jax.data.image_io import (
  Found,
  Picture,
  check_targets,
  find_images,
  write_image,
)
from sr_jax.errors import UserError, counted
from sr_jax.evaluation.benchmark import cut_to_multiple, read_levels
from sr_jax.files import folder_atomically, write_json
from sr_jax.inference import loading
from sr_jax.inference.model import SRModel
from sr_jax.inference.upscaler import Upscaler
from sr_jax.metrics import niqe
from sr_jax.metrics.protocol import luma
from sr_jax.ops.color import rgb_to_grey

# Border that the labels' NIQE does not see: of 296 it leaves 3 x 96 pixels.
_BORDER = 4
# Levels of the two perceptual models, by which patches are filtered.
_MIDDLE, _LAST = 1, 2


class Grid(NamedTuple):
  """Which patches of a photograph are taken.

  Attributes:
    patch: Side of a patch in pixels.
    stride: Pixels from one patch to the next.
    sharpness: Smallest mean local deviation of a patch of the last model, in
      grey levels.
    difference: NIQE of the middle and the last model must differ by more.
  """

  patch: int
  stride: int
  sharpness: float
  difference: float


class _Kept(NamedTuple):
  """One patch of a photograph.

  Attributes:
    name: Its file.
    levels: uint8 `[3, P, P, 3]`.
    scores: NIQE `[3]`, of the rounded Y as PIRM's protocol has it.
  """

  name: str
  levels: np.ndarray
  scores: np.ndarray


def make(
  hr: Path,
  output: Path,
  *,
  names: Sequence[str],
  scale: int | None,
  grid: Grid,
  held_out: float,
  niqe_params: Path | None,
  seed: int,
) -> None:
  """Writes the data set, whole or not at all.

  Longer than most functions by the description of its arguments.

  Args:
    hr: Folder or file of photographs.
    output: The folder to make.
    names: The three models, as `loading.load` takes them.
    scale: Scale of models that have none of their own.
    grid: Which patches are taken.
    held_out: Share of the photographs that training does not see.
    niqe_params: File of NIQE's parameters, None for our own.
    seed: Chooses the photographs that are held out.

  Raises:
    UserError: an input is unusable, no patch is left, or `output` exists.
  """
  _check(output, grid.patch)
  pristine = (
    niqe.read_pristine(niqe_params) if niqe_params else niqe.own_pristine()
  )
  models = [loading.load(name, scale=scale) for name in names]
  scale = _common_scale(models)
  photos = _large_enough(find_images([hr]), grid.patch, scale)
  check_targets((f.path, f.relative.with_suffix('.png')) for f in photos)
  sizes = [(h // scale, w // scale) for h, w in photos.values()]
  upscalers = [Upscaler(model, sizes=sizes) for model in models]
  patches: dict[str, list[str]] = {}
  lines: list[str] = []
  dropped: collections.Counter[str] = collections.Counter()
  with folder_atomically(output) as folder:
    for photo in photos:
      images = _enlarged(photo, upscalers, scale)
      kept = list(_patches(photo, images, grid, pristine, dropped))
      lines += _written(folder, kept)
      patches[photo.relative.as_posix()] = [patch.name for patch in kept]
      print(f'{photo.path}: {counted(len(kept), "patch")}', flush=True)
    if not lines:
      raise UserError(
        f'{hr}: no patch is left: {_left_out(dropped)}; lower sharpness=N or '
        'difference=N, or give other photographs'
      )
    parts = _parts(patches, held_out, seed)
    (folder / 'niqe.txt').write_text(''.join(lines))
    record = {'levels': list(names), 'scale': scale, **grid._asdict()}
    record |= {'metrics': {'niqe': _niqe_rules(pristine)}, **parts}
    write_json(folder / ranked.RECORD, {'format': ranked.FORMAT, **record})
  unseen = len(parts['held_out_photographs'])
  print(
    f'{counted(len(lines) // 3, "patch")}, those of {unseen} of '
    f'{counted(len(photos), "photograph")} held out -> {output}; '
    f'{_left_out(dropped)}'
  )


def _check(output: Path, patch: int) -> None:
  """Refuses bad options before any work.

  Raises:
    UserError: the output exists, or patches are too small for NIQE.
  """
  if output.exists():
    raise UserError(f'{output}: exists already: choose another name')
  least = 2 * niqe.BLOCK + 2 * _BORDER
  if patch < least:
    raise UserError(
      f'patch={patch}: NIQE needs 2 blocks of {niqe.BLOCK}x{niqe.BLOCK} '
      f'pixels inside a border of {_BORDER}: give {least} or more'
    )


def _common_scale(models: Sequence[SRModel]) -> int:
  """The scale of all models.

  Raises:
    UserError: they have several.
  """
  first = models[0]
  for model in models[1:]:
    if model.scale != first.scale:
      raise UserError(
        f'{first.name} enlarges by {first.scale:g}, {model.name} by '
        f'{model.scale:g}: give three models of one scale'
      )
  return first.whole_scale


def _large_enough(
  found: Sequence[Found], patch: int, scale: int
) -> dict[Found, tuple[int, int]]:
  """Height and width by photograph, of those that hold a patch.

  Raises:
    UserError: none does.
  """
  sizes = {}
  for photo in found:
    height, width = _read(photo, scale).shape[:2]
    if min(height, width) >= patch:
      sizes[photo] = height, width
    else:
      print(f'{photo.path}: {width}x{height} holds no patch, left out')
  if not sizes:
    raise UserError(
      f'no photograph holds a patch of {patch}x{patch}: give larger ones or '
      'another patch=N'
    )
  return sizes


def _read(photo: Found, scale: int) -> np.ndarray:
  """`[H, W, 3]` in [0, 1], a multiple of the scale."""
  image = cut_to_multiple(read_levels(photo.path), scale, photo.path)
  if image.shape[2] not in (1, 3):
    raise UserError(f'{photo.path}: has {image.shape[2]} channels: give RGB')
  return np.broadcast_to(image, (*image.shape[:2], 3))


def _enlarged(
  photo: Found, upscalers: Sequence[Upscaler], scale: int
) -> np.ndarray:
  """What every model makes of the reduced photograph, uint8 `[3, H, W, 3]`."""
  hr = _read(photo, scale)
  lr = Degradation().of_file(hr, photo.relative.as_posix(), scale)
  lr = lr.astype(np.float32)
  sr = np.stack([upscaler(lr) for upscaler in upscalers])
  if not np.isfinite(sr).all():
    raise UserError(f'{photo.path}: a model gives NaN: check its checkpoint')
  return np.round(255 * sr).astype(np.uint8)


def _patches(
  photo: Found,
  images: np.ndarray,
  grid: Grid,
  pristine: niqe.Pristine,
  dropped: collections.Counter[str],
) -> Iterator[_Kept]:
  """Patches of a grid that pass the filters; the others are counted."""
  stem = photo.relative.with_suffix('').as_posix()
  height, width = images.shape[1:3]
  grey = np.round(255 * rgb_to_grey(images / 255.0)[..., 0])
  y = np.stack([luma(image, rounded=True)[..., 0] for image in images])
  for top in range(0, height - grid.patch + 1, grid.stride):
    for left in range(0, width - grid.patch + 1, grid.stride):
      rows, columns = (slice(n, n + grid.patch) for n in (top, left))
      seen = grey[:, rows, columns]
      if niqe.sharpness(seen[_LAST:])[0] < grid.sharpness:
        dropped['blurred'] += 1
        continue
      inner = y[:, rows, columns][:, _BORDER:-_BORDER, _BORDER:-_BORDER]
      try:
        apart = niqe.niqe(seen[[_MIDDLE, _LAST]], pristine)
        if not abs(apart[0] - apart[1]) > grid.difference:
          dropped['alike'] += 1
          continue
        scores = niqe.niqe(inner, pristine)
      except UserError:  # it has no NIQE
        dropped['flat'] += 1
        continue
      name = f'{stem}_{top}_{left}.png'
      yield _Kept(name, images[:, rows, columns], scores)


def _written(folder: Path, kept: Sequence[_Kept]) -> list[str]:
  """Writes the patches; returns their lines of `niqe.txt`."""
  lines = []
  for patch in kept:
    for i, level in enumerate(patch.levels):
      name = f'{i}/{patch.name}'
      write_image(folder / name, Picture(level.astype(np.float32) / 255))
      lines.append(f'{name} {patch.scores[i]:.6f}\n')
  return lines


def _parts(
  patches: dict[str, list[str]], held_out: float, seed: int
) -> dict[str, Any]:
  """The record's lists of photographs held out and of patches by part."""
  photos = [name for name, kept in patches.items() if kept]
  random.Random(seed).shuffle(photos)
  unseen = set(photos[: math.ceil(held_out * len(photos))])
  parts: dict[str, list[str]] = {part: [] for part in ranked.PARTS}
  for photo, kept in patches.items():
    parts[ranked.PARTS[photo in unseen]] += kept
  return {'held_out_photographs': sorted(unseen), 'patches': parts}


def _niqe_rules(pristine: niqe.Pristine) -> dict[str, str]:
  """How the labels were measured, for the record."""
  rules = f'Y rounded to 8 bit, border of {_BORDER} cut'
  return {
    'better': ranked.BETTER['niqe'],
    'rules': f'{rules}; parameters {pristine.source}',
  }


def _left_out(dropped: collections.Counter[str]) -> str:
  return 'left out: ' + (
    ', '.join(f'{count} {why}' for why, count in dropped.items()) or 'none'
  )

"""`sr-jax rank-data`: what RankSRGAN's ranker is trained on.

Zhang et al., ICCV 2019: the same patches enlarged by three generators, from the
one for PSNR to the most perceptual one, labelled by NIQE. `data.ranked` tells
what lies in the folder.
"""

from __future__ import annotations

import argparse
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
from sr_jax.errors import UserError
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
# Of the two perceptual levels, what filters look at.
_MIDDLE, _LAST = 1, 2


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


def run(args: argparse.Namespace) -> int:
  """Writes the data set, whole or not at all."""
  _check(args)
  pristine = (
    niqe.read_pristine(args.niqe_params)
    if args.niqe_params
    else niqe.own_pristine()
  )
  models = [loading.load(name, scale=args.scale) for name in args.models]
  scale = _common_scale(models)
  photos = _large_enough(find_images([args.hr]), args.patch, scale)
  check_targets((f.path, f.relative.with_suffix('.png')) for f in photos)
  sizes = [(h // scale, w // scale) for h, w in photos.values()]
  upscalers = [Upscaler(model, sizes=sizes) for model in models]
  patches: dict[str, list[str]] = {}
  lines: list[str] = []
  dropped: collections.Counter[str] = collections.Counter()
  with folder_atomically(args.output) as folder:
    for photo in photos:
      images = _enlarged(photo, upscalers, scale)
      kept = list(_patches(photo, images, args, pristine, dropped))
      lines += _written(folder, kept)
      patches[photo.relative.as_posix()] = [patch.name for patch in kept]
      print(f'{photo.path}: {len(kept)} patches', flush=True)
    if not lines:
      raise UserError(
        f'{args.hr}: no patch is left: {_told(dropped)}; lower --sharpness or '
        '--difference, or give other photographs'
      )
    held_out = _held_out(patches, args.held_out, args.seed)
    (folder / 'niqe.txt').write_text(''.join(lines))
    record = _record(args, scale, pristine, patches, held_out)
    write_json(folder / ranked.RECORD, record)
  print(
    f'{len(lines) // 3} patches, those of {len(held_out)} of {len(photos)} '
    f'photographs held out -> {args.output}; {_told(dropped)}'
  )
  return 0


def _check(args: argparse.Namespace) -> None:
  """Refuses before any work."""
  if args.output.exists():
    raise UserError(f'{args.output}: exists already: choose another name')
  least = 2 * niqe.BLOCK + 2 * _BORDER
  if args.patch < least:
    raise UserError(
      f'--patch {args.patch}: NIQE needs 2 blocks of {niqe.BLOCK}x{niqe.BLOCK} '
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
      'another --patch'
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
  lr = Degradation().apply(hr, photo.relative.as_posix(), scale)
  lr = lr.astype(np.float32)
  sr = np.stack([upscaler(lr) for upscaler in upscalers])
  if not np.isfinite(sr).all():
    raise UserError(f'{photo.path}: a model gives NaN: check its checkpoint')
  return np.round(255 * sr).astype(np.uint8)


def _patches(
  photo: Found,
  images: np.ndarray,
  args: argparse.Namespace,
  pristine: niqe.Pristine,
  dropped: collections.Counter[str],
) -> Iterator[_Kept]:
  """Patches of a grid that pass the filters; the others are counted."""
  stem = photo.relative.with_suffix('').as_posix()
  height, width = images.shape[1:3]
  grey = np.round(255 * rgb_to_grey(images / 255.0)[..., 0])
  y = np.stack([luma(image, rounded=True)[..., 0] for image in images])
  for top in range(0, height - args.patch + 1, args.stride):
    for left in range(0, width - args.patch + 1, args.stride):
      rows, columns = (slice(n, n + args.patch) for n in (top, left))
      seen = grey[:, rows, columns]
      if niqe.sharpness(seen[_LAST:])[0] < args.sharpness:
        dropped['blurred'] += 1
        continue
      inner = y[:, rows, columns][:, _BORDER:-_BORDER, _BORDER:-_BORDER]
      try:
        apart = niqe.niqe(seen[[_MIDDLE, _LAST]], pristine)
        if not abs(apart[0] - apart[1]) > args.difference:
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


def _held_out(
  patches: dict[str, list[str]], share: float, seed: int
) -> set[str]:
  """Photographs that training does not see."""
  names = [name for name, kept in patches.items() if kept]
  random.Random(seed).shuffle(names)
  return set(names[: math.ceil(share * len(names))])


def _record(
  args: argparse.Namespace,
  scale: int,
  pristine: niqe.Pristine,
  patches: dict[str, list[str]],
  held_out: set[str],
) -> dict[str, Any]:
  """`rank.json`."""
  parts: dict[str, list[str]] = {part: [] for part in ranked.PARTS}
  for photo, names in patches.items():
    parts[ranked.PARTS[photo in held_out]] += names
  return {
    'format': ranked.FORMAT,
    'levels': args.models,
    'scale': scale,
    'patch': args.patch,
    'stride': args.stride,
    'sharpness': args.sharpness,
    'difference': args.difference,
    'metrics': {
      'niqe': {
        'better': ranked.BETTER['niqe'],
        'rules': f'Y rounded to 8 bit, border of {_BORDER} cut; parameters '
        f'{pristine.source}',
      }
    },
    'held_out_photographs': sorted(held_out),
    'patches': parts,
  }


def _told(dropped: collections.Counter[str]) -> str:
  return 'left out: ' + (
    ', '.join(f'{count} {why}' for why, count in dropped.items()) or 'none'
  )

"""`sr-jax degrade`: LR images of a folder of HR images."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np

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
from sr_jax.files import write_json

_RECORD = 'degradation.json'


def degradation_of(args: argparse.Namespace) -> Degradation:
  """What the options of `degrade` and `evaluate` ask for."""
  return Degradation(
    degradation=args.degradation or 'bicubic',
    kernel=args.kernel,
    noise_sigma=args.noise,
    jpeg_quality=args.jpeg,
    seed=args.seed,
  )


def run(args: argparse.Namespace) -> int:
  """Writes one LR image per HR image, and how it was made."""
  degradation = degradation_of(args)
  found = find_images([args.hr], skip=args.output)
  targets = [args.output / f.relative.with_suffix('.png') for f in found]
  _check(found, targets)
  for hr, target in zip(found, targets, strict=True):
    image = cut_to_multiple(read_levels(hr.path), args.scale, hr.path)
    lr = degradation.apply(image, hr.relative.as_posix(), args.scale)
    write_image(target, Picture(lr))
    print(f'{hr.path} {_size(image)} -> {target} {_size(lr)}', flush=True)
  names = [target.relative_to(args.output).as_posix() for target in targets]
  record = {'scale': args.scale, **dataclasses.asdict(degradation)}
  write_json(args.output / _RECORD, {**record, 'images': names})
  print(f'{len(found)} images at 1/{args.scale}: {degradation}')
  return 0


def _check(found: list[Found], targets: list[Path]) -> None:
  """Refuses before any work what would mix or overwrite LR images."""
  check_targets((f.path, t) for f, t in zip(found, targets, strict=True))
  for target in targets:
    if target.exists():
      raise UserError(
        f'{target}: exists already: choose another folder or remove it'
      )


def _size(image: np.ndarray) -> str:
  return f'{image.shape[1]}x{image.shape[0]}'

"""`sr-jax degrade`: makes LR images of a folder of HR images."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from sr_jax.cli import arguments
from sr_jax.errors import UserError, counted

if TYPE_CHECKING:
  import numpy as np

  from sr_jax.data.image_io import Found


def add_options(parser: argparse.ArgumentParser) -> None:
  """Adds the options of the command."""
  parser.description = (
    'Make LR images of HR images: 8-bit PNG under the same names, and '
    'degradation.json, which records how. With --degradation real a file '
    'NAME.degradation.json records what was drawn for each image.'
  )
  parser.add_argument(
    '--hr', required=True, type=Path, help='folder or file of HR images'
  )
  parser.add_argument(
    '-o', dest='output', required=True, type=Path, metavar='DIR'
  )
  parser.add_argument(
    '--scale', required=True, type=arguments.any_scale, metavar='S'
  )
  arguments.add_degradation(parser)


def run(args: argparse.Namespace) -> int:
  """Writes one LR image per HR image, and a record of the degradation."""
  from sr_jax.data.degradation import REAL
  from sr_jax.data.folders import DEGRADATION_RECORD
  from sr_jax.data.image_io import Picture, find_images, write_image
  from sr_jax.evaluation.benchmark import cut_to_multiple, read_levels
  from sr_jax.files import write_json

  degradation = arguments.degradation_of(args)
  found = find_images([args.hr], skip=args.output)
  targets = [args.output / f.relative.with_suffix('.png') for f in found]
  drawn = degradation.degradation == REAL
  records = [_record_of(target) for target in targets] if drawn else []
  _check(found, targets, [*targets, *records], args.output)
  for hr, target in zip(found, targets, strict=True):
    image = cut_to_multiple(read_levels(hr.path), args.scale, hr.path)
    name = hr.relative.as_posix()
    lr = degradation.of_file(image, name, args.scale)
    if drawn:
      operations = degradation.operations_of_file(name, args.scale)
      target.parent.mkdir(parents=True, exist_ok=True)
      write_json(_record_of(target), {'hr': name, **operations})
    write_image(target, Picture(lr))
    print(f'{hr.path} {_size(image)} -> {target} {_size(lr)}', flush=True)
  names = [target.relative_to(args.output).as_posix() for target in targets]
  record = {'scale': args.scale, **degradation.record()}
  write_json(args.output / DEGRADATION_RECORD, {**record, 'images': names})
  print(f'{counted(len(found), "image")} at 1/{args.scale:g}: {degradation}')
  return 0


def _record_of(target: Path) -> Path:
  """The file that records what was drawn for an LR image."""
  from sr_jax.data.folders import IMAGE_RECORD

  return target.with_suffix(IMAGE_RECORD)


def _check(
  found: list[Found], targets: list[Path], written: list[Path], output: Path
) -> None:
  """Checks before any work that no LR images are mixed or overwritten."""
  from sr_jax.data.image_io import IMAGE_SUFFIXES, check_targets
  from sr_jax.files import refuse_links

  if output.suffix.lower() in IMAGE_SUFFIXES and not output.is_dir():
    raise UserError(f'{output}: is the name of a file: name a folder')
  check_targets((f.path, t) for f, t in zip(found, targets, strict=True))
  for target in written:
    refuse_links(output, target)
    if target.exists():
      raise UserError(
        f'{target}: exists already: choose another folder or remove it'
      )


def _size(image: np.ndarray) -> str:
  return f'{image.shape[1]}x{image.shape[0]}'

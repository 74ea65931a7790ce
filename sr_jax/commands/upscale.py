"""`sr-jax upscale`: enlarges image files, one by one, in kind."""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from sr_jax import inference
from sr_jax.data import image_formats
from sr_jax.data.image_io import (
  IMAGE_SUFFIXES,
  Found,
  Picture,
  check_targets,
  find_images,
  premultiply,
  read_image,
  unpremultiply,
  write_image,
)
from sr_jax.errors import UserError

# Fewer images are not worth a look at their sizes beforehand.
_FEW = 8


def run(args: argparse.Namespace) -> int:
  """Enlarges every input; 2 if one of them could not be."""
  if args.kernel is not None and not args.back_project:
    raise UserError(
      '--kernel is used by back-projection alone: add --back-project N or '
      'leave it out'
    )
  found = find_images(args.inputs, skip=args.output)
  model = inference.load(args.model, scale=args.scale)
  jobs = _plan(found, args, model.scale)
  todo = [t for t in jobs if args.overwrite or not _finished(t, jobs)]
  upscaler = inference.Upscaler(
    model,
    self_ensemble=args.self_ensemble,
    back_project=args.back_project,
    kernel=args.kernel,
    tile=args.tile,
    sizes=None if model.on_host else _sizes([jobs[t] for t in todo]),
  )
  failed = []
  bar = tqdm(todo, unit='image', leave=False, disable=not sys.stderr.isatty())
  for target in bar:
    try:
      line = _upscale(target, jobs, upscaler)
      bar.write(line, file=sys.stdout)
    except _FileFault as fault:
      bar.write(f'sr-jax: error: {fault}', file=sys.stderr)
      failed.append(jobs[target])
  if len(jobs) > 1 or len(todo) < len(jobs):
    undone = set(todo)
    there = [jobs[target] for target in jobs if target not in undone]
    print(_summary(len(todo) - len(failed), there, failed))
  return 2 if failed else 0


class _FileFault(Exception):
  """One input cannot be enlarged; the others still can."""


def _plan(
  found: Sequence[Found], args: argparse.Namespace, scale: int
) -> dict[Path, Path]:
  """Input file by output file."""
  output: Path = args.output
  alone = len(args.inputs) == 1 and args.inputs[0].is_file()
  named = output.suffix.lower() in IMAGE_SUFFIXES and not output.is_dir()
  if named and not alone:
    raise UserError(f'{output}: give a folder for the results of several files')
  if not named and output.exists() and not output.is_dir():
    raise UserError(f'{output}: is a file: give a folder for the results')
  if named and output.resolve() == args.inputs[0].resolve():
    raise UserError(f'{output}: is the input itself: give another name')
  if named:
    return {output: found[0].path}
  pairs = [(f.path, output / _name(f.relative, scale)) for f in found]
  check_targets(pairs)
  # Results of an earlier run into the input folder itself are no input.
  results = {target.resolve() for _, target in pairs}
  return {t: s for s, t in pairs if s.resolve() not in results}


def _name(relative: Path, scale: int) -> Path:
  known = relative.suffix.lower() in IMAGE_SUFFIXES
  suffix = relative.suffix if known else '.png'
  return relative.with_name(f'{relative.stem}_x{scale}{suffix}')


def _finished(target: Path, jobs: dict[Path, Path]) -> bool:
  """Whether the result is there, as planned or as the PNG it had to become."""
  png = target.with_suffix('.png')
  return target.exists() or (png not in jobs and png.exists())


def _sizes(sources: Sequence[Path]) -> list[tuple[int, int]] | None:
  """(height, width) of the readable images, if there are many."""
  if len(sources) <= _FEW:
    return None

  def size(path: Path) -> tuple[int, int] | None:
    try:
      height, width = image_formats.decode(path).values.shape[:2]
      return height, width
    except UserError:
      return None  # told when its turn comes

  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    return [found for found in pool.map(size, sources) if found]


def _upscale(
  target: Path, jobs: dict[Path, Path], upscaler: inference.Upscaler
) -> str:
  """Enlarges one file and writes it; a line that tells what was done.

  Raises:
    _FileFault: the file is at fault.
    UserError: the result cannot be written, and no other will be.
  """
  start, source = time.perf_counter(), jobs[target]
  try:
    picture = read_image(source)
    result = _enlarged(picture, upscaler)
    target = _fitting(target, result, jobs)
  except UserError as error:
    named = str(error).startswith(str(source))
    raise _FileFault(error if named else f'{source}: {error}') from error
  except MemoryError as error:
    raise _FileFault(
      f'{source}: does not fit into memory: cut it into parts'
    ) from error
  write_image(target, result)
  seconds = time.perf_counter() - start
  tiled = upscaler.tile and max(picture.color.shape[:2]) > upscaler.tile
  tiles = f'tiles of {upscaler.tile}, ' if tiled else ''
  return (
    f'{source} {_size(picture)} -> {target} {_size(result)} '
    f'({upscaler.model.name}, {tiles}{seconds:.2f} s)'
  )


def _enlarged(picture: Picture, upscaler: inference.Upscaler) -> Picture:
  """The picture in its own kind; its transparency by bicubic."""
  if picture.alpha is None:
    return dataclasses.replace(picture, color=upscaler(picture.color))
  bicubic = inference.load('bicubic', scale=upscaler.model.scale)
  alpha = inference.Upscaler(bicubic)(picture.alpha)
  color = upscaler(premultiply(picture))
  return dataclasses.replace(
    picture, color=unpremultiply(color, alpha), alpha=alpha
  )


def _fitting(target: Path, picture: Picture, jobs: dict[Path, Path]) -> Path:
  """`target`, or a PNG beside it where its format cannot hold the picture."""
  height, width, channels = picture.color.shape
  shape = (height, width, channels + (picture.alpha is not None))
  samples = image_formats.Samples(
    np.broadcast_to(np.uint8(0), shape),
    picture.bit_depth,
    None if picture.alpha is None else 'straight',
  )
  try:
    image_formats.check_encodable(target, samples)
    return target
  except UserError:
    png = target.with_suffix('.png')
    if png in jobs:
      raise
    image_formats.check_encodable(png, samples)
    return png


def _size(picture: Picture) -> str:
  return f'{picture.color.shape[1]}x{picture.color.shape[0]}'


def _summary(done: int, there: list[Path], failed: list[Path]) -> str:
  """What became of all inputs."""
  parts = [f'{done} enlarged']
  if there:
    parts.append(f'{len(there)} already there ({_names(there)})')
  if failed:
    parts.append(f'{len(failed)} failed ({_names(failed)})')
  return ', '.join(parts)


def _names(paths: Sequence[Path]) -> str:
  listed = ', '.join(map(str, paths[:5]))
  return listed if len(paths) <= 5 else f'{listed}, ...'

"""`sr-jax upscale`: enlarges image files, one by one, in kind."""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import hashlib
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from sr_jax.cli import arguments
from sr_jax.data import image_formats
from sr_jax.data.arrays import keep_zeros
from sr_jax.data.image_io import (
  IMAGE_SUFFIXES,
  Found,
  Picture,
  check_targets,
  check_writable,
  find_images,
  read_image,
  read_rgb,
  save_png_strip,
  without_hidden_color,
  write_image,
)
from sr_jax.data.kernel_files import save_kernel
from sr_jax.errors import UserError
from sr_jax.inference import loading
from sr_jax.inference.fitting import TOGETHER, Fitted
from sr_jax.inference.model import SRModel
from sr_jax.inference.upscaler import Upscaler
from sr_jax.methods import Fitting

# Fewer images are not worth a look at their sizes beforehand.
_FEW = 8
# What is written beside a result that references were used for.
_SHOWN = ('strip', 'similarity')
# Kernels saved beside the results.
_KERNEL_NAME = 'kernel_{}.npy'


def run(args: argparse.Namespace) -> int:
  """Enlarges every input; 2 if one of them could not be."""
  found = find_images(args.inputs, skip=args.output)
  model = loading.load(args.model, scale=args.scale, options=dict(args.option))
  jobs = _plan(found, args, model.scale)
  todo = [t for t in jobs if args.overwrite or not _finished(t, jobs)]
  if args.reference and not args.overwrite:
    _check_beside(todo)
  sizes = _sizes(todo, jobs, model)
  upscaler = Upscaler(
    model,
    arguments.upscale_options(
      args, kernel=args.kernel, noise_sigma=args.noise, seed=args.seed
    ),
    sizes=list(filter(None, sizes.values())),
    references=_references(args.reference, model),
  )
  _check_use(args, upscaler)
  if upscaler.fitting is not None and todo:
    print(_kernel_line(args, upscaler.fitting), flush=True)
  failed = []
  bar = tqdm(
    total=len(todo), unit='image', leave=False, disable=not sys.stderr.isatty()
  )
  for group in _groups(todo, sizes, upscaler):
    for target, result in _upscale_group(group, jobs, upscaler):
      if isinstance(result, _FileFault):
        bar.write(f'sr-jax: error: {result}', file=sys.stderr)
        failed.append(jobs[target])
      else:
        bar.write(result, file=sys.stdout)
      bar.update()
  bar.close()
  if len(jobs) > 1 or len(todo) < len(jobs):
    undone = set(todo)
    there = [jobs[target] for target in jobs if target not in undone]
    print(_summary(len(todo) - len(failed), there, failed))
  return 2 if failed else 0


def _references(paths: Sequence[Path], model: SRModel) -> list[np.ndarray]:
  """The references as images.

  Raises:
    UserError: one cannot be read or is too small, or the model takes none.
  """
  if paths and model.referring is None:
    raise UserError(
      f'--reference: model {model.name} takes no references: leave them out'
    )
  images = [read_rgb(path) for path in paths]
  for path, image in zip(paths, images, strict=True):
    least = model.referring.least if model.referring else 1
    if min(image.shape[:2]) < least:
      raise UserError(
        f'{path}: {image.shape[1]}x{image.shape[0]} pixels are too few for a'
        f' reference: give {least} or more a side'
      )
  return images


def _check_use(args: argparse.Namespace, upscaler: Upscaler) -> None:
  """Refuses options that would have no effect."""
  if args.kernel is not None and not upscaler.uses_kernel:
    raise UserError(
      f'--kernel: model {upscaler.model.name} uses none but for'
      ' back-projection: add --back-project N or leave it out'
    )
  if args.noise and upscaler.fitting is None:
    raise UserError(
      f'--noise: model {upscaler.model.name} does not fit itself to the images:'
      ' leave it out'
    )


def _kernel_line(args: argparse.Namespace, fitting: Fitting) -> str:
  """Tells the blur that images are taken to have, and saves its taps."""
  if fitting.kernel is None:
    return f'kernel: none, the input is taken for a {fitting.degradation} image'
  digest = hashlib.sha256(np.ascontiguousarray(fitting.kernel).tobytes())
  folder = args.output if _is_folder(args.output) else args.output.parent
  path = folder / _KERNEL_NAME.format(digest.hexdigest()[:8])
  if not path.exists():
    folder.mkdir(parents=True, exist_ok=True)
    save_kernel(path, fitting.kernel)
  height, width = fitting.kernel.shape
  return (
    f'kernel: {args.kernel}, {height}x{width} taps, {fitting.degradation},'
    f' saved as {path}'
  )


def _groups(
  todo: Sequence[Path],
  sizes: Mapping[Path, tuple[int, int] | None],
  upscaler: Upscaler,
) -> list[list[Path]]:
  """Targets to do together: images of one size, where the model is fitted."""
  if upscaler.fitting is None:
    return [[target] for target in todo]
  groups: dict[object, list[Path]] = {}
  for target in todo:
    groups.setdefault(sizes.get(target) or target, []).append(target)
  return [
    group[i : i + TOGETHER]
    for group in groups.values()
    for i in range(0, len(group), TOGETHER)
  ]


class _FileFault(Exception):
  """One input cannot be enlarged; the others still can."""


def _plan(
  found: Sequence[Found], args: argparse.Namespace, scale: float
) -> dict[Path, Path]:
  """Input file by output file."""
  output: Path = args.output
  alone = len(args.inputs) == 1 and args.inputs[0].is_file()
  named = not _is_folder(output)
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
  if args.reference:
    results |= {_beside(t, what) for t in results for what in _SHOWN}
  return {
    target: source
    for source, target in pairs
    if source.resolve() not in results and not _is_saved_kernel(source, args)
  }


def _is_saved_kernel(path: Path, args: argparse.Namespace) -> bool:
  """Whether an earlier run left this kernel in an input folder."""
  saved = re.fullmatch(_KERNEL_NAME.format('[0-9a-f]{8}'), path.name)
  return bool(saved) and path not in args.inputs


def _is_folder(output: Path) -> bool:
  """Whether -o names a folder and not a file."""
  return output.is_dir() or output.suffix.lower() not in IMAGE_SUFFIXES


def _name(relative: Path, scale: float) -> Path:
  known = relative.suffix.lower() in IMAGE_SUFFIXES
  suffix = relative.suffix if known else '.png'
  return relative.with_name(f'{relative.stem}_x{scale:g}{suffix}')


def _finished(target: Path, jobs: dict[Path, Path]) -> bool:
  """Whether the result is there, as planned or as the PNG it had to become."""
  png = target.with_suffix('.png')
  return target.exists() or (png not in jobs and png.exists())


def _sizes(
  todo: Sequence[Path], jobs: Mapping[Path, Path], model: SRModel
) -> dict[Path, tuple[int, int] | None]:
  """(height, width) by target, None for what cannot be read.

  Empty where nothing depends on it: few images, of a model that is not fitted
  to them, compile few shapes anyhow.
  """
  few = 1 if model.fitting else _FEW
  if model.on_host or len(todo) <= few:
    return {}
  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    found = pool.map(_size_of, [jobs[target] for target in todo])
    return dict(zip(todo, found, strict=True))


def _size_of(path: Path) -> tuple[int, int] | None:
  try:
    height, width = image_formats.decode(path).values.shape[:2]
    return height, width
  except UserError:
    return None  # told when its turn comes


def _upscale_group(
  targets: Sequence[Path], jobs: dict[Path, Path], upscaler: Upscaler
) -> Iterator[tuple[Path, str | _FileFault]]:
  """Enlarges files, fitted together; what was done or the fault, for each.

  Raises:
    UserError: a result cannot be written, and no other will be.
  """
  start = time.perf_counter()
  pictures: dict[Path, Picture] = {}
  for target in targets:
    try:
      picture = read_image(jobs[target], per_channel=True)
      pictures[target] = without_hidden_color(picture)
      upscaler.check(picture.color)
    except (UserError, MemoryError) as error:
      pictures.pop(target, None)
      yield target, _fault(jobs[target], error)
  colors = [picture.color for picture in pictures.values()]
  try:
    fits = upscaler.fit(colors)
  except (UserError, MemoryError) as error:
    for target in pictures:
      yield target, _fault(jobs[target], error)
    return
  shared = (time.perf_counter() - start) / max(len(colors), 1)
  for (target, picture), fitted in zip(pictures.items(), fits, strict=True):
    start = time.perf_counter() - shared
    try:
      result = _enlarged(picture, upscaler, fitted)
      path = _writable(target, result, jobs)
    except (UserError, MemoryError) as error:
      yield target, _fault(jobs[target], error)
      continue
    write_image(path, result)
    shown = _show(path, picture, result, upscaler, fitted)
    seconds = time.perf_counter() - start
    how = _how(picture, upscaler, fitted, seconds, shown)
    sizes = f'{_size(picture)} -> {path} {_size(result)}'
    yield target, f'{jobs[target]} {sizes} ({how})'


def _fault(source: Path, error: Exception) -> _FileFault:
  """One line that names the file."""
  if isinstance(error, MemoryError):
    return _FileFault(f'{source}: does not fit into memory: cut it into parts')
  named = str(error).startswith(str(source))
  return _FileFault(error if named else f'{source}: {error}')


def _show(
  path: Path,
  picture: Picture,
  result: Picture,
  upscaler: Upscaler,
  fitted: Fitted,
) -> list[str]:
  """Writes what shows the use of references; tells their similarity."""
  if not upscaler.references:
    return []
  similarity = upscaler.similarity(picture.color, fitted)
  scale = upscaler.model.whole_scale
  shown = similarity.clip(0, 1).repeat(scale, 0).repeat(scale, 1)
  write_image(_beside(path, 'similarity'), Picture(shown))
  bicubic = Upscaler(loading.load('bicubic', scale=scale))
  images = [bicubic(picture.color), result.color, *upscaler.references]
  labels = ['bicubic', upscaler.model.name]
  labels += ['reference'] * len(upscaler.references)
  save_png_strip(_beside(path, 'strip'), images, labels)
  return [f'similarity {similarity.mean():.2f}']


def _check_beside(todo: Sequence[Path]) -> None:
  """Refuses to replace files of the names that go beside results.

  Raises:
    UserError: there is one.
  """
  for path in (_beside(target, what) for target in todo for what in _SHOWN):
    if path.exists():
      raise UserError(
        f'{path}: exists already: move it away, or replace it with --overwrite'
      )


def _beside(path: Path, what: str) -> Path:
  """Where one of `_SHOWN` of a result goes."""
  return path.with_name(f'{path.stem}_{what}.png')


def _how(
  picture: Picture,
  upscaler: Upscaler,
  fitted: Fitted,
  seconds: float,
  shown: Sequence[str],
) -> str:
  """By what and how long a picture was enlarged."""
  words = [upscaler.model.name, *shown]
  if upscaler.fitting is not None:
    words.append(f'{fitted.steps} steps')
  if tile := upscaler.tile_for(picture.color):
    words.append(f'tiles of {tile}')
  return ', '.join([*words, f'{seconds:.2f} s'])


def _enlarged(picture: Picture, upscaler: Upscaler, fitted: Fitted) -> Picture:
  """The picture in its own kind; its transparency by bicubic."""
  color = upscaler(picture.color, fitted)
  if picture.bit_depth is None:  # sparse data stay sparse
    color = keep_zeros(
      color, picture.color, upscaler.model.scale, picture.low, picture.high
    )
  alpha = picture.alpha
  if alpha is not None:
    bicubic = loading.load('bicubic', scale=upscaler.model.scale)
    alpha = Upscaler(bicubic)(alpha)
  metadata = picture.metadata.enlarged(upscaler.model.scale)
  return dataclasses.replace(
    picture, color=color, alpha=alpha, metadata=metadata
  )


def _writable(target: Path, picture: Picture, jobs: dict[Path, Path]) -> Path:
  """`target`, or a PNG beside it where its format cannot hold the picture."""
  try:
    check_writable(target, picture)
    return target
  except UserError:
    png = target.with_suffix('.png')
    if png in jobs:
      raise
    check_writable(png, picture)
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

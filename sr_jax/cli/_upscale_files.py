"""What `sr-jax upscale` does: image files are enlarged one by one, in kind."""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from sr_jax.cli import _results, arguments
from sr_jax.cli._progress import Progress
from sr_jax.cli._results import Job, Output
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
from sr_jax.data.kernel_files import as_kernel, save_kernel
from sr_jax.errors import UserError, wants_traceback
from sr_jax.inference import loading
from sr_jax.inference.fitting import (
  TOGETHER,
  Fitted,
  back_projection_error,
)
from sr_jax.inference.model import SRModel
from sr_jax.inference.shapes import Size
from sr_jax.inference.upscaler import Upscaler
from sr_jax.methods import Fitting
from sr_jax.ops.blur_kernels import correlation_taps

# Fewer images are not worth a look at their sizes beforehand.
_FEW = 8
# What is written beside a result that references were used for.
_SHOWN = ('strip', 'similarity')
# Kernels saved beside the results.
_KERNEL_NAME = 'kernel_{}.npy'


class _FileFault(Exception):
  """One input cannot be enlarged; the others still can."""


def run(args: argparse.Namespace) -> int:
  """Enlarges every input; 2 if one of them could not be."""
  output = Output(args.output)
  found = find_images(args.inputs, skip=args.output)
  model = loading.load(args.model, scale=args.scale, options=dict(args.option))
  references = _references(args.reference, model)
  made_by = _made_by(args, model)
  jobs, there, faults = _plan(found, output, args, model.scale, made_by)
  sizes = _sizes(jobs, model)
  upscaler = Upscaler(
    model,
    arguments.upscale_options(
      args, kernel=args.kernel, noise_sigma=args.noise, seed=args.seed
    ),
    sizes=list(filter(None, sizes.values())),
    references=references,
  )
  _check_use(args, upscaler)
  if upscaler.fitting is not None and jobs:
    print(_kernel_line(args, upscaler.fitting, output), flush=True)
  kept = {job.target.resolve() for job in jobs}
  kept |= {file.path.resolve() for file in found}
  files = _Files(output, upscaler, made_by, kept, overwrite=args.overwrite)
  progress = Progress(len(jobs))
  failed = list(faults)
  try:
    for fault in faults.values():
      progress.write(f'sr-jax: error: {fault}', error=True)
    for group in _groups(jobs, sizes, upscaler):
      for job, result in files.enlarge(group, progress):
        if isinstance(result, _FileFault):
          progress.write(f'sr-jax: error: {result}', error=True)
          failed.append(job.source)
        else:
          progress.write(result)
        progress.finish()
  finally:
    progress.close()
  total = len(jobs) + len(there) + len(faults)
  if total > 1 or there:
    print(_results.summary(total - len(there) - len(failed), there, failed))
  return 2 if failed else 0


def _made_by(args: argparse.Namespace, model: SRModel) -> dict[str, Any]:
  """All that decides the pixels of a result, as plain values of JSON."""
  leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(model.params))
  weights = hashlib.sha256()
  for path, leaf in leaves:
    weights.update(jax.tree_util.keystr(path).encode())
    weights.update(np.ascontiguousarray(leaf).tobytes())
  kernel = as_kernel(args.kernel)
  taps = None if kernel is None else np.asarray(correlation_taps(kernel))
  # Where the result depends on the tiles: they may leave seams.
  tile = args.tile if model.halo is None or args.tile == 'chop' else None
  options = {
    'method': model.config['method'],
    'model': model.config['model'],
    'weights': weights.hexdigest()[:16],
    'scale': model.scale,
    'kernel': taps if taps is None else _results.digest_of_array(taps),
    'noise': args.noise,
    'adapt_steps': args.adapt_steps,
    'seed': args.seed if model.fitting else None,
    'self_ensemble': args.self_ensemble,
    'back_project': args.back_project,
    'tile': tile,
    'peak': args.peak,
    'references': [_results.digest_of(path) for path in args.reference],
  }
  return json.loads(json.dumps(options, default=str))


def _label(args: argparse.Namespace) -> str:
  """Model and options, for the name of a result beside another one's."""
  parts = [Path(args.model).name]
  parts += [f'{key}={value}' for key, value in args.option]
  for name in ('adapt_steps', 'back_project'):
    if getattr(args, name) is not None:
      parts.append(f'{name.replace("_", "-")}-{getattr(args, name)}')
  for name in ('noise', 'seed', 'peak'):
    if value := getattr(args, name):
      parts.append(f'{name}-{value:g}')
  if args.kernel is not None:
    parts.append(args.kernel.rpartition('/')[2])
  if args.self_ensemble:
    parts.append('self-ensemble')
  parts += [path.stem for path in args.reference]
  return _results.label_of(parts)


def _plan(
  found: Sequence[Found],
  output: Output,
  args: argparse.Namespace,
  scale: float,
  made_by: Mapping[str, Any],
) -> tuple[list[Job], list[Path], dict[Path, _FileFault]]:
  """What is to be done, inputs whose results exist, and faults by input.

  Raises:
    UserError: two inputs would become one file, or -o does not suit them.
  """
  alone = len(args.inputs) == 1 and args.inputs[0].is_file()
  if output.file and not alone:
    raise UserError(
      f'{output.file}: give a folder for the results of several files'
    )
  if not output.file and args.output.exists() and not args.output.is_dir():
    raise UserError(f'{args.output}: is a file: give a folder for the results')
  if output.file and output.file.resolve() == args.inputs[0].resolve():
    raise UserError(f'{output.file}: is the input itself: give another name')
  # Results of earlier runs into the input folder itself are no input, unless
  # they are named one by one.
  results = output.results()
  found = [
    f for f in found if f.path in args.inputs or f.path.resolve() not in results
  ]
  places = [
    output.file.name if output.file else _name(f.relative, scale).as_posix()
    for f in found
  ]
  check_targets(
    (f.path, output.folder / place)
    for f, place in zip(found, places, strict=True)
  )
  inputs = {f.path.resolve() for f in found}
  jobs, there, faults = [], [], {}
  for file, place in zip(found, places, strict=True):
    digest = _results.digest_of(file.path)
    if not args.overwrite and output.finished(place, digest, made_by):
      there.append(file.path)
      continue
    try:
      target = output.target(
        place, _label(args), inputs, made_by, overwrite=args.overwrite
      )
      if args.reference and not args.overwrite:
        _check_beside(target)
    except UserError as error:
      faults[file.path] = _fault(file.path, error)
      continue
    jobs.append(Job(file.path, target, place, digest))
  return jobs, there, faults


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


def _kernel_line(
  args: argparse.Namespace, fitting: Fitting, output: Output
) -> str:
  """Names the blur that images are assumed to have, and saves its taps."""
  if fitting.kernel is None:
    return f'kernel: none, the input is taken for a {fitting.degradation} image'
  path = output.folder / _KERNEL_NAME.format(
    _results.digest_of_array(fitting.kernel)
  )
  if not path.exists():
    path.parent.mkdir(parents=True, exist_ok=True)
    save_kernel(path, fitting.kernel)
    output.add(path, None)
  height, width = fitting.kernel.shape
  return (
    f'kernel: {args.kernel}, {height}x{width} taps, {fitting.degradation},'
    f' saved as {path}'
  )


def _groups(
  jobs: Sequence[Job],
  sizes: Mapping[Path, Size | None],
  upscaler: Upscaler,
) -> list[list[Job]]:
  """Jobs to do together: images of one size, where the model is fitted."""
  if upscaler.fitting is None:
    return [[job] for job in jobs]
  groups: dict[object, list[Job]] = {}
  for job in jobs:
    groups.setdefault(sizes.get(job.source) or job.target, []).append(job)
  return [
    group[i : i + TOGETHER]
    for group in groups.values()
    for i in range(0, len(group), TOGETHER)
  ]


def _name(relative: Path, scale: float) -> Path:
  known = relative.suffix.lower() in IMAGE_SUFFIXES
  suffix = relative.suffix if known else '.png'
  return relative.with_name(f'{relative.stem}_x{scale:g}{suffix}')


def _sizes(jobs: Sequence[Job], model: SRModel) -> dict[Path, Size | None]:
  """(height, width) by input, None for what cannot be read.

  Empty where nothing depends on it: few images, of a model that is not fitted
  to them, compile few shapes anyhow.
  """
  few = 1 if model.fitting else _FEW
  if model.on_host or len(jobs) <= few:
    return {}
  sources = [job.source for job in jobs]
  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    return dict(zip(sources, pool.map(_size_of, sources), strict=True))


def _size_of(path: Path) -> Size | None:
  try:
    height, width = image_formats.decode(path).values.shape[:2]
    return height, width
  except UserError:
    return None  # it is reported when its turn comes


class _Files:
  """Enlarges files and writes the results."""

  def __init__(
    self,
    output: Output,
    upscaler: Upscaler,
    made_by: Mapping[str, Any],
    kept: set[Path],
    *,
    overwrite: bool,
  ):
    """Keeps what all files share.

    Args:
      output: Where the results go.
      upscaler: What enlarges.
      made_by: How the results are made, for the record.
      kept: Files that no result may replace in passing, with links resolved.
      overwrite: Whether other files may be replaced.
    """
    self._output = output
    self._upscaler = upscaler
    self._made_by = made_by
    self._kept = kept
    self._overwrite = overwrite

  def enlarge(
    self, jobs: Sequence[Job], progress: Progress
  ) -> Iterator[tuple[Job, str | _FileFault]]:
    """Enlarges files, fitted together; what was done or the fault, for each.

    Raises:
      UserError: a result cannot be written, and no other will be.
    """
    start = time.perf_counter()
    pictures: list[tuple[Job, Picture]] = []
    for job in jobs:
      progress.start(f'{job.source}: reading')
      try:
        peak = self._made_by['peak']
        picture = read_image(job.source, per_channel=True, peak=peak)
        picture = without_hidden_color(picture)
        self._upscaler.check(picture.color)
        pictures.append((job, picture))
      except (UserError, MemoryError) as error:
        yield job, _fault(job.source, error)
    if not pictures:
      return
    if self._upscaler.fitting is not None:
      progress.start(
        f'{pictures[0][0].source}: fitting {self._upscaler.model.name} to'
        f' {len(pictures)} of this size'
      )
    try:
      fits = self._upscaler.fit([picture.color for _, picture in pictures])
    except (UserError, MemoryError) as error:
      for job, _ in pictures:
        yield job, _fault(job.source, error)
      return
    shared = (time.perf_counter() - start) / len(pictures)
    for (job, picture), fitted in zip(pictures, fits, strict=True):
      start = time.perf_counter() - shared
      progress.start(f'{job.source}: enlarging')
      try:
        result = self._enlarged(picture, fitted, progress)
        path = self._writable(job, result)
      except (UserError, MemoryError) as error:
        yield job, _fault(job.source, error)
        continue
      words = self._write(job, path, picture, result, fitted)
      words.append(f'{time.perf_counter() - start:.2f} s')
      sizes = f'{_size(picture)} -> {path} {_size(result)}'
      yield job, f'{job.source} {sizes} ({", ".join(words)})'

  def _enlarged(
    self, picture: Picture, fitted: Fitted, progress: Progress
  ) -> Picture:
    """The picture in its own kind; its transparency by bicubic."""
    scale = self._upscaler.model.scale
    color = self._upscaler(picture.color, fitted, progress=progress.tiles)
    if picture.bit_depth is None:  # sparse data stay sparse
      color = keep_zeros(color, picture.color, scale, picture.low, picture.high)
    alpha = picture.alpha
    if alpha is not None:
      alpha = Upscaler(loading.load('bicubic', scale=scale))(alpha)
    metadata = picture.metadata.enlarged(scale)
    return dataclasses.replace(
      picture, color=color, alpha=alpha, metadata=metadata
    )

  def _write(
    self,
    job: Job,
    path: Path,
    picture: Picture,
    result: Picture,
    fitted: Fitted,
  ) -> list[str]:
    """Writes and records a result; by what it was made, in words."""
    self._output.forget(path)
    write_image(path, result)
    self._output.add(path, job, self._made_by)
    words = [self._upscaler.model.name]
    if self._upscaler.references:
      words.append(self._show(path, picture, result, fitted))
    if self._upscaler.fitting is not None:
      words.append(f'{fitted.steps} steps')
      if self._upscaler.fitting.kernel is not None:
        error = back_projection_error(
          self._upscaler.fitting,
          picture.color,
          result.color,
          self._upscaler.model.scale,
        )
        words.append(f'off the input by {error:.2f} levels if reduced again')
    if tile := self._upscaler.tile_for(picture.color):
      words.append(f'tiles of {tile}')
    return words

  def _show(
    self, path: Path, picture: Picture, result: Picture, fitted: Fitted
  ) -> str:
    """Writes what shows the use of references; how similar they are."""
    upscaler = self._upscaler
    similarity = upscaler.similarity(picture.color, fitted)
    scale = upscaler.model.whole_scale
    shown = similarity.clip(0, 1).repeat(scale, 0).repeat(scale, 1)
    write_image(_beside(path, 'similarity'), Picture(shown))
    bicubic = Upscaler(loading.load('bicubic', scale=scale))
    images = [bicubic(picture.color), result.color, *upscaler.references]
    labels = ['bicubic', upscaler.model.name]
    labels += ['reference'] * len(upscaler.references)
    save_png_strip(_beside(path, 'strip'), images, labels)
    for what in _SHOWN:
      self._output.add(_beside(path, what), None)
    return f'similarity {similarity.mean():.2f}'

  def _writable(self, job: Job, picture: Picture) -> Path:
    """The target, or a PNG beside it where its format cannot hold the picture.

    Raises:
      UserError: neither will do, or the PNG is another's.
    """
    try:
      check_writable(job.target, picture)
      return job.target
    except UserError:
      png = job.target.with_suffix('.png')
      if png.resolve() in self._kept:
        raise
      if png.exists() and not self._overwrite:
        raise
      check_writable(png, picture)
      return png


def _fault(source: Path, error: Exception) -> _FileFault:
  """One line that names the file.

  Raises:
    Exception: the error itself, where its traceback is wanted.
  """
  if wants_traceback():
    raise error
  if isinstance(error, MemoryError):
    return _FileFault(f'{source}: does not fit into memory: cut it into parts')
  named = str(error).startswith(str(source))
  return _FileFault(error if named else f'{source}: {error}')


def _check_beside(target: Path) -> None:
  """Refuses to replace files of the names that go beside a result.

  Raises:
    UserError: there is one.
  """
  for path in (_beside(target, what) for what in _SHOWN):
    if path.exists():
      raise UserError(
        f'{path}: exists already: move it away, or replace it with --overwrite'
      )


def _beside(path: Path, what: str) -> Path:
  """Where one of `_SHOWN` of a result goes."""
  return path.with_name(f'{path.stem}_{what}.png')


def _size(picture: Picture) -> str:
  return f'{picture.color.shape[1]}x{picture.color.shape[0]}'

"""Runs `sr-jax upscale`: plans the results, and enlarges the inputs."""

from __future__ import annotations

import argparse
import concurrent.futures
import copy
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from sr_jax.cli import _kernels, _results, arguments
from sr_jax.cli._enlarge_files import (
  SHOWN,
  FileFault,
  Files,
  check_beside,
  fault_of,
)
from sr_jax.cli._progress import Progress
from sr_jax.cli._results import Job, Output
from sr_jax.data import image_formats
from sr_jax.data.image_io import (
  IMAGE_SUFFIXES,
  Found,
  check_targets,
  find_images,
  read_rgb,
)
from sr_jax.data.kernel_files import as_kernel, save_kernel
from sr_jax.data.kernel_names import KERNELS_TO_TRY
from sr_jax.errors import UserError, counted
from sr_jax.inference import loading
from sr_jax.inference.automatic import (
  AUTO,
  ESTIMATED,
  KERNELGAN,
  AutomaticKernel,
  needs_kernel,
  unused_kernel,
)
from sr_jax.inference.fitting import TOGETHER
from sr_jax.inference.model import SRModel
from sr_jax.inference.shapes import Size
from sr_jax.inference.upscaler import Upscaler
from sr_jax.methods import Fitting
from sr_jax.ops.blur_kernels import correlation_taps

# Up to this number of images their sizes are not read beforehand.
_FEW = 8
# Name of the file of a given kernel, which is saved beside the results.
_KERNEL_NAME = 'kernel_{}.npy'


class _Done(NamedTuple):
  """The outcome of enlarging all inputs with one kernel.

  Attributes:
    failed: Whether one of the inputs could not be enlarged.
    results: The file of each result by its input, including earlier results.
  """

  failed: bool
  results: dict[Path, Path]


def run(args: argparse.Namespace) -> int:
  """Enlarges every input with every kernel; returns 2 if one of them failed."""
  kernels = _kernels.split_kernels(args.kernel)
  alone = len(args.inputs) == 1 and not args.inputs[0].is_dir()
  output = Output(args.output, for_one_file=alone)
  found = find_images(args.inputs, skip=args.output)
  model = loading.load(args.model, scale=args.scale, options=dict(args.option))
  if kernels == [None] and needs_kernel(model, args.adapt_steps):
    kernels = [AUTO]
  for kernel in kernels:  # refuses a bad one before the first is used
    _kernel(kernel)
  tried = {}
  for kernel in kernels:
    one = copy.copy(args)
    one.kernel = kernel
    named = kernel if len(kernels) > 1 else None
    tried[kernel] = _enlarge(one, output, found, model, named)
  failed = any(done.failed for done in tried.values())
  if len(kernels) > 1:
    failed |= not _write_sheets(args, output, found, model.scale, tried)
  return 2 if failed else 0


def _kernel(spec: str | None) -> Any:
  """Returns the kernel of a SPEC; None for no blur, and for an estimated one.

  Raises:
    UserError: No kernel has this name, or its file cannot be read.
  """
  if spec in ESTIMATED:
    return None
  return as_kernel(spec, known=KERNELS_TO_TRY)


def _enlarge(
  args: argparse.Namespace,
  output: Output,
  found: Sequence[Found],
  model: SRModel,
  named: str | None,
) -> _Done:
  """Enlarges every input with one kernel.

  Args:
    args: The options; `kernel` is the one kernel.
    output: The folder or file of the results.
    found: The inputs.
    model: The model.
    named: The kernel, if it is part of the names of the results.
  """
  references = _references(args.reference, model)
  made_by = _made_by(args, model)
  plan = _plan(found, output, args, model.scale, made_by, named)
  jobs, there, faults = plan
  sizes = _sizes(jobs, model)
  upscaler = _upscaler(args, model, sizes, references)
  alike = isinstance(upscaler, Upscaler)
  if alike and upscaler.fitting is not None and jobs:
    print(_kernel_line(args, model, upscaler.fitting, output), flush=True)
  kept = {job.target.resolve() for job in jobs}
  kept |= {file.path.resolve() for file in found}
  files = Files(output, upscaler, made_by, kept, overwrite=args.overwrite)
  progress = Progress(len(jobs))
  failed = list(faults)
  results = dict(there)
  try:
    for fault in faults.values():
      progress.write(f'sr-jax: error: {fault}', error=True)
    for group in _groups(jobs, sizes, upscaler):
      for job, result in files.enlarge(group, progress):
        if isinstance(result, FileFault):
          progress.write(f'sr-jax: error: {result}', error=True)
          failed.append(job.source)
        else:
          results[job.source] = result.path
          progress.write(result.line)
        progress.finish()
  finally:
    progress.close()
  total = len(jobs) + len(there) + len(faults)
  if total > 1 or there:
    done = total - len(there) - len(failed)
    print(_results.summary(done, list(there), failed))
  return _Done(bool(failed), results)


def _upscaler(
  args: argparse.Namespace,
  model: SRModel,
  sizes: Mapping[Path, Size | None],
  references: Sequence[np.ndarray],
) -> Upscaler | AutomaticKernel:
  """Returns the upscaler of all images, or one that prepares one for each.

  Raises:
    UserError: Options do not suit the model, or would have no effect.
  """
  known = list(filter(None, sizes.values()))
  kernel = None if args.kernel in ESTIMATED else args.kernel
  options = arguments.upscale_options(
    args, kernel=kernel, noise_sigma=args.noise, seed=args.seed
  )
  if args.noise and model.fitting is None:
    raise UserError(
      f'--noise: model {model.name} does not adapt to images: leave it out'
    )
  if args.kernel in ESTIMATED:
    if model.fitting is None and not args.back_project:
      raise unused_kernel(model, '--kernel')
    return AutomaticKernel(model, options, kernel=args.kernel, sizes=known)
  upscaler = Upscaler(model, options, sizes=known, references=references)
  if kernel is not None and not upscaler.uses_kernel:
    raise unused_kernel(model, '--kernel')
  return upscaler


def _write_sheets(
  args: argparse.Namespace,
  output: Output,
  found: Sequence[Found],
  scale: float,
  tried: Mapping[str | None, _Done],
) -> bool:
  """Writes a sheet with the results of all kernels for each input.

  Returns:
    Whether all sheets were written.
  """
  written = True
  for file in found:
    results = [
      (_sheet_label(kernel, result, output), result)
      for kernel, done in tried.items()
      if (result := done.results.get(file.path)) is not None
    ]
    if len(results) < 2:
      continue
    place = output.folder / _place(file, output, scale, None)
    sheet = place.with_name(f'{place.stem}_kernels.png')
    of_earlier_run = sheet.resolve() in output.results()
    if sheet.exists() and not (of_earlier_run or args.overwrite):
      print(
        f'sr-jax: error: {sheet}: exists already: move it away, or replace it'
        ' with --overwrite',
        file=sys.stderr,
      )
      written = False
      continue
    _kernels.save_sheet(sheet, results)
    output.add(sheet, None)
    print(f'{file.path}: all kernels side by side in {sheet}', flush=True)
  return written


def _sheet_label(kernel: str | None, result: Path, output: Output) -> str:
  """The kernel of a result, and its model if that is not the requested one."""
  model = output.other_model(result)
  return f'{kernel}' if model is None else f'{kernel}: {model}'


def _made_by(args: argparse.Namespace, model: SRModel) -> dict[str, Any]:
  """Returns everything that the pixels of a result depend on, for JSON."""
  leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(model.params))
  weights = hashlib.sha256()
  for path, leaf in leaves:
    weights.update(jax.tree_util.keystr(path).encode())
    weights.update(np.ascontiguousarray(leaf).tobytes())
  kernel = _kernel(args.kernel)
  taps = None if kernel is None else np.asarray(correlation_taps(kernel))
  digest = None if taps is None else _results.digest_of_array(taps)
  # The result depends on the tiles only if they may leave seams.
  tile = args.tile if model.halo is None or args.tile == 'chop' else None
  draws = model.fitting is not None or args.kernel == KERNELGAN
  options = {
    'method': model.config['method'],
    'model': model.config['model'],
    'weights': weights.hexdigest()[:16],
    'scale': model.scale,
    'kernel': args.kernel if args.kernel in ESTIMATED else digest,
    'noise': args.noise,
    'adapt_steps': args.adapt_steps,
    'seed': args.seed if draws else None,
    'self_ensemble': args.self_ensemble,
    'back_project': args.back_project,
    'tile': tile,
    'peak': args.peak,
    'references': [_results.digest_of(path) for path in args.reference],
  }
  if model.iterations is not None:
    options['iterations'] = args.iterations
  return json.loads(json.dumps(options, default=str))


def _label(args: argparse.Namespace) -> str:
  """Names model and options, for a result whose plain name is taken."""
  parts = [Path(args.model).name]
  parts += [f'{key}={value}' for key, value in args.option]
  for name in ('adapt_steps', 'iterations', 'back_project'):
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
  named: str | None,
) -> tuple[list[Job], dict[Path, Path], dict[Path, FileFault]]:
  """Decides which inputs have to be enlarged.

  Returns:
    The jobs, the existing results by input, and the faults by input.

  Raises:
    UserError: Two inputs would become one file, or -o does not suit the inputs.
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
  # If results of earlier runs lie in an input folder, they are not enlarged
  # again, unless they are given as inputs by name.
  results = output.results()
  found = [
    f for f in found if f.path in args.inputs or f.path.resolve() not in results
  ]
  places = [_place(f, output, scale, named) for f in found]
  check_targets(
    (f.path, output.folder / place)
    for f, place in zip(found, places, strict=True)
  )
  inputs = {f.path.resolve() for f in found}
  jobs, there, faults = [], {}, {}
  beside = [*(SHOWN if args.reference else ())]
  beside += _kernels.KERNEL_FILES if args.kernel in ESTIMATED else ()
  for file, place in zip(found, places, strict=True):
    digest = _results.digest_of(file.path)
    earlier = output.finished(place, digest, made_by)
    if earlier is not None and not args.overwrite:
      there[file.path] = earlier
      continue
    try:
      target = output.target(
        place, _label(args), inputs, made_by, overwrite=args.overwrite
      )
      if not args.overwrite:
        check_beside(target, beside)
    except UserError as error:
      faults[file.path] = fault_of(file.path, error)
      continue
    jobs.append(Job(file.path, target, place, digest))
  return jobs, there, faults


def _references(paths: Sequence[Path], model: SRModel) -> list[np.ndarray]:
  """Reads the references.

  Raises:
    UserError: A reference cannot be read or is too small, or the model takes no
      references.
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


def _kernel_line(
  args: argparse.Namespace, model: SRModel, fitting: Fitting, output: Output
) -> str:
  """Describes the assumed blur of the images, and saves its kernel."""
  if fitting.kernel is None and model.iterations is not None:
    count = args.iterations
    if count in (None, 'auto'):
      return (
        f'kernel: estimated from each image, corrected up to {model.iterations}'
        ' times'
      )
    return f'kernel: estimated from each image, {counted(count, "correction")}'
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
  upscaler: Upscaler | AutomaticKernel,
) -> list[list[Job]]:
  """Groups the jobs that are done together: images of one size, one kernel."""
  if isinstance(upscaler, AutomaticKernel) or upscaler.fitting is None:
    return [[job] for job in jobs]
  groups: dict[object, list[Job]] = {}
  for job in jobs:
    groups.setdefault(sizes.get(job.source) or job.target, []).append(job)
  return [
    group[i : i + TOGETHER]
    for group in groups.values()
    for i in range(0, len(group), TOGETHER)
  ]


def _place(file: Found, output: Output, scale: float, named: str | None) -> str:
  """Returns the name of a result, below the output folder.

  Args:
    file: The input.
    output: The folder or file of the results.
    scale: The enlargement.
    named: A kernel that is part of the name, or None.
  """
  whole = Path(output.file.name) if output.file else _name(file.relative, scale)
  if named is not None:
    label = _results.label_of([named.rpartition('/')[2]])
    whole = whole.with_name(f'{whole.stem}_{label}{whole.suffix}')
  return whole.as_posix()


def _name(relative: Path, scale: float) -> Path:
  known = relative.suffix.lower() in IMAGE_SUFFIXES
  suffix = relative.suffix if known else '.png'
  return relative.with_name(f'{relative.stem}_x{scale:g}{suffix}')


def _sizes(jobs: Sequence[Job], model: SRModel) -> dict[Path, Size | None]:
  """Reads the (height, width) of inputs; None for files that cannot be read.

  The result is empty if sizes are not needed: a few images that the model does
  not adapt to compile only a few shapes.
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
    return None  # the fault is reported when the file is enlarged

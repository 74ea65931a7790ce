"""Benchmarks: LR images are made or read, enlarged, and measured against HR.

The result is the JSON of `sr-jax evaluate`:

  model, scale        what was measured
  degradation         name, or 'given' for LR images from files, for which
                      noise_sigma to seed are null
  kernel              SPEC of the blur, made or said to have been made; or null
  noise_sigma, jpeg_quality, seed    the rest of the degradation
  real                preset of the degradation 'real', if LR was made by it
  protocol            rules of the scores, see `metrics.protocol`
  images              [{name, psnr, ssim, seconds}, ...], or other metrics; with
                      an estimated kernel also `kernel`, the estimate's SPEC
  assumed_kernel      the kernel that the model was given, where it is not that
                      of the degradation: a SPEC or 'auto'; else null
  mean                {psnr, ssim} over the images
  left_out            {name: why} of images that could not be measured, such as
                      those too small for SSIM
  adapt_steps         steps of the fit to each image that were asked for: a
                      number, 'auto', or null for what the model does by itself
  iterations          corrections that were asked for, if the model makes some
  tile                as asked for: a number, 'auto', 'off' or 'chop'
  compile_seconds     spent compiling in all, not part of any image's seconds
  reference_dir       folder of the references, or null
  reference_level     number of the references that were used, 0 for all
  peak                value that is white in files of more than 8 bits, if given
  others              [{protocol, images, mean}, ...]: the same images under
                      further protocols, empty unless they were asked for

A PSNR of equal images is infinite; JSON has no such number, so the file holds
the string "Infinity", which `float` of Python and `Number` of JavaScript read.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sr_jax.data.degradation import Degradation
from sr_jax.data.folders import match_lr
from sr_jax.data.image_io import (
  Picture,
  check_targets,
  find_images,
  read_image,
  read_rgb,
  write_image,
)
from sr_jax.data.references import match_references
from sr_jax.errors import UserError, counted
from sr_jax.evaluation.report import Scores, Table, as_json
from sr_jax.evaluation.timing import timed
from sr_jax.files import refuse_links
from sr_jax.inference.automatic import (
  AUTO,
  ESTIMATED,
  AutomaticKernel,
  Prepared,
  given_kernel,
  needs_kernel,
  unused_kernel,
)
from sr_jax.inference.model import SRModel
from sr_jax.inference.options import UpscaleOptions
from sr_jax.inference.upscaler import Upscaler
from sr_jax.metrics.protocol import (
  PROTOCOLS,
  PSNR,
  SSIM,
  Metric,
  Protocol,
  get_protocol,
  measure,
)
from sr_jax.ops.degrade import quantize
from sr_jax.ops.resize import resized_size
from sr_jax.ops.scales import covered_size, reduced_size

PathLike = str | os.PathLike[str]
Report = Callable[[str], None]

_log = logging.getLogger(__name__)


class _Pair(NamedTuple):
  """One HR file and the files that belong to it, if there are such."""

  name: str
  hr: Path
  lr: Path | None
  references: tuple[Path, ...] = ()


def protocols_of(name: str, crop: int | None = None) -> list[Protocol]:
  """The protocol called `name`, or every one for 'all'.

  Raises:
    UserError: unknown name or negative crop.
  """
  names = PROTOCOLS if name == 'all' else [name]
  return [get_protocol(n, crop) for n in names]


def evaluate_folder(
  model: SRModel,
  *,
  hr_dir: PathLike,
  lr_dir: PathLike | None = None,
  reference_dir: PathLike | None = None,
  reference_level: int = 0,
  degradation: Degradation | None = None,
  protocols: Sequence[Protocol] = (PROTOCOLS['y-uint8'],),
  metrics: Sequence[Metric] = (PSNR, SSIM),
  options: UpscaleOptions | None = None,
  assumed_kernel: str | None = None,
  save_images: PathLike | None = None,
  report: Report | None = None,
  peak: float = 0.0,
) -> dict[str, Any]:
  """Enlarges the LR image of every HR image and measures the results.

  Longer than most functions by the description of its arguments.

  HR keeps the levels of its file, 8 or 16 bits or floats, to which LR and SR
  are rounded too. It is cut to a multiple of the scale; where that is not
  whole, to the pixels that whole LR pixels cover, and SR to these. Grey images
  are repeated to RGB for models that take RGB, as the field does. Networks get
  LR without a mirrored border, as for published scores.

  Args:
    model: what to measure, at `model.scale`.
    hr_dir: folder (of any depth) or file of the large images.
    lr_dir: folder or file of the small ones, used as they are; matched as
      `data.folders.match_lr` does.
    reference_dir: folder of references, matched as
      `data.references.match_references` does.
    reference_level: the number of the only ones to use; 0 for all.
    degradation: how LR is made of HR; with `lr_dir` how it was made, which a
      model that fits itself to the images needs to know.
    protocols: the first gives the main scores, the rest go under `others`.
    metrics: the scores, see `scores.choose`.
    options: how images are enlarged; kernel, degradation, noise and seed come
      from `degradation`, and no border is mirrored.
    assumed_kernel: SPEC of the kernel that the model is given instead of that
      of `degradation`; 'auto' estimates it from each LR image, as is done
      anyhow if the model needs a kernel and none is known. Models that
      estimate the kernel themselves are given none, or by 'true' that of
      `degradation`.
    save_images: folder for the results as PNG, under the names of HR.
    report: called with each line of the table as soon as it is known.
    peak: the value that is white in files of more than 8 bits, see
      `image_io.read_image`.

  Returns:
    The result that the head of this file describes; PSNR may be inf.

  Raises:
    UserError: an image cannot be read, has no counterpart, or does not fit the
      scale or the model; the model gives NaN; a result would replace an input;
      no image can be measured.
  """
  report = report or (lambda line: None)
  made = None if lr_dir is not None else degradation or Degradation()
  assumed = degradation or made or Degradation()
  pairs = _find_pairs(Path(hr_dir), lr_dir, model.scale)
  if reference_dir is not None:
    pairs = _with_references(pairs, hr_dir, reference_dir, reference_level)
  targets = _targets(pairs, save_images)
  options = dataclasses.replace(
    options or UpscaleOptions(),
    kernel=given_kernel(model, assumed.taps, assumed_kernel),
    degradation=degradation.fixed if degradation else None,
    noise_sigma=assumed.noise_sigma,
    seed=assumed.seed,
    mirror_border=False,
  )
  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    sizes = list(pool.map(lambda pair: _lr_size(pair, model, peak), pairs))
  unknown = assumed.taps is None and needs_kernel(model, options.adapt_steps)
  if assumed_kernel is None and unknown:
    assumed_kernel = AUTO
  upscaler: Upscaler | AutomaticKernel
  if assumed_kernel in ESTIMATED:
    options = dataclasses.replace(options, kernel=None, degradation=None)
    upscaler = AutomaticKernel(
      model, options, kernel=assumed_kernel, sizes=sizes
    )
  else:
    upscaler = Upscaler(model, options, sizes=sizes)
    if assumed_kernel is not None and not upscaler.uses_kernel:
      raise unused_kernel(model, '--assume-kernel')
  table = Table(protocols, metrics, [pair.name for pair in pairs])
  report(f'{os.fspath(hr_dir)}: {counted(len(pairs), "image")}')
  if reference_dir is not None:
    which = f'number {reference_level}' if reference_level else 'all together'
    report(f'references: {os.fspath(reference_dir)}, {which}')
  for line in table.header(model, made, lr_dir, options.tile):
    report(line)
  scores = _scores_of(pairs, targets, upscaler, made, table, report, peak)
  result = as_json(model, made, protocols, metrics, scores)
  result |= {
    'adapt_steps': options.adapt_steps,
    'kernel': assumed.kernel,
    'assumed_kernel': assumed_kernel,
    'tile': options.tile,
    'reference_dir': None if reference_dir is None else str(reference_dir),
    'reference_level': reference_level,
  }
  if model.iterations is not None:
    result['iterations'] = options.iterations
  if peak:
    result['peak'] = peak
  means = [result['mean'], *(other['mean'] for other in result['others'])]
  report(table.line('mean', means))
  return result


def _scores_of(
  pairs: Sequence[_Pair],
  targets: Sequence[Path | None],
  upscaler: Upscaler | AutomaticKernel,
  made: Degradation | None,
  table: Table,
  report: Report,
  peak: float,
) -> Scores:
  """Enlarges, writes and measures one image after the other.

  Raises:
    UserError: the model gives NaN, or no image can be measured.
  """
  model = upscaler.model
  scores = Scores([[] for _ in table.protocols], {}, [])
  faults: list[UserError] = []
  for pair, target in zip(pairs, targets, strict=True):
    hr, lr, dtype = _read_pair(pair, model, made, peak)
    more = {}
    if isinstance(upscaler, Upscaler):
      run = functools.partial(_upscaled, upscaler, pair.references)
    else:
      prepared = _prepared(upscaler, pair, lr, dtype)
      run, more = prepared.upscaler, {'kernel': prepared.estimate.spec}
      report(f'{pair.name}: {prepared.line}')
    sr, seconds, compiling = timed(run, lr)
    sr = sr[: hr.shape[0], : hr.shape[1]]
    if not np.isfinite(sr).all():
      raise UserError(
        f'{pair.hr}: model {model.name} gives NaN: check its checkpoint'
      )
    scores.compiling.append(compiling)
    try:
      rows = _measure(pair, sr, hr, table, model.scale, dtype)
    except UserError as error:
      faults.append(error)
      scores.left_out[pair.name] = str(error)
      report(f'{table.first(pair.name)}  left out: {error}')
      continue
    if target is not None:
      depth = 8 if dtype == np.uint8 else 16
      write_image(target, Picture(sr, bit_depth=depth))
    for images, row in zip(scores.images, rows, strict=True):
      images.append({'name': pair.name, **row, 'seconds': seconds, **more})
    report(table.line(pair.name, rows, seconds))
  if len(faults) == len(pairs):
    raise faults[0]
  return scores


def _prepared(
  automatic: AutomaticKernel, pair: _Pair, lr: np.ndarray, dtype: np.dtype
) -> Prepared:
  """What enlarges the LR image of a pair, by an estimate of its kernel.

  Raises:
    UserError: naming the image, which shows no blur.
  """
  by = 'spectrum' if dtype.kind == 'f' else 'auto'
  try:
    return automatic.prepare(lr, by=by)
  except UserError as error:
    raise UserError(f'{pair.lr or pair.hr}: {error}') from None


def _find_pairs(
  hr_dir: Path, lr_dir: PathLike | None, scale: float
) -> list[_Pair]:
  """HR files with their LR files, in natural order of their names."""
  large = find_images([hr_dir])
  if lr_dir is None:
    return [_Pair(f.relative.as_posix(), f.path, None) for f in large]
  small = find_images([Path(lr_dir)])
  if not hr_dir.is_dir() and not Path(lr_dir).is_dir():
    return [_Pair(hr_dir.name, hr_dir, Path(lr_dir))]
  hr = {found.relative.as_posix(): found.path for found in large}
  lr = {found.relative.as_posix(): found.path for found in small}
  matched = match_lr(hr, lr, scale)
  for name, fault in matched.faults.items():
    raise UserError(f'{hr[name]}: {fault} in {lr_dir}')
  if unused := matched.unused:
    _log.warning(
      '%d LR images have no HR image and are not used: %s',
      len(unused),
      ', '.join(unused[:5]) + (', ...' if len(unused) > 5 else ''),
    )
  return [_Pair(a, hr[a], lr[b]) for a, b in matched.pairs.items()]


def _with_references(
  pairs: Sequence[_Pair],
  hr_dir: PathLike,
  reference_dir: PathLike,
  level: int,
) -> list[_Pair]:
  """The pairs that are no references themselves, with their references."""
  root = Path(reference_dir)
  if not root.is_dir():
    raise UserError(f'{root}: no such folder: check the path')
  files = {f.relative.as_posix(): f.path for f in find_images([root])}
  matched = match_references(
    [pair.name for pair in pairs],
    files,
    together=root.resolve() == Path(hr_dir).resolve(),
    level=level,
  )
  for name, fault in matched.faults.items():
    raise UserError(f'{Path(hr_dir, name)}: {fault} in {root}')
  return [
    pair._replace(references=tuple(files[r] for r in matched.pairs[pair.name]))
    for pair in pairs
    if pair.name in matched.pairs
  ]


def _upscaled(
  upscaler: Upscaler, references: Sequence[Path], lr: np.ndarray
) -> np.ndarray:
  """SR, with references where there are such."""
  if not references:
    return upscaler(lr)
  try:
    fitted = upscaler.refer([read_rgb(path) for path in references])
  except UserError as error:
    raise UserError(f'{references[0].parent}: {error}') from None
  return upscaler(lr, fitted)


def _targets(
  pairs: Sequence[_Pair], folder: PathLike | None
) -> Sequence[Path | None]:
  """Where the results go."""
  if folder is None:
    return [None] * len(pairs)
  targets = [Path(folder, pair.name).with_suffix('.png') for pair in pairs]
  check_targets(
    (pair.hr, target) for pair, target in zip(pairs, targets, strict=True)
  )
  inputs = {
    path.resolve()
    for pair in pairs
    for path in (pair.hr, pair.lr, *pair.references)
    if path
  }
  for target in targets:
    refuse_links(Path(folder), target)
    if target.resolve() in inputs:
      raise UserError(
        f'{target}: is an input: choose another folder for the results'
      )
  return targets


def read_levels(path: Path) -> np.ndarray:
  """An image file as `[H, W, C]` float64 in [0, 1], on 8-bit levels.

  Transparency is dropped, the colour beneath kept.

  Raises:
    UserError: it cannot be read, or is an array of another value range.
  """
  return quantize(_read_unit(path)[0])


def _read_unit(path: Path, peak: float = 0.0) -> tuple[np.ndarray, np.dtype]:
  """An image file as `[H, W, C]` in [0, 1], and the type of its levels."""
  picture = read_image(path, peak=peak)
  if (picture.low, picture.high) != (0.0, peak or 1.0) and picture.mapped:
    raise UserError(
      f'{path}: values of {picture.low:g} to {picture.high:g}: scale them to '
      '[0, 1], so that LR, SR and HR have one range, or give the value that is '
      'white: peak=N'
    )
  if picture.nodata is not None:
    raise UserError(
      f'{path}: has pixels without data ({picture.nodata:g}): fill them, or '
      'leave it out'
    )
  types = {8: np.uint8, 16: np.uint16}
  return picture.color, np.dtype(types.get(picture.bit_depth or 0, np.float32))


def cut_to_multiple(image: np.ndarray, scale: float, path: Path) -> np.ndarray:
  """The upper left part of `[H, W, C]` that whole LR pixels cover.

  Raises:
    UserError: nothing is left.
  """
  height, width = (
    covered_size(reduced_size(n, scale), scale) for n in image.shape[:2]
  )
  if not height or not width:
    raise UserError(
      f'{path}: {image.shape[1]}x{image.shape[0]} pixels are too few for '
      f'scale {scale:g}: leave it out'
    )
  return image[:height, :width]


def _for_model(image: np.ndarray, model: SRModel) -> np.ndarray:
  """Grey repeated to RGB where the model takes RGB."""
  if image.shape[-1] == 1 and model.channels == 3:
    return np.repeat(image, 3, axis=-1)
  return image


def _read_hr(
  pair: _Pair, scale: float, peak: float
) -> tuple[np.ndarray, np.dtype]:
  """HR on the levels of its file, and their type."""
  image, dtype = _read_unit(pair.hr, peak)
  return cut_to_multiple(quantize(image, dtype), scale, pair.hr), dtype


def _lr_size(pair: _Pair, model: SRModel, peak: float) -> tuple[int, int]:
  """LR height and width; reads the files, so that bad ones show early."""
  height, width = (
    resized_size(n, 1 / model.scale)
    for n in _read_hr(pair, model.scale, peak)[0].shape[:2]
  )
  if pair.lr is not None:
    given = _read_unit(pair.lr, peak)[0].shape[:2]
    if given != (height, width):
      raise UserError(
        f'{pair.lr}: {given[1]}x{given[0]} pixels, but {pair.hr} at scale '
        f'{model.scale:g} needs {width}x{height}'
      )
  return height, width


def _read_pair(
  pair: _Pair, model: SRModel, made: Degradation | None, peak: float
) -> tuple[np.ndarray, np.ndarray, np.dtype]:
  """HR and LR of one pair, LR as float32, and the type of HR's levels."""
  hr, dtype = _read_hr(pair, model.scale, peak)
  hr = _for_model(hr, model)
  if made is None:
    assert pair.lr is not None
    lr = _for_model(_read_unit(pair.lr, peak)[0], model)
  else:
    lr = made.of_file(hr, pair.name, model.scale, dtype)
  return hr, np.asarray(lr, np.float32), dtype


def _measure(
  pair: _Pair,
  sr: np.ndarray,
  hr: np.ndarray,
  table: Table,
  scale: float,
  dtype: np.dtype,
) -> list[dict[str, float]]:
  """Scores under each protocol.

  Raises:
    UserError: naming the image, which a metric cannot be measured on.
  """
  options: dict[str, Any] = {
    'scale': scale,
    'metrics': table.metrics,
    'name': pair.name,
    'dtype': dtype,
  }
  try:
    return [measure(sr, hr, protocol=p, **options) for p in table.protocols]
  except UserError as error:
    raise UserError(f'{pair.hr}: {error}') from None

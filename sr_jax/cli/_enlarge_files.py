"""Enlarges the files of `sr-jax upscale` and writes the results.

A result has the format and the kind of its input: grey stays grey, 16 bits stay
16 bits, and transparency and metadata are kept.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sr_jax.cli import _kernels, arguments
from sr_jax.cli._progress import Progress
from sr_jax.cli._results import Job, Output
from sr_jax.data.arrays import keep_zeros
from sr_jax.data.image_io import (
  Picture,
  check_writable,
  read_image,
  without_hidden_color,
  write_image,
)
from sr_jax.data.strips import save_png_strip
from sr_jax.errors import UserError, counted, wants_traceback
from sr_jax.inference import loading
from sr_jax.inference.automatic import AutomaticKernel
from sr_jax.inference.fitting import Fitted
from sr_jax.inference.upscaler import Upscaler

# Files that are written beside a result if references were used.
SHOWN = ('strip.png', 'similarity.png')


class FileFault(Exception):
  """An input that cannot be enlarged; the other inputs still can."""


class Written(NamedTuple):
  """A result that was written.

  Attributes:
    path: The file.
    line: A message for the user about how it was made.
  """

  path: Path
  line: str


class Files:
  """Enlarges files and writes the results."""

  def __init__(
    self,
    output: Output,
    upscaler: Upscaler | AutomaticKernel,
    made_by: Mapping[str, Any],
    kept: set[Path],
    *,
    overwrite: bool,
  ):
    """Sets what all files share.

    Args:
      output: The folder or file of the results.
      upscaler: The upscaler of all images, or one that prepares an upscaler for
        each image.
      made_by: How the results are made, for the record.
      kept: Files, with links resolved, that a result must not replace if it is
        written under another name than its own.
      overwrite: Whether other files may be replaced.
    """
    self._output = output
    self._upscaler = upscaler
    self._made_by = made_by
    self._kept = kept
    self._overwrite = overwrite

  def enlarge(
    self, jobs: Sequence[Job], progress: Progress
  ) -> Iterator[tuple[Job, Written | FileFault]]:
    """Enlarges files whose images are adapted to together.

    Yields:
      Each job with its result, or with the fault of its file.

    Raises:
      UserError: A result cannot be written, which holds for all later ones too.
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
        yield job, fault_of(job.source, error)
    if not pictures:
      return
    try:
      upscaler, kernel = self._prepared(*pictures[0], progress)
      if upscaler.fitting is not None:
        group = named([job.source for job, _ in pictures])
        progress.start(f'{group}: {upscaler.model.name} is adapting')
      fits = upscaler.fit([picture.color for _, picture in pictures])
    except (UserError, MemoryError) as error:
      for job, _ in pictures:
        yield job, fault_of(job.source, error)
      return
    shared = (time.perf_counter() - start) / len(pictures)
    for (job, picture), fitted in zip(pictures, fits, strict=True):
      start = time.perf_counter() - shared
      progress.start(f'{job.source}: enlarging')
      try:
        result = _enlarged(upscaler, picture, fitted, progress)
        path = self._writable(job, result)
      except (UserError, MemoryError) as error:
        yield job, fault_of(job.source, error)
        continue
      words = self._write(job, path, upscaler, picture, result, fitted)
      if kernel is not None:
        self._save_kernel(path, kernel)
        words.append('kernel beside it')
      words.append(f'{time.perf_counter() - start:.2f} s')
      sizes = f'{_size(picture)} -> {path} {_size(result)}'
      line = f'{job.source} {sizes} ({", ".join(words)})'
      yield job, Written(path, line)

  def _prepared(
    self, job: Job, picture: Picture, progress: Progress
  ) -> tuple[Upscaler, np.ndarray | None]:
    """Returns the upscaler of a picture, and the estimated kernel it uses.

    The kernel is None if it was given, or if the picture does not look blurred
    and is enlarged without one.

    Raises:
      UserError: The blur of the picture cannot be estimated.
    """
    if isinstance(self._upscaler, Upscaler):
      return self._upscaler, None
    progress.start(f'{job.source}: estimating its blur')
    # The estimating network was trained on images with whole grey levels.
    by = 'spectrum' if picture.bit_depth is None else 'auto'
    prepared = self._upscaler.prepare(picture.color, by=by)
    line = arguments.as_options(prepared.line, ('kernel',))
    progress.write(f'{job.source}: {line}')
    used = prepared.estimate.kernel if prepared.uses_estimate else None
    return prepared.upscaler, used

  def _save_kernel(self, path: Path, kernel: np.ndarray) -> None:
    """Writes the estimated kernel beside the result: its taps and a picture."""
    stem = path.with_suffix('')
    for file in _kernels.save_kernel_files(stem, kernel):
      self._output.add(file, None)

  def _write(
    self,
    job: Job,
    path: Path,
    upscaler: Upscaler,
    picture: Picture,
    result: Picture,
    fitted: Fitted,
  ) -> list[str]:
    """Writes and records a result; returns words on how it was made."""
    self._output.forget(path)
    write_image(path, result)
    name = upscaler.model.name
    # The automatic choice may have taken another network for this picture.
    other = None if name == self._upscaler.model.name else name
    self._output.add(path, job, self._made_by, other)
    words = [name]
    if upscaler.references:
      words.append(self._show(path, upscaler, picture, result, fitted))
    if upscaler.fitting is not None:
      words += _steps(upscaler, fitted)
      error = upscaler.back_projection_error(picture.color, result.color)
      if error is not None:
        words.append(
          f'reduced again, {error:.2f} of 255 grey levels off the input'
        )
      if upscaler.rings(picture.color, result.color):
        words.append(
          'overshoots at edges, as with too wide a kernel: compare with a'
          ' narrower one'
        )
    if tile := upscaler.tile_for(picture.color):
      words.append(f'tiles of {tile}')
    return words

  def _show(
    self,
    path: Path,
    upscaler: Upscaler,
    picture: Picture,
    result: Picture,
    fitted: Fitted,
  ) -> str:
    """Writes pictures of the use of references; returns their similarity."""
    similarity = upscaler.similarity(picture.color, fitted)
    scale = upscaler.model.whole_scale
    shown = similarity.clip(0, 1).repeat(scale, 0).repeat(scale, 1)
    write_image(_beside(path, 'similarity.png'), Picture(shown))
    bicubic = Upscaler(loading.load('bicubic', scale=scale))
    images = [bicubic(picture.color), result.color, *upscaler.references]
    labels = ['bicubic', upscaler.model.name]
    labels += ['reference'] * len(upscaler.references)
    save_png_strip(_beside(path, 'strip.png'), images, labels)
    for what in SHOWN:
      self._output.add(_beside(path, what), None)
    return f'similarity {similarity.mean():.2f}'

  def _writable(self, job: Job, picture: Picture) -> Path:
    """Returns the file to write: the target, or a PNG of the same name.

    A PNG is written if the format of the target cannot hold the picture.

    Raises:
      UserError: PNG cannot hold it either, or the PNG exists or belongs to
        another input.
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


def fault_of(source: Path, error: Exception) -> FileFault:
  """Converts an error to a fault whose one line names the file.

  Raises:
    Exception: The error itself, if the user asked for tracebacks.
  """
  if wants_traceback():
    raise error
  if isinstance(error, MemoryError):
    return FileFault(f'{source}: does not fit into memory: cut it into parts')
  named = str(error).startswith(str(source))
  return FileFault(error if named else f'{source}: {error}')


def _enlarged(
  upscaler: Upscaler, picture: Picture, fitted: Fitted, progress: Progress
) -> Picture:
  """Enlarges a picture; its transparency is enlarged by bicubic."""
  scale = upscaler.model.scale
  color = upscaler(picture.color, fitted, progress=progress.tiles)
  if picture.bit_depth is None:  # zeros of measured data stay zeros
    color = keep_zeros(color, picture.color, scale, picture.low, picture.high)
  alpha = picture.alpha
  if alpha is not None:
    alpha = Upscaler(loading.load('bicubic', scale=scale))(alpha)
  metadata = picture.metadata.enlarged(scale)
  return dataclasses.replace(
    picture, color=color, alpha=alpha, metadata=metadata
  )


def check_beside(target: Path, names: Sequence[str]) -> None:
  """Refuses to replace files that would be written beside a result.

  Args:
    target: The result.
    names: The ends of their names, which follow the name of the result.

  Raises:
    UserError: One of the files exists.
  """
  for path in (_beside(target, name) for name in names):
    if path.exists():
      raise UserError(
        f'{path}: exists already: move it away, or replace it with --overwrite'
      )


def _beside(path: Path, what: str) -> Path:
  """Returns the path of a file beside a result, whose name ends in `what`."""
  return path.with_name(f'{path.stem}_{what}')


def named(sources: Sequence[Path]) -> str:
  """Names a group of images of one size by its first file."""
  others = len(sources) - 1
  if not others:
    return f'{sources[0]}'
  more = 'more image' if others == 1 else 'more images'
  return f'{sources[0]} and {others} {more} of its size'


def _steps(upscaler: Upscaler, fitted: Fitted) -> list[str]:
  """The steps of the fit in words, if there were some to make."""
  assert upscaler.fitting is not None
  if upscaler.model.iterations is None:
    return [counted(fitted.steps, 'step')]
  if upscaler.fitting.kernel is not None:
    return []
  return [counted(fitted.steps, 'correction')]


def _size(picture: Picture) -> str:
  return f'{picture.color.shape[1]}x{picture.color.shape[0]}'

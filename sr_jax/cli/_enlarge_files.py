"""Enlarges the files of `sr-jax upscale` in kind, and writes the results."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sr_jax.cli import _kernels, arguments
from sr_jax.cli._progress import Progress
from sr_jax.cli._results import Job, Output
from sr_jax.data.arrays import keep_zeros
from sr_jax.data.image_io import (
  Picture,
  check_writable,
  read_image,
  save_png_strip,
  without_hidden_color,
  write_image,
)
from sr_jax.errors import UserError, counted, wants_traceback
from sr_jax.inference import loading
from sr_jax.inference.automatic import AutomaticKernel
from sr_jax.inference.blind import KernelEstimate
from sr_jax.inference.fitting import Fitted
from sr_jax.inference.upscaler import Upscaler

# What is written beside a result that references were used for.
SHOWN = ('strip.png', 'similarity.png')


class FileFault(Exception):
  """One input cannot be enlarged; the others still can."""


class Written(NamedTuple):
  """A result.

  Attributes:
    path: Its file.
    line: How it was made, for a person.
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
    """Keeps what all files share.

    Args:
      output: Where the results go.
      upscaler: What enlarges, or prepares what enlarges each image.
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
  ) -> Iterator[tuple[Job, Written | FileFault]]:
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
        yield job, fault_of(job.source, error)
    if not pictures:
      return
    try:
      upscaler, estimate = self._prepared(*pictures[0], progress)
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
      if estimate is not None:
        self._save_estimate(path, estimate)
        words.append('kernel beside it')
      words.append(f'{time.perf_counter() - start:.2f} s')
      sizes = f'{_size(picture)} -> {path} {_size(result)}'
      line = f'{job.source} {sizes} ({", ".join(words)})'
      yield job, Written(path, line)

  def _prepared(
    self, job: Job, picture: Picture, progress: Progress
  ) -> tuple[Upscaler, KernelEstimate | None]:
    """Returns the upscaler of a picture, and the estimated kernel it uses.

    The estimate is None if the kernel was given, or if the picture does not
    look blurred and is enlarged without one.

    Raises:
      UserError: the picture shows no blur.
    """
    if isinstance(self._upscaler, Upscaler):
      return self._upscaler, None
    progress.start(f'{job.source}: estimating its blur')
    # The network knows the spectra of files with whole grey levels.
    by = 'spectrum' if picture.bit_depth is None else 'auto'
    prepared = self._upscaler.prepare(picture.color, by=by)
    line = arguments.as_options(prepared.line, ('kernel',))
    progress.write(f'{job.source}: {line}')
    used = prepared.estimate if prepared.uses_estimate else None
    return prepared.upscaler, used

  def _save_estimate(self, path: Path, estimate: KernelEstimate) -> None:
    """Writes the estimated kernel beside the result, as taps and as picture."""
    stem = path.with_suffix('')
    for file in _kernels.save_kernel_files(stem, estimate.kernel):
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
    """Writes and records a result; by what it was made, in words."""
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
      words.append(counted(fitted.steps, 'step'))
      error = upscaler.back_projection_error(picture.color, result.color)
      if error is not None:
        words.append(
          f'reduced again, {error:.2f} of 255 grey levels off the input'
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
    """Writes what shows the use of references; how similar they are."""
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


def fault_of(source: Path, error: Exception) -> FileFault:
  """One line that names the file.

  Raises:
    Exception: the error itself, where its traceback is wanted.
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
  """The picture in its own kind; its transparency by bicubic."""
  scale = upscaler.model.scale
  color = upscaler(picture.color, fitted, progress=progress.tiles)
  if picture.bit_depth is None:  # sparse data stay sparse
    color = keep_zeros(color, picture.color, scale, picture.low, picture.high)
  alpha = picture.alpha
  if alpha is not None:
    alpha = Upscaler(loading.load('bicubic', scale=scale))(alpha)
  metadata = picture.metadata.enlarged(scale)
  return dataclasses.replace(
    picture, color=color, alpha=alpha, metadata=metadata
  )


def check_beside(target: Path, names: Sequence[str]) -> None:
  """Refuses to replace files of the names that go beside a result.

  Args:
    target: The result.
    names: What follows its own name.

  Raises:
    UserError: there is one.
  """
  for path in (_beside(target, name) for name in names):
    if path.exists():
      raise UserError(
        f'{path}: exists already: move it away, or replace it with --overwrite'
      )


def _beside(path: Path, what: str) -> Path:
  """Where a file goes whose name is that of a result and something more."""
  return path.with_name(f'{path.stem}_{what}')


def named(sources: Sequence[Path]) -> str:
  """Names a group of images of one size by its first file."""
  others = len(sources) - 1
  if not others:
    return f'{sources[0]}'
  more = 'more image' if others == 1 else 'more images'
  return f'{sources[0]} and {others} {more} of its size'


def _size(picture: Picture) -> str:
  return f'{picture.color.shape[1]}x{picture.color.shape[0]}'

"""Reads image files as float32 arrays in [0, 1], and writes them.

`read_image` and `write_image` preserve the kind of a file: grey stays grey, 16
bits stay 16 bits, and alpha and the ICC profile are kept. Arrays of plain
numbers keep their value range, type and layout. EXIF orientation is applied
when a file is read and not written again. Palettes become RGB or RGBA, 1-bit
images 8-bit grey, and CMYK becomes RGB.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sr_jax.data import (
  arrays,
  folders,
  image_formats,
  sample_values,
  transparency,
)
from sr_jax.data.image_formats import IMAGE_SUFFIXES
from sr_jax.data.metadata import NO_METADATA, Metadata
from sr_jax.data.samples import Layout, Samples
from sr_jax.errors import UserError, counted
from sr_jax.files import open_atomically

__all__ = [
  'IMAGE_SUFFIXES',
  'Found',
  'Picture',
  'check_targets',
  'check_writable',
  'find_images',
  'read_image',
  'read_native',
  'read_rgb',
  'without_hidden_color',
  'write_image',
]

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class Picture:
  """One image, and all that is needed to write a file of the same kind.

  Attributes:
    color: float32 `[H, W, C]` in [0, 1]. C is 1 for grey and 3 for RGB; arrays
      may have any number of channels. Colour is not multiplied by alpha.
    alpha: float32 `[H, W, 1]` in [0, 1], or None.
    bit_depth: 8 or 16; None for arrays of plain numbers.
    icc_profile: The colour profile of `color`, or None.
    low: The value that 0 in `color` stands for; 0 unless the source was mapped
      to [0, 1]. float64 `[C]` if each channel was mapped separately.
    high: The value that 1 in `color` stands for, in the same form as `low`.
    ndim: Number of axes of the source array, 2 or 3. A `.npy` file is written
      with the same number.
    dtype: Type of the source's plain numbers, None for float32. Unused if there
      is a bit depth.
    layout: How a TIFF stores its channels; a TIFF is written in the same way.
    metadata: The metadata of the file.
    nodata: The value in the file that marks pixels without data, whose alpha is
      0. None if there is no such value.
    peak: The value of white in files of 16 bits; None for 65535.
  """

  color: np.ndarray
  alpha: np.ndarray | None = None
  bit_depth: int | None = 8
  icc_profile: bytes | None = None
  low: float | np.ndarray = 0.0
  high: float | np.ndarray = 1.0
  ndim: int = 3
  dtype: np.dtype | None = None
  layout: Layout = 'contig'
  metadata: Metadata = NO_METADATA
  nodata: float | None = None
  peak: float | None = None

  @property
  def mapped(self) -> bool:
    """Whether 0 and 1 in `color` stand for other values of the file."""
    return not (np.all(self.low == 0) and np.all(self.high == 1))


def read_image(
  path: Path | str, *, per_channel: bool = False, peak: float = 0.0
) -> Picture:
  """Reads PNG, JPEG, BMP, WebP, TIFF or `.npy`, whatever the suffix is.

  Integers of up to 16 bits are divided by their largest value. Other numbers
  are kept if all of them lie in [0, 1]. Otherwise they are mapped to [0, 1]
  from the [minimum, maximum] of the array (a constant array becomes 0). Alpha
  is recognised in integer files that declare it; all channels of float files
  are data. `tiff_files` describes the order of axes in TIFF. If there are
  several frames, the first is read, with a warning in the log.

  Args:
    path: The file.
    per_channel: Whether each channel is mapped from its own [minimum, maximum].
      This concerns files of other numbers that have neither 1 nor 3 channels.
    peak: The value that is white in files of more than 8 bits and in files of
      other numbers; 0 applies the rules above. If all values are far below
      white, a warning is given.

  Raises:
    UserError: The file is missing, damaged, empty or too large; it has NaN or
      infinities; or a value is negative or larger than `peak`.
  """
  path = Path(path)
  samples = image_formats.decode(path)
  samples, present = sample_values.without_nodata(path, samples)
  if samples.bits is None:
    color, low, high = sample_values.to_unit_range(
      path, samples.values, per_channel, peak
    )
    dtype = samples.values.dtype
    return Picture(
      color,
      alpha=present,
      bit_depth=None,
      icc_profile=samples.icc_profile,
      low=low,
      high=high,
      ndim=samples.ndim,
      dtype=None if dtype.kind == 'b' else dtype,
      layout=samples.layout,
      metadata=samples.metadata,
      nodata=samples.nodata,
    )
  values, alpha = samples.values, present
  if samples.alpha:
    alpha = sample_values.divided(values[..., -1:], 2**samples.bits - 1)
    values = values[..., :-1]
  white = sample_values.white(path, samples, peak)
  color = sample_values.divided(values, white)
  if alpha is not None and samples.alpha == 'premultiplied':
    color = transparency.straighten(color, alpha)
  bit_depth = 8 if samples.bits <= 8 else 16
  return Picture(
    color,
    alpha,
    bit_depth,
    samples.icc_profile,
    ndim=samples.ndim,
    layout=samples.layout,
    metadata=samples.metadata,
    nodata=samples.nodata,
    peak=white if bit_depth == 16 and peak else None,
  )


def read_rgb(path: Path | str) -> np.ndarray:
  """Reads a file as uint8 `[H, W, 3]`, for training and evaluation.

  Grey is repeated. Alpha is dropped, and the colour beneath it kept. 16 bits
  are rounded to 8. Float arrays are read as by `read_image` and rounded.

  Raises:
    UserError: As for `read_image`, or there are neither 1 nor 3 channels.
  """
  path = Path(path)
  samples = sample_values.complete(path, image_formats.decode(path))
  values = samples.values
  if samples.bits is None:
    unit, _, _ = sample_values.to_unit_range(path, values)
    values = sample_values.quantized(unit, 8)
  elif samples.bits != 8:
    white = sample_values.white(path, samples, 0.0)
    values = sample_values.quantized(sample_values.divided(values, white), 8)
  return sample_values.three_channels(path, samples, values)


def read_native(
  path: Path | str, *, peak: float = 0.0, one_range: bool = False
) -> np.ndarray:
  """Reads a file on its own levels, for training.

  Grey is repeated and alpha dropped, as by `read_rgb`.

  Args:
    path: The file.
    peak: The value that is white in files of more than 8 bits. 0 means the
      largest value of an integer type. For float files 0 means 1, or the file's
      own range if this exceeds [0, 1].
    one_range: Whether float files that exceed [0, 1] are refused if there is no
      peak.

  Returns:
    `[H, W, 3]`: uint8 for files of up to 8 bits, uint16 with white at 65535 for
    files of up to 16 bits, otherwise float32 in [0, 1].

  Raises:
    UserError: As for `read_rgb`, or a value is negative or larger than `peak`.
  """
  path = Path(path)
  samples = sample_values.complete(path, image_formats.decode(path))
  values = samples.values
  if samples.bits is None and not peak:
    values, low, high = sample_values.to_unit_range(path, values)
    if one_range and (low, high) != (0.0, 1.0):
      raise UserError(
        f'{path}: has values of {low:g} to {high:g}: set data.peak to the value'
        ' of white, so that LR and HR have one range'
      )
  elif samples.bits is not None and samples.bits <= 8:
    if samples.bits != 8:
      values = sample_values.divided(values, 2**samples.bits - 1)
      values = sample_values.quantized(values, 8)
  else:
    color = values[..., :-1] if samples.alpha else values
    largest = peak or 2 ** (samples.bits or 16) - 1
    if not (color.min() >= 0 and color.max() <= largest):  # NaN is neither
      raise UserError(
        f'{path}: has values of {color.min():g} to {color.max():g}, but'
        f' data.peak is {largest:g}: give the value that is white'
      )
    if samples.bits is None:
      values = np.divide(values, largest, dtype=np.float64).astype(np.float32)
    elif largest != 65535:
      values = np.rint(values * (65535 / largest)).astype(np.uint16)
  return sample_values.three_channels(path, samples, values)


def write_image(path: Path | str, picture: Picture) -> None:
  """Writes a picture in the format of the suffix, whole or not at all.

  For integer files values are clipped to [0, 1] and rounded. A picture without
  bit depth is written to `.npy` and TIFF in the value range and type of its
  source: [0, 1] is mapped back to [low, high] without clipping, integers are
  rounded, and values that exceed the type are clipped to its range (65504 for
  float16). The type is float32 if the picture has none, and in TIFF for floats
  of more than 64 bits. PNG holds 8 or 16 bits (16 for float pictures). JPEG
  (quality 95, 4:4:4), BMP and WebP (lossless; grey as RGB) hold 8 bits. All
  formats but BMP and `.npy` keep the ICC profile. The log names what else the
  format does not keep. The folder is made if it does not exist.

  Raises:
    UserError: The format cannot hold the picture, the picture has NaN or
      infinities, or the file cannot be written.
  """
  path = Path(path)
  bits = check_writable(path, picture)
  masked = _holds_nodata(path, picture)
  parts = [picture.color]
  if picture.alpha is not None and not masked:
    parts.append(picture.alpha)
  _check_finite(path, parts)
  if bits is None:
    dtype = image_formats.number_dtype(path, picture.dtype)
    parts[0] = arrays.from_unit(parts[0], picture.low, picture.high, dtype)
  else:
    peak = picture.peak if bits == 16 else None
    parts[0] = sample_values.quantized(parts[0], bits, peak)
    parts[1:] = [sample_values.quantized(part, bits) for part in parts[1:]]
  if masked:
    assert picture.alpha is not None
    assert picture.nodata is not None
    nodata = parts[0].dtype.type(picture.nodata)
    parts[0] = np.where(picture.alpha < 0.5, nodata, parts[0])
  samples = _shell(path, picture, bits)._replace(
    values=np.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0],
  )
  suffix = path.suffix.lower()
  with open_atomically(path) as file:
    image_formats.encode(file, suffix, samples)
  if names := picture.metadata.lost(suffix):
    _log.warning('%s: %s does not keep %s', path, suffix, ', '.join(names))


def check_writable(path: Path, picture: Picture) -> int | None:
  """Refuses a picture that the format of a suffix cannot hold.

  Returns:
    Bits per sample that the file will have; None for plain numbers.

  Raises:
    UserError: The suffix is unknown, or the format does not hold this value
      range, transparency, number of channels or size.
  """
  bits = image_formats.depth_for(path, picture.bit_depth)
  if bits is not None and picture.mapped:
    raise UserError(
      f'{path}: {path.suffix} cannot hold values of {np.min(picture.low):g} to '
      f'{np.max(picture.high):g}: write .npy or .tif'
    )
  image_formats.check_encodable(path, _shell(path, picture, bits))
  return bits


def _holds_nodata(path: Path, picture: Picture) -> bool:
  """Whether the file marks pixels without data by a value instead of alpha."""
  numbers = path.suffix.lower() in ('.npy', '.tif', '.tiff')
  return numbers and picture.nodata is not None


def _shell(path: Path, picture: Picture, bits: int | None) -> Samples:
  """Makes the samples to write, without their values."""
  alpha = picture.alpha is not None and not _holds_nodata(path, picture)
  height, width, channels = picture.color.shape
  return Samples(
    np.broadcast_to(np.uint8(0), (height, width, channels + alpha)),
    bits,
    'straight' if alpha else None,
    picture.icc_profile,
    picture.ndim,
    picture.layout,
    picture.metadata,
  )


def _check_finite(path: Path, parts: Sequence[np.ndarray]) -> None:
  """Refuses results with NaN or infinities."""
  bad = sum(x.size - int(np.count_nonzero(np.isfinite(x))) for x in parts)
  if bad:
    raise UserError(
      f'{path}: {bad} values of the picture are NaN or infinite: check the '
      'model and its checkpoint'
    )


def without_hidden_color(picture: Picture) -> Picture:
  """Replaces the colour of transparent pixels, see `bleed`."""
  if picture.alpha is None:
    return picture
  color = transparency.bleed(picture.color, picture.alpha)
  return dataclasses.replace(picture, color=color)


class Found(NamedTuple):
  """An input file and its place in the mirrored output tree."""

  path: Path
  relative: Path


def find_images(
  inputs: Sequence[Path | str], *, skip: Path | str | None = None
) -> list[Found]:
  """Lists image files, and those in folders at any depth, in natural order.

  In the result, `relative` is the path below the given folder, or the name of a
  given file. A file that is given by name is listed whatever its suffix. In
  folders, files without an image suffix are left out, and the log names them;
  names that `folders.passed_over` accepts are left out silently. Links to
  folders are not followed. A file that is found twice is listed once.

  Args:
    inputs: Files and folders.
    skip: A folder to leave out, such as an output folder inside an input.

  Raises:
    UserError: An input does not exist, or there is no image at all.
  """
  found: dict[tuple[Path, Path], Found] = {}
  ignored: list[str] = []
  for start in map(Path, inputs):
    if start.is_dir():
      files = [(path, path.relative_to(start)) for path in _walk(start, skip)]
      ignored += [str(name) for path, name in files if not _is_image(path)]
      files = [pair for pair in files if _is_image(pair[0])]
    elif start.exists():
      files = [(start, Path(start.name))]
    else:
      raise UserError(f'{start}: no such file or folder: check the path')
    files.sort(key=lambda pair: _natural(pair[1]))
    for path, relative in files:
      found.setdefault((path.resolve(), relative), Found(path, relative))
  if ignored:
    names = ', '.join(ignored[:5]) + (', ...' if len(ignored) > 5 else '')
    _log.warning(
      'ignored, no image: %s: %s', counted(len(ignored), 'file'), names
    )
  if not found:
    raise UserError(
      f'{", ".join(map(str, inputs))}: no images: give files or folders with '
      f'{" ".join(IMAGE_SUFFIXES)}'
    )
  return list(found.values())


def _is_image(path: Path) -> bool:
  return path.suffix.lower() in IMAGE_SUFFIXES


def _walk(start: Path, skip: Path | str | None) -> list[Path]:
  """All files below `start` except those that `folders.passed_over` accepts."""
  skipped = Path(skip).resolve() if skip is not None else None

  def refuse(error: OSError) -> None:
    raise UserError(
      f'{error.filename}: cannot be read ({error.strerror}): check its '
      'permissions'
    ) from error

  files = []
  for folder, subfolders, names in os.walk(start, onerror=refuse):
    subfolders[:] = [
      name
      for name in subfolders
      if not folders.passed_over(name)
      and (skipped is None or Path(folder, name).resolve() != skipped)
    ]
    files += [
      Path(folder, name) for name in names if not folders.passed_over(name)
    ]
  return files


def _natural(path: Path) -> list[tuple[list[str | int], str]]:
  """Sorting key: img2 before img10, folder by folder."""
  return [
    (
      [
        int(piece) if i % 2 else piece.casefold()
        for i, piece in enumerate(re.split(r'(\d+)', part))
      ],
      part,
    )
    for part in path.parts
  ]


def check_targets(pairs: Iterable[tuple[Path, Path]]) -> None:
  """Refuses (input, output) pairs of which two write the same output.

  Raises:
    UserError: Two inputs have the same output.
  """
  sources: dict[Path, Path] = {}
  for source, target in pairs:
    first = sources.setdefault(target, source)
    if first != source:
      raise UserError(
        f'{first} and {source} would both become {target}: rename one of them, '
        'or process them in separate runs'
      )

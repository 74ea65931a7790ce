"""Reads TIFF files as samples, and writes them.

tifffile reads grey, RGB and arrays of many channels. Pages with a rarer colour
model are not read here; the caller reads them by Pillow.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import tifffile

from sr_jax.data import image_headers, metadata
from sr_jax.data.samples import Layout, Samples, check_size
from sr_jax.errors import UserError

SIGNATURES = (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')

_ORIENTATION, _ICC_PROFILE = 274, 34675
_SUBFILE_TYPE, _OLD_SUBFILE_TYPE = 254, 255
_DNG_VERSION, _GDAL_NODATA = 50706, 42113
_COLOUR_FILTERS, _LINEAR_RAW = 32803, 34892  # kinds of pixels of raw files
_READABLE = ('MINISBLACK', 'MINISWHITE', 'RGB')
_JPEG_COMPRESSIONS = (6, 7, 34892, 33007)

_log = logging.getLogger(__name__)


class Unread(NamedTuple):
  """A page that is left to Pillow.

  Attributes:
    index: Index of the page in the file.
    metadata: The metadata of the page.
  """

  index: int
  metadata: metadata.Metadata


@contextlib.contextmanager
def _muted() -> Generator[None]:
  """Keeps tifffile's tracebacks of damaged files out of the user's log."""
  logger = logging.getLogger('tifffile')
  disabled, logger.disabled = logger.disabled, True
  try:
    yield
  finally:
    logger.disabled = disabled


def decode(path: Path) -> tuple[Samples, int] | Unread:
  """Reads the first page that is no reduced copy of another.

  Returns:
    The samples of the page, not yet rotated, and its orientation. If Pillow has
    to read its colour model, an `Unread` instead.

  Raises:
    UserError: The file is a raw photograph, damaged, too large or no image.
  """
  with _muted(), tifffile.TiffFile(path) as tiff:
    _refuse_raw(path, tiff)
    index, page = _first_full_page(path, tiff)
    _check_page(path, page)
    photometric = tifffile.PHOTOMETRIC(page.photometric).name
    if photometric not in _READABLE:
      _say_which(path, tiff, index)
      return Unread(index, metadata_of(page))
    values, ndim, layout = _array(path, tiff, index, page)
    if values.dtype.kind not in 'buif':
      raise UserError(
        f'{path}: values of type {values.dtype} are no image: give real numbers'
      )
    bits = page.bitspersample if values.dtype.kind in 'bu' else None
    if bits is not None and bits > 16:
      bits = None
    if bits is not None and photometric == 'MINISWHITE':
      values = np.asarray(2**bits - 1 - values, values.dtype)
    alpha = None
    if bits is not None and values.shape[-1] in (2, 4):
      kinds = {1: 'premultiplied', 2: 'straight'}
      alpha = kinds.get(next(iter(page.extrasamples), 0))
    orientation = page.tags.valueof(_ORIENTATION, 1)
    samples = Samples(
      values,
      bits,
      alpha,
      _icc_profile(path, page),
      ndim,
      layout,
      metadata_of(page),
      _nodata(page, values.dtype),
    )
    return samples, orientation


def metadata_of(page: tifffile.TiffPage) -> metadata.Metadata:
  """Reads the metadata of a page."""
  tags = {tag.code: tag.value for tag in page.tags}
  axes = page.is_shaped or page.is_imagej or page.is_ome
  return metadata.of_tiff(tags, described=not axes)


def _nodata(page: tifffile.TiffPage, dtype: np.dtype) -> float | None:
  """The value that marks pixels without data; None if the type lacks it."""
  try:
    value = float(page.tags.valueof(_GDAL_NODATA))
  except (TypeError, ValueError):
    return None
  if dtype.kind == 'f':
    # Rounded to the type of the values, because the tag may have fewer digits
    # than a value such as -3.4e38.
    with np.errstate(over='ignore'):
      return float(np.asarray(value).astype(dtype))
  fits = value == np.rint(value) and dtype.kind in 'iu'
  info = np.iinfo(dtype) if fits else None
  return value if info and info.min <= value <= info.max else None


def _refuse_raw(path: Path, tiff: tifffile.TiffFile) -> None:
  """Refuses a raw photograph, whose first page is a preview."""
  first = tiff.pages.first
  pages = [first, *_whole(first.pages or ())]
  kinds = {page.photometric for page in pages}
  if _DNG_VERSION in first.tags or kinds & {_COLOUR_FILTERS, _LINEAR_RAW}:
    raise image_headers.raw_fault(path)


def _first_full_page(
  path: Path, tiff: tifffile.TiffFile
) -> tuple[int, tifffile.TiffPage]:
  """Finds the first page that is neither a reduced copy nor a mask."""
  for index, page in enumerate(_whole(tiff.pages)):
    reduced = page.tags.valueof(_OLD_SUBFILE_TYPE) == 2
    kind = page.tags.valueof(_SUBFILE_TYPE, 0)
    if not reduced and not (isinstance(kind, int) and kind & 0b101):
      return index, page
  return 0, tiff.pages.first


def _say_which(path: Path, tiff: tifffile.TiffFile, index: int) -> None:
  """Warns that other pages than this one are not read."""
  if len(tiff.pages) > 1:
    which = f'page {index + 1}' if index else 'the first'
    _log.warning('%s: has %d pages, %s is taken', path, len(tiff.pages), which)


def _whole(pages: Iterable[Any]) -> Iterator[tifffile.TiffPage]:
  """The real pages, without tifffile's placeholders that share other's tags."""
  return (page for page in pages if isinstance(page, tifffile.TiffPage))


def _check_page(path: Path, page: tifffile.TiffPage) -> None:
  """Refuses pages that would take far too much memory or time to decode.

  Raises:
    UserError: The size is out of proportion to the file, strips are missing, or
      a JPEG has too many scans.
  """
  bits = page.bitspersample * page.samplesperpixel * max(page.imagedepth, 1)
  check_size(path, page.imagewidth, page.imagelength, bits)
  if page.is_tiled:
    depth = max(page.tiledepth, 1)
    check_size(path, page.tilewidth * depth, page.tilelength, bits)
  listed, needed = len(page.dataoffsets), math.prod(page.chunked)
  if listed < needed:  # tifffile would fill the rest with zeros
    raise UserError(
      f'{path}: damaged, lists {listed} of {needed} strips or tiles: copy it '
      'again'
    )
  if page.compression not in _JPEG_COMPRESSIONS:
    return
  pixels = page.imagewidth * page.imagelength
  with path.open('rb') as file:
    for start, length in zip(
      page.dataoffsets, page.databytecounts, strict=True
    ):
      file.seek(start)
      image_headers.check_scans(path, file.read(length), pixels)


def _icc_profile(path: Path, page: tifffile.TiffPage) -> bytes | None:
  """Reads the colour profile of a page."""
  profile = page.tags.valueof(_ICC_PROFILE)
  if profile is None:
    return None
  if not isinstance(profile, bytes):
    raise UserError(
      f'{path}: damaged, its colour profile is {profile!r:.20}: save it again '
      'without profile'
    )
  return profile


def _array(
  path: Path, tiff: tifffile.TiffFile, index: int, page: tifffile.TiffPage
) -> tuple[np.ndarray, int, Layout]:
  """Reads a page as `[H, W, C]`; returns its number of axes and layout as well.

  Axes that are labelled as samples or channels (S, C) are the channels, which
  may be on several pages. An axis without a label (Q, if tifffile wrote a bare
  three-dimensional array) can be the first or the last one. It is the one
  without which the image is square; otherwise the shorter one, or the last if
  both are equal. Of stacks (pages of RGB, time, depth) only the first page is
  read.
  """
  source: tifffile.TiffPage | tifffile.TiffPageSeries = page
  series = tiff.series[0]
  # Several pages of RGB are a stack. A bare array of four axes is no image.
  stack = len(series.shape) > 3 and 'S' in series.axes
  if not index and not stack and set(series.axes) <= set('YXSCQ'):
    source = series
  if source is page or len(tiff.series) > 1:
    _say_which(path, tiff, index)
  axes, shape = source.axes, source.shape
  if len(shape) not in (2, 3):
    raise UserError(
      f'{path}: an array of shape {shape} (axes {axes}) is no image: '
      'give [H, W] or [H, W, C]'
    )
  if source.dtype is None:
    raise UserError(f'{path}: damaged, its samples are of no known type')
  check_size(path, math.prod(shape), 1, 8 * source.dtype.itemsize)
  values = source.asarray()
  if values.ndim == 2:
    return values[..., None], 2, 'contig'
  channel_axis = _channel_axis(axes, values.shape)
  layout: Layout = 'contig'
  if channel_axis == 0:
    layout = 'separate' if axes[0] == 'S' else 'pages'
  return np.moveaxis(values, channel_axis, -1), 3, layout


def _channel_axis(axes: str, shape: tuple[int, ...]) -> int:
  """Returns which of three axes holds the channels, see `_array`."""
  if 'Q' not in axes:
    return next(i for i, axis in enumerate(axes) if axis in 'SC')
  first, middle, last = shape
  if first != last and middle in (first, last):
    return 0 if middle == last else 2
  return 0 if first < last else 2


def encode(file: BinaryIO, samples: Samples) -> None:
  """Writes samples as one TIFF image."""
  values = samples.values
  channels = values.shape[-1]
  values = values[..., 0] if channels == 1 else values
  layout = samples.layout if values.ndim == 3 else None
  if layout in ('separate', 'pages'):
    values = np.moveaxis(values, -1, 0)
  rgb = channels - bool(samples.alpha) == 3 and layout != 'pages'
  kind = 'unassalpha' if samples.alpha else 'unspecified'
  planes = layout in ('contig', 'separate')
  tifffile.imwrite(
    file,
    values,
    photometric='rgb' if rgb else 'minisblack',
    planarconfig=layout if planes else None,
    extrasamples=[kind] * (channels - (3 if rgb else 1)) if planes else None,
    bigtiff=values.nbytes > 2**32 - 2**25,  # not the default if compressed
    compression='zlib',
    # The codecs cannot store differences of 64-bit integers.
    predictor=values.dtype.kind == 'f' or values.dtype.itemsize < 8,
    iccprofile=samples.icc_profile,
    # Without this label a reader would have to guess which axis is which.
    metadata={'axes': 'CYX'} if layout == 'pages' else None,
    **metadata.tiff_options(samples.metadata),
  )

"""The content of image files before any conversion, and limits of its size."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from sr_jax.data.metadata import NO_METADATA, Metadata
from sr_jax.errors import UserError

MAX_PIXELS = 10**9
# How a TIFF stores channels: pixel by pixel, as planes of one page, or on one
# page each.
Layout = Literal['contig', 'separate', 'pages']

# Number of bytes of samples that any file may claim, however small it is.
_SMALL = 2**26
# Largest number of samples that one byte of a file can stand for. Deflate
# reaches 1032, LZW 2730.
_MOST_EXPANSION = 4096


class Samples(NamedTuple):
  """The content of a file, before any scaling.

  Attributes:
    values: `[H, W, C]` of any real dtype, upright. Alpha, if there is any, is
      the last channel.
    bits: Significant bits of each unsigned sample; None for plain numbers.
    alpha: Kind of alpha in the last channel: `'straight'` or `'premultiplied'`;
      None if the last channel is no alpha.
    icc_profile: Colour profile of `values`.
    ndim: Number of axes of the array in the file: 2 or 3.
    layout: How a TIFF stores the channels. Unless it is `'contig'`, they are
      the first axis of the array in the file.
    metadata: The metadata of the file.
    nodata: The value in a TIFF that marks pixels without data.
  """

  values: np.ndarray
  bits: int | None
  alpha: str | None = None
  icc_profile: bytes | None = None
  ndim: int = 3
  layout: Layout = 'contig'
  metadata: Metadata = NO_METADATA
  nodata: float | None = None


def check_size(path: Path, width: int, height: int, bits: int) -> None:
  """Checks the size that a header claims, before anything is decoded.

  Args:
    path: The file.
    width: Width in pixels, as the header says.
    height: Height in pixels, as the header says.
    bits: Bits per pixel, all channels together.

  Raises:
    UserError: There are more pixels than the limit, or far more than a file of
      this length can hold.
  """
  if width * height > MAX_PIXELS:
    raise UserError(
      f'{path}: {width} x {height} pixels are more than the limit of '
      f'{MAX_PIXELS // 10**6} million: cut it into parts'
    )
  length = path.stat().st_size
  if width * height * bits // 8 > _SMALL + _MOST_EXPANSION * length:
    raise UserError(
      f'{path}: claims {width} x {height} pixels in {length} bytes: damaged, '
      'cut off or made to fill the memory: copy it again'
    )

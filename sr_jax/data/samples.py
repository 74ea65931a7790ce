"""What image files hold, and how much of it is read."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from sr_jax.data.metadata import NO_METADATA, Metadata
from sr_jax.errors import UserError

MAX_PIXELS = 10**9
# How a TIFF holds channels: by pixel, as planes of one page, or on pages.
Layout = Literal['contig', 'separate', 'pages']

# A small file may claim this many bytes of samples.
_SMALL = 2**26
# Samples that a byte of a file can stand for: deflate reaches 1032, LZW 2730.
_MOST_EXPANSION = 4096


class Samples(NamedTuple):
  """What a file holds, before any scaling.

  Attributes:
    values: `[H, W, C]` of any real dtype; upright, alpha (if any) last.
    bits: significant bits of each unsigned sample; None for plain numbers.
    alpha: `'straight'`, `'premultiplied'` or None: what the last channel is.
    icc_profile: colour profile of `values`.
    ndim: axes of the array in the file: 2 or 3.
    layout: place of the channels, TIFF alone; they are the first axis of the
      array in the file if not `'contig'`.
    metadata: The metadata of the file.
    nodata: value of the pixels that hold no data, TIFF alone.
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
  """Refuses a size that a header claims, before anything is decoded.

  Args:
    path: the file.
    width: pixels, as the header has it.
    height: the same.
    bits: of a pixel with all of its channels.

  Raises:
    UserError: there are more pixels than the limit, or far more than a file of
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

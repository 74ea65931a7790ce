"""Checks of image files by their first bytes, without a decoder.

Some decoders reserve memory or work for minutes before they notice that a file
is damaged. Others read only the small preview inside a raw photograph.
"""

from __future__ import annotations

import re
from pathlib import Path

from sr_jax.errors import UserError

# Raw photographs that are TIFF files by their first bytes.
_RAW_SUFFIXES = re.compile(
  r'\.(3fr|arw|cr2|cr3|crw|dcr|dng|erf|fff|gpr|iiq|kdc|mef|mos|mrw|nef|nrw|orf|'
  r'pef|raf|raw|rw2|rwl|sr2|srf|srw|x3f)'
)
_RAW_SIGNATURES = (
  b'FUJIFILMCCD-RAW',
  b'IIRO',
  b'IIRS',
  b'MMOR',
  b'IIU\0',
  b'FOVb',
  b'\0MRM',
)
# Markers of a JPEG that are not followed by a length: restarts, start, end,
# temporary.
_BARE_MARKERS = frozenset((0x01, *range(0xD0, 0xDA)))
_START_OF_SCAN, _END = 0xDA, 0xD9
# Any marker except a restart, inside of compressed data.
_NEXT_MARKER = re.compile(rb'\xff[\x01-\xcf\xd8-\xfe]')
# Photographs have about ten scans; to decode one takes a pass over all pixels.
_USUAL_SCANS = 20
_MOST_SCANNED = 2 * 10**9


def refuse_raw(path: Path, head: bytes) -> None:
  """Refuses raw photographs, of which only the preview could be read.

  Args:
    path: The file.
    head: Its first 32 bytes or more.

  Raises:
    UserError: The file is a raw photograph.
  """
  suffix = path.suffix.lower()
  inside_tiff = head[:4] in (b'II*\0', b'MM\0*') and (
    _RAW_SUFFIXES.fullmatch(suffix) or head[8:10] == b'CR'
  )
  if (
    inside_tiff
    or head.startswith(_RAW_SIGNATURES)
    or head[4:12] == b'ftypcrx '
    or head[6:14] == b'HEAPCCDR'
  ):
    raise raw_fault(path)


def raw_fault(path: Path) -> UserError:
  """The error for a raw photograph."""
  return UserError(
    f'{path}: is a raw photograph, which is not developed here: develop it to '
    'TIFF or PNG first'
  )


def webp_size(head: bytes) -> tuple[int, int] | None:
  """Reads width and height from the first 32 bytes; None if it is no WebP file.

  The library reserves memory for the whole canvas as soon as it opens a file.
  """
  if head[:4] != b'RIFF' or head[8:12] != b'WEBP':
    return None
  kind = head[12:16]
  if kind == b'VP8X':
    width, height = (
      int.from_bytes(head[i : i + 3], 'little') for i in (24, 27)
    )
    return width + 1, height + 1
  if kind == b'VP8L':
    fields = int.from_bytes(head[21:25], 'little')
    return (fields & 0x3FFF) + 1, (fields >> 14 & 0x3FFF) + 1
  width, height = (int.from_bytes(head[i : i + 2], 'little') for i in (26, 28))
  return width & 0x3FFF, height & 0x3FFF


def check_scans(path: Path, data: bytes, pixels: int) -> None:
  """Refuses a JPEG that takes minutes because it has hundreds of scans.

  Args:
    path: The file, for the error message.
    data: The content of the file.
    pixels: Number of pixels of the image.

  Raises:
    UserError: There are too many scans for an image of this size.
  """
  scans = _count_scans(data)
  if scans > max(_USUAL_SCANS, _MOST_SCANNED // max(pixels, 1)):
    raise UserError(
      f'{path}: a JPEG of {pixels} pixels in {scans} scans is made to take '
      f'minutes: convert it to one of at most {_USUAL_SCANS}'
    )


def _count_scans(data: bytes) -> int:
  """Counts the scans of the image, without those of previews inside it."""
  scans, at = 0, 2
  while at + 4 <= len(data):
    found = _NEXT_MARKER.search(data, at)
    if found is None:
      break
    at, marker = found.end(), data[found.end() - 1]
    if marker == _END:
      break
    scans += marker == _START_OF_SCAN
    if marker not in _BARE_MARKERS:
      at += int.from_bytes(data[at : at + 2])
  return scans

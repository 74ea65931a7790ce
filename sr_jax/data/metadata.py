"""Metadata of image files: EXIF, resolution, place, colour.

Metadata is read from an image file, and written into the file of its
enlargement as far as the format of that file can hold it.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

_ORIENTATION = 274
# EXIF tags of the image's size, which enlarging changes.
_EXIF_SIZES = (256, 257, 40962, 40963)
_EXIF_IFD = 0x8769
# Chunks of a PNG that are copied unchanged, up to `_MOST_CHUNKS` bytes in all.
_COLOUR_CHUNKS = (b'cHRM', b'gAMA', b'sRGB', b'cICP', b'mDCV', b'cLLI')
_PNG_CHUNKS = (*_COLOUR_CHUNKS, b'pHYs', b'tEXt', b'zTXt', b'iTXt', b'tIME')
_MOST_CHUNKS = 2**22
_PNG_SIGNATURE = b'\x89PNG\r\n\x1a\n'
# Longest EXIF and XMP that a JPEG holds.
_JPEG_LIMIT = 65_500

# TIFF tags that are copied: texts, and numbers or bytes.
_TEXTS = {
  269: 'document name',
  271: 'make',
  272: 'model',
  305: 'software',
  306: 'date',
  315: 'artist',
  316: 'host',
  33432: 'copyright',
  34737: 'GeoTIFF texts',
  42112: 'GDAL metadata',
  42113: 'GDAL nodata',
}
_DESCRIPTION = 270
_XMP, _IPTC = 700, 33723
_PIXEL_SCALE, _TIE_POINTS, _TRANSFORM = 33550, 33922, 34264
_GEO_KEYS, _GEO_DOUBLES, _GEO_TEXTS = 34735, 34736, 34737
_NUMBERS = (_PIXEL_SCALE, _TIE_POINTS, _TRANSFORM, _GEO_KEYS, _GEO_DOUBLES)
_GEO = (*_NUMBERS, _GEO_TEXTS, 42112, 42113)
_RASTER_TYPE, _POINT = 1025, 2  # a key of GeoTIFF: pixels stand for points


class Metadata(NamedTuple):
  """The metadata of an image file.

  Attributes:
    exif: EXIF in the form of a TIFF file, without orientation, sizes and
      preview.
    xmp: XMP, as XML.
    dpi: Pixels per inch, horizontally and vertically.
    comment: Comment of a JPEG.
    chunks: Kind and content of chunks of a PNG.
    tags: TIFF tags: texts as bytes, all others as tuples of numbers.
  """

  exif: bytes | None = None
  xmp: bytes | None = None
  dpi: tuple[float, float] | None = None
  comment: bytes | None = None
  chunks: tuple[tuple[bytes, bytes], ...] = ()
  tags: Mapping[int, Any] = {}

  def enlarged(self, scale: float) -> Metadata:
    """Metadata of an enlargement, whose pixels are smaller on the ground."""
    tags = dict(self.tags)
    keys = tags.get(_GEO_KEYS, ())
    entries = [keys[i : i + 4] for i in range(4, len(keys), 4)]
    point = any(e[0] == _RASTER_TYPE and e[3:] == (_POINT,) for e in entries)
    # If pixels stand for points, each point lies in the middle of its pixel.
    shift = 0.5 * (scale - 1) if point else 0.0
    if pixel := tags.get(_PIXEL_SCALE):
      tags[_PIXEL_SCALE] = (*(x / scale for x in pixel[:2]), *pixel[2:])
    if ties := tags.get(_TIE_POINTS):
      tags[_TIE_POINTS] = tuple(
        x * scale + shift if i % 6 < 2 else x for i, x in enumerate(ties)
      )
    if len(matrix := tags.get(_TRANSFORM, ())) == 16:
      rows = [list(matrix[i : i + 4]) for i in range(0, 16, 4)]
      for row in rows[:3]:
        row[:2] = (x / scale for x in row[:2])
        row[3] -= shift * (row[0] + row[1])
      tags[_TRANSFORM] = tuple(x for row in rows for x in row)
    return self._replace(tags=tags)

  def lost(self, suffix: str) -> list[str]:
    """Names of the metadata that the format of a suffix does not hold."""
    kept = {
      '.png': ('exif', 'xmp', 'dpi', 'comment', 'chunks'),
      '.jpg': ('exif', 'xmp', 'dpi', 'comment'),
      '.jpeg': ('exif', 'xmp', 'dpi', 'comment'),
      '.webp': ('exif', 'xmp'),
      '.tif': ('xmp', 'dpi', 'tags'),
      '.tiff': ('xmp', 'dpi', 'tags'),
      '.bmp': ('dpi',),
    }.get(suffix, ())
    names = [
      name
      for key, name in (
        ('exif', 'EXIF'),
        ('xmp', 'XMP'),
        ('dpi', 'resolution'),
        ('comment', 'comment'),
      )
      if getattr(self, key) and key not in kept
    ]
    limited = suffix in ('.jpg', '.jpeg')
    if limited and len(self.exif or b'') > _JPEG_LIMIT:
      names.append('EXIF')
    if limited and len(self.xmp or b'') > _JPEG_LIMIT:
      names.append('XMP')
    if 'chunks' not in kept:
      held = {b'pHYs': self.dpi and 'dpi' in kept, b'iTXt': self.xmp}
      names += [
        kind.decode() for kind in dict(self.chunks) if not held.get(kind)
      ]
    if 'tags' not in kept:
      places = any(tag in _GEO for tag in self.tags)
      names += ['GeoTIFF tags'] if places else []
      texts = sorted(tag for tag in self.tags if tag not in _GEO)
      names += [_TEXTS.get(tag, f'tag {tag}') for tag in texts if not self.exif]
    return names


NO_METADATA = Metadata()


def of_pillow(image: Image.Image, path: Path) -> Metadata:
  """Metadata of an image that Pillow has opened and loaded."""
  info = image.info
  dpi, comment, xmp = (info.get(key) for key in ('dpi', 'comment', 'xmp'))
  tiff = image.format == 'TIFF'
  return Metadata(
    exif=None if tiff else _clean_exif(image),
    xmp=xmp if isinstance(xmp, bytes) and xmp else None,
    dpi=_resolution(dpi),
    comment=comment if isinstance(comment, bytes) and comment else None,
    chunks=_png_chunks(path) if image.format == 'PNG' else (),
  )


def _resolution(dpi: Any) -> tuple[float, float] | None:
  """Pixels per inch; None if the value is no resolution."""
  try:
    x, y = (float(value) for value in dpi)
  except (TypeError, ValueError, ArithmeticError):
    return None
  return (x, y) if 0 < x < 1e6 and 0 < y < 1e6 else None


def _clean_exif(image: Image.Image) -> bytes | None:
  """EXIF without the tags that enlarging makes wrong; None if damaged."""
  if not image.info.get('exif'):
    return None
  try:
    exif = image.getexif()
    for tag in (_ORIENTATION, *_EXIF_SIZES):
      exif.pop(tag, None)
      exif.get_ifd(_EXIF_IFD).pop(tag, None)
    data = exif.tobytes() if len(exif) else b''
  except Exception:  # damaged EXIF is left out, which harms nothing else
    return None
  return data.removeprefix(b'Exif\0\0') or None


def _png_chunks(path: Path) -> tuple[tuple[bytes, bytes], ...]:
  """Reads the chunks that are copied."""
  found, room = [], _MOST_CHUNKS
  with path.open('rb') as file:
    file.seek(len(_PNG_SIGNATURE))
    while len(head := file.read(8)) == 8:
      length, kind = struct.unpack('>I4s', head)
      if kind in _PNG_CHUNKS and length <= room:
        data = file.read(length)
        found.append((kind, data))
        room -= length
        file.seek(4, io.SEEK_CUR)
      else:
        file.seek(length + 4, io.SEEK_CUR)
  return tuple(found)


def png_chunks(metadata: Metadata) -> tuple[bytes, bytes]:
  """Chunks of a PNG: those before its colour profile, and those after it."""
  kinds = dict(metadata.chunks)
  first = [pair for pair in metadata.chunks if pair[0] in _COLOUR_CHUNKS]
  rest = [pair for pair in metadata.chunks if pair[0] not in _COLOUR_CHUNKS]
  if metadata.dpi and b'pHYs' not in kinds:
    x, y = (round(value / 0.0254) for value in metadata.dpi)
    rest.append((b'pHYs', struct.pack('>IIB', x, y, 1)))
  if metadata.xmp and b'iTXt' not in kinds:
    head = b'XML:com.adobe.xmp\0\0\0\0\0'
    rest.append((b'iTXt', head + metadata.xmp))
  if metadata.comment:
    rest.append((b'tEXt', b'Comment\0' + metadata.comment.replace(b'\0', b'')))
  if metadata.exif:
    rest.append((b'eXIf', metadata.exif))
  return _packed(first), _packed(rest)


def _packed(chunks: list[tuple[bytes, bytes]]) -> bytes:
  return b''.join(png_chunk(kind, data) for kind, data in chunks)


def png_chunk(kind: bytes, data: bytes) -> bytes:
  """One chunk of a PNG with its length and checksum."""
  body = kind + data
  return (
    struct.pack('>I', len(data)) + body + struct.pack('>I', zlib.crc32(body))
  )


def pillow_options(metadata: Metadata, suffix: str) -> dict[str, Any]:
  """Options with which Pillow writes the metadata into JPEG, WebP or BMP."""
  options: dict[str, Any] = {}
  jpeg = suffix in ('.jpg', '.jpeg')
  limit = _JPEG_LIMIT if jpeg else 2**31
  if metadata.exif and suffix != '.bmp' and len(metadata.exif) <= limit:
    options['exif'] = b'Exif\0\0' + metadata.exif
  if metadata.xmp and suffix != '.bmp' and len(metadata.xmp) <= limit:
    options['xmp'] = metadata.xmp
  if metadata.dpi and suffix != '.webp':
    options['dpi'] = metadata.dpi
  if metadata.comment and jpeg:
    options['comment'] = metadata.comment[:_JPEG_LIMIT]
  return options


def of_tiff(tags: Mapping[int, Any], *, described: bool) -> Metadata:
  """Metadata of a TIFF page.

  Args:
    tags: The tags of the page.
    described: Whether the description tag is a text for readers; otherwise it
      describes the axes.
  """
  kept: dict[int, Any] = {}
  texts = (*_TEXTS, _DESCRIPTION) if described else tuple(_TEXTS)
  for tag in texts:
    value = tags.get(tag)
    if isinstance(value, str) and value:
      kept[tag] = value.encode()
  for tag in _NUMBERS:
    value = tags.get(tag)
    numbers = (int,) if tag == _GEO_KEYS else (int, float)
    if isinstance(value, tuple) and all(isinstance(x, numbers) for x in value):
      kept[tag] = value
  for tag in (_XMP, _IPTC):
    if isinstance(tags.get(tag), bytes):
      kept[tag] = tags[tag]
  return Metadata(
    xmp=kept.pop(_XMP, None) or None,
    dpi=_tiff_resolution(tags),
    tags=kept,
  )


def _tiff_resolution(tags: Mapping[int, Any]) -> tuple[float, float] | None:
  """Pixels per inch by the tags of a TIFF."""
  unit = {2: 1.0, 3: 2.54}.get(tags.get(296, 2))
  try:
    x, y = (tags[tag][0] / tags[tag][1] * unit for tag in (282, 283))
  except (KeyError, TypeError, IndexError, ArithmeticError):
    return None
  return _resolution((x, y))


def tiff_options(metadata: Metadata) -> dict[str, Any]:
  """Options with which tifffile writes the metadata into a TIFF."""
  tags = []
  for tag, value in sorted(metadata.tags.items()):
    if isinstance(value, bytes):
      tags.append((tag, 'B' if tag == _IPTC else 's', len(value), value, True))
    else:
      kind = 'H' if tag == _GEO_KEYS else 'd'
      tags.append((tag, kind, len(value), value, True))
  if metadata.xmp:
    tags.append((_XMP, 'B', len(metadata.xmp), metadata.xmp, True))
  options: dict[str, Any] = {'extratags': tags, 'software': False}
  if metadata.dpi:
    options |= {'resolution': metadata.dpi, 'resolutionunit': 'INCH'}
  return options

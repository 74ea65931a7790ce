"""Image files decoded to samples and samples encoded to image files.

Pillow would silently cut 16-bit RGB PNG to 8 bits, and it misreads transparency
in grey PNG of 1 to 4 bits. Therefore imagecodecs (libpng) decodes such files
and writes all PNG. TIFF has a module of its own, which leaves rarer colour
models to Pillow.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import threading
import warnings
import zlib
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO

import imagecodecs
import numpy as np
from PIL import Image, UnidentifiedImageError

from sr_jax.data import image_headers, metadata, tiff_files
from sr_jax.data.samples import MAX_PIXELS, Samples, check_size
from sr_jax.errors import UserError

IMAGE_SUFFIXES = (
  '.png',
  '.jpg',
  '.jpeg',
  '.bmp',
  '.webp',
  '.tif',
  '.tiff',
  '.npy',
)

_PILLOW_FORMATS = ('PNG', 'JPEG', 'BMP', 'WEBP', 'TIFF')
_PNG_SIGNATURE = b'\x89PNG\r\n\x1a\n'
_PNG_KINDS = {0: 'grey', 2: 'RGB', 3: 'palette', 4: 'grey + alpha', 6: 'RGBA'}
_NPY_SIGNATURE = b'\x93NUMPY'
_ORIENTATION = 274  # the EXIF and TIFF tag
# Arrays with more channels than this (RGBA) may have another order of axes.
_USUAL_CHANNELS = 4
# Bits per pixel of Pillow's modes, for those that have fewer than 32.
_BITS = {'1': 1, 'L': 8, 'P': 8, 'LA': 16, 'I;16': 16, 'RGB': 24, 'YCbCr': 24}
# Largest side in pixels that the encoders of these formats can write.
_MAX_SIDE = {'.jpg': 65500, '.jpeg': 65500, '.webp': 16383}

_log = logging.getLogger(__name__)
_pillow_lock = threading.Lock()


def decode(path: Path) -> Samples:
  """Reads one image file, whose content decides on the format.

  Raises:
    UserError: The file is missing, unreadable, empty, damaged, too large or no
      image.
  """
  if not path.is_file():
    what = 'is not a file' if path.exists() else 'does not exist'
    raise UserError(f'{path}: {what}: check the path')
  with _one_line(path):
    with path.open('rb') as file:
      head = file.read(64)
    if not head:
      raise UserError(f'{path}: the file is empty: copy it again')
    image_headers.refuse_raw(path, head)
    if head.startswith(_NPY_SIGNATURE):
      samples = _decode_npy(path)
    elif head.startswith(tiff_files.SIGNATURES):
      samples = _decode_tiff(path)
    else:
      samples = _decode_pillow(path, head=head)
  if not samples.values.size:
    raise UserError(
      f'{path}: an array of shape {samples.values.shape} has no pixels: '
      'leave it out'
    )
  return samples


def decode_indices(path: Path) -> np.ndarray:
  """Reads the grey levels or the palette indices of a PNG unchanged.

  Returns:
    uint8 `[H, W]`.

  Raises:
    UserError: The file is missing, unreadable or damaged, its grey levels have
      not 8 bits, or it has more than one channel.
  """
  with _one_line(path):
    with path.open('rb') as file:
      head = file.read(26)
    if not head.startswith(_PNG_SIGNATURE) or len(head) < 26:
      raise UserError(f'{path}: is no PNG file, as label maps must be')
    depth, kind = head[24:26]
    if kind != 3 and (depth, kind) != (8, 0):
      raise UserError(
        f'{path}: is {depth}-bit {_PNG_KINDS.get(kind, "colour")}: give labels'
        ' as an 8-bit PNG of one channel, grey or palette'
      )
    with _pillow_unchecked():
      image = Image.open(path, formats=('PNG',))
    with image:
      check_size(path, *image.size, bits=depth)
      return np.array(image)


@contextlib.contextmanager
def _one_line(path: Path) -> Generator[None]:
  """Turns any exception of a decoder into a UserError of one line."""
  try:
    yield
  except UserError:
    raise
  except UnidentifiedImageError as error:
    raise UserError(
      f'{path}: not an image, or cut off in its first bytes: give a PNG, JPEG, '
      'BMP, WebP, TIFF or NPY file'
    ) from error
  except MemoryError as error:
    raise UserError(
      f'{path}: does not fit into memory: cut it into parts'
    ) from error
  except Exception as error:  # decoders raise nearly anything on bad bytes
    if isinstance(error, OSError) and error.errno is not None:
      raise UserError(
        f'{path}: cannot be read ({error.strerror}): check its permissions '
        'and its disk'
      ) from error
    reason = ' '.join(str(error).split())[:120] or type(error).__name__
    raise UserError(
      f'{path}: damaged, cut off or of an unknown kind ({reason}): copy it '
      'again or convert it to PNG'
    ) from error


def _upright(values: np.ndarray, orientation: int) -> np.ndarray:
  """Rotates or flips `[H, W, C]` by EXIF orientation 1-8; returns a view."""
  if orientation in (5, 6, 7, 8):
    values = values.swapaxes(0, 1)
  if orientation in (3, 4, 7, 8):
    values = values[::-1]
  if orientation in (2, 3, 6, 7):
    values = values[:, ::-1]
  return values


def _decode_npy(path: Path) -> Samples:
  array = np.load(path, mmap_mode='r', allow_pickle=False)
  if array.ndim not in (2, 3):
    raise UserError(
      f'{path}: an array of shape {array.shape} is no image: '
      'give [H, W] or [H, W, C]'
    )
  if array.dtype.kind not in 'buif':
    raise UserError(
      f'{path}: values of type {array.dtype} are no image: give real numbers'
    )
  bits = {'uint8': 8, 'uint16': 16}.get(array.dtype.name)
  values = array if array.ndim == 3 else array[..., None]
  height, width, channels = values.shape
  check_size(path, width, height, 8 * channels * array.dtype.itemsize)
  if channels > _USUAL_CHANNELS:
    _say_axes(path, values.shape)
  return Samples(values, bits, ndim=array.ndim)


@functools.lru_cache(maxsize=1024)
def _say_axes(path: Path, shape: tuple[int, ...]) -> None:
  """Warns, once per file, that the order of the axes may be another one."""
  height, width, channels = shape
  _log.warning(
    '%s: read as %d x %d pixels of %d channels; if the first axis holds the '
    'channels, save numpy.moveaxis(array, 0, -1)',
    *(path, width, height, channels),
  )


def _needs_libpng(head: bytes) -> bool:
  """Whether Pillow would lose information of a PNG that starts with `head`."""
  if not head.startswith(_PNG_SIGNATURE) or len(head) < 26:
    return False
  depth, color_type = head[24:26]
  return depth == 16 or (depth < 8 and color_type == 0)


@contextlib.contextmanager
def _pillow_unchecked() -> Generator[None]:
  """Lifts Pillow's limit on pixels, and mutes its warnings.

  Our own limit, `MAX_PIXELS`, is higher. Limit and warnings are global
  settings, so they are changed under a lock and restored.
  """
  with _pillow_lock, warnings.catch_warnings():
    warnings.simplefilter('ignore')
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
      yield
    finally:
      Image.MAX_IMAGE_PIXELS = limit


def _decode_tiff(path: Path) -> Samples:
  found = tiff_files.decode(path)
  if isinstance(found, tiff_files.Unread):
    samples = _decode_pillow(path, page=found.index)
    return samples._replace(metadata=found.metadata)
  samples, orientation = found
  return samples._replace(values=_upright(samples.values, orientation))


def _decode_pillow(path: Path, *, head: bytes = b'', page: int = 0) -> Samples:
  """Reads a file by Pillow.

  Args:
    path: The file.
    head: The first bytes of the file, if it is no TIFF.
    page: Index of the page of a TIFF.
  """
  if size := image_headers.webp_size(head):
    check_size(path, *size, bits=32)
  with _pillow_unchecked():
    image = Image.open(path, formats=_PILLOW_FORMATS)
  with image:
    if page:
      image.seek(page)
    check_size(path, *image.size, bits=_BITS.get(image.mode, 32))
    if image.format in ('JPEG', 'MPO'):
      pixels = image.width * image.height
      image_headers.check_scans(path, path.read_bytes(), pixels)
    image.load()
    with _pillow_unchecked():
      orientation = image.getexif().get(_ORIENTATION, 1)
    frames = getattr(image, 'n_frames', 1)
    # For TIFF a warning has been given; MPO is a photograph with its previews.
    if frames > 1 and image.format not in ('MPO', 'TIFF'):
      _log.warning('%s: has %d frames, the first is taken', path, frames)
    if _needs_libpng(head):
      values = imagecodecs.png_decode(path.read_bytes())
    else:
      values = np.asarray(_grey_or_rgb(image))
    # A CMYK profile does not describe the RGB it was converted to.
    same_space = image.mode not in ('CMYK', 'YCbCr', 'LAB')
    icc_profile = image.info.get('icc_profile') if same_space else None
  if values.ndim == 2:
    values = values[..., None]
  return Samples(
    _upright(values, orientation),
    8 * values.dtype.itemsize,
    'straight' if values.shape[-1] in (2, 4) else None,
    icc_profile or None,
    metadata=metadata.of_pillow(image, path),
  )


def _grey_or_rgb(image: Image.Image) -> Image.Image:
  """Converts an image to L, LA, RGB or RGBA, whichever loses nothing."""
  mode = 'L' if image.mode in ('1', 'L', 'LA', 'La') else 'RGB'
  if image.has_transparency_data:
    mode += 'A'
  return image if image.mode == mode else image.convert(mode)


def depth_for(path: Path, bits: int | None) -> int | None:
  """Number of bits per sample with which a picture is written to `path`.

  The suffix of the path names the format. A picture of plain numbers has `bits`
  None: PNG stores it with 16 bits. JPEG, BMP and WebP store 8 bits of any
  picture.
  """
  suffix = path.suffix.lower()
  if suffix in ('.npy', '.tif', '.tiff'):
    return bits
  if suffix == '.png':
    return bits or 16
  return 8


def number_dtype(path: Path, dtype: np.dtype | None) -> np.dtype:
  """Type with which plain numbers are written to `path`, a `.npy` or TIFF file.

  The type is float32 if the numbers have no type of their own, and in TIFF for
  floats of more than 64 bits. Only `.npy` keeps a foreign byte order.
  """
  if dtype is None:
    return np.dtype(np.float32)
  if path.suffix.lower() == '.npy':
    return dtype
  return dtype.newbyteorder('=') if dtype.itemsize <= 8 else np.dtype('f4')


def check_encodable(path: Path, samples: Samples) -> None:
  """Refuses samples that the format of `path` cannot hold.

  Raises:
    UserError: The suffix is unknown, or the format does not hold alpha, this
      number of channels or this size.
  """
  suffix = path.suffix.lower()
  height, width, channels = samples.values.shape
  if suffix not in IMAGE_SUFFIXES:
    raise UserError(
      f'{path}: unknown image suffix {suffix!r}: use one of '
      f'{" ".join(IMAGE_SUFFIXES)}'
    )
  if samples.alpha and suffix in ('.jpg', '.jpeg', '.bmp', '.npy'):
    raise UserError(
      f'{path}: {suffix} holds no transparency: write .png, .webp or .tif'
    )
  if suffix not in ('.npy', '.tif', '.tiff'):
    if channels - bool(samples.alpha) not in (1, 3):
      raise UserError(
        f'{path}: {suffix} holds 1 or 3 colour channels, not '
        f'{channels - bool(samples.alpha)}: write .npy or .tif'
      )
    limit = _MAX_SIDE.get(suffix, MAX_PIXELS)
    if max(height, width) > limit:
      raise UserError(
        f'{path}: {suffix} holds at most {limit} pixels a side, '
        f'the picture is {width} x {height}: write .png or .tif'
      )


def encode(file: BinaryIO, suffix: str, samples: Samples) -> None:
  """Writes samples that `check_encodable` accepts.

  Their type is uint8 or uint16; for `.npy` and TIFF it may also be the type
  that `number_dtype` returns.
  """
  if suffix == '.npy':
    values = samples.values
    np.save(file, values[..., 0] if samples.ndim == 2 else values)
  elif suffix in ('.tif', '.tiff'):
    tiff_files.encode(file, samples)
  elif suffix == '.png':
    _encode_png(file, samples)
  else:
    _encode_pillow(file, suffix, samples)


def _squeezed(values: np.ndarray) -> np.ndarray:
  """Removes a single channel's axis, as image libraries want it: `[H, W]`."""
  return values[..., 0] if values.shape[-1] == 1 else values


def _encode_png(file: BinaryIO, samples: Samples) -> None:
  # Level 3 is four times as fast as libpng's default of 6; files of photographs
  # become 4 % larger.
  data = imagecodecs.png_encode(_squeezed(samples.values), level=3)
  header_end = len(_PNG_SIGNATURE) + 25  # the IHDR chunk always has 25 bytes
  colour, rest = metadata.png_chunks(samples.metadata)
  file.write(data[:header_end] + colour)
  if samples.icc_profile:
    profile = b'ICC profile\0\0' + zlib.compress(samples.icc_profile)
    file.write(metadata.png_chunk(b'iCCP', profile))
  file.write(rest + data[header_end:])


def _encode_pillow(file: BinaryIO, suffix: str, samples: Samples) -> None:
  image = Image.fromarray(_squeezed(samples.values))
  icc_profile = samples.icc_profile
  # Into memory first: given a real file, Pillow hides why writing failed.
  data = io.BytesIO()
  more = metadata.pillow_options(samples.metadata, suffix)
  if suffix == '.bmp':
    image.save(data, 'BMP', **more)
  elif suffix == '.webp':
    # WebP has only RGB, for which the profile of a grey image would be wrong.
    icc_profile = icc_profile if samples.values.shape[-1] >= 3 else None
    more |= {'lossless': True, 'exact': True, 'icc_profile': icc_profile}
    image.save(data, 'WEBP', **more)
  else:
    more |= {'quality': 95, 'subsampling': 0, 'icc_profile': icc_profile}
    image.save(data, 'JPEG', **more)
  file.write(data.getbuffer())

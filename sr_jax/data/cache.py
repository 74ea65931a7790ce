"""Decodes images once to `.npy` files, which are memory-mapped from then on.

Decoding a PNG of 2K takes a tenth of a second, and a training crop needs only a
hundredth of its pixels. To cut a crop from a mapped array, only the rows of the
crop are read.

A file of the cache is an array as NumPy writes it, followed by a SHA-256 of
these bytes. The SHA-256 is verified when an image is opened for the first time
in a process, which takes 1.3 seconds per gigabyte and core. A copy that is
damaged, cut off or of another version is replaced.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import pathlib
import re
import struct
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from sr_jax.data import image_io
from sr_jax.errors import UserError
from sr_jax.files import open_atomically

PathLike = str | os.PathLike[str]

# Part of the name of every cached file. Raise the number when the decoders give
# other pixels, or when the layout of the files changes.
_DECODER = 'rgb-2'
_ABANDONED_SECONDS = 300.0
# The header that `np.save` writes for an image. This pattern reads it, because
# NumPy would evaluate it as Python, which fails in many ways if it is damaged.
_HEADER = re.compile(
  rb"\x93NUMPY\x01\x00(?P<length>..)\{'descr': '(?P<dtype>\|u1|<u2|<f4)', "
  rb"'fortran_order': False, 'shape': \((?P<shape>\d+, \d+, [13])\), \} *\n",
  re.DOTALL,
)
_HEADER_SIZE = 128
_BLOCK = 2**20
_DIGEST_SIZE = hashlib.sha256().digest_size

_log = logging.getLogger(__name__)


class CacheError(UserError):
  """The cache cannot be written, which is no fault of the image."""


def default_cache_dir() -> pathlib.Path:
  """`$SR_JAX_CACHE`, else `sr_jax` in the user's cache folder."""
  if own := os.environ.get('SR_JAX_CACHE'):
    return pathlib.Path(own)
  base = os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
  return pathlib.Path(base) / 'sr_jax'


class _Stored(NamedTuple):
  """A verified file of the cache.

  Attributes:
    path: The file.
    dtype: Type of its array.
    shape: `[H, W, C]`.
    digest: SHA-256 of its header and pixels, hexadecimal.
  """

  path: pathlib.Path
  dtype: np.dtype
  shape: tuple[int, ...]
  digest: str

  def mapped(self) -> np.memmap:
    """The array, read-only."""
    return np.memmap(self.path, self.dtype, 'r', _HEADER_SIZE, self.shape)


class CachedImage:
  """Returns an image when called; it is decoded once and mapped from then on.

  The first call looks at the source, and decodes it unless the cache holds its
  present state. Later calls look only at the cache, so an image that is changed
  or removed during a run stays the same for this run.
  """

  def __init__(
    self,
    key: str,
    stamp: Callable[[], str],
    decode: Callable[[], np.ndarray],
    cache_dir: PathLike | None = None,
  ):
    """Opens nothing yet.

    Args:
      key: Name of the source, which has a folder of its own in the cache.
      stamp: Returns a name for the present state of the source. Cached files of
        other states are removed.
      decode: Returns the array `[H, W, C]` with 3 channels or 1, of type uint8,
        uint16 or float32.
      cache_dir: Folder of the cache, by default `default_cache_dir()`. It is
        made if it does not exist.
    """
    self._key = key
    self._stamp = stamp
    self._decode = decode
    self._cache_dir = pathlib.Path(cache_dir or default_cache_dir())
    self._stored: _Stored | None = None

  def __call__(self) -> np.ndarray:
    """The array `[H, W, C]`.

    Raises:
      CacheError: The cache cannot be written at the first call.
      UserError: The source cannot be read, or neither the cache nor the source
        still holds the image that the first call returned.
    """
    if self._stored is None:
      self._stored = self._open()
    try:
      return self._stored.mapped()
    except (OSError, ValueError):
      return self._open_again(self._stored)

  def digest(self) -> str:
    """SHA-256 of shape, type and pixels, hexadecimal."""
    if self._stored is None:
      self._stored = self._open()
    return self._stored.digest

  def _open(self) -> _Stored:
    name = self._key.encode(errors='surrogateescape')
    folder = self._cache_dir / hashlib.sha256(name).hexdigest()[:32]
    target = folder / f'{_DECODER}-{self._stamp()}.npy'
    stored = _verified(target)
    if stored is None:
      stored = self._store(self._decode(), target)
    _remove_stale(folder, keep=target)
    return stored

  def _open_again(self, before: _Stored) -> np.ndarray:
    """Decodes the image again, because its cached copy was lost."""
    array = self._decode()
    content, digest = _encoded(array)
    if digest != before.digest:
      raise UserError(
        f'{self._key}: changed while it was in use, and its copy in the cache'
        f' {self._cache_dir} is gone: start again'
      )
    try:
      _write(content, before.path)
    except UserError as error:
      _log.warning('%s is decoded at each use: %s', self._key, error)
    return array

  def _store(self, array: np.ndarray, target: pathlib.Path) -> _Stored:
    content, digest = _encoded(array)
    try:
      _write(content, target)
    except UserError as error:
      raise CacheError(
        f'no cached copy of {self._key}: {error}; choose another folder by'
        ' SR_JAX_CACHE or config.data.cache_dir'
      ) from error
    return _Stored(target, array.dtype, array.shape, digest)


def image_file(
  path: PathLike,
  cache_dir: PathLike | None = None,
  *,
  peak: float = 0.0,
  one_range: bool = False,
) -> CachedImage:
  """Caches an image file as `image_io.read_native` reads it.

  If the size or the modification time of the file has changed since it was
  decoded, it is decoded again.
  """
  path = os.path.abspath(path)
  options = {'peak': peak, 'one_range': one_range}
  asked = ''.join(f'{k}={v:g}:' for k, v in options.items() if v)
  return CachedImage(
    asked + path,
    lambda: stamp_of(path),
    lambda: image_io.read_native(path, peak=peak, one_range=one_range),
    cache_dir,
  )


def stamp_of(path: PathLike) -> str:
  """Name of the state of a file, made of its size and modification time."""
  try:
    status = os.stat(path)
  except OSError as error:
    raise UserError(f'{os.fspath(path)}: {error.strerror}') from error
  return f'{status.st_size}-{status.st_mtime_ns}'


def content_digest(opener: Callable[[], np.ndarray]) -> str:
  """Digest of the image that a function opens, as `CachedImage.digest`."""
  if isinstance(opener, CachedImage):
    return opener.digest()
  return _encoded(opener())[1]


def _encoded(array: np.ndarray) -> tuple[io.BytesIO, str]:
  """The bytes of a file of the cache, and the digest at their end."""
  # The file is made in memory first, because NumPy does not say why it failed
  # to write to a file.
  content = io.BytesIO()
  np.save(content, np.ascontiguousarray(array))
  digest = hashlib.sha256(content.getbuffer())
  content.write(digest.digest())
  return content, digest.hexdigest()


def _write(content: io.BytesIO, target: pathlib.Path) -> None:
  with open_atomically(target) as file:
    file.write(content.getbuffer())


def _verified(target: pathlib.Path) -> _Stored | None:
  """The stored image, or None if it is missing, damaged or of other layout."""
  try:
    with target.open('rb') as file:
      head = file.read(_HEADER_SIZE)
      found = _HEADER.fullmatch(head)
      if not found:
        return None
      (length,) = struct.unpack('<H', found['length'])
      shape = tuple(map(int, found['shape'].split(b', ')))
      dtype = np.dtype(found['dtype'].decode())
      size = _HEADER_SIZE + dtype.itemsize * int(np.prod(shape, dtype=object))
      whole = os.fstat(file.fileno()).st_size == size + _DIGEST_SIZE
      if length != _HEADER_SIZE - 10 or not whole:
        return None
      digest = hashlib.sha256(head)
      for start in range(_HEADER_SIZE, size, _BLOCK):
        digest.update(file.read(min(_BLOCK, size - start)))
      if file.read() != digest.digest():
        return None
  except OSError:
    return None
  return _Stored(target, dtype, shape, digest.hexdigest())


def _remove_stale(folder: pathlib.Path, keep: pathlib.Path) -> None:
  """Removes files of other states of the source, and of killed writers."""
  for entry in os.scandir(folder):
    if entry.name == keep.name:
      continue
    with contextlib.suppress(OSError):  # another process removed it
      age = time.time() - entry.stat().st_mtime
      if entry.name.endswith('.npy') or age > _ABANDONED_SECONDS:
        os.unlink(entry)

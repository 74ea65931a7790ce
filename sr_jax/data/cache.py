"""Images decoded once to `.npy` files and memory-mapped from then on.

A PNG of 2K takes a tenth of a second to decode and a training crop needs a
hundredth of it; the mapped array gives a crop by reading only its rows.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import pathlib
import time
from collections.abc import Callable

import numpy as np

from sr_jax.data import image_io
from sr_jax.errors import UserError
from sr_jax.files import open_atomically

PathLike = str | os.PathLike[str]

# Part of every cached name: raise it when `read_rgb` gives other pixels.
_DECODER = 'rgb8-1'
_ABANDONED_SECONDS = 3600.0


def default_cache_dir() -> pathlib.Path:
  """`$SR_JAX_CACHE`, else `sr_jax` in the user's cache folder."""
  if own := os.environ.get('SR_JAX_CACHE'):
    return pathlib.Path(own)
  base = os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
  return pathlib.Path(base) / 'sr_jax'


def cached_array(path: PathLike, cache_dir: PathLike) -> np.memmap:
  """The image file as a read-only mapped uint8 array `[H, W, 3]`.

  The first call decodes the file and stores it under `cache_dir`; a source
  that changed since (its size or its time of modification) is decoded anew.

  Raises:
    UserError: the image cannot be read or the cache cannot be written.
  """
  path = os.path.abspath(path)
  return cached(
    path, stamp_of(path), lambda: image_io.read_rgb(path), cache_dir
  )


def stamp_of(path: PathLike) -> str:
  """Names the state of a file: another size or time gives another stamp."""
  try:
    status = os.stat(path)
  except OSError as error:
    raise UserError(f'{os.fspath(path)}: {error.strerror}') from error
  return f'{status.st_size}-{status.st_mtime_ns}'


def cached(
  key: str,
  stamp: str,
  decode: Callable[[], np.ndarray],
  cache_dir: PathLike,
) -> np.memmap:
  """What `decode` returns, kept on disk for this `key` and `stamp`.

  Args:
    key: Names the source; one folder of the cache belongs to it.
    stamp: Names the state of the source; other stamps of `key` are removed.
    decode: Gives the uint8 array `[H, W, C]`, of 3 channels or 1; called when
      nothing usable is stored.
    cache_dir: The cache; made when missing.

  Raises:
    UserError: the cache cannot be written.
  """
  digest = hashlib.sha256(key.encode(errors='surrogateescape')).hexdigest()[:32]
  folder = pathlib.Path(cache_dir) / digest
  target = folder / f'{_DECODER}-{stamp}.npy'
  stored = _open(target)
  if stored is None:
    _store(np.ascontiguousarray(decode()), target, key)
    _remove_stale(folder, keep=target)
    stored = _open(target)
  if stored is None:
    raise UserError(f'{target}: written but not readable; check the disk')
  return stored


def _open(target: pathlib.Path) -> np.memmap | None:
  """The mapped file, or None where it is missing, cut off or not ours."""
  try:
    array = np.load(target, mmap_mode='r')
  except (OSError, ValueError, EOFError):
    return None
  if not isinstance(array, np.memmap):
    return None
  if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] not in (1, 3):
    return None
  return array


def _store(array: np.ndarray, target: pathlib.Path, source: str) -> None:
  # Through memory: NumPy's own write to a file drops the reason of a failure.
  content = io.BytesIO()
  np.save(content, array)
  try:
    with open_atomically(target) as file:
      file.write(content.getbuffer())
  except UserError as error:
    raise UserError(
      f'no cached copy of {source}: {error}; SR_JAX_CACHE names the place'
    ) from error


def _remove_stale(folder: pathlib.Path, keep: pathlib.Path) -> None:
  """Removes what other states of the source, or killed writers, left."""
  for path in folder.iterdir():
    with contextlib.suppress(OSError):
      age = time.time() - path.stat().st_mtime
      if path != keep and (path.suffix == '.npy' or age > _ABANDONED_SECONDS):
        path.unlink()

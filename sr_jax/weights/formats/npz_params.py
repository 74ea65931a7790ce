"""Weights in TensorLayer's `.npz` files: a list of arrays without names.

Their one entry, `params`, is an array of objects: a pickle, of which nothing is
run, see `pickle_machine`. What it declares is compared with the bytes it has
before memory is taken.
"""

from __future__ import annotations

import io
import math
import os
import tokenize
import zipfile
import zlib
from typing import Any

import numpy as np

from sr_jax.errors import UserError
from sr_jax.weights.formats import pickle_machine as pm

# How the zip archive begins.
START = b'PK\x03\x04'
_ENTRY = 'params.npy'
# Trained weights hardly shrink.
_MOST_SHRUNK = 4
_DAMAGE = (
  ValueError,
  LookupError,
  TypeError,
  AttributeError,
  EOFError,
  RuntimeError,
  NotImplementedError,
  StopIteration,
  SyntaxError,
  tokenize.TokenError,
  zipfile.BadZipFile,
  zlib.error,
)


def holds_params(path: str | os.PathLike[str]) -> bool:
  """Whether a file is such an archive."""
  try:
    with zipfile.ZipFile(path) as archive:
      return _ENTRY in archive.namelist()
  except (OSError, *_DAMAGE):
    return False


def read_params(path: str | os.PathLike[str]) -> list[np.ndarray]:
  """The arrays of a file, in their order; they may be read-only.

  Raises:
    UserError: the file is damaged or holds anything else.
  """
  try:
    return _read(path)
  except UserError as error:
    raise UserError(f'{path}: {error}') from None
  except OSError as error:
    raise UserError(f'{path}: {error.strerror or error}') from None
  except _DAMAGE as error:
    reason = ' '.join(str(error).split())[:200]
    raise UserError(f'{path}: damaged: {reason}') from None


def _read(path: str | os.PathLike[str]) -> list[np.ndarray]:
  size = os.path.getsize(path)
  with zipfile.ZipFile(path) as archive:
    info = archive.getinfo(_ENTRY)
    if info.file_size > _MOST_SHRUNK * size:
      raise UserError('damaged: unpacks to more than weights can')
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
      raise UserError('damaged: packed in a way that NumPy never uses')
    # With its size, since reading to the end unpacks more than declared.
    with archive.open(info) as member:
      stream = io.BytesIO(member.read(info.file_size))
  version = np.lib.format.read_magic(stream)
  if version != (1, 0):
    raise UserError(f'holds an array of the unusual version {version}')
  _, _, dtype = np.lib.format.read_array_header_1_0(stream)
  if dtype.kind != 'O':
    raise UserError(f'holds one array of {dtype}, not a list of weights')
  value = pm.interpret(stream, pm.Allowance(size), arrays=True).value
  left = info.file_size
  arrays = []
  for item in _items(value):
    array = _array(item)
    left -= array.nbytes
    if left < 0:
      raise UserError('damaged: holds more numbers than bytes')
    arrays.append(array)
  return arrays


def _state(value: Any) -> tuple[tuple[int, ...], np.dtype[Any], bool, Any]:
  """Shape, type, whether columns come first, and contents of an array."""
  if not isinstance(value, pm.Object) or not isinstance(value.state, pm.Array):
    raise UserError('holds something that is no array')
  return value.state


def _items(value: Any) -> list[Any]:
  """The contents of an array of objects."""
  shape, dtype, _, items = _state(value)
  if dtype.kind != 'O' or not isinstance(items, list) or shape != (len(items),):
    raise UserError('holds no list of weights')
  return items


def _array(value: Any) -> np.ndarray:
  shape, dtype, columns_first, data = _state(value)
  if dtype.kind != 'f':
    raise UserError(f'holds an array of {dtype}, not of numbers')
  if isinstance(data, pm.Encoded):
    data = data.text
  # Python 2 wrote bytes as its string type.
  raw = data.encode('latin-1') if isinstance(data, str) else data
  if not isinstance(raw, bytes) or len(raw) != dtype.itemsize * math.prod(
    shape
  ):
    raise UserError('damaged: an array of another size than its shape')
  array = np.frombuffer(raw, dtype)
  return array.reshape(shape, order='F' if columns_first else 'C')

"""Reads weights from TensorLayer's `.npz` files, a list of unnamed arrays.

The only entry of these files, `params`, is an array of objects, which NumPy
stores as a pickle. No code of the pickle is run (see `pickle_machine`), and the
sizes that it declares are compared with its bytes before memory is allocated.
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
from sr_jax.weights.formats import pickle_values as pv

# The first bytes of a zip archive.
START = b'PK\x03\x04'
_ENTRY = 'params.npy'
# Largest accepted ratio of unpacked to packed size: trained weights hardly
# compress.
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
  """Whether a file is a zip archive with the entry `params`."""
  try:
    with zipfile.ZipFile(path) as archive:
      return _ENTRY in archive.namelist()
  except (OSError, *_DAMAGE):
    return False


def read_params(path: str | os.PathLike[str]) -> list[np.ndarray]:
  """Reads the arrays of a file in their order; they may be read-only.

  Raises:
    UserError: The file is missing, damaged or no list of float arrays.
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
    # The read is bounded: reading to the end may decompress more bytes than the
    # archive declares.
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
  if not isinstance(value, pv.Object) or not isinstance(value.state, pv.Array):
    raise UserError('holds something that is no array')
  return value.state


def _items(value: Any) -> list[Any]:
  """The items of a one-dimensional array of objects."""
  shape, dtype, _, items = _state(value)
  if dtype.kind != 'O' or not isinstance(items, list) or shape != (len(items),):
    raise UserError('holds no list of weights')
  return items


def _array(value: Any) -> np.ndarray:
  shape, dtype, columns_first, data = _state(value)
  if dtype.kind != 'f':
    raise UserError(f'holds an array of {dtype}, not of numbers')
  if isinstance(data, pv.Encoded):
    data = data.text
  # Python 2 stores bytes as strings.
  raw = data.encode('latin-1') if isinstance(data, str) else data
  if not isinstance(raw, bytes) or len(raw) != dtype.itemsize * math.prod(
    shape
  ):
    raise UserError('damaged: an array whose size differs from its shape')
  array = np.frombuffer(raw, dtype)
  return array.reshape(shape, order='F' if columns_first else 'C')

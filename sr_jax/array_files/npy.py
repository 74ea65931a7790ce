"""Reads NumPy's `.npy` and `.npz` files; checks all sizes before reading."""

from __future__ import annotations

import io
import math
import struct
import zipfile
import zlib
from collections.abc import Iterable
from typing import IO

import numpy as np

from sr_jax.errors import UserError

# Largest header in bytes; headers of arrays of plain numbers are shorter.
_HEADER_LIMIT = 1024
# Exceptions that reading a damaged archive raises.
_DAMAGE = (
  zipfile.BadZipFile,
  zlib.error,
  OSError,
  EOFError,
  ValueError,
  RuntimeError,  # an encrypted member
  NotImplementedError,
  LookupError,
  struct.error,
)


def read_npy(file: IO[bytes], limit: int) -> np.ndarray:
  """Reads one array of plain numbers.

  Args:
    file: The open file, at the first byte of the array's header.
    limit: Largest allowed size of the array in bytes.

  Raises:
    UserError: The file is damaged or cut short, holds Python objects, or
      declares more bytes than the limit.
  """
  shape, columns_first, dtype = _header(file)
  if dtype.hasobject:
    raise UserError('holds Python objects, not numbers')
  nbytes = math.prod(shape) * dtype.itemsize
  if nbytes > limit:
    raise UserError(f'declares {nbytes:,} bytes, at most {limit:,}')
  data = file.read(nbytes)
  if len(data) != nbytes:
    raise UserError(f'is cut short: has {len(data)} of {nbytes} bytes')
  array = np.frombuffer(data, dtype)
  return array.reshape(shape, order='F' if columns_first else 'C')


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
  """Reads a header: shape, whether the order is Fortran's, and data type."""
  read = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
  }
  try:
    version = np.lib.format.read_magic(file)
    header = read[version](file, max_header_size=_HEADER_LIMIT)
    if any(n < 0 for n in header[0]):
      raise ValueError('a negative size')
  # NumPy parses the header as a Python literal and may raise any exception.
  except Exception as error:
    reason = ' '.join(str(error).split())[:100] or type(error).__name__
    raise UserError(f'has a damaged header ({reason})') from None
  return header


def read_npz(
  file: IO[bytes], names: Iterable[str], limit: int
) -> dict[str, np.ndarray]:
  """Reads arrays of an archive.

  Args:
    file: The open archive.
    names: Names of the arrays to read.
    limit: Largest allowed size of each array in bytes.

  Raises:
    UserError: The archive is damaged or lacks one of the arrays, or `read_npy`
      refuses one of them.
  """
  arrays = {}
  try:
    with zipfile.ZipFile(file) as archive:
      for name in names:
        info = archive.getinfo(f'{name}.npy')
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
          raise UserError(f'{name} is packed in a way that NumPy never uses')
        if info.file_size > limit + _HEADER_LIMIT:
          raise UserError(f'{name} declares {info.file_size:,} bytes')
        # The read is bounded: reading to the end may decompress more bytes than
        # the archive declares.
        with archive.open(info) as member:
          data = member.read(info.file_size)
        arrays[name] = read_npy(io.BytesIO(data), limit)
  except UserError:
    raise
  except _DAMAGE as error:
    raise UserError(f'is a damaged archive ({error})') from None
  return arrays

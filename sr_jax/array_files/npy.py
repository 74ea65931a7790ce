"""NumPy's files `.npy` and `.npz`, with their sizes checked before reading."""

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

# Large enough for any header of plain numbers.
_HEADER_LIMIT = 1024
# What reading a damaged archive raises.
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
  """One array of plain numbers.

  Args:
    file: Open at the array's first byte.
    limit: Most bytes that the array may have.

  Raises:
    UserError: the file is damaged or cut short, holds Python objects, or
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
  """Shape, whether columns come first, and type of the numbers."""
  read = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
  }
  try:
    version = np.lib.format.read_magic(file)
    header = read[version](file, max_header_size=_HEADER_LIMIT)
    if any(n < 0 for n in header[0]):
      raise ValueError('a negative size')
  # NumPy parses the header as Python text and raises whatever that leads to.
  except Exception as error:
    reason = ' '.join(str(error).split())[:100] or type(error).__name__
    raise UserError(f'has a damaged header ({reason})') from None
  return header


def read_npz(
  file: IO[bytes], names: Iterable[str], limit: int
) -> dict[str, np.ndarray]:
  """Some arrays of an archive.

  Args:
    file: The archive.
    names: Of the arrays.
    limit: Most bytes of each.

  Raises:
    UserError: the archive is damaged, lacks one, or one is as `read_npy`
      refuses.
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
        # With its size, since reading to the end unpacks more than declared.
        with archive.open(info) as member:
          data = member.read(info.file_size)
        arrays[name] = read_npy(io.BytesIO(data), limit)
  except UserError:
    raise
  except _DAMAGE as error:
    raise UserError(f'is a damaged archive ({error})') from None
  return arrays

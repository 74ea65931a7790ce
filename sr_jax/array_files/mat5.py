"""Reads MATLAB's binary files of versions 5 to 7 from untrusted sources.

The sizes that a file declares are compared with the file's size before memory
is allocated. scipy's reader does not do this, and damaged files can crash it.
The format is described in MathWorks' "MAT-File Format".
"""

from __future__ import annotations

import itertools
import math
import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np

from sr_jax.errors import UserError

START = b'MATLAB 5.0 '
_HEADER = 128
# Bytes that may be allocated beyond the file's size, and the assumed cost of
# each value in bytes.
FREE_BYTES = 1 << 25
_BYTES_PER_VALUE = 256
_DEPTH_LIMIT = 32
_MOST_DIMENSIONS = 32
_CHUNK = 1 << 16

_MATRIX, _COMPRESSED = 14, 15
# NumPy types by the code of a storage type; text is stored as integers.
_STORED = {
  1: 'i1',
  2: 'u1',
  3: 'i2',
  4: 'u2',
  5: 'i4',
  6: 'u4',
  7: 'f4',
  9: 'f8',
  12: 'i8',
  13: 'u8',
}
_ENCODINGS = {1: 'utf-8', 2: 'utf-8', 16: 'utf-8', 4: 'utf-16', 17: 'utf-16'}
# Codes of the classes of arrays.
_DOUBLE = 6
_CELL, _STRUCT, _OBJECT, _CHAR, _SPARSE = 1, 2, 3, 4, 5
_NUMBERS = {
  6: 'f8',
  7: 'f4',
  8: 'i1',
  9: 'u1',
  10: 'i2',
  11: 'u2',
  12: 'i4',
  13: 'u4',
  14: 'i8',
  15: 'u8',
}
_COMPLEX = 0x800


def read_variables(data: bytes) -> dict[str, Any]:
  """Reads all variables of a file.

  Numbers become arrays (sparse matrices become dense), text becomes a string,
  cell arrays become a list, and structs a list of dictionaries. Lists are flat,
  in MATLAB's order. Other values, such as functions, are left out; inside a
  cell or struct they become None.

  Args:
    data: The bytes of the file.

  Returns:
    Values by the names of the variables.

  Raises:
    UserError, ValueError, LookupError, zlib.error: The file is damaged.
  """
  return _Reader(data).variables()


def written(arrays: Mapping[str, np.ndarray]) -> bytes:
  """Returns the bytes of a file that holds real matrices, as float64."""
  header = b'MATLAB 5.0 MAT-file'.ljust(124) + struct.pack('<H2s', 0x100, b'IM')
  return header + b''.join(
    _element(
      _MATRIX,
      _element(6, struct.pack('<II', _DOUBLE, 0))
      + _element(5, struct.pack(f'<{array.ndim}i', *array.shape))
      + _element(1, name.encode('ascii'))
      + _element(9, array.astype('<f8').tobytes(order='F')),
    )
    for name, array in arrays.items()
  )


def _element(kind: int, data: bytes) -> bytes:
  """Adds the header of an element, and padding to a multiple of 8 bytes."""
  return struct.pack('<II', kind, len(data)) + data + bytes(-len(data) % 8)


class _Reader:
  """Reads one file and limits the memory that it allocates."""

  def __init__(self, data: bytes) -> None:
    self._data = memoryview(data)
    little = bytes(data[126:128]) == b'IM'
    self._order: Literal['<', '>'] = '<' if little else '>'
    self._left = len(data) + FREE_BYTES

  def variables(self) -> dict[str, Any]:
    """Reads all variables; returns values by name."""
    found: dict[str, Any] = {}
    for kind, body in self._elements(self._data[_HEADER:]):
      if kind == _COMPRESSED:
        ((kind, body),) = self._elements(self._inflated(body))
      if kind != _MATRIX:
        raise UserError(f'damaged: a variable of the unknown kind {kind}')
      name, value = self._matrix(body, 0)
      if value is None:
        continue
      if name in found:
        raise UserError(f'has the variable {name[:80]!r} twice')
      found[name] = value
    return found

  def _take(self, count: int) -> None:
    self._left -= count
    if self._left < 0:
      raise UserError('holds far more data than its size allows')

  def _elements(self, data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yields the kind and the bytes of each element."""
    position = 0
    while position < len(data):
      kind, length = self._tag(data[position : position + 8])
      # Small elements, of up to 4 bytes, have their length in the high half.
      if kind >> 16:
        kind, length, start = kind & 0xFFFF, kind >> 16, position + 4
        position += 8
        if length > 4:
          raise UserError('damaged: a small element of impossible size')
      else:
        start = position + 8
        # All elements but compressed ones are padded.
        padding = 0 if kind == _COMPRESSED else -length % 8
        position = start + length + padding
      if start + length > len(data):
        raise UserError(
          f'is cut short: an element needs {length} bytes, {len(data) - start}'
          ' are left'
        )
      yield kind, data[start : start + length]

  def _tag(self, data: memoryview) -> tuple[int, int]:
    """Reads kind and length from the header of an element."""
    if len(data) < 8:
      raise UserError('is cut short within the header of an element')
    return struct.unpack(f'{self._order}II', data)

  def _inflated(self, data: memoryview) -> memoryview:
    """Decompresses an element, to at most the length that its header gives."""
    machine = zlib.decompressobj()
    head = machine.decompress(data[:_CHUNK], 8)
    _, length = self._tag(memoryview(head))
    self._take(length + 8)
    result = bytearray(length + 8)
    position = 0
    for part in itertools.chain((head,), _pieces(machine, data[_CHUNK:])):
      if position + len(part) > len(result):
        raise UserError('damaged: a variable larger than its declared size')
      result[position : position + len(part)] = part
      position += len(part)
    if not machine.eof or position != len(result):
      raise UserError('damaged: a variable smaller than its declared size')
    return memoryview(result)

  def _matrix(self, data: memoryview, depth: int) -> tuple[str, Any]:
    """Reads an array of any class; returns its name and value."""
    self._take(_BYTES_PER_VALUE)
    if depth > _DEPTH_LIMIT:
      raise UserError(f'nests values more than {_DEPTH_LIMIT} deep')
    if not data:
      return '', np.zeros(0)
    parts = self._elements(data)
    flags = int(self._stored(*next(parts))[0])
    kind = flags & 0xFF
    if kind not in (_CELL, _STRUCT, _OBJECT, _CHAR, _SPARSE, *_NUMBERS):
      return '', None
    shape = tuple(map(int, self._stored(*next(parts))))
    if len(shape) > _MOST_DIMENSIONS or any(n < 0 for n in shape):
      raise UserError('damaged: an array of impossible size')
    name = self._text(*next(parts))
    if kind in _NUMBERS:
      real = self._array(kind, shape, *next(parts))
      if flags & _COMPLEX:
        self._take(2 * real.nbytes)
        return name, real + 1j * self._array(kind, shape, *next(parts))
      return name, real
    if kind == _SPARSE:
      return name, self._sparse(shape, parts)
    if kind == _CHAR:
      return name, self._text(*next(parts))
    fields = None if kind == _CELL else self._fields(parts, kind)
    return name, self._values(parts, math.prod(shape), fields, data, depth)

  def _stored(self, kind: int, data: memoryview) -> np.ndarray:
    return np.frombuffer(
      data, np.dtype(_STORED[kind]).newbyteorder(self._order)
    )

  def _array(
    self, kind: int, shape: tuple[int, ...], stored: int, data: memoryview
  ) -> np.ndarray:
    """Reads numbers, which may be stored in a smaller type than their own."""
    dtype, values = np.dtype(_NUMBERS[kind]), self._stored(stored, data)
    if values.size != math.prod(shape):
      raise UserError(
        f'damaged: an array of shape {shape} with {values.size} numbers'
      )
    if values.dtype != dtype:
      self._take(values.size * dtype.itemsize)
    return values.astype(dtype, copy=False).reshape(shape, order='F')

  def _sparse(
    self, shape: tuple[int, ...], parts: Iterator[tuple[int, memoryview]]
  ) -> np.ndarray:
    """Reads a sparse matrix as a dense one; ignores imaginary parts."""
    if len(shape) != 2:
      raise UserError(f'damaged: a sparse matrix of shape {shape}')
    rows, starts, values = (self._stored(*next(parts)) for _ in range(3))
    height, width = shape
    in_order = starts.size == width + 1 and starts[0] == 0
    if not in_order or (np.diff(starts) < 0).any():
      raise UserError('damaged: a sparse matrix with columns out of order')
    count = int(starts[-1])
    # MATLAB may store spare entries after the last value.
    rows, values = rows[:count], values[:count]
    if len(rows) != count or len(values) != count:
      raise UserError('damaged: a sparse matrix with values missing')
    if count and not (rows.min() >= 0 and rows.max() < height):
      raise UserError('damaged: a sparse matrix with a row out of range')
    self._take(8 * height * width)
    dense = np.zeros(shape)
    columns = np.repeat(np.arange(width), np.diff(starts))
    dense[rows, columns] = values
    return dense

  def _text(self, kind: int, data: memoryview) -> str:
    self._take(4 * len(data))
    encoding = _ENCODINGS[kind]
    if encoding == 'utf-16':
      encoding += {'<': '-le', '>': '-be'}[self._order]
    return str(data, encoding, 'replace')

  def _fields(
    self, parts: Iterator[tuple[int, memoryview]], kind: int
  ) -> list[str]:
    """Reads the names of a struct's fields, which are padded with zeros."""
    if kind == _OBJECT:
      next(parts)  # skips the name of the object's class
    width = int(self._stored(*next(parts))[0])
    text = self._text(*next(parts))
    if width < 1 or len(text) % width:
      raise UserError('damaged: names of fields of impossible length')
    starts = range(0, len(text), width)
    return [text[i : i + width].partition('\0')[0] for i in starts]

  def _values(
    self,
    parts: Iterator[tuple[int, memoryview]],
    count: int,
    fields: list[str] | None,
    data: memoryview,
    depth: int,
  ) -> list[Any]:
    """Reads `count` cells, or `count` dictionaries of a struct's `fields`."""
    # Each value has a header of eight bytes.
    if 8 * count * len(fields or '1') > len(data):
      raise UserError(f'damaged: {count} values, of which most are missing')

    def value() -> Any:
      return self._matrix(_of_kind(_MATRIX, *next(parts)), depth + 1)[1]

    if fields is None:
      return [value() for _ in range(count)]
    self._take(_BYTES_PER_VALUE * count)
    return [{field: value() for field in fields} for _ in range(count)]


def _pieces(machine: Any, data: memoryview) -> Iterator[bytes]:
  """Yields the decompressed data in pieces of a bounded size."""
  rest: bytes | memoryview = machine.unconsumed_tail
  while True:
    # After a full piece more output may follow, even without further input.
    while part := machine.decompress(rest, _CHUNK):
      yield part
      rest = machine.unconsumed_tail
    if not data:
      return
    rest, data = data[:_CHUNK], data[_CHUNK:]


def _of_kind(kind: int, found: int, data: memoryview) -> memoryview:
  if found != kind:
    raise UserError(f'damaged: an element of kind {found}, not {kind}')
  return data

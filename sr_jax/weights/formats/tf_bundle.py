"""Reads variables from TensorFlow 1 checkpoints, without TensorFlow.

A checkpoint consists of `NAME.index`, a sorted table with type, shape, position
and checksum of every variable, and of one or more data files (shards) such as
`NAME.data-00000-of-00001`, which hold the numbers. The sizes that the index
declares are compared with the sizes of the files before memory is allocated.
"""

from __future__ import annotations

import contextlib
import functools
import glob
import math
import os
import re
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple

import numpy as np

from sr_jax.errors import UserError

_MAGIC = (0xDB4775248B80FB57).to_bytes(8, 'little')
_FOOTER = 48
_TRAILER = 5  # a block's compression type and checksum
_CHUNK = 1 << 16  # number of bytes per step of a checksum
# Real indices have 40 to 60 bytes per variable. The objects made from a hostile
# index could take a hundred times its bytes.
_INDEX_LIMIT = 1 << 22
_MOST_VARIABLES = 20_000
_LONGEST_NAME = 200
_MOST_REPEATED = 32  # largest number of equal fields, such as a shape's sizes

# Wire types of protocol buffers.
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
# Wire types by field number, for each kind of message; others are skipped.
_HEADER = {1: _VARINT, 2: _VARINT, 3: _BYTES}  # shards, big endian, version
_VERSION = {2: _VARINT}  # oldest reader
# Type, shape, shard, offset, size, checksum.
_ENTRY = {
  1: _VARINT,
  2: _BYTES,
  3: _VARINT,
  4: _VARINT,
  5: _VARINT,
  6: _FIXED32,
}
_SHAPE = {2: _BYTES, 3: _VARINT}  # sizes, unknown rank
_DIMENSION = {1: _VARINT}

_DTYPES = {
  1: 'f4',
  2: 'f8',
  3: 'i4',
  4: 'u1',
  5: 'i2',
  6: 'i1',
  9: 'i8',
  10: '?',
  17: 'u2',
  19: 'f2',
  22: 'u4',
  23: 'u8',
}


class _Entry(NamedTuple):
  """Type, shape and position of a variable; offset and size are in bytes."""

  dtype: np.dtype[Any]
  shape: tuple[int, ...]
  shard: int
  offset: int
  size: int
  checksum: int | None


def find_bundle(path: str | os.PathLike[str]) -> Path | None:
  """Finds the TensorFlow checkpoint to which a path refers.

  Args:
    path: The index file, graph file or a data file, their common name, or a
      folder with one index file or with a file `checkpoint` that names one.

  Returns:
    The common name of the checkpoint's files, without `.index`. None if the
    path refers to no TensorFlow checkpoint.

  Raises:
    UserError: A folder holds no checkpoint, or several without naming one.
  """
  path = Path(path)
  if os.path.isdir(path):
    with _naming(path):
      return path / _latest(path)
  known = re.fullmatch(r'(.+)\.(index|meta|data-\d{5}-of-\d{5})', path.name)
  if known:
    return path.with_name(known[1])
  if os.path.exists(path):
    return None
  pattern = glob.escape(str(path))
  parts = glob.glob(f'{pattern}.index') + glob.glob(f'{pattern}.data-*-of-*')
  return path if parts else None


def _latest(folder: Path) -> str:
  """Name of the only or latest checkpoint in a folder."""
  # Only printable names, because they appear in messages.
  names = [
    path.name.removesuffix('.index')
    for path in folder.glob('?*.index')
    if path.name.isprintable()
  ]
  if not names:
    raise UserError('is a folder without a TensorFlow checkpoint (NAME.index)')
  record = folder / 'checkpoint'
  if record.is_file():
    with open(record, encoding='utf-8', errors='replace') as file:
      latest = re.search(
        r'^model_checkpoint_path: *"([^"]+)"', file.read(4096), re.MULTILINE
      )
    if latest:
      # The folder is dropped: it is often that of the author's machine.
      name = PureWindowsPath(latest[1]).name
      if name not in names:
        raise UserError(
          f'lacks the checkpoint {name!r:.80} that its file `checkpoint` names;'
          ' give the .index file you mean'
        )
      return name
  if len(names) > 1:
    raise UserError(
      f'holds {len(names)} checkpoints; give the .index file you mean'
    )
  return names[0]


def read_bundle(prefix: Path) -> dict[str, np.ndarray]:
  """Reads all variables of a checkpoint.

  Args:
    prefix: The checkpoint's name without `.index`, from `find_bundle`.

  Returns:
    The variables by name, as read-only views of the data files' bytes.

  Raises:
    UserError: A file is missing, damaged, compressed, of another format or
      version, or holds anything but whole arrays of plain numbers.
  """
  index = prefix.with_name(f'{prefix.name}.index')
  with _naming(index):
    if _size(index) > _INDEX_LIMIT:
      raise UserError('is of impossible size for a checkpoint index')
    shards, entries = _read_index(index.read_bytes())
  variables: dict[str, np.ndarray] = {}
  for shard in sorted({entry.shard for entry in entries.values()}):
    data = prefix.with_name(f'{prefix.name}.data-{shard:05}-of-{shards:05}')
    mine = {k: entry for k, entry in entries.items() if entry.shard == shard}
    with _naming(data):
      variables |= _read_shard(data, mine)
  return {name: variables[name] for name in entries}


@contextlib.contextmanager
def _naming(where: Path | str) -> Iterator[None]:
  """Puts the name of the file or variable before an error text."""
  try:
    yield
  except UserError as error:
    raise UserError(f'{where}: {error}') from None
  except OSError as error:
    raise UserError(f'{where}: {error.strerror or error}') from None


def _damaged(fault: str) -> UserError:
  return UserError(f'damaged: {fault}; copy or download it again')


def _size(path: Path) -> int:
  """Size of a file in bytes."""
  if not os.path.isfile(path):
    raise UserError(
      'is missing; a checkpoint needs its .index and its .data files'
    )
  return path.stat().st_size


def _read_shard(
  path: Path, entries: Mapping[str, _Entry]
) -> dict[str, np.ndarray]:
  """Reads the variables of one data file."""
  end = 0
  order = sorted(entries, key=lambda k: (entries[k].offset, entries[k].size))
  for name in order:
    entry = entries[name]
    # Variables must not overlap: a hostile index could make the reader process
    # the same bytes any number of times.
    if entry.offset < end:
      raise _damaged(f'{name!r:.80} overlaps another variable')
    end = entry.offset + entry.size
  if (size := _size(path)) != end:
    raise _damaged(f'has {size} bytes, but its index describes {end}')
  data = path.read_bytes()
  variables = {}
  for name, entry in entries.items():
    raw = memoryview(data)[entry.offset :][: entry.size]
    if entry.checksum not in (None, _masked_crc32c(raw)):
      raise _damaged(f'{name!r:.80} has a wrong checksum')
    variables[name] = np.frombuffer(raw, entry.dtype).reshape(entry.shape)
  return variables


def _read_index(data: bytes) -> tuple[int, dict[str, _Entry]]:
  """Reads an index: the number of shards, and the entries of all variables."""
  table = _read_table(data)
  header = next(table, None)
  if header is None or header[0]:
    raise _damaged('its table has no header')
  shards = _read_header(header[1])
  entries: dict[str, _Entry] = {}
  for key, value in table:
    name = _read_name(key)
    with _naming(f'{name!r:.80}'):
      entries[name] = _read_entry(value, shards)
    if len(entries) > _MOST_VARIABLES:
      raise UserError(f'has more than {_MOST_VARIABLES} variables')
  if not entries:
    raise UserError('holds no variables')
  return shards, entries


def _read_name(key: bytes) -> str:
  if key.startswith(b'\0'):
    raise UserError(
      'holds slices of variables; save it again with whole variables'
    )
  try:
    return key.decode()
  except UnicodeDecodeError:
    raise _damaged('a name that is no text') from None


def _read_header(message: bytes) -> int:
  """Checks the header of an index, and returns the number of shards."""
  fields = _fields(message, _HEADER)
  version = _fields(fields.get(3, [b''])[-1], _VERSION)
  if _number(version, 2) > 1:
    raise UserError('is of a newer version than 1; save it again in version 1')
  if _number(fields, 2):
    raise UserError('was written on a big-endian machine; save it on another')
  shards = _number(fields, 1)
  if not 1 <= shards <= 99_999:
    raise _damaged(f'{shards} data files')
  return shards


def _read_entry(message: bytes, shards: int) -> _Entry:
  fields = _fields(message, _ENTRY)
  code = _number(fields, 1)
  if code not in _DTYPES:
    raise UserError(
      f'is of the TensorFlow type {code}, which cannot be read; save the '
      'checkpoint without this variable'
    )
  dtype = np.dtype(_DTYPES[code]).newbyteorder('<')
  shape = _read_shape(fields.get(2, [b''])[-1])
  shard, offset, size = (_number(fields, number) for number in (3, 4, 5))
  # NumPy limits the product of all sizes but 0.
  if math.prod(n or 1 for n in shape) * dtype.itemsize >= 2**63:
    raise _damaged('a shape of impossible sizes')
  if math.prod(shape) * dtype.itemsize != size:
    raise _damaged(f'{dtype.name} of shape {shape!s:.80} in {size} bytes')
  if shard >= shards:
    raise _damaged(f'in data file {shard} of {shards}')
  checksum = fields.get(6, [None])[-1]
  return _Entry(dtype, shape, shard, offset, size, checksum)


def _read_shape(message: bytes) -> tuple[int, ...]:
  fields = _fields(message, _SHAPE)
  if _number(fields, 3):
    raise _damaged('a shape that is not known')
  return tuple(
    _number(_fields(size, _DIMENSION), 1) for size in fields.get(2, [])
  )


def _number(fields: Mapping[int, list[Any]], number: int) -> int:
  """A field that is 0 if it is missing; it must not be negative."""
  value = fields.get(number, [0])[-1]
  if value >= 2**63:  # two's complement of 64 bits
    raise _damaged(f'the negative number {value - 2**64}')
  return value


def _fields(message: bytes, wires: Mapping[int, int]) -> dict[int, list[Any]]:
  """Parses a protocol buffer; returns integers or bytes by field number."""
  fields: dict[int, list[Any]] = {}
  position = 0
  while position < len(message):
    tag, position = _varint(message, position)
    number, wire = tag >> 3, tag & 7
    if wires.get(number, wire) != wire:
      raise _damaged(f'a field of type {wire} for {wires[number]}')
    value: int | bytes
    if wire == _VARINT:
      value, position = _varint(message, position)
    else:
      length = {_FIXED64: 8, _FIXED32: 4}.get(wire)
      if wire == _BYTES:
        length, position = _varint(message, position)
      if length is None or position + length > len(message):
        raise _damaged('a field of impossible type or length')
      value = message[position : position + length]
      position += length
      if wire != _BYTES:
        value = int.from_bytes(value, 'little')
    if number in wires:
      fields.setdefault(number, []).append(value)
      if len(fields[number]) > _MOST_REPEATED:
        raise _damaged('a field that is repeated too often')
  return fields


def _varint(data: bytes, position: int) -> tuple[int, int]:
  """Reads a number in groups of 7 bits, lowest first; and the next position."""
  value = 0
  for i, byte in enumerate(data[position : position + 10]):
    value |= (byte & 0x7F) << 7 * i
    if byte < 0x80:
      if value >= 2**64:
        break
      return value, position + i + 1
  raise _damaged('a number without end')


def _read_table(data: bytes) -> Iterator[tuple[bytes, bytes]]:
  """Yields the keys and values of a sorted table, in their order."""
  if len(data) < _FOOTER or not data.endswith(_MAGIC):
    raise UserError(
      'is cut short or no index of a TensorFlow checkpoint (a table that ends '
      'in its magic number); copy or download it again'
    )
  body, footer = data[:-_FOOTER], data[-_FOOTER:]
  offset, size, position = _place(footer, 0)
  _block(body, offset, size)  # the block of filters is only checked
  offset, size, _ = _place(footer, position)
  end, last = 0, None
  for _, handle in _entries(_block(body, offset, size)):
    offset, size, _ = _place(handle, 0)
    # Blocks must not overlap: a few bytes could otherwise make the reader parse
    # one block any number of times.
    if offset < end:
      raise _damaged('its blocks overlap')
    end = offset + size + _TRAILER
    for key, value in _entries(_block(body, offset, size)):
      if last is not None and key <= last:
        raise _damaged('its names are not in order')
      last = key
      yield key, value


def _place(data: bytes, position: int) -> tuple[int, int, int]:
  """Reads offset and size of a block; also returns the next position."""
  offset, position = _varint(data, position)
  size, position = _varint(data, position)
  return offset, size, position


def _block(body: bytes, offset: int, size: int) -> bytes:
  """Checks a block and returns its entries without the data after them."""
  end = offset + size
  if end + _TRAILER > len(body):
    raise _damaged(f'a block ends at {end} of {len(body)} bytes')
  kind, checksum = struct.unpack_from('<BI', body, end)
  if checksum != _masked_crc32c(body[offset : end + 1]):
    raise _damaged('a block has a wrong checksum')
  if kind:
    raise UserError(
      'is compressed, which cannot be read; save the checkpoint again with '
      'tf.compat.v1.train.Saver'
    )
  # A block ends with the positions of all full keys, and their number.
  restarts = int.from_bytes(body[end - 4 : end], 'little')
  if 4 * (restarts + 1) > size:
    raise _damaged('a block of impossible length')
  return body[offset : end - 4 * (restarts + 1)]


def _entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
  """Yields keys and values; a key is stored as its difference to the last."""
  key, position = b'', 0
  while position < len(block):
    shared, position = _varint(block, position)
    rest, position = _varint(block, position)
    length, position = _varint(block, position)
    middle = position + rest
    if shared > len(key) or middle + length > len(block):
      raise _damaged('an entry of impossible length')
    if shared + rest > _LONGEST_NAME:
      raise _damaged('a name of impossible length')
    key = key[:shared] + block[position:middle]
    position = middle + length
    yield key, block[middle:position]


def _masked_crc32c(data: bytes | memoryview) -> int:
  """CRC-32C as TensorFlow stores it: rotated by 15 bits, plus a constant."""
  tables = _crc_tables()
  crc = np.array([0xFFFFFFFF], np.uint32)
  whole = len(data) - len(data) % _CHUNK
  for start in range(0, whole, _CHUNK):
    chunk = np.frombuffer(data, np.uint8, _CHUNK, start)
    parts = tables[0][0][chunk]
    # Remainders of neighbours are combined until one is left.
    for table in tables[:-1]:
      parts = _move_on(table, parts[::2]) ^ parts[1::2]
    crc = _move_on(tables[-1], crc) ^ parts
  value, table = int(crc[0]), tables[0][0].tolist()
  for byte in data[whole:]:
    value = table[value & 0xFF ^ byte] ^ value >> 8
  value ^= 0xFFFFFFFF
  return ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF


@functools.cache
def _crc_tables() -> list[np.ndarray]:
  """Tables for `_move_on` by 1, 2, 4, ..., `_CHUNK` bytes; uint32 [4, 256]."""
  byte = np.arange(256, dtype=np.uint32)
  rest = byte
  for _ in range(8):
    rest = rest >> 1 ^ (rest & 1) * np.uint32(0x82F63B78)
  tables = [np.stack([rest, byte, byte << 8, byte << 16])]
  while 1 << len(tables) <= _CHUNK:
    tables.append(_move_on(tables[-1], tables[-1]))
  return tables


def _move_on(table: np.ndarray, crc: np.ndarray) -> np.ndarray:
  """Updates remainders by as many zero bytes as the table is made for."""
  low = table[0][crc & 0xFF] ^ table[1][crc >> 8 & 0xFF]
  return low ^ table[2][crc >> 16 & 0xFF] ^ table[3][crc >> 24]

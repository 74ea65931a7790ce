"""A writer of TensorFlow 1 checkpoints, made independently of the reader.

Every level can be written by itself, so that hostile files can be made too: a
message of numbered fields, a block of entries, a table of blocks, a checkpoint.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from sr_jax.weights.formats.tf_bundle import find_bundle, read_bundle

MAGIC = bytes.fromhex('57fb808b247547db')
TYPES = {
  'float32': 1,
  'float64': 2,
  'int32': 3,
  'uint8': 4,
  'int16': 5,
  'int8': 6,
  'int64': 9,
  'bool': 10,
  'uint16': 17,
  'float16': 19,
  'uint32': 22,
  'uint64': 23,
}


def _remainder(value: int) -> int:
  """CRC of a byte, highest bit first, followed by 32 zeros."""
  value <<= 32
  for bit in range(39, 31, -1):
    if value >> bit:
      value ^= 0x1_1EDC_6F41 << (bit - 32)
  return value


_REMAINDERS = [_remainder(byte) for byte in range(256)]
_REVERSED = [int(f'{byte:08b}'[::-1], 2) for byte in range(256)]


def crc32c(data: bytes) -> int:
  """CRC-32C by long division of the reversed bits."""
  crc = 0xFFFFFFFF
  for byte in data:
    crc = (crc << 8) % 2**32 ^ _REMAINDERS[crc >> 24 ^ _REVERSED[byte]]
  return int(f'{crc ^ 0xFFFFFFFF:032b}'[::-1], 2)


def masked(data: bytes) -> int:
  """The checksum as the files store it."""
  bits = f'{crc32c(data):032b}'
  return (int(bits[-15:] + bits[:-15], 2) + 0xA282EAD8) % 2**32


def varint(value: int) -> bytes:
  """A number of 64 bits; negative ones as their two's complement."""
  value %= 2**64
  groups = []
  while not groups or value:
    groups.append(value % 128)
    value //= 128
  return bytes([*(group + 128 for group in groups[:-1]), groups[-1]])


def field(number: int, value: int | bytes, *, fixed: bool = False) -> bytes:
  """One field of a message; 32 bits wide if `fixed`."""
  if isinstance(value, bytes):
    return varint(8 * number + 2) + varint(len(value)) + value
  if fixed:
    return varint(8 * number + 5) + struct.pack('<I', value)
  return varint(8 * number) + varint(value)


def header(shards: int = 1, *more: bytes) -> bytes:
  """The value of the empty key: the header."""
  return field(1, shards) + field(3, field(1, 1)) + b''.join(more)


def entry(
  shape: Sequence[int],
  size: int,
  *,
  kind: int = 1,
  shard: int = 0,
  offset: int = 0,
  checksum: int | None = None,
) -> bytes:
  """The value of a variable's name: its entry."""
  sizes = b''.join(field(2, field(1, n)) for n in shape)
  message = field(1, kind) + field(2, sizes) + field(3, shard)
  message += field(4, offset) + field(5, size)
  return message + (b'' if checksum is None else field(6, checksum, fixed=True))


def block(entries: Mapping[bytes, bytes], interval: int = 16) -> bytes:
  """Entries of a block, each key without what it shares with the last."""
  data, starts, last = b'', [0], b''
  for i, (key, value) in enumerate(entries.items()):
    shared = 0
    if i % interval:
      while key[: shared + 1] == last[: shared + 1] and shared < len(last):
        shared += 1
    elif i:
      starts.append(len(data))
    data += varint(shared) + varint(len(key) - shared) + varint(len(value))
    data += key[shared:] + value
    last = key
  return data + struct.pack(f'<{len(starts) + 1}I', *starts, len(starts))


def table(blocks: Mapping[bytes, bytes], *, compression: int = 0) -> bytes:
  """A file of blocks by their last keys."""
  data, places = b'', {}

  def append(content: bytes) -> bytes:
    nonlocal data
    place = varint(len(data)) + varint(len(content))
    content += bytes([compression])
    data += content + struct.pack('<I', masked(content))
    return place

  for key, content in blocks.items():
    places[key] = append(content)
  footer = append(block({})) + append(block(places, 1))
  return data + footer.ljust(40, b'\0') + MAGIC


def index(entries: Mapping[str, bytes], shards: int = 1) -> bytes:
  """An index of one block."""
  encoded = {name.encode(): value for name, value in entries.items()}
  return table({b'~': block({b'': header(shards), **encoded})})


def checkpoint(
  tensors: Mapping[str, np.ndarray],
  *,
  shards: int = 1,
  per_block: int = 1000,
  interval: int = 16,
) -> dict[str, bytes]:
  """Files of a checkpoint by suffix; variables are spread over the shards."""
  data = [b''] * shards
  items = {b'': header(shards)}
  for i, name in enumerate(sorted(tensors, key=str.encode)):
    array, shard = tensors[name], i % shards
    raw = array.tobytes()
    items[name.encode()] = entry(
      array.shape,
      len(raw),
      kind=TYPES[array.dtype.name],
      shard=shard,
      offset=len(data[shard]),
      checksum=masked(raw),
    )
    data[shard] += raw
  keys = list(items)
  blocks = {}
  for i in range(0, len(keys), per_block):
    part = keys[i : i + per_block]
    blocks[part[-1]] = block({key: items[key] for key in part}, interval)
  files = {'.index': table(blocks)}
  for shard, raw in enumerate(data):
    files[f'.data-{shard:05}-of-{shards:05}'] = raw
  return files


def write(prefix: Path, files: Mapping[str, bytes]) -> Path:
  """Writes the files of a checkpoint and returns its path."""
  for suffix, data in files.items():
    prefix.with_name(prefix.name + suffix).write_bytes(data)
  return prefix


def read(path) -> dict:
  """Reads the variables of the checkpoint at a path."""
  prefix = find_bundle(path)
  assert prefix is not None
  return read_bundle(prefix)


def assert_equal(contents, tensors):
  assert sorted(contents) == sorted(tensors)
  for name, array in tensors.items():
    assert contents[name].dtype == array.dtype, name
    assert contents[name].shape == array.shape, name
    np.testing.assert_array_equal(contents[name], array, err_msg=name)

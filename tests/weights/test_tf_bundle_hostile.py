"""Damaged and hostile TensorFlow checkpoints: read whole or refused."""

from __future__ import annotations

import struct
import time
import tracemalloc

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import tf_files as t
from tf_files import assert_equal, read

from sr_jax.errors import UserError
from tests.nightly import nightly_of


def hostile(tmp_path, index: bytes, *data: bytes) -> str:
  """The error of reading a checkpoint, with bounded time and memory."""
  files = {
    f'.data-{i:05}-of-{len(data):05}': content for i, content in enumerate(data)
  }
  path = t.write(tmp_path / 'hostile', {'.index': index, **files})
  start = time.process_time()
  tracemalloc.start()
  try:
    with pytest.raises(UserError) as caught:
      read(path)
  finally:
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
  assert peak < 2 * sum(map(len, (index, *data))) + 50e6
  assert time.process_time() - start < 20
  message = str(caught.value)
  assert message.startswith(f'{path}.')
  assert message.isprintable()
  return message.removeprefix(f'{path}')


# Each entry declares something that contradicts four bytes of data.
ENTRIES = {
  'size': (
    t.entry((1,), 2**62),
    'float32 of shape (1,) in 4611686018427387904',
  ),
  'shape': (t.entry((2**62,), 4), 'a shape of impossible sizes'),
  'shape and size': (t.entry((2**60,), 2**62), 'has 4 bytes, but its index'),
  'product': (t.entry((2**32, 2**32), 0), 'a shape of impossible sizes'),
  'product with 0': (t.entry((2**62, 2**62, 0), 0), 'a shape of impossible'),
  'negative size': (t.entry((1,), -4), 'the negative number -4'),
  'negative shape': (t.entry((-1, -1), 4), 'the negative number -1'),
  'negative offset': (t.entry((1,), 4, offset=-4), 'the negative number -4'),
  'far offset': (t.entry((1,), 4, offset=2**62), 'has 4 bytes, but its index'),
  'near offset': (t.entry((1,), 4, offset=1), 'but its index describes 5'),
  'shard': (t.entry((1,), 4, shard=1), 'in data file 1 of 1'),
  'negative shard': (t.entry((1,), 4, shard=-1), 'the negative number -1'),
  'rank': (t.entry((1,) * 33, 4), 'repeated too often'),
  'unknown rank': (
    t.field(1, 1) + t.field(2, t.field(3, 1)) + t.field(5, 4),
    'a shape that is not known',
  ),
  'strings': (t.entry((1,), 4, kind=7), "'a': is of the TensorFlow type 7"),
  'no type': (b'', 'is of the TensorFlow type 0'),
  'checksum': (t.entry((1,), 4, checksum=1), "'a' has a wrong checksum"),
  'bytes for a number': (t.field(4, b'x'), 'a field of type 2 for 0'),
  'long field': (b'\x12\xff\x01x', 'a field of impossible type or length'),
  'group': (b'\x7b', 'a field of impossible type or length'),
  'cut number': (b'\x08', 'a number without end'),
  'long number': (b'\x08' + b'\xff' * 10 + b'\1', 'a number without end'),
  'large number': (b'\x08' + b'\xff' * 9 + b'\x7f', 'a number without end'),
}


@pytest.mark.parametrize('name', ENTRIES)
def test_entries_that_contradict_the_files(tmp_path, name):
  message, reason = ENTRIES[name]
  assert reason in hostile(tmp_path, t.index({'a': message}), bytes(4))


def test_unknown_fields_are_skipped(tmp_path):
  """Protocol buffers require this; one field of each wire type."""
  more = t.field(20, 1) + t.field(21, b'x') + t.field(22, 1, fixed=True)
  more += t.varint(8 * 23 + 1) + bytes(8)
  entry = t.entry((1,), 4) + more
  files = {'.index': t.index({'a': entry}), '.data-00000-of-00001': bytes(4)}
  assert read(t.write(tmp_path / 'x', files)) == {'a': np.float32([0])}


def test_variables_that_share_their_bytes(tmp_path):
  entries = {f'{i:04}': t.entry((250_000,), 1_000_000) for i in range(1000)}
  message = hostile(tmp_path, t.index(entries), bytes(1_000_000))
  assert "'0001' overlaps another variable" in message


def raw_table(*blocks: bytes) -> bytes:
  """Makes a table of the given blocks."""
  return t.table({bytes([i + 1]): content for i, content in enumerate(blocks)})


def table_of(items: dict[bytes, bytes]) -> bytes:
  """Makes a table of one block."""
  return raw_table(t.block(items))


NONE = t.entry((0,), 0)
HEADER = {b'': t.header()}
HEAD, TAIL = t.block(HEADER)[:-8], t.block(HEADER)[-8:]
LONG = HEAD + b'\0\xc8\1' + t.varint(len(NONE)) + b'0' * 200 + NONE
SMALL = [
  b'\xc3\1\5' + t.varint(len(NONE)) + f'{i:05}'.encode() + NONE
  for i in range(1, 25_000)
]
NO_INDEX = 'is cut short or no index of a TensorFlow checkpoint'
TABLES = {
  'nothing in it': (raw_table(), 'its table has no header'),
  'no header': (table_of({b'a': NONE}), 'its table has no header'),
  'no variables': (table_of(HEADER), 'holds no variables'),
  'a wrong header': (table_of({b'': t.field(1, b'x')}), 'a field of type 2'),
  'no data files': (t.index({'a': NONE}, shards=0), '0 data files'),
  'many data files': (t.index({'a': NONE}, 10**5), '100000 data files'),
  'negative data files': (t.index({'a': NONE}, -1), 'the negative number -1'),
  'one name twice': (raw_table(HEAD + TAIL, HEAD + TAIL), 'are not in order'),
  'no order': (
    table_of({**HEADER, b'b': NONE, b'a': NONE}),
    'its names are not in order',
  ),
  'no text': (table_of({**HEADER, b'\xff': NONE}), 'a name that is no text'),
  'slices': (table_of({**HEADER, b'\0\1a': b''}), 'holds slices'),
  'no restarts': (raw_table(b''), 'a block of impossible length'),
  'many restarts': (raw_table(b'\xff' * 4), 'a block of impossible length'),
  'shared with nothing': (raw_table(b'\5\0\0' + TAIL), 'an entry of impossib'),
  'long rest': (raw_table(b'\0\x7f\0' + TAIL), 'an entry of impossible'),
  'long value': (raw_table(b'\0\0\x7f' + TAIL), 'an entry of impossible'),
  'long name': (
    raw_table(b'\0\xff\1\0' + b'a' * 255 + TAIL),
    'a name of impossible length',
  ),
  'growing names': (
    raw_table(LONG + b'\xc8\1\1\0a' * 1000 + TAIL),
    'a name of impossible length',
  ),
  'many long names': (
    raw_table(LONG + b''.join(SMALL) + TAIL),
    'has more than 20000 variables',
  ),
  'zeros': (bytes(48), NO_INDEX),
  'nothing': (b'', NO_INDEX),
  'another file': (b'\x89PNG' + bytes(200), NO_INDEX),
  'only a footer': (bytes(40) + t.MAGIC, 'a block ends at 0 of 0 bytes'),
  'a large one': (bytes(2**22 + 1), 'is of impossible size'),
}


@pytest.mark.parametrize('name', nightly_of(TABLES, ['many long names']))
def test_hostile_tables(tmp_path, name):
  data, reason = TABLES[name]
  assert reason in hostile(tmp_path, data, b'')


def test_other_kinds_of_checkpoints(tmp_path):
  one = {'a': t.entry((1,), 4)}
  for more, reason in (
    (t.field(2, 1), 'was written on a big-endian machine; save it on another'),
    (
      t.field(3, t.field(2, 2)),
      'is of a newer version than 1; save it again in version 1',
    ),
  ):
    items = {b'': t.header(1, more), b'a': one['a']}
    index = t.table({b'~': t.block(items)})
    assert hostile(tmp_path, index, bytes(4)) == f'.index: {reason}'
  index = t.table({b'a': t.block({b'': t.header()})}, compression=1)
  assert 'is compressed, which cannot be read' in hostile(tmp_path, index)


def test_one_block_asked_for_many_times(tmp_path):
  """A few bytes would cost seconds of checksums, or gigabytes."""
  content = bytes(20_000) + struct.pack('<I', 5_000)
  place = t.varint(0) + t.varint(len(content))
  data = content + b'\0' + struct.pack('<I', t.masked(content + b'\0'))
  places = t.block({i.to_bytes(4, 'big'): place for i in range(2_000)}, 1)
  footer = place + t.varint(len(data)) + t.varint(len(places))
  data += places + b'\0' + struct.pack('<I', t.masked(places + b'\0'))
  message = hostile(tmp_path, data + footer.ljust(40, b'\0') + t.MAGIC)
  assert 'its blocks overlap' in message


@pytest.mark.parametrize('size', [2**17, 3 * 2**16 - 1, 1_000_001])
def test_checksums_of_many_bytes(tmp_path, size):
  data = np.random.default_rng(0).integers(0, 256, size, np.uint8).tobytes()
  entry = t.entry((size,), size, kind=4, checksum=t.masked(data))
  files = {'.index': t.index({'a': entry}), '.data-00000-of-00001': data}
  assert read(t.write(tmp_path / 'large', files))['a'].tobytes() == data
  wrong = data[:-70_000] + b'\0' + data[-69_999:]
  assert wrong != data
  index = files['.index']
  assert "'a' has a wrong checksum" in hostile(tmp_path, index, wrong)


def test_many_megabytes_are_checked_in_seconds(tmp_path):
  size = 20_000_000
  index = t.index({'a': t.entry((size // 4,), size, checksum=1)})
  assert 'wrong checksum' in hostile(tmp_path, index, bytes(size))


# Two blocks of three, keys with shared beginnings, two data files.
TENSORS = {
  'MODEL/conv1/bias': np.arange(3, dtype=np.float32),
  'MODEL/conv1/kernel': np.arange(6, dtype=np.float32).reshape(1, 1, 2, 3),
  'global_step': np.int32(7),
  'stop_grad': np.bool_(True),
}


def read_or_refuse(path, files) -> dict | None:
  """Reads a checkpoint; None if refused in one line. Other errors fail."""
  contents, message = None, ''
  try:
    contents = read(t.write(path, files))
  except UserError as error:
    message = str(error)
  assert message.isprintable()
  return contents


@hypothesis.given(st.data())
@hypothesis.settings(max_examples=300, deadline=None)
def test_truncated_lengthened_and_flipped(tmp_path_factory, data):
  originals = t.checkpoint(TENSORS, shards=2, per_block=3)
  suffix = data.draw(st.sampled_from(sorted(originals)))
  content = bytearray(originals[suffix])
  kind = data.draw(st.sampled_from(['cut', 'longer', 'flip', 'swap']))
  if kind == 'cut':
    del content[data.draw(st.integers(0, len(content) - 1)) :]
  elif kind == 'longer':
    content += data.draw(st.binary(min_size=1, max_size=60))
  elif kind == 'flip':
    for _ in range(data.draw(st.integers(1, 3))):
      bit = data.draw(st.integers(0, 8 * len(content) - 1))
      content[bit // 8] ^= 1 << bit % 8
  else:
    start = data.draw(st.integers(0, len(content) - 1))
    patch = data.draw(st.binary(min_size=1, max_size=12))
    content[start : start + len(patch)] = patch
  files = originals | {suffix: bytes(content)}
  contents = read_or_refuse(tmp_path_factory.mktemp('fuzz') / 'x', files)
  if contents is not None:
    assert_equal(contents, TENSORS)


@pytest.mark.nightly
@pytest.mark.parametrize('suffix', sorted(t.checkpoint(TENSORS, shards=2)))
def test_every_byte_and_every_length(tmp_path, suffix):
  """If a file with a flipped bit is read, the bit has no effect."""
  originals = t.checkpoint(TENSORS, shards=2, per_block=3)
  path = t.write(tmp_path / 'x', originals)
  content = originals[suffix]
  for position in range(len(content)):
    flipped = bytearray(content)
    flipped[position] ^= 1 << position % 8
    contents = read_or_refuse(path, {suffix: bytes(flipped)})
    if contents is not None:
      # Bytes between the places of two blocks and the magic number.
      assert suffix == '.index'
      assert len(content) - 44 <= position < len(content) - 8
      assert_equal(contents, TENSORS)
  for length in range(len(content)):
    assert read_or_refuse(path, {suffix: content[:length]}) is None


@hypothesis.given(
  st.one_of(
    st.binary(max_size=40).map(lambda b: t.index({'a': b})),
    st.binary(max_size=40).map(lambda b: raw_table(HEAD + b + TAIL)),
    st.binary(max_size=40).map(
      lambda b: t.table({b'~': t.block({b'': b, b'a': t.entry((1,), 4)})})
    ),
    st.binary(max_size=40).map(lambda b: b.ljust(40, b'\0') + t.MAGIC),
    st.binary(max_size=200),
  )
)
@hypothesis.settings(max_examples=300, deadline=None)
def test_bytes_under_right_checksums(tmp_path_factory, index):
  """Hostile files have right checksums."""
  files = {'.index': index, '.data-00000-of-00001': bytes(4)}
  read_or_refuse(tmp_path_factory.mktemp('fuzz') / 'x', files)

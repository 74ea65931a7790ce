"""Hostile files: an error of one line, no code run, bounded memory."""

from __future__ import annotations

import argparse
import collections
import datetime
import functools
import pathlib
import pickle
import struct
import tracemalloc
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest

from sr_jax.errors import UserError
from sr_jax.weights.formats.torch_pickle import read_tensors
from tests.nightly import nightly, nightly_of
from tests.weights import mutations
from tests.weights import torch_files as t

TORCH = Path(__file__).parents[1] / 'golden' / 'torch'
ONE = {'0': np.float32([1]).tobytes()}


def refusal(tmp_path, data: bytes) -> str:
  """The error that refuses a file, with bounded time and memory."""
  message = mutations.refusal(read_tensors, tmp_path / 'hostile.pth', data)
  assert message
  return message


class Harm:
  """Pickles as a call that would leave a file behind."""

  def __init__(self, function, *args):
    self.call = function, args

  def __reduce__(self):
    return self.call


@pytest.mark.parametrize('protocol', [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize('legacy', [False, True])
def test_code_is_refused_by_name_and_not_run(tmp_path, protocol, legacy):
  import os

  mark = tmp_path / 'mark'
  code = pickle.dumps({'a': Harm(os.system, f'touch {mark}')}, protocol)
  if legacy:
    whole = t.legacy_file(b'N').split(t.pickled(b'N'))
    data = whole[0] + code + whole[1]
  else:
    value = code.removeprefix(b'\x80\x02').removesuffix(b'.')
    data = t.zip_file(value)
  # Its name is that of the module which implements it.
  expected = f'refers to {os.system.__module__}.system, which is neither'
  assert refusal(tmp_path, data).startswith(expected)
  assert not mark.exists()


@pytest.mark.parametrize(
  'name',
  [
    'os.system',
    'builtins.eval',
    '__builtin__.eval',
    'subprocess.Popen',
    'builtins.getattr',
    'torch.load',
    'torch._utils._rebuild_sparse_tensor',
    'torch.hub.load',
    'vdsr.Net',
    'numpy.load',
  ],
)
def test_calls_are_refused_by_their_full_name(tmp_path, name):
  data = t.zip_file(t.mapping({'a': t.call(name, t.text('x'))}))
  assert refusal(tmp_path, data).startswith(f'refers to {name}, which is')


@pytest.mark.parametrize('name', ['os.system', 'argparse.Namespace'])
def test_names_of_the_standard_library_are_refused_unused(tmp_path, name):
  data = t.zip_file(t.mapping({'a': t.name(name)}))
  assert refusal(tmp_path, data).startswith(f'refers to {name}, which is')


def test_objects_that_are_no_modules_are_refused(tmp_path):
  value = t.name('evil.Thing') + b')\x81' + t.mapping({'x': t.text('y')}) + b'b'
  message = refusal(tmp_path, t.zip_file(t.mapping({'a': value})))
  assert message.startswith('refers to evil.Thing, which is neither')


class _Settings(dict):
  """Stands for the dictionaries of configuration libraries."""


def _record(weight: bytes) -> bytes:
  """A training record with common objects of Python beside the weights."""
  options = argparse.Namespace(lr=0.1, path=pathlib.PurePosixPath('/data'))
  objects = {
    'args': options,
    'simple': types.SimpleNamespace(a=1),
    'defaults': collections.defaultdict(list, a=[1]),
    'settings': _Settings(a=1),
    'losses': np.arange(100.0),
    'random': np.random.RandomState(0).get_state()[1],
    'when': datetime.datetime(2020, 1, 1),
    'queue': collections.deque([1, 2]),
    'range': frozenset({1}),
    'layer': functools.partial(dict, a=1),
    'class': _Settings,
  }
  items = {
    key: pickle.dumps(value, 2).removeprefix(b'\x80\x02').removesuffix(b'.')
    for key, value in objects.items()
  }
  return t.mapping({**items, 'w': weight})


def test_plain_objects_beside_the_weights_are_left_out(tmp_path):
  """W8: a file with argparse.Namespace beside the weights was refused."""
  path = tmp_path / 'a.pth'
  path.write_bytes(t.zip_file(_record(t.tensor('0', (1,), length=1)), ONE))
  value = read_tensors(path)
  np.testing.assert_array_equal(value.pop('w'), [1])
  assert value.pop('defaults') == {'a': [1]}
  assert value.keys() == {
    *('args', 'simple', 'settings', 'losses', 'random', 'when', 'queue'),
    *('range', 'layer', 'class'),
  }
  assert set(value.values()) == {None}


def test_calls_beside_the_weights_are_refused(tmp_path):
  record = {'w': t.tensor('0', (1,), length=1), 'a': t.call('torch.hub.load')}
  message = refusal(tmp_path, t.zip_file(t.mapping(record), ONE))
  assert message.startswith('refers to torch.hub.load, which is')


@pytest.mark.parametrize('shape', [(2**40,), (2**62, 0, 4), (2**31, 2**31)])
@pytest.mark.parametrize('strides', [None, 0])
def test_tensor_larger_than_its_storage(tmp_path, shape, strides):
  steps = None if strides is None else (0,) * len(shape)
  tensor = t.tensor('0', shape, length=1, strides=steps)
  data = t.zip_file(t.mapping({'a': tensor}), ONE)
  message = refusal(tmp_path, data)
  assert message.startswith(('damaged: ', 'has overlapping tensors'))


@pytest.mark.parametrize('legacy', [False, True])
def test_storage_larger_than_the_file(tmp_path, legacy):
  tensor = t.tensor('0', (2**40,), length=2**40, legacy=legacy)
  value = t.mapping({'a': tensor})
  if legacy:
    data = t.legacy_file(value, {'0': (2**40, ONE['0'])})
    assert 'is cut short' in refusal(tmp_path, data)
  else:
    message = refusal(tmp_path, t.zip_file(value, ONE))
    assert 'declares 1099511627776 numbers and has 4 bytes' in message


def test_views_outside_their_storage(tmp_path):
  for options in (
    {'shape': (2,), 'offset': 1},
    {'shape': (1,), 'offset': 2**62},
    {'shape': (2, 1), 'strides': (5, 1)},
    {'shape': (1,), 'offset': -1},
    {'shape': (-1,)},
    {'shape': (1,), 'strides': ()},
    {'shape': (1,), 'strides': (-1,)},
  ):
    tensor = t.tensor('0', length=1, **options)
    data = t.zip_file(t.mapping({'a': tensor}), ONE)
    assert 'damaged: a tensor' in refusal(tmp_path, data), options


def test_many_large_views_of_one_storage(tmp_path):
  """Harmless as views, but whoever copies them would need 100 times more."""
  tensors = {
    str(i): t.tensor('0', (900_000,), length=1_000_000, offset=i)
    for i in range(100)
  }
  data = t.zip_file(t.mapping(tensors), {'0': bytes(4_000_000)})
  assert 'overlapping tensors' in refusal(tmp_path, data)


def test_compressed_members(tmp_path):
  tensor = t.tensor('0', (25_000_000,), length=25_000_000)
  data = t.zip_file(
    t.mapping({'a': tensor}),
    {'0': bytes(100_000_000)},
    compression=zipfile.ZIP_DEFLATED,
  )
  assert len(data) < 1_000_000
  assert 'compressed zip member' in refusal(tmp_path, data)


def test_members_that_share_their_bytes(tmp_path):
  """Two directory entries for the same data, as overlapping bombs have."""
  data = t.zip_file(t.mapping({}), {'0': bytes(1000), '1': bytes(1000)})
  first = data.index(b'PK\x01\x02')
  entries = data[first:].split(b'PK\x01\x02')[1:]
  offset = entries[1][38:42]
  entries[2] = entries[2][:38] + offset + entries[2][42:]
  data = data[:first] + b''.join(b'PK\x01\x02' + entry for entry in entries)
  tail = data.rindex(b'PK\x05\x06')
  assert refusal(tmp_path, data[:200] + data[1200:tail] + data[tail:])


@pytest.mark.parametrize(
  'member', ['../data.pkl', '/etc/x', 'archive/../../x', 'a\\..\\x']
)
def test_path_escapes(tmp_path, member):
  data = t.zip_file(t.mapping({}), extra={member: b'x'})
  assert 'outside its folder' in refusal(tmp_path, data)


@pytest.mark.filterwarnings('ignore:Duplicate name')
def test_duplicated_members(tmp_path):
  data = t.zip_file(t.mapping({}), extra={'archive/data.pkl': b'x'})
  assert "the zip member 'archive/data.pkl' twice" in refusal(tmp_path, data)


def test_wrong_checksum(tmp_path):
  data = t.state_dict({'a': np.full(100, 7, np.float32)})
  position = data.index(np.full(100, 7, np.float32).tobytes())
  data = data[:position] + b'\xff' + data[position + 1 :]
  assert 'Bad CRC-32' in refusal(tmp_path, data)


def test_duplicated_keys(tmp_path):
  value = b'}(' + t.text('a') + b'N' + t.text('a') + b'Nu'
  assert "the key 'a' twice" in refusal(tmp_path, t.zip_file(value))


def test_storages_described_in_two_ways(tmp_path):
  """The bytes beyond the shorter storage do not belong to the file."""
  parts = {'a': 100, 'b': 1}
  tensors = {
    k: t.tensor('0', (n,), length=n, legacy=True) for k, n in parts.items()
  }
  data = t.legacy_file(t.mapping(tensors), {'0': (1, ONE['0'])})
  assert "damaged: storage '0' described in two ways" in refusal(tmp_path, data)


@pytest.mark.parametrize('offset', [2, 2**40])
def test_storage_views_outside_their_storage(tmp_path, offset):
  view = t.sequence([t.text('v'), t.integer(offset), t.integer(1)])
  tensor = t.call(
    'torch._utils._rebuild_tensor',
    t.storage('0', length=2, view=view),
    t.integer(0),
    t.sequence([t.integer(1)]),
    t.sequence([t.integer(1)]),
  )
  data = t.legacy_file(t.mapping({'a': tensor}), {'0': (2, bytes(8))})
  assert 'damaged: a tensor' in refusal(tmp_path, data)


def test_many_storage_views_are_read_once(tmp_path):
  """Each needs the bytes of the whole storage."""
  length = 1_000_000
  tensors = {}
  for i in range(100):
    view = t.sequence([t.text(f'v{i}'), t.integer(i), t.integer(1)])
    tensors[str(i)] = t.call(
      'torch._utils._rebuild_tensor',
      t.storage('0', length=length, view=view),
      t.integer(0),
      t.sequence([t.integer(1)]),
      t.sequence([t.integer(1)]),
    )
  raw = np.arange(length, dtype=np.float32).tobytes()
  path = tmp_path / 'views.pth'
  path.write_bytes(t.legacy_file(t.mapping(tensors), {'0': (length, raw)}))
  tracemalloc.start()
  contents = read_tensors(path)
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert [contents[str(i)][0] for i in range(100)] == list(range(100))
  assert peak < 2 * path.stat().st_size


def _nested(levels: int) -> bytes:
  """Lists in memo slots 0 to `levels`; each holds the previous list twice."""
  value = b']q\x00'
  for i in range(levels):
    slot, last = bytes([i + 1]), bytes([i])
    value += b']q' + slot + b'(h' + last + b'h' + last + b'e'
  return value


def _long_names() -> bytes:
  """A thousand tensors whose names would have a million letters each."""
  empty = t.mapping({})
  tensor = t.call(
    'torch._utils._rebuild_tensor_v2',
    t.storage('0', length=1, view=b'N'),
    *(t.integer(0), b')', b')', b'\x89', b'N'),
  )
  value = t.text('x' * 1_000_000) + b'q\x00' + tensor + b'q\x01'
  value += t.name('m.Net') + b'q\x02'
  state = t.mapping({'_buffers': empty, '_modules': empty})
  leaf = b'h\x02)\x81' + state + t.text('_parameters') + b'}h\x00h\x01ss' + b'b'
  children = t.mapping({str(i): leaf for i in range(1000)})
  state = {'_parameters': empty, '_buffers': empty, '_modules': children}
  return value + b'h\x02)\x81' + t.mapping(state) + b'b'


BOMBS = {
  'a million dictionaries': b'(' + b'}' * 1_000_000 + b'l',
  'deep lists': b']' * 100_000 + b'a' * 99_999,
  'deep tuples': b')' + b'\x85' * 100_000,
  'deep tuple as a key': b'}' + b')' + b'\x85' * 100_000 + b'Ns',
  'a list in itself': b']q\x00h\x00a',
  'a huge string': b'X' + struct.pack('<I', 2**32 - 1) + b'a',
  'a huge byte string': b'B' + struct.pack('<I', 2**32 - 1) + b'a',
  'a huge number': b'\x8b' + struct.pack('<i', 2**31 - 1) + b'\x01',
  'a long number': b'\x8b' + struct.pack('<i', 10**6) + b'\x01' * 10**6,
  'a number of many digits': b'L' + b'9' * 1_000_000 + b'L\n',
  'many marks': b'(' * 1_000_000,
  'a growing shape': b']('
  + b'K\x01' * 100_000
  + b'eq\x00'
  + (t.name('torch.Size') + b'h\x00\x85R0') * 2000,
  'bytes from a long string': t.text('x' * 1_000_000)
  + b'q\x00'
  + (t.name('_codecs.encode') + b'h\x00' + t.text('latin1') + b'\x86R') * 2000,
  'names from long strings': t.text('x' * 1_000_000)
  + b'q\x00'
  + b'h\x00h\x00\x93' * 2000,
  'an empty stack': b'R',
  'nothing to mark': b'u',
  'an unknown instruction': b'\xff',
  'an extension': b'\x82\x01',
  'an out-of-band buffer': b'\x97',
  'a persistent name': b'Psomething\n',
  'a storage without a tensor': t.storage('0', length=1),
  # Each list stands for 2^40; its text or hash would never end.
  'a name that is 2^40 lists': _nested(40) + b'h\x28h\x28\x93',
  'a key that is 2^40 lists': _nested(40) + b'}h\x28Ns',
  'a storage key that is 2^40 lists': _nested(40)
  + t.sequence(
    [t.text('storage'), t.name('torch.FloatStorage'), b'h\x28', b'N', b'K\x01']
  )
  + b'Q',
  'a length that is 2^40 lists': _nested(40)
  + t.sequence(
    [t.text('storage'), t.name('torch.FloatStorage'), t.text('0'), b'N', b'h(']
  )
  + b'Q',
  'many arguments again and again': t.sequence([b'N'] * 60_000)
  + b'q\x00'
  + t.name('torch._utils._rebuild_parameter')
  + b'q\x01'
  + b'h\x01h\x00R0' * 40_000,
  'deep objects': t.name('m.Net')
  + b'q\x00)\x81'
  + (b'h\x00)\x81}' + t.text('x')) * 20_000
  + b'N'
  + b'sb' * 20_000,
  'modules with long names': _long_names(),
}
# They end within seconds, like others of their kind.
SLOW = ['a million dictionaries', 'deep lists', 'deep tuple as a key']


@pytest.mark.parametrize('name', nightly_of(BOMBS, SLOW))
@pytest.mark.parametrize('legacy', [True, nightly(False)])
def test_hostile_pickles(tmp_path, name, legacy):
  write = t.legacy_file if legacy else t.zip_file
  assert refusal(tmp_path, write(BOMBS[name]))


@pytest.mark.nightly
def test_five_large_pickles(tmp_path):
  """The five pickles of a legacy file share one allowance."""
  large = t.pickled(b'(' + b'}' * 200_000 + b'l')
  start = t.legacy_file(b'N')[:15]
  message = refusal(tmp_path, start + large * 4)
  assert 'too many pickle instructions' in message


@pytest.mark.parametrize(
  'value',
  [
    b'Nr' + b'\xff' * 4,  # a far slot of the memo
    b'\x95' + b'\xff' * 8 + b'N',  # a frame without end
  ],
)
def test_large_claims_reserve_nothing(tmp_path, value):
  path = tmp_path / 'claim.pth'
  path.write_bytes(t.zip_file(value))
  tracemalloc.start()
  assert read_tensors(path) is None
  assert tracemalloc.get_traced_memory()[1] < 1e6
  tracemalloc.stop()


def test_shared_containers_are_walked_once(tmp_path):
  """Forty lists stand for 2^40 paths."""
  value = b']q\x00'
  for i in range(40):
    value += b']' + b'q' + bytes([i + 1]) + b'(' + b'h' + bytes([i]) + b'h'
    value += bytes([i]) + b'e'
  path = tmp_path / 'laughs.pth'
  path.write_bytes(t.zip_file(value))
  assert len(read_tensors(path)) == 2


@pytest.mark.nightly
def test_shared_modules_are_not_multiplied(tmp_path):
  empty = t.mapping({})
  value = b''
  for i in range(40):
    child = b'h' + bytes([i - 1]) if i else b''
    children = t.mapping({'a': child, 'b': child}) if i else empty
    state = {'_parameters': empty, '_buffers': empty, '_modules': children}
    value += t.name('m.Net') + b')\x81' + t.mapping(state) + b'b'
    value += b'q' + bytes([i])
  assert 'nests too many modules' in refusal(tmp_path, t.zip_file(value))


def test_huge_zip_directory(tmp_path):
  """The standard library would take ten times its bytes in memory."""
  data = t.zip_file(t.mapping({}))
  first, last = data.index(b'PK\x01\x02'), data.index(b'PK\x05\x06')
  entry = data[first:last]
  count = 10_000_000 // len(entry)
  end = data[last : last + 12] + struct.pack('<I', count * len(entry))
  data = data[:first] + entry * count + end + data[last + 16 :]
  assert 'zip directory of impossible size' in refusal(tmp_path, data)


@pytest.mark.parametrize(
  ('data', 'reason'),
  [
    (b'', 'is no PyTorch file'),
    (b'\x89PNG', 'is no PyTorch file'),
    (b'version https://git-lfs.github.com/spec/v1', 'a pointer of Git LFS'),
    (b'\n<!DOCTYPE html><html>', 'is a web page, not the weights'),
    (bytes(257) + b'ustar' + bytes(300), 'tar format of PyTorch 0.1'),
    (t.zip_file(b'N')[:40], 'damaged: '),
    (t.zip_file(b'N').replace(b'data.pkl', b'dada.pkl'), 'without a data.pkl'),
    (
      t.zip_file(b'N', extra={'archive/constants.pkl': b'x'}),
      'is a TorchScript program',
    ),
  ],
)
def test_other_files(tmp_path, data, reason):
  assert reason in refusal(tmp_path, data)


def test_missing_file_and_folder(tmp_path):
  for path in (tmp_path / 'absent.pth', tmp_path):
    with pytest.raises(UserError, match=f'^{path}: '):
      read_tensors(path)

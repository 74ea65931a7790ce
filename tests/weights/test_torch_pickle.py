"""Files of PyTorch 2.13, and of an independent writer, read without PyTorch."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
import torch_files

from sr_jax.weights.formats.torch_pickle import read_tensors

TORCH = Path(__file__).parents[1] / 'golden' / 'torch'


@pytest.mark.parametrize('form', ['zip', 'legacy'])
def test_every_type_and_stride_of_a_real_file(form):
  """Values as they were set in PyTorch when the file was made."""
  contents = read_tensors(TORCH / f'mixed_{form}.pth')
  grid = np.arange(24, dtype=np.float32).reshape(4, 6)
  expected = {
    'transposed': grid.T,
    'part': grid[1:3, 2:5],
    'step': grid[:, ::2],
    'scalar': np.float32(2.5),
    'empty': np.zeros((0, 3), np.float32),
    'parameter': np.ones(2, np.float32),
    'tied_a': np.arange(3, dtype=np.float32),
    'tied_b': np.arange(3, dtype=np.float32),
    'f8': np.array([1e300, -2.0]),
    'f2': np.array([0.5, -3.0], np.float16),
    # 1e30 has no exact bfloat16: the nearest has eight significant bits.
    'bf': np.array([1.5, -256.0, 202 * 2.0**92], np.float32),
    'i8': np.array([2**40, -1]),
    'i4': np.array([7, -7], np.int32),
    'i2': np.array([300, -300], np.int16),
    'i1': np.array([-128, 127], np.int8),
    'u1': np.array([0, 255], np.uint8),
    'b1': np.array([True, False]),
  }
  state = contents.pop('state')
  assert list(state) == list(expected)
  for name, array in expected.items():
    assert state[name].dtype == array.dtype, name
    np.testing.assert_array_equal(state[name], array, err_msg=name)
  assert contents == {
    'epoch': 3,
    'lr': 1e-4,
    'name': 'x',
    'size': [1, 2],
    'list': [1, None, [True, 'a']],
    'psnr': 31.5,
  }


@pytest.mark.parametrize('form', ['zip', 'legacy'])
def test_a_pickled_module_gives_its_state_dict(form):
  """The classes of the module need not be installed."""
  contents = read_tensors(TORCH / f'module_{form}.pth')
  expected = np.load(TORCH / 'module.npz')
  assert contents['epoch'] == 1
  assert sorted(contents['model']) == sorted(expected.files)
  for name, array in contents['model'].items():
    np.testing.assert_array_equal(array, expected[name], err_msg=name)


ARRAYS = hnp.arrays(
  st.sampled_from([np.float32, np.float64, np.float16, np.int64, np.uint8]),
  hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
)


@hypothesis.given(
  st.dictionaries(st.text(min_size=1, max_size=8), ARRAYS, max_size=4),
  st.booleans(),
)
@hypothesis.settings(max_examples=40, deadline=None)
def test_round_trip_through_the_independent_writer(
  tmp_path_factory, tensors, legacy
):
  try:
    data = torch_files.state_dict(tensors, legacy=legacy)
  except UnicodeEncodeError:
    hypothesis.reject()
  path = tmp_path_factory.mktemp('round') / 'weights.pth'
  path.write_bytes(data)
  contents = read_tensors(path)
  assert list(contents) == list(tensors)
  for name, array in tensors.items():
    assert contents[name].dtype == array.dtype
    np.testing.assert_array_equal(contents[name], array)


def test_big_endian_zip(tmp_path):
  path = tmp_path / 'weights.pth'
  path.write_bytes(
    torch_files.zip_file(
      torch_files.mapping({'a': torch_files.tensor('0', (3,), length=3)}),
      {'0': np.array([1, 2, 3], '>f4').tobytes()},
      extra={'archive/byteorder': b'big'},
    )
  )
  array = read_tensors(path)['a']
  assert array.dtype.isnative
  np.testing.assert_array_equal(array, [1, 2, 3])


def test_python_2_strings_and_cuda_storages(tmp_path):
  """Keys as Python 2 pickled them; a tensor that was on a GPU."""
  tensor = torch_files.tensor(
    '0', (2,), length=2, kind='torch.cuda.HalfStorage', legacy=True
  )
  path = tmp_path / 'weights.pth'
  path.write_bytes(
    torch_files.legacy_file(
      b'}U\x06conv.\xe4' + tensor + b's',
      {'0': (2, np.array([1, 2], np.float16).tobytes())},
    )
  )
  contents = read_tensors(path)
  assert list(contents) == ['conv.ä']
  np.testing.assert_array_equal(contents['conv.ä'], [1, 2])


def test_views_of_legacy_storages(tmp_path):
  """Before PyTorch 0.4 a storage could be a part of another storage."""
  t = torch_files
  view = t.sequence([t.text('v'), t.integer(2), t.integer(3)])
  tensor = t.call(
    'torch._utils._rebuild_tensor',
    t.storage('7', length=5, view=view),
    t.integer(1),
    t.sequence([t.integer(2)]),
    t.sequence([t.integer(1)]),
  )
  path = tmp_path / 'weights.pth'
  raw = np.arange(5, dtype=np.float32).tobytes()
  path.write_bytes(t.legacy_file(t.mapping({'a': tensor}), {'7': (5, raw)}))
  np.testing.assert_array_equal(read_tensors(path)['a'], [3, 4])


def test_tensors_of_early_2017(tmp_path):
  """Empty at first; a state brings storage, offset, sizes and strides."""
  t = torch_files
  state = [
    t.storage('9', length=6, kind='torch.cuda.FloatStorage', view=b'N'),
    t.integer(1),
    t.sequence([t.integer(2), t.integer(2)]),
    t.sequence([t.integer(3), t.integer(1)]),
  ]
  tensor = t.call('torch.cuda.FloatTensor') + t.sequence(state) + b'b'
  parameter = t.call('torch.nn.parameter.Parameter', tensor)
  parameter += t.sequence([b'\x88', b'\x89', t.call('collections.OrderedDict')])
  path = tmp_path / 'weights.pth'
  raw = np.arange(6, dtype=np.float32).tobytes()
  value = t.mapping({'a': tensor, 'b': parameter + b'b'})
  path.write_bytes(t.legacy_file(value, {'9': (6, raw)}))
  for array in read_tensors(path).values():
    np.testing.assert_array_equal(array, [[1, 2], [4, 5]])


def test_a_legacy_file_of_a_big_endian_machine(tmp_path):
  """Such a machine wrote counts big-endian and numbers little-endian."""
  t = torch_files
  value = t.mapping({'a': t.tensor('0', (3,), length=3, legacy=True)})
  raw = np.float32([1, 2, 3]).tobytes()
  data = t.legacy_file(value, {'0': (3, raw)}).replace(
    t.text('little_endian') + b'\x88', t.text('little_endian') + b'\x89'
  )
  assert data.endswith(struct.pack('<q', 3) + raw)
  path = tmp_path / 'weights.pth'
  path.write_bytes(data[:-20] + struct.pack('>q', 3) + raw)
  np.testing.assert_array_equal(read_tensors(path)['a'], [1, 2, 3])


def test_a_legacy_file_of_pickle_protocol_4(tmp_path):
  t = torch_files
  value = t.mapping({'a': t.tensor('0', (1,), length=1, legacy=True)})
  data = t.legacy_file(value, {'0': (1, np.float32([7]).tobytes())})
  magic = t.pickled(t.integer(0x1950A86A20F9469CFC6C))
  frame = b'\x80\x04\x95' + struct.pack('<Q', len(magic) - 2) + magic[2:]
  path = tmp_path / 'weights.pth'
  path.write_bytes(frame + data.removeprefix(magic))
  np.testing.assert_array_equal(read_tensors(path)['a'], [7])


def test_an_expanded_tensor(tmp_path):
  """One number stands for several: a stride of zero."""
  t = torch_files
  tensor = t.tensor('0', (2, 3), length=1, strides=(0, 0))
  path = tmp_path / 'weights.pth'
  path.write_bytes(
    t.zip_file(t.mapping({'a': tensor}), {'0': np.float32([5]).tobytes()})
  )
  np.testing.assert_array_equal(read_tensors(path)['a'], np.full((2, 3), 5))


def test_a_training_record(tmp_path):
  """Records of schedules and devices in the file are accepted."""
  t = torch_files
  counts = t.call('collections.Counter', b'}K\x05K\x01s')
  value = {
    'milestones': counts,
    'device': t.call('torch.device', t.text('cuda'), b'K\x00'),
    'state_dict': t.mapping({'a': t.tensor('0', (1,), length=1)}),
  }
  path = tmp_path / 'weights.pth'
  path.write_bytes(t.zip_file(t.mapping(value), {'0': bytes(4)}))
  contents = read_tensors(path)
  assert contents.pop('state_dict')['a'] == 0
  assert contents == {'milestones': {5: 1}, 'device': None}


@pytest.mark.parametrize('legacy', [False, True])
def test_memory_stays_near_the_size_of_the_file(tmp_path, legacy):
  size = 4_000_000
  path = tmp_path / 'weights.pth'
  array = np.ones((size // 4,), np.float32)
  path.write_bytes(torch_files.state_dict({'a': array}, legacy=legacy))
  tracemalloc.start()
  contents = read_tensors(path)
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert contents['a'].nbytes == size
  assert peak < 2.1 * size


def test_a_module_of_2017(tmp_path):
  """PyTorch 0.2 under Python 2 wrote pairs, Parameters and a backend."""
  t = torch_files
  tensor = t.tensor('0', (2,), length=2, legacy=True)
  parameter = t.call('torch.nn.parameter.Parameter', tensor, b'\x88')
  parameter += t.sequence([b'\x88', t.call('collections.OrderedDict')]) + b'b'

  def ordered(items):
    pairs = [b'](' + t.text(k) + v + b'e' for k, v in items.items()]
    return t.call('collections.OrderedDict', b'](' + b''.join(pairs) + b'e')

  def module(name, parameters, modules):
    cls = [t.text('module'), t.name(name), t.text('net.py'), t.text('pass')]
    backend = 'torch.nn.backends.thnn._get_thnn_function_backend'
    state = {
      '_parameters': ordered(parameters),
      '_buffers': ordered({}),
      '_modules': ordered(modules),
      '_backend': t.call(backend),
      'activation': t.name('torch.nn.functional.relu'),
    }
    return t.sequence(cls) + b'Q)\x81' + t.mapping(state) + b'b'

  conv = module(
    'torch.nn.modules.conv.Conv2d', {'weight': parameter, 'bias': b'N'}, {}
  )
  value = t.mapping(
    {'epoch': b'K\x05', 'model': module('vdsr.Net', {}, {'a': conv})}
  )
  path = tmp_path / 'model.pth'
  raw = np.float32([3, 4]).tobytes()
  path.write_bytes(t.legacy_file(value, {'0': (2, raw)}))
  contents = read_tensors(path)
  assert contents['epoch'] == 5
  assert list(contents['model']) == ['a.weight']
  np.testing.assert_array_equal(contents['model']['a.weight'], [3, 4])

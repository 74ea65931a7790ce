"""MATLAB files in the three layouts, written with scipy."""

from __future__ import annotations

import functools
import io
import itertools
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import scipy.io
import scipy.sparse

from sr_jax.array_files import mat5
from sr_jax.errors import UserError
from sr_jax.weights.formats.mat_file import read_mat
from sr_jax.weights.published import import_weights
from tests.nightly import nightly_of
from tests.weights import mutations
from tests.weights.mat_files import cells, matconvnet


def write(path, variables, **options):
  scipy.io.savemat(path, variables, **options)
  return path


@pytest.mark.parametrize('do_compression', [False, True])
def test_matconvnet(tmp_path, do_compression):
  rng = np.random.default_rng(0)
  tensors = {
    'input_conv_f': rng.normal(size=(3, 3, 1, 4)).astype(np.float32),
    'input_conv_b': rng.normal(size=(4, 1)).astype(np.float32),
    'level1_residual_conv_f': rng.normal(size=(3, 3, 4, 1)).astype(np.float32),
    'level1_img_up_f': rng.normal(size=(4, 4, 1, 1)).astype(np.float32),
  }
  path = write(
    tmp_path / 'a.mat', matconvnet(tensors), do_compression=do_compression
  )
  found = read_mat(path)
  assert list(found) == list(tensors)
  assert found['input_conv_b'].shape == (4,)
  for name, value in tensors.items():
    np.testing.assert_array_equal(found[name].ravel(), value.ravel())
  assert found['level1_residual_conv_f'].shape == (3, 3, 4, 1)
  assert found['level1_img_up_f'].shape == (4, 4, 1, 1)


def test_caffe_vdsr(tmp_path):
  rng = np.random.default_rng(0)
  widths = [1, *[4] * 19, 1]
  weights = [
    rng.normal(size=(3, 3, a, b)).astype(np.float32)
    for a, b in itertools.pairwise(widths)
  ]
  biases = [rng.normal(size=(b, 1)).astype(np.float32) for b in widths[1:]]
  model = {'weight': cells(weights), 'bias': cells(biases)}
  model['weight'][0, 19] = weights[19][..., 0]
  path = write(tmp_path / 'vdsr.mat', {'model': model})
  imported = import_weights(path, model='vdsr', scale=3)
  assert imported.config == {
    'name': 'vdsr',
    'scale': 3,
    'options': {'depth': 20, 'features': 4, 'use_bias': True},
  }
  layers = ['head', *(f'body_{i}' for i in range(18)), 'tail']
  for layer, kernel, bias in zip(layers, weights, biases, strict=True):
    params = imported.params[layer]
    np.testing.assert_array_equal(params['kernel'], kernel)
    np.testing.assert_array_equal(params['bias'], bias[:, 0])


@pytest.mark.parametrize(
  ('variables', 'reason'),
  [
    ({'weights_conv1': np.zeros((81, 64))}, 'lacks the numbers of layer 1'),
    (
      {
        f'{k}_conv{i}': np.ones(7)
        for k in ('weights', 'biases')
        for i in (1, 2)
      },
      'damaged: cannot reshape',
    ),
    ({'kernel': np.zeros(3)}, 'holds kernel, and neither net, model nor'),
    ({'net': np.zeros(3)}, 'holds no struct net'),
    ({'net': {'params': {'name': 'a'}}}, "holds no numbers under the name 'a'"),
    ({'net': {'layers': 1}}, 'holds no struct net.params'),
    ({'net': {'params': cells(['a'])}}, 'holds no struct net.params'),
    ({'model': {'weight': 3}}, 'holds no cells model.weight'),
    (
      {
        'params': np.array(
          [('a', 1.0), ('a', 2.0)], [('name', 'O'), ('value', 'O')]
        )
      },
      "the tensor 'a' twice",
    ),
    ({'model': {'weight': cells(['x']), 'bias': cells([])}}, 'no numbers'),
    ({'model': {'weight': cells([]), 'bias': cells([])}}, 'holds no weights'),
    (
      matconvnet({'conv9_f': np.zeros((3, 3))}),
      "such as 'conv9_f' are of none of the known schemes: LapSRN",
    ),
  ],
)
def test_other_contents_are_refused(tmp_path, variables, reason):
  path = write(tmp_path / 'a.mat', variables)
  with pytest.raises(UserError) as caught:
    import_weights(path, model='lapsrn')
  assert str(caught.value).startswith(f'{path}: ')
  assert reason in str(caught.value)
  assert '\n' not in str(caught.value)


def test_a_network_saved_for_use_alone(tmp_path):
  """The fields of such a network are variables; params may be one struct."""
  tensors = {'a_f': np.ones((3, 3)), 'a_b': np.ones((2, 1))}
  net = matconvnet(tensors)['net']
  table = {
    k: cells(list(v))
    for k, v in (('name', tensors), ('value', tensors.values()))
  }
  for variables in (net, {'params': table, 'stats': 1.0}):
    found = read_mat(write(tmp_path / 'a.mat', variables))
    assert {k: v.shape for k, v in found.items()} == {
      'a_f': (3, 3, 1, 1),
      'a_b': (2,),
    }


@pytest.mark.parametrize('do_compression', [False, True])
def test_values_are_those_of_scipy(do_compression):
  rng = np.random.default_rng(0)
  values = {
    code: rng.integers(0, 100, (2, 3, 2)).astype(code)
    for code in ('f8', 'f4', 'i1', 'u1', 'i2', 'u2', 'i4', 'u4', 'i8', 'u8')
  }
  others = {
    'text': 'größe',
    'cells': cells(['x', np.ones((2, 2)), cells([1.0])]),
    'structs': np.array([(1, 'a'), (2, 'b')], [('n', 'O'), ('s', 'O')]),
    'complex': np.ones(3) * 1j,
    'sparse': scipy.sparse.csc_array(np.eye(3)),
  }
  buffer = io.BytesIO()
  scipy.io.savemat(buffer, {**values, **others}, do_compression=do_compression)
  found = mat5.read_variables(buffer.getvalue())
  assert list(found) == [*values, *others]
  for name, value in values.items():
    assert found[name].dtype == value.dtype
    np.testing.assert_array_equal(found[name], value)
  np.testing.assert_array_equal(found['complex'], np.full((1, 3), 1j))
  np.testing.assert_array_equal(found['sparse'], np.eye(3))
  assert found['text'] == 'größe'
  assert found['cells'][0] == 'x'
  np.testing.assert_array_equal(found['cells'][1], np.ones((2, 2)))
  assert found['cells'][2] == [1.0]
  assert found['structs'] == [{'n': 1, 's': 'a'}, {'n': 2, 's': 'b'}]


def element(kind, data, order='<'):
  """One element, padded to eight bytes."""
  head = struct.pack(f'{order}II', kind, len(data))
  return head + data + bytes(-len(data) % 8)


def matrix(kind, shape, *parts, order='<'):
  """A variable `x` with a class, a shape and further elements."""
  flags = struct.pack(f'{order}II', kind, 0)
  dims = struct.pack(f'{order}{len(shape)}i', *shape)
  heads = element(6, flags, order), element(5, dims, order)
  name = element(1, b'x', order)
  return element(14, b''.join([*heads, name, *parts]), order)


def file(*variables, order='<'):
  mark = struct.pack(f'{order}H', 0x4D49)
  header = b'MATLAB 5.0 MAT-file'.ljust(124) + struct.pack(f'{order}H', 256)
  return header + mark + b''.join(variables)


@pytest.mark.parametrize('order', ['<', '>'])
def test_numbers_stored_as_smaller_ones(order):
  """MATLAB stores small numbers so; small elements lie in their headers."""
  head = 4 << 16 | 2 if order == '<' else 2 | 4 << 16
  small = struct.pack(f'{order}I', head) + bytes([1, 2, 3, 200])
  data = file(matrix(6, (2, 2), small, order=order), order=order)
  found = mat5.read_variables(data)['x']
  assert found.dtype == np.float64
  np.testing.assert_array_equal(found, [[1, 3], [2, 200]])


def test_functions_are_left_out():
  opaque = element(14, element(6, struct.pack('<II', 17, 0)) + element(1, b'f'))
  inner = matrix(1, (1, 1), opaque)
  assert mat5.read_variables(file(opaque, opaque, inner)) == {'x': [None]}


def _nested(depth):
  value = matrix(6, (1, 1), element(9, bytes(8)))
  for _ in range(depth):
    value = matrix(1, (1, 1), value)
  return value


def bomb(data, declared=None):
  """A compressed variable that declares `announced` bytes."""
  size = len(data) if declared is None else declared
  packed = zlib.compress(struct.pack('<II', 14, size) + data)
  return struct.pack('<II', 15, len(packed)) + packed


EMPTY = struct.pack('<II', 14, 0)
HOSTILE = {
  'numbers without end': matrix(
    6, (2**31 - 1, 2**31 - 1), element(9, bytes(8))
  ),
  'a negative size': matrix(6, (-1, 1), element(9, bytes(8))),
  'sizes without end': matrix(6, (1,) * 100, element(9, bytes(8))),
  'cells without end': matrix(1, (2**31 - 1, 2**31 - 1), EMPTY),
  'cells of nothing': matrix(1, (1, 200_000), EMPTY * 200_000),
  'structs without end': matrix(
    2, (2**31 - 1, 8), element(5, struct.pack('<i', 4)), element(1, b'')
  ),
  'fields of no length': matrix(
    2, (1, 1), element(5, struct.pack('<i', 0)), element(1, b'a'), EMPTY
  ),
  'cells in cells': _nested(100),
  'a long string': matrix(4, (1, 9), struct.pack('<II', 4, 2**32 - 1)),
  'letters of no kind': matrix(4, (1, 1), element(99, b'a')),
  'no flags': element(14, element(6, b'')),
  'no parts': element(14, element(6, struct.pack('<II', 6, 0))),
  'no variable': element(9, bytes(8)),
  'twice the same': matrix(6, (1, 1), element(9, bytes(8))) * 2,
  # A thousand times the file, unpacked.
  'a bomb': functools.partial(bomb, bytes(100_000_000)),
  'a bomb in disguise': functools.partial(bomb, bytes(100_000_000), declared=8),
  'a bomb that announces too much': bomb(bytes(1000), declared=2**32 - 16),
  'a small bomb': bomb(bytes(1000), declared=2000),
  'a bomb of nothing': struct.pack('<II', 15, 0),
  'a bomb within a bomb': bomb(bomb(bytes(100))),
}


@pytest.mark.parametrize('name', nightly_of(HOSTILE, ['cells of nothing']))
def test_hostile_files(tmp_path, name):
  content = HOSTILE[name]
  data = file(content() if callable(content) else content)
  assert mutations.refusal(read_mat, tmp_path / 'a.mat', data)


def test_damaged_files(tmp_path):
  path = write(tmp_path / 'a.mat', {'net': np.zeros(3)})
  data = path.read_bytes()
  path.write_bytes(data[:150])
  with pytest.raises(UserError, match='is cut short: an element needs 72'):
    read_mat(path)
  path.write_bytes(b'MATLAB 7.3 MAT-file'.ljust(200))
  with pytest.raises(UserError, match='save it again with -v7'):
    read_mat(path)
  with pytest.raises(UserError, match='No such file'):
    read_mat(tmp_path / 'b.mat')


@pytest.mark.parametrize('do_compression', [False, True])
def test_memory_stays_near_the_size_of_the_file(tmp_path, do_compression):
  rng = np.random.default_rng(0)
  tensors = {'a_f': rng.normal(size=(3, 3, 100, 1000)).astype(np.float32)}
  path = write(
    tmp_path / 'a.mat', matconvnet(tensors), do_compression=do_compression
  )
  tracemalloc.start()
  found = read_mat(path)
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  np.testing.assert_array_equal(found['a_f'], tensors['a_f'])
  assert peak < (2.2 if do_compression else 1.1) * path.stat().st_size


def test_models_without_such_files_say_so(tmp_path):
  buffer = io.BytesIO()
  scipy.io.savemat(buffer, matconvnet({'input_conv_f': np.zeros((3, 3))}))
  path = tmp_path / 'a.mat'
  path.write_bytes(buffer.getvalue())
  with pytest.raises(UserError, match='this model has none for such files'):
    import_weights(path, model='edsr')

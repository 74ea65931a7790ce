"""MATLAB files of the three layouts, written here with scipy."""

from __future__ import annotations

import io
import itertools
import struct
import zlib

import numpy as np
import pytest
import scipy.io

from sr_jax.errors import UserError
from sr_jax.importers.mat_file import read_mat
from sr_jax.importers.weights import import_weights
from tests.importers.mat_files import cells, matconvnet


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
    ({'weights_conv1': np.zeros((81, 64))}, "damaged: 'biases_conv1'"),
    ({'kernel': np.zeros(3)}, 'holds kernel, and neither net, model nor'),
    ({'net': np.zeros(3)}, 'damaged: '),
    ({'model': {'weight': 3}}, 'damaged: '),
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


def test_damaged_and_hostile_files(tmp_path):
  path = write(tmp_path / 'a.mat', {'net': np.zeros(3)})
  data = path.read_bytes()
  path.write_bytes(data[:150])
  with pytest.raises(UserError, match='damaged: '):
    read_mat(path)
  path.write_bytes(b'MATLAB 7.3 MAT-file'.ljust(200))
  with pytest.raises(UserError, match='save it again with -v7'):
    read_mat(path)
  # A thousand times the file, unpacked.
  bomb = zlib.compress(bytes(100_000_000))
  path.write_bytes(data[:128] + struct.pack('<II', 15, len(bomb)) + bomb)
  with pytest.raises(UserError, match='variables of impossible size'):
    read_mat(path)
  with pytest.raises(UserError, match='No such file'):
    read_mat(tmp_path / 'b.mat')


def test_models_without_such_files_say_so(tmp_path):
  buffer = io.BytesIO()
  scipy.io.savemat(buffer, matconvnet({'input_conv_f': np.zeros((3, 3))}))
  path = tmp_path / 'a.mat'
  path.write_bytes(buffer.getvalue())
  with pytest.raises(UserError, match='this model has none for such files'):
    import_weights(path, model='edsr')

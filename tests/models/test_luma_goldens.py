"""VDSR, LapSRN and SRCNN out of their files: options and layouts.

How near the released code their outputs are is in `test_parity`. SRCNN's
oracle is scipy's correlation, as MATLAB's imfilter pads: with the edge.
"""

from __future__ import annotations

import jax
import numpy as np
import pytest
import scipy.io
import scipy.ndimage

from sr_jax import models
from sr_jax.ops.resize import imresize
from sr_jax.weights.published import import_weights
from tests import golden_files
from tests.weights import torch_files
from tests.weights.mat_files import matconvnet


@pytest.mark.parametrize('legacy', [False, True])
def test_vdsr(tmp_path, legacy):
  path = tmp_path / 'vdsr.pth'
  weights = golden_files.load('vdsr_full').state_dict
  path.write_bytes(torch_files.state_dict(weights, legacy=legacy))
  imported = import_weights(path, model='vdsr', scale=3)
  assert imported.config == {
    'name': 'vdsr',
    'scale': 3,
    'options': {'depth': 20, 'features': 64, 'use_bias': False},
  }


def test_lapsrn_port(tmp_path):
  path = tmp_path / 'lapsrn.pth'
  weights = golden_files.load('lapsrn_py_x4').state_dict
  path.write_bytes(torch_files.state_dict(weights))
  assert import_weights(path, model='lapsrn').config == {
    'name': 'lapsrn',
    'scale': 4,
    'options': {
      'features': 64,
      'depth': 10,
      'deconv_size': 4,
      'use_bias': False,
    },
  }


def test_lapsrn_of_matconvnet(tmp_path):
  path = tmp_path / 'lapsrn.mat'
  weights = golden_files.load('lapsrn_mat_x8_small').state_dict
  scipy.io.savemat(path, matconvnet(weights))
  assert import_weights(path, model='lapsrn').config == {
    'name': 'lapsrn',
    'scale': 8,
    'options': {
      'features': 8,
      'depth': 2,
      'deconv_size': 3,
      'use_bias': True,
    },
  }


@pytest.mark.parametrize('middle', [1, 5])
def test_srcnn(tmp_path, middle):
  """Matrices as the released files hold them: taps in MATLAB's order."""
  rng = np.random.default_rng(0)
  kernels = [
    rng.normal(size=shape)
    for shape in [(9, 9, 1, 6), (middle, middle, 6, 4), (5, 5, 4, 1)]
  ]
  biases = [rng.normal(size=(n, 1)) for n in (6, 4, 1)]
  first, second, third = (
    k.reshape(-1, *k.shape[2:], order='F') for k in kernels
  )
  matrices = {
    'weights_conv1': first[:, 0],
    'weights_conv2': second.transpose(1, 0, 2),
    'weights_conv3': third[..., 0].T,
  }
  matrices |= {f'biases_conv{i + 1}': bias for i, bias in enumerate(biases)}
  path = tmp_path / 'x2.mat'
  scipy.io.savemat(path, matrices)
  imported = import_weights(path, model='srcnn', scale=2)
  assert imported.config['options'] == {
    'sizes': (9, middle, 5),
    'features': (6, 4),
  }
  lr = rng.random((5, 6))
  x = imresize(lr[..., None], scale=2)
  for i, (kernel, bias) in enumerate(zip(kernels, biases, strict=True)):
    maps = [
      sum(
        scipy.ndimage.correlate(x[..., c], kernel[..., c, o], mode='nearest')
        for c in range(x.shape[-1])
      )
      for o in range(kernel.shape[-1])
    ]
    x = np.stack(maps, axis=-1) + bias[:, 0]
    x = np.maximum(x, 0) if i < 2 else x
  network = models.create(
    {'name': 'srcnn', 'scale': 2, **imported.config['options']}
  )
  sr, _ = jax.jit(network.apply)(
    {'params': imported.params}, np.float32(lr)[None, ..., None]
  )
  np.testing.assert_allclose(sr[0], x, rtol=0, atol=1e-5 * abs(x).max())


@pytest.mark.parametrize('wrapped', [False, True])
def test_a_pickled_vdsr_of_2017(tmp_path, wrapped):
  """The released file: the module itself, of a class `vdsr.Net`."""
  t = torch_files
  rng = np.random.default_rng(0)
  shapes = {'input': (4, 1, 3, 3), 'output': (1, 4, 3, 3)}
  shapes |= {f'residual_layer.{i}.conv': (4, 4, 3, 3) for i in range(2)}
  weights = {
    name: rng.normal(size=shape).astype(np.float32)
    for name, shape in shapes.items()
  }

  def ordered(items):
    pairs = [b'](' + t.text(k) + v + b'e' for k, v in items.items()]
    return t.call('collections.OrderedDict', b'](' + b''.join(pairs) + b'e')

  def module(name, children, parameters):
    cls = [t.text('module'), t.name(name), t.text('vdsr.py'), t.text('pass')]
    state = {
      '_parameters': ordered(parameters),
      '_buffers': ordered({}),
      '_backward_hooks': ordered({}),
      '_forward_hooks': ordered({}),
      '_backend': t.call('torch.nn.backends.thnn._get_thnn_function_backend'),
      '_modules': ordered(children),
      'training': b'\x88',
    }
    return t.sequence(cls) + b'Q)\x81' + t.mapping(state) + b'b'

  storages = {}

  def conv(name):
    weight = weights[name]
    key = str(94_000_000 + len(storages))
    storages[key] = (weight.size, weight.tobytes())
    tensor = t.tensor(
      key,
      weight.shape,
      length=weight.size,
      kind='torch.cuda.FloatStorage',
      legacy=True,
    )
    parameter = t.call('torch.nn.parameter.Parameter', tensor, b'\x88')
    return module(
      'torch.nn.modules.conv.Conv2d', {}, {'weight': parameter, 'bias': b'N'}
    )

  relu = module('torch.nn.modules.activation.ReLU', {}, {})
  blocks = {
    str(i): module(
      'vdsr.Conv_ReLU_Block',
      {'conv': conv(f'residual_layer.{i}.conv'), 'relu': relu},
      {},
    )
    for i in range(2)
  }
  layers = {
    'residual_layer': module(
      'torch.nn.modules.container.Sequential', blocks, {}
    ),
    'input': conv('input'),
    'output': conv('output'),
    'relu': relu,
  }
  net = module('vdsr.Net', layers, {})
  if wrapped:
    parallel = 'torch.nn.parallel.data_parallel.DataParallel'
    net = module(parallel, {'module': net}, {})
  value = t.mapping({'epoch': b'K\x32', 'model': net})
  path = tmp_path / 'model_epoch_50.pth'
  path.write_bytes(t.legacy_file(value, storages))
  imported = import_weights(path, model='vdsr', scale=2)
  assert imported.config['options'] == {
    'depth': 4,
    'features': 4,
    'use_bias': False,
  }
  np.testing.assert_array_equal(
    imported.params['body_1']['kernel'][2, 0, 3, 1],
    weights['residual_layer.1.conv'][1, 3, 2, 0],
  )

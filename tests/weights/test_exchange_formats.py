"""safetensors and StableHLO files, as other tools write and read them."""

from __future__ import annotations

import json
import struct

import jax
import numpy as np
import pytest
import safetensors.numpy
from jax import export

from sr_jax import models
from sr_jax.errors import UserError
from sr_jax.models import edsr, srnet
from sr_jax.weights.formats.safetensors_io import (
  export_safetensors,
  read_safetensors,
)
from sr_jax.weights.stablehlo import export_stablehlo, load_stablehlo
from tests.nightly import first_by_default, nightly

CONFIG = {'name': 'edsr', 'scale': 2, 'options': {'blocks': 1}}


def safetensors_bytes(header: dict, data: bytes) -> bytes:
  """The format as its specification has it."""
  text = json.dumps(header).encode()
  return struct.pack('<Q', len(text)) + text + data


def test_the_library_reads_our_files(tmp_path):
  params = {'a': {'kernel': np.arange(6.0).reshape(2, 3).T}, 'b': np.ones(2)}
  path = tmp_path / 'weights.safetensors'
  export_safetensors(params, path, config=CONFIG)
  tensors = safetensors.numpy.load_file(path)
  assert sorted(tensors) == ['a/kernel', 'b']
  np.testing.assert_array_equal(tensors['a/kernel'], params['a']['kernel'])
  assert read_safetensors(path)[1] == CONFIG
  assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_scales_that_are_not_whole(tmp_path):
  """B10: an exported Meta-SR at x2.5 could not be imported again."""
  path = tmp_path / 'weights.safetensors'
  config = {'name': 'metasr', 'scale': 2.5, 'options': {}}
  export_safetensors({'a': np.ones(2)}, path, config=config)
  assert read_safetensors(path)[1] == config
  for scale in (0, 1e9, float('nan'), '2', True, None):
    bad = {**config, 'scale': scale}
    export_safetensors({'a': np.ones(2)}, path, config=bad)
    with pytest.raises(UserError, match='damaged'):
      read_safetensors(path)


def test_bfloat16_becomes_float32(tmp_path):
  values = np.array([1.5, -256], np.float32)
  upper = (values.view(np.uint32) >> 16).astype(np.uint16)
  header = {'a': {'dtype': 'BF16', 'shape': [2], 'data_offsets': [0, 4]}}
  path = tmp_path / 'weights.safetensors'
  path.write_bytes(safetensors_bytes(header, upper.tobytes()))
  tensors, config = read_safetensors(path)
  assert config == {}
  assert tensors['a'].dtype == np.float32
  np.testing.assert_array_equal(tensors['a'], values)


@pytest.mark.parametrize(
  ('header', 'size'),
  [
    ({'a': {'dtype': 'F32', 'shape': [2**40], 'data_offsets': [0, 2**42]}}, 4),
    ({'a': {'dtype': 'F32', 'shape': [2], 'data_offsets': [0, 4]}}, 4),
    ({'a': {'dtype': 'F32', 'shape': [1], 'data_offsets': [0, 4]}}, 3),
    ({'a': {'dtype': 'F8_E4M3', 'shape': [4], 'data_offsets': [0, 4]}}, 4),
    ({'__metadata__': {'format': 'sr_jax'}}, 0),
    ({'__metadata__': {'format': 'sr_jax', 'config': '[1]'}}, 0),
    ({'__metadata__': {'format': 'sr_jax', 'config': '{"name": 1}'}}, 0),
  ],
)
def test_damaged_safetensors(tmp_path, header, size):
  path = tmp_path / 'weights.safetensors'
  path.write_bytes(safetensors_bytes(header, bytes(size)))
  with pytest.raises(UserError, match=f'^{path}: damaged: [^\n]*$'):
    read_safetensors(path)


def test_writing_where_no_folder_can_be(tmp_path):
  (tmp_path / 'file').write_bytes(b'')
  path = tmp_path / 'file' / 'weights.safetensors'
  with pytest.raises(UserError, match=f'^{path}: cannot be written'):
    export_safetensors({'a': np.ones(1)}, path, config=CONFIG)


@pytest.fixture(scope='module')
def network():
  model = edsr.Model(scale=2, blocks=1, features=4, residual_scale=1.0)
  params = model.init(jax.random.key(0), np.zeros((1, 4, 4, 3), np.float32))
  return model, params['params']


def sr_of(model):
  return lambda params, lr: model.apply({'params': params}, lr)[0]


@pytest.mark.parametrize('scale', first_by_default([2, 3, 4]))
def test_stablehlo_runs_at_any_size(tmp_path, scale):
  model = edsr.Model(scale=scale, blocks=1, features=4, residual_scale=1.0)
  params = model.init(jax.random.key(0), np.zeros((1, 4, 4, 3), np.float32))
  path = tmp_path / 'edsr.stablehlo'
  export_stablehlo(sr_of(model), params['params'], path, scale=scale)
  run = load_stablehlo(path)
  for shape in ((1, 5, 8, 3), (2, 1, 1, 3), (3, 9, 4, 3)):
    lr = np.random.default_rng(0).random(shape, np.float32)
    expected = jax.jit(sr_of(model))(params['params'], lr)
    np.testing.assert_allclose(run(lr), expected, atol=1e-6)


@pytest.mark.nightly
def test_stablehlo_of_a_model_that_makes_squares(tmp_path):
  """SRNet reflects an image to a square of its longer side."""
  model = srnet.Model(
    scale=2, variant='edsr-ssa', blocks=1, features=8, reduction=8
  )
  variables = model.init(jax.random.key(0), np.zeros((1, 4, 4, 3), np.float32))
  path = tmp_path / 'srnet.stablehlo'
  export_stablehlo(
    lambda variables, lr: model.apply(variables, lr)[0],
    variables,
    path,
    scale=2,
  )
  run = load_stablehlo(path)
  for shape in ((1, 5, 8, 3), (2, 1, 1, 3), (1, 9, 2, 3), (1, 4, 4, 3)):
    lr = np.random.default_rng(0).random(shape, np.float32)
    expected, _ = jax.jit(model.apply)(variables, lr)
    np.testing.assert_allclose(run(lr), expected, atol=1e-6)


@pytest.mark.parametrize(
  ('name', 'options', 'shapes'),
  [
    # Sizes that its cells of 2x2 pixels do not divide, and a single pixel.
    nightly(
      'rrdbnet', {'growth': 2}, [(1, 1, 1, 3), (1, 5, 8, 3), (2, 9, 3, 3)]
    ),
    # Halves of even and odd sizes; its least.
    nightly('san', {'groups': 2, 'reduction': 4}, [(1, 4, 5, 3), (2, 9, 6, 3)]),
  ],
)
def test_stablehlo_of_networks_that_cut_the_image(
  tmp_path, name, options, shapes
):
  model = models.module(name).Model(scale=2, blocks=1, features=8, **options)
  params = model.init(jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32))
  # Layers that start at zero would hide what is before them.
  params = jax.tree.map(lambda x: x + 0.05, params['params'])
  path = tmp_path / 'program.stablehlo'
  least = model.least_side
  export_stablehlo(sr_of(model), params, path, scale=2, least_side=least)
  run = load_stablehlo(path)
  for shape in shapes:
    lr = np.random.default_rng(0).random(shape, np.float32)
    expected = jax.jit(sr_of(model))(params, lr)
    np.testing.assert_allclose(run(lr), expected, atol=1e-5)


def test_stablehlo_refuses_matrices_for_one_size(tmp_path):
  model = models.module('lrfnet').Model(scale=2, blocks=1, features=4)
  path = tmp_path / 'program.stablehlo'
  params = model.init(jax.random.key(0), np.zeros((1, 4, 4, 3), np.float32))
  with pytest.raises(UserError, match='made for one image size'):
    export_stablehlo(sr_of(model), params['params'], path, scale=2)
  assert not path.exists()


def test_stablehlo_needs_jax_alone(tmp_path, network):
  """Follows the docstring of the module; weights are inside the program."""
  model, params = network
  path = tmp_path / 'edsr.stablehlo'
  export_stablehlo(sr_of(model), params, path, scale=2)
  program = export.deserialize(bytearray(path.read_bytes()))
  assert program.platforms == ('cpu', 'cuda', 'tpu')
  assert [str(n) for n in program.in_avals[0].shape] == ['b', 'h', 'w', '3']
  assert 'stablehlo.convolution' in program.mlir_module()
  assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_stablehlo_checks_the_scale(tmp_path, network):
  model, params = network
  path = tmp_path / 'edsr.stablehlo'
  with pytest.raises(UserError, match=r'not scale 3'):
    export_stablehlo(sr_of(model), params, path, scale=3)
  assert not path.exists()


@pytest.mark.parametrize('data', [b'', b'no program', bytes(1000)])
def test_other_files_are_no_programs(tmp_path, data):
  path = tmp_path / 'edsr.stablehlo'
  path.write_bytes(data)
  with pytest.raises(UserError, match='is no exported StableHLO program'):
    load_stablehlo(path)

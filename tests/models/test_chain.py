"""Chains of equal blocks: one program, stacked parameters."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from sr_jax.models import rcan
from sr_jax.models.parts import common, parameters
from sr_jax.weights.formats.safetensors_io import (
  export_safetensors,
  read_safetensors,
)
from sr_jax.weights.published import import_weights

BLOCK = {'features': 4, 'residual_scale': 0.5}


class Chain(nn.Module):
  """Three residual blocks; the last result, and that of all."""

  @nn.compact
  def __call__(self, x):
    last = common.chain(common.ResBlock(**BLOCK, name='body_*'), 3, x)
    block = common.ResBlock(**BLOCK, name='other_*')
    return last, common.chain_outputs(block, 3, x)


def test_a_chain_is_its_blocks_one_after_the_other():
  x = np.random.default_rng(0).normal(size=(1, 5, 6, 4)).astype(np.float32)
  params = jax.jit(Chain().init)(jax.random.key(0), x)['params']
  last, every = jax.jit(Chain().apply)({'params': params}, x)
  resblock = jax.jit(common.ResBlock(**BLOCK).apply)
  for name, found in (('other_*', every), ('body_*', [None, None, last])):
    y = x
    for i, result in enumerate(found):
      block = jax.tree.map(lambda leaf, i=i: leaf[i], params[name])
      y = resblock({'params': block}, y)
      if result is not None:
        np.testing.assert_allclose(y, result, atol=1e-5)


class Long(nn.Module):
  """Six residual blocks."""

  unroll: bool

  @nn.compact
  def __call__(self, x):
    block = common.ResBlock(**BLOCK, name='body_*')
    return common.chain(block, 6, x, unroll=self.unroll)


def test_a_chain_written_out_is_the_loop():
  x = np.random.default_rng(0).normal(size=(1, 5, 6, 4)).astype(np.float32)
  params = jax.jit(Long(unroll=False).init)(jax.random.key(0), x)['params']
  results = []
  for unroll in (False, True):

    def loss(params, unroll=unroll):
      return (Long(unroll).apply({'params': params}, x) ** 2).sum()

    program = jax.jit(jax.value_and_grad(loss)).lower(params).compile()
    assert (' while(' in program.as_text()) != unroll
    results.append(program(params))
    initial = jax.jit(Long(unroll).init)(jax.random.key(0), x)['params']
    jax.tree.map(np.testing.assert_array_equal, initial, params)
  close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
  jax.tree.map(close, *results)


def test_blocks_of_a_chain_start_from_numbers_of_their_own():
  init = jax.jit(Chain().init)
  params = init(jax.random.key(0), jnp.zeros((1, 4, 4, 4)))['params']
  kernel = params['body_*']['conv1']['kernel']
  assert kernel.shape == (3, 3, 3, 4, 4)
  assert len(np.unique(kernel)) == kernel.size
  # Uniform in +-1/sqrt(fan_in), of one block.
  assert 0.95 / 6 < np.abs(kernel).max() <= 1 / 6


@pytest.mark.nightly
def test_files_hold_the_blocks_one_by_one(tmp_path):
  options = {'groups': 2, 'blocks': 3, 'features': 4, 'reduction': 2}
  network = rcan.Model(scale=2, **options)
  lr = jnp.zeros((1, 4, 4, 3))
  params = jax.jit(network.init)(jax.random.key(0), lr)['params']
  flat = traverse_util.flatten_dict(params, sep='/')
  path = tmp_path / 'rcan.safetensors'
  config = {'name': 'rcan', 'scale': 2, 'options': {**options, 'channels': 3}}
  export_safetensors(params, path, config=config)
  tensors, _ = read_safetensors(path)
  np.testing.assert_array_equal(
    tensors['group_1/block_2/conv1/kernel'],
    flat['group_1/block_*/conv1/kernel'][2],
  )
  shapes = parameters.unstacked_shapes(parameters.shapes_of(params))
  assert shapes == {name: tensor.shape for name, tensor in tensors.items()}
  imported = import_weights(path, model='rcan')
  assert imported.config == config
  jax.tree.map(np.testing.assert_array_equal, imported.params, params)

"""Chains of equal blocks: one program, stacked parameters."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from sr_jax.importers.safetensors_io import export_safetensors, read_safetensors
from sr_jax.importers.weights import import_weights
from sr_jax.models import common, parameters, rcan

BLOCK = {'features': 4, 'residual_scale': 0.5}


class Chain(nn.Module):
  """Residual blocks, each of which adds the same besides."""

  @nn.compact
  def __call__(self, x, more):
    return common.chain(Block(name='body_*'), 3, x, more)


class Block(nn.Module):
  """A residual block and one input more."""

  @nn.compact
  def __call__(self, x, more):
    return common.ResBlock(**BLOCK, name='block')(x) + more


def test_a_chain_is_its_blocks_one_after_the_other():
  rng = np.random.default_rng(0)
  x, more = rng.normal(size=(2, 1, 5, 6, 4)).astype(np.float32)
  params = Chain().init(jax.random.key(0), x, more)['params']
  y, expected = Chain().apply({'params': params}, x, more), x
  for i in range(3):
    block = jax.tree.map(lambda leaf, i=i: leaf[i], params['body_*']['block'])
    expected = (
      common.ResBlock(**BLOCK).apply({'params': block}, expected) + more
    )
  np.testing.assert_allclose(y, expected, atol=1e-5)


def test_blocks_of_a_chain_start_from_numbers_of_their_own():
  init = jax.jit(Chain().init)
  x = jnp.zeros((1, 4, 4, 4))
  kernel = init(jax.random.key(0), x, x)['params']['body_*']['block']['conv1'][
    'kernel'
  ]
  assert kernel.shape == (3, 3, 3, 4, 4)
  assert len(np.unique(kernel)) == kernel.size
  # Uniform in +-1/sqrt(fan_in), of one block.
  assert 0.95 / 6 < np.abs(kernel).max() <= 1 / 6


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
    flat['group_*/block_*/conv1/kernel'][1, 2],
  )
  np.testing.assert_array_equal(
    tensors['group_1/end/bias'], flat['group_*/end/bias'][1]
  )
  shapes = parameters.unstacked_shapes(parameters.shapes_of(params))
  assert shapes == {name: tensor.shape for name, tensor in tensors.items()}
  imported = import_weights(path, model='rcan')
  assert imported.config == config
  jax.tree.map(np.testing.assert_array_equal, imported.params, params)

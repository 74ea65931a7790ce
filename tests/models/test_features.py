"""VGG and AlexNet against plain NumPy, and torchvision's layer numbers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax import models
from sr_jax.errors import UserError
from sr_jax.models.features import alexnet, vgg
from sr_jax.weights.names import torch_to_flax
from tests import feature_oracle as oracle
from tests.nightly import nightly

IMAGE = np.random.default_rng(1).random((18, 21, 3), np.float32)


def parameters(tensors, module):
  params = {}
  for path, array in torch_to_flax(tensors, module.TORCH_NAMES).arrays.items():
    layer, leaf = path.split('/')
    params.setdefault(layer, {})[leaf] = array
  return params


@pytest.mark.parametrize(
  ('variant', 'plan', 'layers'),
  [
    (
      'vgg19',
      oracle.VGG19,
      {'conv2_2': 7, 'relu2_2': 8, 'conv3_4': 16, 'relu4_4': 26, 'conv5_4': 34},
    ),
    nightly(
      'vgg16', oracle.VGG16, {'relu1_2': 3, 'relu3_3': 15, 'relu5_3': 29}
    ),
  ],
)
def test_vgg_equals_numpy(variant, plan, layers):
  tensors = oracle.random_vgg(plan, seed=0)
  network = vgg.Model(layers=layers, variant=variant)
  run = jax.jit(network.apply)
  found = run({'params': parameters(tensors, vgg)}, IMAGE[None])
  expected = oracle.vgg(tensors, plan, IMAGE)
  assert set(found) == set(layers)
  for layer, position in layers.items():
    wanted = expected[position]
    np.testing.assert_allclose(
      found[layer][0], wanted, atol=1e-5 * np.abs(wanted).max()
    )


def test_parameters_up_to_the_layer_of_esrgan():
  network = vgg.Model(layers=['conv5_4'])
  shapes = jax.eval_shape(
    network.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3))
  )
  count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
  assert count == 20_024_384


def test_alexnet_equals_numpy():
  image = np.random.default_rng(2).random((50, 43, 3), np.float32)
  tensors = oracle.random_alexnet(seed=0)
  layers = {f'relu{i + 1}': n for i, n in enumerate((1, 4, 7, 9, 11))}
  network = alexnet.Model(layers=layers)
  found = network.apply({'params': parameters(tensors, alexnet)}, image[None])
  expected = oracle.alexnet(tensors, image)
  for layer, position in layers.items():
    wanted = expected[position]
    np.testing.assert_allclose(
      found[layer][0], wanted, atol=1e-5 * np.abs(wanted).max()
    )
  before = alexnet.Model(layers=['conv2']).apply(
    {'params': parameters(tensors, alexnet)}, image[None]
  )['conv2']
  assert float(before.min()) < 0
  np.testing.assert_array_equal(np.maximum(before, 0), found['relu2'])


def test_no_deeper_than_asked_for():
  network = vgg.Model(layers=['relu2_1', 'conv1_1'])
  params = jax.eval_shape(
    network.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3))
  )['params']
  assert list(params) == ['conv1_1', 'conv1_2', 'conv2_1']


@pytest.mark.parametrize('module', [vgg, alexnet])
def test_unknown_layers(module):
  network = module.Model(layers=['conv9_9'])
  with pytest.raises(UserError, match='conv9_9'):
    jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))


@pytest.mark.parametrize('name', models.feature_names())
def test_they_are_no_models_for_enlarging(name):
  assert name not in models.names()
  with pytest.raises(UserError, match='does not enlarge'):
    models.create({'name': name, 'scale': 2})

"""KernelGAN's networks against the released code's outputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax.models.estimators.kernelgan import (
  KERNEL_SIDE,
  Discriminator,
  Model,
  reduce_by,
)
from tests import golden_files, kernelgan_goldens


@pytest.mark.parametrize('name', ['full_formula', 'ch6'])
def test_generator(name):
  golden = golden_files.load(f'kernelgan_generator_{name}')
  params = kernelgan_goldens.generator(golden.state_dict)
  network = Model(features=golden.meta['config']['args']['G_chan'])
  kernel = network.apply({'params': params})
  np.testing.assert_allclose(kernel, golden.outputs['k'], atol=1e-6)
  (x,) = golden.inputs.values()
  golden.check('y', network.apply({'params': params}, x))


@pytest.mark.nightly
def test_multiplied_out_it_is_the_same_function_with_the_same_gradients():
  """Six convolutions one after the other, and their product."""
  network = Model(features=4)
  params = network.init(jax.random.key(0))['params']
  image = jax.random.normal(jax.random.key(1), (2, 18, 16, 1))

  def layer_by_layer(params):
    x = image
    for i in range(6):
      x = jax.lax.conv_general_dilated(
        x,
        params[f'layer_{i}'],
        (1, 1) if i < 5 else (2, 2),
        'VALID',
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      )
    return x

  def product(params):
    return network.apply({'params': params}, image)

  def loss(function):
    return lambda params: jnp.sin(1e3 * function(params)).sum()

  np.testing.assert_allclose(product(params), layer_by_layer(params), atol=1e-7)
  ours, theirs = (
    jax.grad(loss(function))(params) for function in (product, layer_by_layer)
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
    *(ours, theirs),
  )
  kernel = network.apply({'params': params})
  assert kernel.shape == (KERNEL_SIDE, KERNEL_SIDE)
  np.testing.assert_allclose(reduce_by(image, kernel), product(params))


@pytest.mark.parametrize('name', ['full_formula', 'ch8'])
def test_discriminator(name):
  """A forward pass in training: chances, slopes, singular vectors after it."""
  golden = golden_files.load(f'kernelgan_discriminator_{name}')
  params, spectral = kernelgan_goldens.discriminator(golden.state_dict)
  network = Discriminator(golden.meta['config']['args']['D_chan'])
  outputs = kernelgan_goldens.arrays(f'discriminator_{name}', 'out')
  (x,) = golden.inputs.values()

  def real(x):
    chances, after = network.apply(
      {'params': params, 'spectral': spectral}, x, mutable=['spectral']
    )
    return jnp.abs(chances - 1).mean(), (chances, after['spectral'])

  (loss, (chances, after)), slopes = jax.value_and_grad(real, has_aux=True)(
    x[0]
  )
  np.testing.assert_allclose(chances, outputs['train:y'][0, 0], atol=2e-6)
  np.testing.assert_allclose(loss, outputs['train:loss_real'], atol=1e-6)
  expected = outputs['train:g_x'][0].transpose(1, 2, 0)
  np.testing.assert_allclose(
    slopes, expected, atol=1e-4 * np.abs(expected).max()
  )
  stored = golden.state_dict | {
    key.removeprefix('train_after:'): value
    for key, value in outputs.items()
    if key.startswith('train_after:')
  }
  _, expected = kernelgan_goldens.discriminator(stored)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), after, expected
  )


def test_counts_and_start_of_the_published_discriminator():
  variables = Discriminator().init(jax.random.key(0), jnp.zeros((26, 26, 3)))
  params = variables['params']
  assert sum(x.size for x in jax.tree.leaves(params)) == 30_977
  # Xavier's normal with gain 0.1: its fans count the taps.
  for layer, fans in (('patches', 49 * (3 + 64)), ('layer_0', 128)):
    deviation = float(params[layer]['kernel'].std())
    assert deviation == pytest.approx(0.1 * (2 / fans) ** 0.5, rel=0.05)
  assert float(params['norm_0']['scale'].std()) == pytest.approx(0.02, rel=0.4)

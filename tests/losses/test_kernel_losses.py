"""KernelGAN's losses against the released code's values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax.losses import kernel as kernel_losses
from sr_jax.models.estimators.kernelgan import reduce_by
from tests import kernelgan_goldens

INPUTS = kernelgan_goldens.arrays('losses', 'in')
OUTPUTS = kernelgan_goldens.arrays('losses', 'out')
K = jnp.asarray(INPUTS['k'], 'float32')
LOSSES = {
  'sum2one': kernel_losses.sum_to_one,
  'centralized': lambda kernel: kernel_losses.off_centre(kernel, 6.5),
  'boundaries': kernel_losses.near_border,
  'sparse': kernel_losses.sparsity,
}


@pytest.mark.parametrize('name', LOSSES)
def test_value_and_gradient(name):
  value, slope = jax.value_and_grad(LOSSES[name])(K)
  np.testing.assert_allclose(value, OUTPUTS[name], rtol=1e-5, atol=1e-6)
  expected = OUTPUTS[f'{name}_g']
  # At zero the slopes of absolute values are a matter of convention.
  slope, expected = slope[K != 0], expected[K != 0]
  np.testing.assert_allclose(slope, expected, rtol=1e-4, atol=1e-6)


def test_penalty_mask():
  mask = kernel_losses.penalty_mask(13)
  np.testing.assert_allclose(mask, OUTPUTS['penalty_mask'], atol=1e-12)


@pytest.mark.parametrize('summed', [True, False])
def test_bicubic_target(summed):
  """The released target adds up the colours; the intended one does not."""
  image = jnp.asarray(INPUTS['x'][0].transpose(1, 2, 0), 'float32')
  fake = reduce_by(image, K)
  expected = OUTPUTS['g_pred'][0].transpose(1, 2, 0)
  np.testing.assert_allclose(fake, expected, atol=1e-6)
  name = 'bicubic_released' if summed else 'bicubic_per_channel'

  def loss(fake):
    target = kernel_losses.bicubic_half(image, 26, summed=summed)
    return ((fake - target) ** 2).mean()

  value, slope = jax.value_and_grad(loss)(fake)
  np.testing.assert_allclose(value, OUTPUTS[name], atol=1e-6)
  expected = OUTPUTS[f'{name}_g'][0].transpose(1, 2, 0)
  np.testing.assert_allclose(slope, expected, atol=1e-8)

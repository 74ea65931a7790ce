"""Masked application: padded images give the same results as unpadded ones."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax import models
from sr_jax.models.parts.masking import masked_apply
from tests import model_checks
from tests.nightly import first_by_default, nightly


def padded(lr, height, width):
  pad = ((0, 0), (0, height - lr.shape[1]), (0, width - lr.shape[2]), (0, 0))
  mask = np.ones((*lr.shape[:3], 1), np.float32)
  # What lies outside is not zero: the mask alone must keep it out.
  return np.pad(lr, pad, constant_values=0.7), np.pad(mask, pad)


def init(network, channels=3):
  lr = jnp.ones((1, 8, 8, channels))
  return jax.jit(network.init)(jax.random.key(0), lr)['params']


@pytest.mark.parametrize('scale', first_by_default([3, 2, 4, 8]))
def test_padding_changes_nothing(scale):
  network = models.create(
    {
      'name': 'edsr',
      'scale': scale,
      'variant': 'small',
      'blocks': 2,
      'features': 8,
    }
  )
  params = init(network)
  apply = jax.jit(
    lambda params, lr, mask: masked_apply(network, params, lr, mask)
  )
  rng = np.random.default_rng(0)
  for height, width in [(1, 1), (5, 20), (24, 9), (17, 11)]:
    lr = rng.random((2, height, width, 3), np.float32)
    alone = apply(params, lr, None)
    large = apply(params, *padded(lr, 24, 20))
    inside = large[:, : scale * height, : scale * width]
    # Zero but for sums that tiny images order differently.
    np.testing.assert_allclose(inside, alone, atol=5e-7)


@pytest.mark.parametrize(
  ('name', 'options'),
  [
    # Convolutions of parts of the channels.
    nightly('carn', {'variant': 'carn-m-single', 'features': 8, 'groups': 2}),
    # A loop over blocks.
    ('rrdbnet', {'blocks': 2, 'features': 4, 'growth': 2}),
  ],
)
def test_padding_changes_nothing_within_parts_and_loops(name, options):
  network = models.create({'name': name, 'scale': 4, **options})
  params = model_checks.noise(network, spread=0.05)['params']
  lr = np.random.default_rng(0).random((1, 5, 4, 3), np.float32)
  apply = jax.jit(functools.partial(masked_apply, network))
  alone = apply(params, lr, None)
  large = apply(params, *padded(lr, 7, 9))
  np.testing.assert_allclose(large[:, :20, :16], alone, atol=5e-7)


def test_without_the_mask_padding_shows():
  network = models.create({'name': 'edsr', 'scale': 2, 'variant': 'small'})
  params = init(network)
  lr = np.random.default_rng(0).random((1, 6, 6, 3), np.float32)
  apply = jax.jit(functools.partial(masked_apply, network))
  alone = apply(params, lr, None)
  large = apply(params, padded(lr, 9, 9)[0], None)
  assert np.abs(large[:, :12, :12] - alone).max() > 1e-3


class FlaxConvs(nn.Module):
  """Linen's own layers: tuples as sizes, a 1x1 layer, an upsampling."""

  @nn.compact
  def __call__(self, lr):
    x = nn.Conv(4, (3, 3))(lr) + 1
    x = nn.Conv(4, (1, 1))(x).repeat(2, 1).repeat(2, 2)
    return nn.Conv(3, (5, 3))(x + 1), {}


def test_linen_layers_on_two_resolutions():
  network = FlaxConvs()
  lr = np.random.default_rng(0).random((1, 5, 4, 3), np.float32)
  alone = masked_apply(network, init(network), lr, None)
  large = masked_apply(network, init(network), *padded(lr, 8, 9))
  np.testing.assert_allclose(large[:, :10, :8], alone, atol=5e-7)


class Strided(nn.Module):
  """A network with a stride, whose grid is not that of the mask."""

  @nn.compact
  def __call__(self, lr):
    return nn.Conv(3, (3, 3))(nn.Conv(3, (3, 3), strides=2)(lr)), {}


def test_other_resolutions_are_refused():
  network = Strided()
  lr = np.ones((1, 8, 8, 3), np.float32)
  with pytest.raises(ValueError, match='cannot be masked'):
    masked_apply(network, init(network), *padded(lr, 8, 8))

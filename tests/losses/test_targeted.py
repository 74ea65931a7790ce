"""The targeted perceptual loss by its formula, and its mask."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax.losses.targeted import masked_distance
from sr_jax.models.features import vgg
from sr_jax.ops.regions import NAMES, regions
from tests.nightly import nightly_of

RNG = np.random.default_rng(0)
SR, HR = RNG.random((2, 2, 16, 16, 3), np.float32)
# A person before grass below a sky, the second image with another edge.
LABELS = np.full((2, 16, 16), 157, np.uint8)
LABELS[:, 9:] = 124
LABELS[0, 6:, 7:] = LABELS[1, :, 11:] = 1
MASKS = regions(jnp.asarray(LABELS), 1)
LAYERS = {'boundary': 'relu1_2', 'background': 'relu2_1', 'object': 'relu2_2'}


def test_sum_of_squares_by_hand():
  """Differences 1 and 2 in the mask; features double them; two images."""
  sr, hr = np.zeros((2, 2, 2, 2, 3), np.float32)
  sr[0, 0, 0, 0] = 1.0
  hr[1, 1, 1, 2] = 2.0
  sr[1, 0, 1] = 9.0  # outside
  mask = np.ones((2, 2, 2, 1), np.float32)
  mask[1, 0, 1] = 0
  found = masked_distance(lambda image: {'a': 2 * image}, sr, hr, mask)
  assert float(found) == ((2 * 1) ** 2 + (2 * 2) ** 2) / 2


def test_layers_are_added_up():
  mask = MASKS['background']

  def distance(*names):
    features = {'a': lambda x: x, 'b': lambda x: x[:, ::2] ** 2}
    return masked_distance(
      lambda image: {n: features[n](image) for n in names}, SR, HR, mask
    )

  assert float(distance('a', 'b')) == pytest.approx(
    float(distance('a') + distance('b')), rel=1e-6
  )
  expected = (np.asarray(mask) * (SR - HR).astype(np.float64)) ** 2
  assert float(distance('a')) == pytest.approx(expected.sum() / 2, rel=1e-6)


@pytest.fixture(scope='module')
def look():
  """Features of any layer of a VGG16 with random weights."""
  networks = {
    region: vgg.Model(layers=[layer], variant='vgg16')
    for region, layer in LAYERS.items()
  }
  variables = networks['object'].init(jax.random.key(0), SR)
  return {
    region: jax.jit(lambda x, network=network: network.apply(variables, x))
    for region, network in networks.items()
  }


@pytest.mark.parametrize('region', nightly_of(NAMES, ['boundary']))
def test_nothing_outside_the_region_has_an_effect(look, region):
  mask = MASKS[region]
  assert 0 < mask.mean() < 1
  of_images = jax.value_and_grad(
    lambda sr, hr: masked_distance(look[region], sr, hr, mask), (0, 1)
  )
  value, (to_sr, to_hr) = of_images(SR, HR)
  inside = np.broadcast_to(np.asarray(mask) == 1, SR.shape)
  assert not np.any(to_sr[~inside])
  assert (to_sr[inside] != 0).mean() > 0.95
  assert not np.any(to_hr)
  noise = RNG.random(SR.shape, np.float32) * ~inside
  other, _ = of_images(SR + noise, HR - noise)
  assert float(other) == float(value) > 0
  assert float(of_images(HR, HR)[0]) == 0


@pytest.mark.parametrize('region', NAMES)
def test_an_image_without_the_region_is_not_looked_at(look, region):
  """The gradient is zero, without NaN."""
  value, slope = jax.value_and_grad(
    lambda sr: masked_distance(look[region], sr, HR, 0 * MASKS[region])
  )(SR)
  assert float(value) == 0
  assert not np.any(slope)

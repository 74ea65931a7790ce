"""Perceptual losses by their formulas."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax.losses import perceptual
from sr_jax.losses.perceptual import RECIPES, Recipe, feature_distance
from sr_jax.models.features import vgg

RNG = np.random.default_rng(0)
SHAPES = {layer: (2, 3, 4, 5) for r in RECIPES.values() for layer in r.layers}
SR, HR = (
  {k: RNG.normal(size=s).astype(np.float32) for k, s in SHAPES.items()}
  for _ in range(2)
)


def difference(layer):
  return SR[layer].astype(np.float64) - HR[layer]


def test_esrgan():
  expected = np.abs(difference('conv5_4')).mean()
  found = feature_distance(SR, HR, RECIPES['esrgan'])
  assert float(found) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
  ('name', 'layer'), [('srgan-vgg22', 'relu2_2'), ('srgan-vgg54', 'relu5_4')]
)
def test_srgan(name, layer):
  """SRGAN's equation 5 with features divided by 12.75."""
  total = (difference(layer) ** 2).sum() / (3 * 4) / 2  # of two images
  found = feature_distance(SR, HR, RECIPES[name])
  assert float(found) == pytest.approx(total / 12.75**2, rel=1e-6)
  assert float(found) == pytest.approx(0.006 * total, rel=0.03)


def test_bsrgan_sums_its_layers():
  weights = {'conv1_2': 0.1, 'conv2_2': 0.1}
  weights |= {'conv3_4': 1, 'conv4_4': 1, 'conv5_4': 1}
  expected = sum(w * np.abs(difference(k)).mean() for k, w in weights.items())
  found = feature_distance(SR, HR, RECIPES['bsrgan'])
  assert float(found) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize('name', RECIPES)
def test_layers_are_those_of_vgg19(name):
  network = vgg.Model(layers=list(RECIPES[name].layers))
  image = jnp.zeros((1, 32, 32, 3))
  found, _ = jax.eval_shape(network.init_with_output, jax.random.key(0), image)
  assert list(found) == list(RECIPES[name].layers)


def test_gradient_reaches_sr_alone_and_through_the_network():
  network = vgg.Model(layers=['conv2_1'])
  sr, hr = RNG.random((2, 1, 10, 9, 3), np.float32)
  variables = network.init(jax.random.key(0), sr)
  recipe = Recipe({'conv2_1': 1.0}, perceptual.squared)

  def loss(sr, hr):
    features = (network.apply(variables, x) for x in (sr, hr))
    return feature_distance(*features, recipe)

  to_sr, to_hr = jax.jit(jax.grad(loss, (0, 1)))(sr, hr)
  assert np.isfinite(to_sr).all()
  assert (to_sr != 0).mean() > 0.9
  assert not np.any(to_hr)
  assert float(loss(sr - 1e-2 * to_sr, hr)) < float(loss(sr, hr))
  assert float(loss(hr, hr)) == 0


@pytest.mark.parametrize('xp', [np, jnp])
def test_total_variation(xp):
  image = np.zeros((2, 3, 4, 1))
  image[0, 1, 1] = 2.0  # four neighbours
  image[1, 0, 0] = -1.0  # two
  found = perceptual.total_variation(xp.asarray(image))
  assert float(found) == pytest.approx((4 * 2 + 2 * 1) / 2)
  assert float(perceptual.total_variation(xp.asarray(image + 5))) == (
    pytest.approx(float(found))
  )

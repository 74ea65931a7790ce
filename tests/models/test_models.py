"""Checks of every architecture in the package."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax import models
from sr_jax.errors import UserError
from sr_jax.models import zssr
from sr_jax.models.parts import base
from sr_jax.ops.resize import imresize, resize_matrix
from tests import model_checks
from tests.nightly import first_by_default, nightly, nightly_of

NAMES = models.names()
# Tracing these networks takes the longest, also when they are tiny.
LARGE = ['carn', 'crossnet', 'rrdbnet', 'san', 'spsr', 'srnet', 'srntt']
# Those of which gradients take long, too.
LARGE_GRADIENTS = [
  *LARGE,
  *('drcn', 'drn', 'drrn', 'metasr', 'msrresnet', 'ranksrgan', 'rcan'),
  *('srfbn', 'srresnet'),
]
# Those of which the published variants are traced for long.
DEEP = ['crossnet', 'rcan', 'san', 'spsr', 'srfbn', 'srnet']
# Every published count; by default the first of each architecture.
COUNTS = [
  case
  for name in NAMES
  for case in first_by_default(
    [
      (name, variant, scale)
      for variant, entry in models.module(name).VARIANTS.items()
      for scale in entry.parameters
    ],
    keep=0 if name in DEEP else 1,
  )
]


def _scales(name):
  """Scales of any variant, and the least one that the architecture takes."""
  variants = models.module(name).VARIANTS.values()
  published = {scale for entry in variants for scale in entry.parameters}
  return sorted(published | {model_checks.least_scale(name)})


def _by_scale(least, large):
  """Architectures at all scales from `least` on.

  By default, those that are not large run at their least scale.
  """
  return [
    (name, scale)
    if scale == model_checks.least_scale(name) and name not in large
    else nightly(name, scale)
    for name in NAMES
    for scale in _scales(name)
    if scale >= least
  ]


REFINING = [
  name
  for name in NAMES
  if isinstance(model_checks.tiny(name), base.RefiningNetwork)
]


@pytest.mark.parametrize(('name', 'variant', 'scale'), COUNTS)
def test_parameter_count_is_the_published(name, variant, scale):
  model_checks.check_count(name, variant, scale)


@pytest.mark.parametrize(('name', 'scale'), _by_scale(1, LARGE))
def test_shapes_at_odd_sizes_and_batches(name, scale):
  model_checks.check_shapes(name, scale)


@pytest.mark.parametrize('channels', [4, nightly(1)])
@pytest.mark.parametrize('name', NAMES)
def test_other_channel_counts(name, channels):
  model_checks.check_channels(name, channels)


@pytest.mark.parametrize('name', nightly_of(NAMES, LARGE))
def test_bfloat16_computes_low_but_keeps_float32_parameters(name):
  model_checks.check_low_precision(name)


# At scale 1 pixels in the middle of RRDBNet's cells reach less than others.
@pytest.mark.parametrize(('name', 'scale'), _by_scale(2, LARGE_GRADIENTS))
def test_finite_gradients_and_receptive_radius(name, scale):
  model_checks.check_gradients_and_reach(name, scale)


@pytest.mark.nightly
@pytest.mark.parametrize('name', NAMES)
def test_jit_equals_eager_and_bfloat16_is_near(name):
  network = model_checks.tiny(name)
  lr = model_checks.image(network, 8, 9)
  variables = jax.jit(network.init)(jax.random.key(0), lr)
  eager, _ = network.apply(variables, lr)
  compiled, _ = jax.jit(network.apply)(variables, lr)
  np.testing.assert_allclose(eager, compiled, atol=1e-5)
  half = model_checks.tiny(name, dtype='bfloat16')
  low, _ = jax.jit(half.apply)(variables, lr)
  assert 0 < jnp.abs(low - compiled).max() < 0.02


@pytest.mark.parametrize('offset', [None, 0.0, -3.5, 7.0])
@pytest.mark.parametrize('scale', [2, 3, 4, 8])
def test_halo_of_enlarging_networks_of_any_depth(scale, offset):
  """The rows that an LR pixel affects: its column of the resize, widened."""
  pixels, centre = 61, 30
  matrix = resize_matrix(pixels, scale * pixels, scale, offset=offset)
  enlarged = np.abs(matrix[:, centre]) > 1e-9
  for depth in (1, 2, 5, 8, 20):
    rows = np.flatnonzero(np.convolve(enlarged, np.ones(2 * depth + 1), 'same'))
    reach = max(centre - rows[0] // scale, rows[-1] // scale - centre)
    assert zssr.enlarged_halo(scale, depth, offset) == reach


@pytest.mark.parametrize('name', REFINING)
def test_scales_that_are_not_whole(name):
  """The weights are a correction of the cubic enlargement, at every scale."""
  network = model_checks.tiny(name, 2.5)
  assert network.halo is None
  lr = model_checks.image(network, 5, 4, batch=2)
  nothing = jax.tree.map(jnp.zeros_like, model_checks.noise(network))
  for scale, shape in ((1.7, (9, 7)), (2, (10, 8)), (2.5, (13, 10))):
    sr, _ = jax.jit(model_checks.tiny(name, scale).apply)(nothing, lr)
    assert sr.shape == (2, *shape, 3)
    np.testing.assert_allclose(sr, imresize(lr, scale=scale), atol=1e-6)


@pytest.mark.parametrize('name', REFINING)
def test_refine_follows_the_enlargement(name):
  network = model_checks.tiny(name, 2)
  lr = model_checks.image(network, 5, 4)
  variables = model_checks.noise(network)
  enlarged = imresize(lr, scale=2)

  @jax.jit
  def both(variables, lr):
    refined = network.apply(variables, enlarged, method='refine')
    return refined, network.apply(variables, lr)[0]

  refined, sr = both(variables, lr)
  np.testing.assert_allclose(refined, sr, rtol=1e-4, atol=1e-4)
  assert np.abs(refined - enlarged).max() > 1e-3


@pytest.mark.parametrize(
  ('name', 'spread', 'largest', 'biases'),
  [
    # The standard deviation times sqrt(fan_in). MZSR: a normal distribution cut
    # at two standard deviations, as in TensorFlow 1, has 0.8796 of one left.
    ('mzsr', 0.8796, 2.0, 8),
    ('zssr', math.sqrt(0.1), math.inf, 0),
  ],
)
def test_initial_weights_of_the_papers(name, spread, largest, biases):
  network = models.create({'name': name, 'scale': 2})
  init = jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, 4, 4, 3)))
  params = init['params']
  for i in range(1, 9):
    kernel = np.asarray(params[f'conv{i}']['kernel'])
    normal = kernel * math.sqrt(math.prod(kernel.shape[:3]))
    assert normal.std() == pytest.approx(
      spread, rel=0.06 if i in (1, 8) else 0.02
    )
    assert abs(normal).max() <= largest * 1.0001
    assert abs(normal).max() > 1.9 * spread
  initial = [layer['bias'] for layer in params.values() if 'bias' in layer]
  assert len(initial) == biases
  assert not any(bias.any() for bias in initial)


def test_refining_networks_alone_train_on_enlarged_images():
  """Networks whose `refine` has other arguments, as CrossNet, are refused."""
  assert REFINING == ['lrfnet', 'mzsr', 'zssr']
  for name in ('edsr', 'crossnet'):
    with pytest.raises(UserError, match='meta_transfer trains networks that'):
      models.create_refining({'name': name, 'scale': 4}, 'meta_transfer')

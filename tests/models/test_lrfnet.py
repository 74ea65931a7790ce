"""LRFNet: block schemes by their formulas, receptive fields of the paper."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from sr_jax import models
from sr_jax.errors import UserError
from sr_jax.models import lrfnet
from tests import model_checks
from tests.nightly import first_by_default


def _correlate(x, layer, dilation):
  """A convolution layer on `[H, W, C]` by SciPy; zero padding."""
  kernel = np.asarray(layer['kernel'], np.float64)
  spread = np.zeros(
    tuple((n - 1) * dilation + 1 for n in kernel.shape[:2]) + kernel.shape[2:]
  )
  spread[::dilation, ::dilation] = kernel
  y = np.zeros((*x.shape[:2], kernel.shape[3])) + np.asarray(layer['bias'])
  for i, o in np.ndindex(*kernel.shape[2:]):
    y[..., o] += ndimage.correlate(
      x[..., i], spread[..., i, o], mode='constant'
    )
  return y


def _relu(x):
  return np.maximum(x, 0)


@pytest.mark.parametrize('dilation', first_by_default([2, 1]))
@pytest.mark.parametrize(
  ('scheme', 'formula'),
  [
    ('', lambda x, first, second: x + second(_relu(first(x)))),
    ('A', lambda x, first, second: x + second(_relu(first(x)))),
    ('B', lambda x, first, second: x + second(first(_relu(x)))),
    ('C', lambda x, first, second: x + first(_relu(x)) + second(_relu(x))),
    ('D', lambda x, first, second: x + _relu(first(x) + second(x))),
  ],
)
def test_block_schemes(scheme, formula, dilation):
  block = lrfnet.Block(3, 5, scheme, dilation)
  x = np.random.default_rng(0).normal(size=(1, 9, 8, 3)).astype(np.float32)
  params = jax.jit(block.init)(jax.random.key(0), jnp.asarray(x))['params']
  shapes = [params[name]['kernel'].shape[:2] for name in ('conv1', 'conv2')]
  assert shapes == ([(1, 5), (5, 1)] if scheme else [(5, 5), (5, 5)])
  first, second = (
    lambda y, layer=params[name]: _correlate(y, layer, dilation)
    for name in ('conv1', 'conv2')
  )
  expected = formula(x[0].astype(np.float64), first, second)
  ours = block.apply({'params': params}, jnp.asarray(x))[0]
  np.testing.assert_allclose(ours, expected, atol=1e-5)


@pytest.mark.parametrize(
  ('options', 'field'),
  [
    ({'variant': 'baseline'}, 53),
    ({'variant': 's-5'}, 53),
    ({'variant': 's-7'}, 77),
    ({'variant': 's'}, 101),
    ({'variant': 's-11'}, 125),
    ({'variant': 'a', 'dilations': (1, 2)}, 77),
    ({'variant': 'a', 'dilations': (1, 2, 3)}, 101),
    ({'variant': 'a', 'dilations': (1, 3, 5)}, 149),
    ({'variant': 'a'}, 213),
  ],
)
def test_receptive_fields_of_the_paper(options, field):
  assert 2 * lrfnet.Model(scale=4, **options).radius + 1 == field


@pytest.mark.parametrize(
  ('scheme', 'dilations'),
  first_by_default([('A', (1, 3)), ('C', (2,)), ('D', (1,)), ('', (3,))]),
)
def test_the_radius_is_the_reach_of_a_pixel(scheme, dilations):
  network = lrfnet.Model(
    scale=2,
    blocks=2,
    features=4,
    kernel_size=5,
    scheme=scheme,
    dilations=dilations,
  )
  side = 2 * network.radius + 3
  centre = side // 2
  image = jax.random.uniform(jax.random.key(1), (4, side, side, 3))
  params = model_checks.noise(network)
  refine = jax.jit(lambda x: network.apply(params, x, method='refine'))
  change = jnp.asarray([100.0, -100.0, 300.0, -300.0])[:, None]
  changed = refine(image) != refine(image.at[:, centre, centre].add(change))
  for axis in (1, 2):
    others = tuple({0, 1, 2, 3} - {axis})
    hit = np.flatnonzero(np.asarray(changed).any(others))
    assert centre - hit[0] == hit[-1] - centre == network.radius


@pytest.mark.parametrize(
  ('option', 'message'),
  [
    ({'scheme': 'E'}, "config.model.scheme='E'"),
    ({'kernel_size': 4}, 'config.model.kernel_size=4: give an odd number'),
    ({'dilations': (1, 2, 3, 4, 5)}, r'dilations=\(1, 2, 3, 4, 5\): 12 blocks'),
  ],
)
def test_options_that_make_no_network_are_refused(option, message):
  with pytest.raises(UserError, match=message):
    models.create({'name': 'lrfnet', 'scale': 4, **option})

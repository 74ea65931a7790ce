"""Networks of luma in a pipeline of RGB; recursion and normalisation."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from sr_jax import models
from sr_jax.models.parts.luma import apply_to_image, as_seen
from sr_jax.models.parts.masking import masked_apply
from sr_jax.ops.color import rgb_to_y, rgb_to_ycbcr
from sr_jax.ops.resize import imresize
from tests import model_checks
from tests.nightly import first_by_default
from tests.tiny_models import random_image, waves

TINY = {
  'drcn': {'features': 4, 'recursions': 2},
  'drrn': {'features': 4, 'units': 2},
  'lapsrn': {'depth': 1, 'features': 4},
  'srcnn': {'features': (4, 4)},
  'vdsr': {'depth': 3, 'features': 4},
}
_apply = jax.jit(apply_to_image, static_argnums=0)
every_model = pytest.mark.parametrize('name', sorted(TINY))


def _tiny(name, scale=2, **overrides):
  """A network with noise on its weights, its parameters and statistics."""
  options = {'name': name, 'scale': scale, **TINY[name], **overrides}
  network = models.create(options)
  variables = model_checks.noise(network, spread=0.1, seed=1)
  return network, variables['params'], variables.get('batch_stats')


@pytest.mark.parametrize(
  ('name', 'scale'),
  first_by_default([('vdsr', 2), ('drrn', 3), ('vdsr', 3), ('drrn', 2)], 2),
)
def test_without_a_residual_it_is_bicubic(name, scale):
  """For RGB as well, as colour conversion and enlargement commute."""
  network, params, stats = _tiny(name, scale)
  nothing = jax.tree.map(jnp.zeros_like, params)
  lr = jnp.asarray(random_image(5, 6)[None])
  sr = _apply(network, nothing, lr, None, stats)
  np.testing.assert_allclose(sr, imresize(lr, scale=scale), atol=2e-6)


@every_model
def test_luma_comes_from_the_network_and_chroma_from_bicubic(name):
  network, params, stats = _tiny(name)
  lr = jnp.asarray(random_image(5, 6)[None])
  ycbcr = rgb_to_ycbcr(_apply(network, params, lr, None, stats))
  y = jax.jit(functools.partial(masked_apply, network))(
    params, rgb_to_y(lr), None, stats
  )
  np.testing.assert_allclose(ycbcr[..., :1], y, atol=2e-5)
  chroma = imresize(rgb_to_ycbcr(lr)[..., 1:], scale=2)
  np.testing.assert_allclose(ycbcr[..., 1:], chroma, atol=2e-5)
  assert as_seen(network, lr).shape == (1, 5, 6, 1)


@every_model
def test_padding_changes_nothing(name):
  network, params, stats = _tiny(name)
  apply = jax.jit(
    lambda lr, mask: apply_to_image(network, params, lr, mask, stats)
  )
  for height, width in [(1, 1), (5, 11)]:
    lr = random_image(height, width)[None]
    # Mirrored for the enlargement; beyond it anything.
    pad = ((0, 0), (0, 2), (0, 2), (0, 0))
    large = np.pad(lr, pad, 'symmetric')
    more = ((0, 0), (0, 7 - height), (0, 13 - width), (0, 0))
    more = tuple((a, max(b, 0)) for a, b in more)
    large = np.pad(large, more, constant_values=0.7)
    mask = np.zeros((*large.shape[:3], 1), np.float32)
    mask[:, :height, :width] = 1
    inside = apply(large, mask)[:, : 2 * height, : 2 * width]
    np.testing.assert_allclose(inside, apply(lr, None), atol=2e-6)


def test_srcnn_learns_from_inner_pixels():
  """Training leaves the border out; the other pixels equal inference."""
  network, params, _ = _tiny('srcnn')
  lr = jnp.asarray(random_image(12, 11, 1)[None])
  sr, _ = network.apply({'params': params}, lr)
  part, _ = network.apply({'params': params}, lr, train=True)
  np.testing.assert_allclose(part, sr[:, 8:-8, 8:-8], atol=1e-6)


def _convolved(x, layer):
  """NumPy's zero-padded convolution of `[H, W, C]`."""
  kernel, bias = (np.asarray(layer[k], np.float64) for k in ('kernel', 'bias'))
  maps = [
    sum(
      scipy.ndimage.correlate(x[..., c], kernel[..., c, o], mode='constant')
      for c in range(x.shape[-1])
    )
    for o in range(kernel.shape[-1])
  ]
  return np.stack(maps, axis=-1) + bias


def test_drcn_is_its_equations():
  network, params, _ = _tiny('drcn')
  lr = waves(5, 6, 1)
  sr, aux = network.apply({'params': params}, jnp.float32(lr)[None])
  enlarged = imresize(lr, scale=2)
  x = enlarged
  for name in ('embed_1', 'embed_2'):
    x = np.maximum(_convolved(x, params[name]), 0)
  total = 0.0
  for weight, output in zip(
    params['ensemble'], aux['outputs'][:-1], strict=True
  ):
    x = np.maximum(_convolved(x, params['recursion']), 0)
    y = np.maximum(_convolved(x, params['rebuild_1']), 0)
    expected = enlarged + _convolved(y, params['rebuild_2'])
    np.testing.assert_allclose(output[0], expected, atol=1e-5)
    total = total + float(weight) * expected
  np.testing.assert_allclose(sr[0], total, atol=1e-5)


def test_drcn_starts_as_the_identity():
  """All recursions give the same result, and the weighted sum is their mean."""
  network = models.create({'name': 'drcn', 'scale': 2, **TINY['drcn']})
  lr = jnp.float32(waves(5, 6, 1))[None]
  (sr, aux), _ = network.init_with_output(jax.random.key(0), lr)
  for output in aux['outputs']:
    np.testing.assert_allclose(sr, output, atol=1e-6)
  assert np.abs(sr - imresize(lr, scale=2)).max() > 1e-3


@pytest.mark.parametrize('train', [False, True])
def test_drrn_is_its_equations(train):
  """Convolutions are shared by the units, normalisations are not."""
  network, params, stats = _tiny('drrn')
  lr = waves(5, 6, 1)
  (sr, _), changed = network.apply(
    {'params': params, 'batch_stats': stats},
    jnp.float32(lr)[None],
    train=train,
    mutable=['batch_stats'],
  )

  def active(x, name):
    norm, old = params[f'norm_{name}'], stats[f'norm_{name}']
    mean, var = (np.asarray(old[k], np.float64) for k in ('mean', 'var'))
    if train:
      mean, var = x.mean((0, 1)), x.var((0, 1))
      new = changed['batch_stats'][f'norm_{name}']
      for kind, value in (('mean', mean), ('var', var)):
        weight = 1 / (0.999 * float(stats['weight']) + 1)
        expected = (1 - weight) * np.asarray(old[kind]) + weight * value
        np.testing.assert_allclose(new[kind], expected, rtol=1e-3, atol=1e-6)
    x = (x - mean) / np.sqrt(var + 1e-5)
    return np.maximum(
      x * np.asarray(norm['scale']) + np.asarray(norm['bias']), 0
    )

  enlarged = imresize(lr, scale=2)
  first = x = _convolved(active(enlarged, 'head'), params['head'])
  for i in range(2):
    y = _convolved(active(x, f'{i}_1'), params['unit_conv1'])
    x = first + _convolved(active(y, f'{i}_2'), params['unit_conv2'])
  expected = enlarged + _convolved(active(x, 'tail'), params['tail'])
  np.testing.assert_allclose(sr[0], expected, atol=2e-4)


@pytest.mark.parametrize('name', ['srcnn', 'vdsr', 'drcn', 'drrn'])
def test_weights_serve_every_scale(name):
  _, params, stats = _tiny(name, 2)
  lr = jnp.asarray(random_image(4, 5)[None])
  for scale in (3, 4):
    network, _, _ = _tiny(name, scale)
    sr = jax.eval_shape(
      functools.partial(apply_to_image, network), params, lr, None, stats
    )
    assert sr.shape == (1, 4 * scale, 5 * scale, 3)


def test_lapsrn_levels_double_and_start_bilinear():
  network = models.create({'name': 'lapsrn', 'scale': 4, **TINY['lapsrn']})
  lr = jnp.float32(waves(6, 7, 1))[None]
  params = network.init(jax.random.key(0), lr)['params']
  for name in ('level2_rest', 'level1_rest'):
    params[name] = jax.tree.map(jnp.zeros_like, params[name])
  sr, aux = network.apply({'params': params}, lr)
  half, _ = aux['outputs']
  assert (half.shape, sr.shape) == ((1, 12, 14, 1), (1, 24, 28, 1))
  linear = imresize(lr, scale=2, method='linear')
  np.testing.assert_allclose(
    half[:, 1:-1, 1:-1], linear[:, 1:-1, 1:-1], atol=1e-6
  )

"""SAN: outputs of the released code, attention, and memory."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax.models import san
from sr_jax.ops.compilation import jit
from sr_jax.weights.published import import_weights
from tests import golden_files, model_checks
from tests.nightly import first_by_default, nightly
from tests.weights import torch_files

GOLDEN = Path(__file__).parents[1] / 'golden'
# Parameters of the released files by scale.
RELEASED = {2: 15_712_800, 3: 15_897_440, 4: 15_860_512, 8: 16_008_224}


@pytest.mark.parametrize('scale', first_by_default([2, 3, 4]))
def test_options_and_ignored_tensors(scale, tmp_path):
  """Arrays of daitao/SAN 7c1e61f, as DataParallel names them."""
  golden = golden_files.load(f'san_x{scale}')
  tensors = {f'module.{name}': x for name, x in golden.state_dict.items()}
  path = tmp_path / 'weights.pth'
  path.write_bytes(torch_files.state_dict(tensors))
  imported = import_weights(path, model='san')
  assert imported.config == {
    'name': 'san',
    'scale': scale,
    'options': {
      'channels': 3,
      'features': 16,
      'groups': 2,
      'blocks': 2,
      'reduction': 4,
    },
  }
  count = sum(leaf.size for leaf in jax.tree.leaves(imported.params))
  # conv_last, non_local.soca and RG.i.gamma, listed as ignored.
  unused = (16 * 16 * 9 + 16, 2 * 16 * 2 + 16 + 2, 2)
  assert count + sum(unused) == golden.meta['n_params']['main']
  told = zip(san.TORCH_IGNORED.values(), unused, strict=True)
  for reason, numbers in told:
    (note,) = (n for n in imported.notes if n.startswith(f'ignored, {reason}'))
    assert note.endswith(f' ({numbers:,} numbers)')
  names = ' '.join(imported.notes)
  assert all(
    name in names
    for name in golden.state_dict
    if name.startswith(('conv_last', 'non_local.soca')) or '.gamma' in name
  )


@pytest.mark.parametrize('scale', RELEASED)
def test_ignored_parameters_of_the_release(scale):
  """The released number of parameters minus those that it never uses."""
  layer = 64 * 64 * 9 + 64
  attention = (64 * 8 + 8) + (8 * 64 + 64)
  assert layer + attention + 20 == 38_044
  counts = san.VARIANTS['san'].parameters
  assert counts[scale] == RELEASED[scale] - 38_044


def test_covariance_root_and_gradient_of_the_released_code():
  """Float64 arrays of its CovpoolLayer and SqrtmLayer."""
  data = np.load(GOLDEN / 'ops_soca.npz')
  x = jnp.asarray(data['in:x'].transpose(0, 2, 3, 1), jnp.float32)
  covariance = san.covariance(x)
  root = san.matrix_sqrt(covariance)
  np.testing.assert_allclose(covariance, data['out:cov'], atol=2e-6)
  np.testing.assert_allclose(root, data['out:sqrt5'], atol=2e-6)

  def pooled(x):
    return san.matrix_sqrt(san.covariance(x)).mean(1)

  np.testing.assert_allclose(pooled(x), data['out:pooled'], atol=2e-6)
  grad = jax.grad(lambda x: (pooled(x) * data['in:w']).sum())(x)
  np.testing.assert_allclose(
    grad.transpose(0, 3, 1, 2), data['out:grad_x'], atol=1e-7
  )
  # Five iterations are near the root, and more are nearer.
  exact = data['out:exact_sqrt']
  near, nearer = (
    np.abs(san.matrix_sqrt(covariance, n) - exact).max() for n in (5, 12)
  )
  assert nearer < 1e-4 < 1e-2 < near < 0.2


def test_constant_features_give_finite_values_and_gradients():
  attention = san.SecondOrderAttention(reduction=4)
  values = jnp.asarray([0.0, 3.7, -120.0]).reshape(3, 1, 1, 1)
  x = jnp.broadcast_to(values, (3, 12, 12, 16))

  @jax.jit
  def value_and_grads(x):
    variables = attention.init(jax.random.key(0), x)
    return jax.value_and_grad(
      lambda variables, x: (attention.apply(variables, x) ** 2).sum(), (0, 1)
    )(variables, x)

  for leaf in jax.tree.leaves(value_and_grads(x)):
    assert jnp.isfinite(leaf).all()


def test_covariance_is_of_the_middle_of_large_images():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(1, 1003, 1000, 2)).astype(np.float32)
  attention = san.SecondOrderAttention(reduction=1)
  variables = attention.init(jax.random.key(0), jnp.ones((1, 8, 8, 2)))
  middle = x[:, 1:1001]
  np.testing.assert_allclose(
    attention.apply(variables, x)[:, 1:1001],
    attention.apply(variables, middle),
    atol=1e-6,
  )
  # A large mean costs few digits of the variance.
  flat = (middle + 100).reshape(-1, 2).astype(np.float64)
  np.testing.assert_allclose(
    san.covariance(jnp.asarray(middle + 100))[0],
    np.cov(flat.T, bias=True),
    atol=1e-3,
  )


def test_memory_of_the_attention_on_a_large_image():
  """No matrix of pixels times pixels: input, output, one centred copy."""
  attention = san.SecondOrderAttention(reduction=16)
  x = jax.ShapeDtypeStruct((1, 1000, 1000, 64), jnp.float32)
  variables = jax.eval_shape(attention.init, jax.random.key(0), x)
  memory = jit(attention.apply).lower(variables, x).compile().memory_analysis()
  total = (
    memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    + memory.temp_size_in_bytes
  )
  assert total < 2**30


def _plain_attention(query, key, value):
  """Softmax over all positions at once, float64."""
  flat = [x.reshape(x.shape[0], -1, x.shape[3]) for x in (query, key, value)]
  similarity = flat[0] @ flat[1].swapaxes(1, 2)
  weights = np.exp(similarity - similarity.max(-1, keepdims=True))
  weights /= weights.sum(-1, keepdims=True)
  return (weights @ flat[2]).reshape(query.shape)


@pytest.mark.parametrize(
  ('size', 'rows'), [((3, 5), 1), ((37, 41), 5), ((60, 50), 20), ((9, 8), 9)]
)
def test_attention_in_blocks_is_attention(size, rows, monkeypatch):
  """Blocks of rows that divide evenly, leave a rest, or are a single one."""
  similarities = 2 * size[1] * 7 * 6
  monkeypatch.setattr(san, '_CPU_SIMILARITIES', rows * similarities)
  assert san._rows_at_once(similarities) == rows
  rng = np.random.default_rng(0)
  query = rng.normal(size=(2, *size, 4))
  key, value = rng.normal(size=(2, 2, 7, 6, 4))
  np.testing.assert_allclose(
    san._attend(*(jnp.asarray(x, jnp.float32) for x in (query, key, value))),
    _plain_attention(query, key, value),
    atol=2e-6,
  )


def test_quarters_of_the_image_do_not_see_each_other():
  block = san.RegionNonLocal()
  x = jax.random.normal(jax.random.key(0), (1, 9, 10, 16))
  variables = block.init(jax.random.key(1), x)
  # At first it is the identity.
  np.testing.assert_array_equal(block.apply(variables, x), x)
  kernel = jnp.full((1, 1, 2, 16), 0.5)
  variables['params']['out']['kernel'] = kernel
  before = block.apply(variables, x)
  # Row 4 of 9 and column 5 of 10 begin the second parts.
  after = block.apply(variables, x.at[:, 4:6, 5:7].add(3.0))
  changed = np.asarray(before != after).any((0, 3))
  assert changed[4:, 5:].all()
  assert not changed[:4].any()
  assert not changed[:, :5].any()


@pytest.mark.parametrize('size', [(1, 1), nightly((1, 9)), nightly((3, 4))])
def test_images_too_small_to_divide(size):
  network = san.Model(scale=2, groups=1, blocks=1, features=8, reduction=2)
  lr = jax.random.uniform(jax.random.key(0), (1, *size, 3))
  sr, _ = jax.jit(network.apply)(model_checks.noise(network), lr)
  assert sr.shape == (1, 2 * size[0], 2 * size[1], 3)
  assert jnp.isfinite(sr).all()

"""Every architecture in the package, found by walking it."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax import models
from sr_jax.errors import UserError

CASES = [
  (name, variant, scale, count)
  for name in models.names()
  for variant, entry in models.module(name).VARIANTS.items()
  for scale, count in entry.parameters.items()
]
# Overrides that make any architecture small enough for a test.
TINY = {'edsr': {'blocks': 2, 'features': 8}}


def _tiny(name, scale, **overrides):
  return models.module(name).Model(scale=scale, **TINY[name], **overrides)


@pytest.mark.parametrize(('name', 'variant', 'scale', 'count'), CASES)
def test_parameter_count_is_the_published(name, variant, scale, count):
  model = models.module(name).Model(scale=scale, variant=variant)
  shapes = jax.eval_shape(
    model.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3))
  )
  total = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
  assert total == count


@pytest.mark.parametrize('scale', [2, 3, 4, 8])
@pytest.mark.parametrize('name', models.names())
def test_shapes_at_odd_sizes_and_batches(name, scale):
  model = _tiny(name, scale)
  for shape in ((1, 1, 1, 3), (2, 7, 5, 3)):
    lr = jnp.zeros(shape)
    (sr, _), _ = jax.eval_shape(model.init_with_output, jax.random.key(0), lr)
    assert sr.shape == (shape[0], scale * shape[1], scale * shape[2], 3)


@pytest.mark.parametrize('name', models.names())
def test_finite_gradients_jit_equals_eager_and_types(name):
  model = _tiny(name, 2)
  lr = jax.random.uniform(jax.random.key(1), (1, 6, 5, 3))
  variables = model.init(jax.random.key(0), lr)
  eager, _ = model.apply(variables, lr)
  compiled, _ = jax.jit(model.apply)(variables, lr)
  np.testing.assert_allclose(eager, compiled, atol=1e-5)
  assert compiled.dtype == jnp.float32

  grads = jax.grad(lambda v: (model.apply(v, lr)[0] ** 2).sum())(variables)
  leaves = jax.tree_util.tree_leaves_with_path(grads['params'])
  for path, leaf in leaves:
    keys = jax.tree_util.keystr(path)
    assert jnp.isfinite(leaf).all(), keys
    assert jnp.any(leaf != 0) != ('sub_mean' in keys or 'add_mean' in keys)


@pytest.mark.parametrize('name', models.names())
def test_bfloat16_computes_low_but_keeps_float32_parameters(name):
  lr = jax.random.uniform(jax.random.key(1), (1, 6, 5, 3))
  full, half = _tiny(name, 2), _tiny(name, 2, dtype='bfloat16')
  variables = half.init(jax.random.key(0), lr)
  assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {
    jnp.dtype('float32')
  }
  difference = jnp.abs(
    half.apply(variables, lr)[0] - full.apply(variables, lr)[0]
  )
  assert 0 < difference.max() < 0.02


@pytest.mark.parametrize('scale', [2, 3, 4, 8])
@pytest.mark.parametrize('name', models.names())
def test_halo_is_the_receptive_radius(name, scale):
  """A NaN in the centre pixel reaches outputs within `halo`, and no farther."""
  model = _tiny(name, scale)
  side = 2 * model.halo + 3
  centre = side // 2
  lr = jnp.zeros((1, side, side, 3))
  variables = model.init(jax.random.key(0), lr)
  sr, _ = model.apply(variables, lr.at[0, centre, centre].set(jnp.nan))
  rows = np.flatnonzero(np.isnan(sr).any((0, 2, 3)))
  reach = max(centre - rows[0] // scale, rows[-1] // scale - centre)
  assert reach == model.halo


@pytest.mark.parametrize('channels', [1, 4])
@pytest.mark.parametrize('name', models.names())
def test_other_channel_counts(name, channels):
  model = _tiny(name, 2, channels=channels)
  lr = jnp.full((1, 4, 4, channels), 0.5)
  (sr, _), _ = model.init_with_output(jax.random.key(0), lr)
  assert sr.shape == (1, 8, 8, channels)


def test_unknown_names_and_options_are_told_in_one_line():
  with pytest.raises(UserError, match="did you mean 'edsr'"):
    models.create({'name': 'edsrr', 'scale': 2})
  with pytest.raises(UserError, match='variant'):
    models.create({'name': 'edsr', 'scale': 2, 'variant': 'huge'})
  with pytest.raises(UserError, match='blokcs'):
    models.create({'name': 'edsr', 'scale': 2, 'blokcs': 3})
  model = models.create({'name': 'edsr', 'scale': 5})
  with pytest.raises(UserError, match='scale 5'):
    model.init(jax.random.key(0), jnp.zeros((1, 4, 4, 3)))

"""Generators of SPSR, RankSRGAN and SRGAN's paper.

The first two against outputs under PyTorch 2.13 of Maclory/SPSR 881e781 and
RankSRGAN b313c24 and 5c09d6c, by weights under their official names.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax import models
from sr_jax.models import spsr
from sr_jax.models.parts.parameters import shapes_of
from sr_jax.weights.published import import_weights
from tests import golden_files
from tests.nightly import first_by_default

RANK = {'channels': 3, 'features': 16, 'blocks': 2}
SPSR = {'channels': 3, 'features': 64, 'growth': 32, 'blocks': 23}


def _imported(file, model, folder):
  golden = golden_files.load(file)
  path = golden.write(folder / f'{file}.safetensors')
  return golden, import_weights(path, model=model)


@pytest.mark.nightly
def test_spsr_is_the_released(tmp_path):
  """The whole network with its branch; the file stores two tensors twice."""
  golden, imported = _imported('spsr_g_x4_full_formula', 'spsr', tmp_path)
  assert imported.config == {'name': 'spsr', 'scale': 4, 'options': SPSR}
  assert {note.partition(':')[0] for note in imported.notes} == {
    'ignored, model.8 again',
    'ignored, fixed kernel of the gradient map',
  }
  count = sum(leaf.size for leaf in jax.tree.leaves(imported.params))
  assert count == golden.meta['n_params']['main'] - 18
  network = models.module('spsr').Model(scale=4)
  sr, aux = jax.jit(network.apply)(
    {'params': imported.params}, golden.inputs['x']
  )
  for name, ours in (('sr', sr), ('branch', aux['gradient'])):
    theirs = golden.outputs[name]
    assert np.abs(ours - theirs).max() < 2e-5 * np.abs(theirs).max()


def test_spsr_starts_from_all_of_rrdbnet_but_its_tail():
  """Layers of one name have one shape; the last one has no counterpart."""
  lr = jnp.zeros((1, 4, 4, 3))
  theirs, ours = (
    shapes_of(jax.eval_shape(network.init, jax.random.key(0), lr)['params'])
    for network in (
      models.module('rrdbnet').Model(scale=4, blocks=1, features=4, growth=2),
      models.module('spsr').Model(scale=4, blocks=1, features=4, growth=2),
    )
  )
  assert set(theirs) - set(ours) == {'tail/kernel', 'tail/bias'}
  assert all(ours[path] == theirs[path] for path in set(theirs) & set(ours))


@pytest.mark.nightly
@pytest.mark.parametrize('blocks', [1, 3])
def test_receptive_field_of_spsr(blocks):
  """Positive weights show the reach; gradient maps are zero elsewhere."""
  network = models.module('spsr').Model(
    scale=4, blocks=blocks, features=1, growth=1, look_every=1
  )
  side = 2 * network.halo + 3
  lr = jnp.zeros((1, side, 3, 3)).at[:, side // 2].set(1.0)
  shapes = jax.eval_shape(network.init, jax.random.key(0), lr)
  params = jax.tree_util.tree_map_with_path(
    lambda path, leaf: jnp.full(leaf.shape, 0.5 * ('kernel' in str(path))),
    shapes['params'],
  )

  def flat_is_zero(call, args, kwargs, context):
    out = call(*args, **kwargs)
    if isinstance(context.module, spsr.GradientMap):
      return out - call(jnp.zeros_like(args[0]))
    return out

  with nn.intercept_methods(flat_is_zero):
    sr, _ = jax.jit(network.apply)({'params': params}, lr)
  rows = np.flatnonzero(np.asarray(sr != 0).any((0, 2, 3))) // 4
  assert rows[0] == side // 2 - network.halo
  assert rows[-1] == side // 2 + network.halo


@pytest.mark.parametrize(
  'file', first_by_default(['ranksrgan_g_x2', 'ranksrgan_g_x4_old'])
)
def test_ranksrgan_generator_is_the_released(tmp_path, file):
  golden, imported = _imported(file, 'ranksrgan', tmp_path)
  scale = golden.meta['config']['scale']
  assert imported.config == {
    'name': 'ranksrgan',
    'scale': scale,
    'options': RANK,
  }
  network = models.module('ranksrgan').Model(scale=scale, **RANK)
  sr, _ = jax.jit(network.apply)(
    {'params': imported.params}, golden.inputs['x']
  )
  golden.check('y', sr)


def test_srresnet_learns_and_keeps_running_statistics():
  """The network works in [-1, 1]; inference uses running statistics."""
  network = models.module('srresnet').Model(scale=2, blocks=1, features=4)
  lr = jax.random.uniform(jax.random.key(1), (4, 6, 5, 3))
  variables = jax.jit(network.init)(jax.random.key(0), lr)
  apply = jax.jit(network.apply, static_argnames=('train', 'mutable'))
  nothing = jax.tree.map(jnp.zeros_like, variables['params'])
  grey, _ = apply({**variables, 'params': nothing}, lr)
  np.testing.assert_array_equal(grey, 0.5)
  (by_batch, _), changed = apply(
    variables, lr, train=True, mutable=('batch_stats',)
  )
  by_running, _ = apply(variables, lr)
  assert jnp.abs(by_batch - by_running).max() > 1e-3
  mean = changed['batch_stats']['body_0']['norm1']['mean']
  params = variables['params']
  x = jax.nn.leaky_relu(_conv(lr, params['head']), 0.25)
  y = _conv(x, params['body_0']['conv1'])
  np.testing.assert_allclose(mean, 0.1 * y.mean((0, 1, 2)), atol=1e-6)


def _conv(x, layer):
  layout = ('NHWC', 'HWIO', 'NHWC')
  y = jax.lax.conv_general_dilated(
    x, layer['kernel'], (1, 1), 'SAME', dimension_numbers=layout
  )
  return y + layer['bias'].reshape(1, 1, 1, -1)

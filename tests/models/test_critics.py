"""Discriminators and the ranker against the released code.

Outputs under PyTorch 2.13 of BasicSR 8d56e3a, Maclory/SPSR 881e781 and
RankSRGAN b313c24 and 5c09d6c, whose weights are read by the importer under
their official names.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from sr_jax import checkpoints, models
from sr_jax.errors import UserError
from sr_jax.inference import loading
from sr_jax.models.parts import critic
from sr_jax.weights.published import import_weights
from tests import golden_files, model_checks
from tests.nightly import first_by_default

CASES = [
  (name, variant, entry.parameters[1])
  for name in models.critic_names()
  for variant, entry in models.module(name).VARIANTS.items()
]
NEW = {'channels': 3, 'features': 64, 'stages': 5, 'side': 4}
PLAIN = {**NEW, 'use_bias': False, 'activate_first': True}
FILES = [
  ('disc_vgg_basicsr_128_nf4', 'vgg_discriminator', {**PLAIN, 'features': 4}),
  ('disc_vgg_296_formula', 'vgg_discriminator', {**PLAIN, 'side': 9}),
  (
    'disc_vgg_128_oldarch_formula_130',
    'vgg_discriminator',
    {**PLAIN, 'use_bias': True},
  ),
  ('ranker_formula', 'ranker', {'channels': 3, 'features': 64, 'stages': 5}),
  (
    'ranker_formula_old',
    'ranker',
    {'channels': 3, 'features': 64, 'stages': 5},
  ),
]
TINY = {'features': 2, 'stages': 2, 'side': 3}


@functools.partial(jax.jit, static_argnames=('network', 'train'))
def _apply(network, params, stats, image, train=False):
  variables = {'params': params, 'batch_stats': stats}
  return network.apply(variables, image, train=train, mutable=['batch_stats'])


def _shapes(network):
  image = jnp.zeros((1, network.sides[0], network.sides[0], 3))
  return jax.eval_shape(network.init, jax.random.key(0), image)


@pytest.mark.parametrize(('name', 'variant', 'count'), CASES)
def test_parameter_count_is_the_published(name, variant, count):
  shapes = _shapes(models.module(name).Model(variant=variant))
  leaves = jax.tree.leaves(shapes['params'])
  assert sum(math.prod(leaf.shape) for leaf in leaves) == count


@pytest.mark.parametrize(('file', 'model', 'options'), first_by_default(FILES))
def test_parity_with_released_code(tmp_path, file, model, options):
  golden = golden_files.load(file)
  imported = import_weights(
    golden.write(tmp_path / 'weights.safetensors'), model=model
  )
  assert imported.config == {'name': model, 'scale': 1, 'options': options}
  count = sum(leaf.size for leaf in jax.tree.leaves(imported.params))
  assert count == golden.meta['n_params']['main']
  network = models.module(model).Model(**options)
  weights = imported.params, imported.batch_stats
  logits, _ = _apply(network, *weights, golden.inputs['x'])
  _close(logits, golden.outputs['y'])
  # By the batch's statistics, and what they leave in the running ones.
  logits, after = _apply(network, *weights, golden.inputs['x'], train=True)
  _close(logits, golden.outputs['train:y'])
  _check_statistics(golden, imported.batch_stats, after['batch_stats'])


def _close(ours, theirs):
  # A logit near zero is a sum of large terms.
  np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def _check_statistics(golden, before, after):
  """PyTorch divides the variance by n - 1, Flax by n."""
  means = {
    k.removeprefix('train_bn:'): v
    for k, v in golden.outputs.items()
    if k.startswith('train_bn:') and k.endswith('mean')
  }
  theirs = np.concatenate([means[k] for k in means])
  flat, old = (traverse_util.flatten_dict(t, sep='/') for t in (after, before))
  assert len(means) == sum(path.endswith('mean') for path in flat)
  ours = {path: v for path, v in flat.items() if path.endswith('/mean')}
  np.testing.assert_allclose(
    np.sort(np.concatenate(list(ours.values()))), np.sort(theirs), atol=1e-5
  )
  assert all((v != old[path]).any() for path, v in ours.items())


def test_names_of_kair_leave_the_first_activation_out(tmp_path):
  """KAIR's layers are numbered one lower than SPSR's, from the second on."""
  golden = golden_files.load('disc_vgg_128_oldarch_formula_130')
  tensors = {}
  for name, tensor in golden.state_dict.items():
    part, number, leaf = name.split('.')
    lower = part == 'features' and number != '0'
    tensors[f'{part}.{int(number) - lower}.{leaf}'] = tensor
  imported = import_weights(
    golden._replace(state_dict=tensors).write(tmp_path / 'w.safetensors'),
    model='vgg_discriminator',
  )
  assert imported.config['options'] == {
    **NEW,
    'use_bias': True,
    'activate_first': False,
  }
  np.testing.assert_array_equal(
    imported.params['trunk']['conv_4_1']['bias'],
    golden.state_dict['features.26.bias'],
  )
  expected = models.module('vgg_discriminator').Model(variant='kair-128')
  found = jax.tree.map(np.shape, imported.params)
  assert found == jax.tree.map(np.shape, _shapes(expected)['params'])


def test_kair_differs_by_one_activation():
  """The first layer gives negative values only, which shows the activation."""
  image = jnp.full((1, 12, 12, 1), 0.5)
  module = models.module('vgg_discriminator')
  options = {**TINY, 'channels': 1}
  kair = module.Model(variant='kair-128', **options)
  variables = jax.jit(kair.init)(jax.random.key(0), image)
  params = variables['params']
  params['trunk']['stem'] = jax.tree.map(
    lambda x: -jnp.abs(x), params['trunk']['stem']
  )
  spsr = module.Model(variant='spsr-128', **options)
  trunk = dict(params['trunk'])
  trunk['conv_0_0'] = jax.tree.map(lambda x: 0.2 * x, trunk.pop('stem'))
  # A fifth of the values, then an activation that takes a fifth of them.
  trunk['conv_0_1'] = {
    **trunk['conv_0_1'],
    'kernel': 25 * trunk['conv_0_1']['kernel'],
  }
  same = {**variables, 'params': {**params, 'trunk': trunk}}
  np.testing.assert_allclose(
    jax.jit(spsr.apply)(same, image),
    jax.jit(kair.apply)(variables, image),
    rtol=1e-5,
  )


@pytest.mark.parametrize(
  ('size', 'side'), first_by_default([(3, 9), (4, 8), (3, 8), (4, 9)], 2)
)
def test_halving_convolutions_are_strided_ones(size, side):
  layer = critic.HalvingConv(5, size, True)
  x = jax.random.normal(jax.random.key(0), (2, side, side + 1, 3))
  variables = layer.init(jax.random.key(1), x)

  def strided(variables, x):
    y = jax.lax.conv_general_dilated(
      x,
      variables['params']['kernel'],
      (2, 2),
      ((1, 1), (1, 1)),
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    return y + variables['params']['bias'].reshape(1, 1, 1, -1)

  def both(f):
    return jax.value_and_grad(lambda *a: (f(*a) ** 3).sum(), (0, 1))(
      variables, x
    )

  assert layer.apply(variables, x).shape == strided(variables, x).shape
  for ours, theirs in zip(
    *(jax.tree.leaves(both(f)) for f in (layer.apply, strided)), strict=True
  ):
    scale = jnp.abs(theirs).max()
    np.testing.assert_allclose(ours / scale, theirs / scale, atol=2e-6)


@pytest.mark.parametrize(
  ('name', 'options', 'accepted', 'refused'),
  [
    ('vgg_discriminator', TINY, (12, 15), (11, 16)),
    (
      'srgan_discriminator',
      {'features': 1, 'side': 1, 'hidden': 2},
      (1, 16),
      (17,),
    ),
    ('ranker', {'features': 1, 'stages': 2}, (4, 9), (3,)),
  ],
)
def test_sides(name, options, accepted, refused):
  network = models.module(name).Model(**options)
  for side in accepted:
    shape = (2, side, accepted[0], 3)
    out, _ = jax.eval_shape(
      network.init_with_output, jax.random.key(0), jnp.zeros(shape)
    )
    assert out.shape == (2, 1)
  for side in refused:
    with pytest.raises(
      UserError, match=f'{network.sides[0]} to .* not {side}x'
    ):
      network.init(jax.random.key(0), jnp.zeros((1, side, accepted[0], 3)))


@pytest.mark.parametrize('name', models.critic_names())
def test_critics_do_not_enlarge(name):
  assert name not in models.names()
  with pytest.raises(UserError, match='scale 2: this network does not enlarge'):
    models.create({'name': name, 'scale': 2})


def test_imported_critics_are_no_model_to_load(tmp_path):
  params = {'generator': {'trunk': np.zeros(1)}}
  config = {'method': {'name': 'supervised'}, 'model': {'name': 'ranker'}}
  checkpoints.save_params(tmp_path / 'w', params, config)
  with pytest.raises(UserError, match='ranker judges images; give a model'):
    loading.load(tmp_path / 'w')


def test_paper_discriminator_sees_images_from_minus_one_to_one():
  """Mid-grey becomes zero, so that the first layer returns its bias."""
  network = models.create(
    {'name': 'srgan_discriminator', 'features': 2, 'side': 1, 'hidden': 2}
  )
  grey, apply = jnp.full((1, 16, 16, 3), 0.5), jax.jit(network.apply)
  variables = model_checks.noise(network)
  kernel = variables['params']['trunk']['conv_0_0']['kernel']
  others = jax.tree.map(jnp.array, variables)
  others['params']['trunk']['conv_0_0']['kernel'] = -3 * kernel
  np.testing.assert_allclose(
    apply(variables, grey), apply(others, grey), atol=1e-6
  )

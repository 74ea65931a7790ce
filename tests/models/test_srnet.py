"""SRNet: outputs of the released code, any image shape, streams and heads."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax import models
from sr_jax.errors import UserError
from sr_jax.models import edsr, rcan, srnet
from sr_jax.weights.names import torch_to_flax
from sr_jax.weights.published import import_weights
from tests import golden_files, model_checks
from tests.nightly import first_by_default, nightly

RELEASED = {
  'srnet_x4': (4, ('ca', 'mpr-sa'), 4),
  'srnet_x8': (8, ('ca', 'mpr-sa'), 4),
  'srnet_x4_ca': (4, ('ca',), 4),
  # Without attention its reduction is unknown, and nothing needs it.
  'srnet_x4_noattn': (4, (), 16),
}
MODULES = {'64': 'mpr-sa', 'ssa64': 'ssa', 'sa64': 'sa'}


def _imported(golden, tmp_path):
  path = golden.write(tmp_path / 'weights.safetensors')
  imported = import_weights(path, model='srnet')
  options = imported.config['options']
  network = srnet.Model(scale=imported.config['scale'], **options)
  variables = {'params': imported.params}
  if imported.batch_stats:
    variables['batch_stats'] = imported.batch_stats
  return imported, network, variables


@pytest.mark.parametrize('name', first_by_default(RELEASED, 0))
def test_parity_with_the_released_code(name, tmp_path):
  golden = golden_files.load(name)
  scale, attention, reduction = RELEASED[name]
  imported, network, variables = _imported(golden, tmp_path)
  assert imported.config == {
    'name': 'srnet',
    'scale': scale,
    'options': {
      'channels': 3,
      'blocks': 2,
      'features': 16,
      'reduction': reduction,
      'block_attention': attention,
      'fusion_attention': attention,
      'rat': True,
      'head_fusion_sign': -1,
      'skip_source': 'fused',
    },
  }
  assert bool(imported.batch_stats) == ('mpr-sa' in attention)
  sr, aux = jax.jit(network.apply)(variables, golden.inputs['x'])
  golden.check('y', sr)
  golden.check('s_label', aux['residual'])


@pytest.mark.nightly
def test_parity_in_training(tmp_path):
  """Outputs with batch statistics, and running statistics after one step."""
  golden = golden_files.load('srnet_x4')
  _, network, variables = _imported(golden, tmp_path)

  @jax.jit
  def train(variables, lr):
    return network.apply(variables, lr, train=True, mutable=['batch_stats'])

  (sr, aux), changed = train(variables, golden.inputs['x'])
  for found, name in ((sr, 'y'), (aux['residual'], 's_label')):
    expected = golden.outputs[f'train:{name}']
    assert np.abs(np.asarray(found) * 255 - expected).max() < 1e-4 * 255
  statistics = {
    name.removeprefix('train_bn:'): values
    for name, values in golden.outputs.items()
    if name.startswith('train_bn:')
  }
  assert len(statistics) == 36
  expected = torch_to_flax(statistics, srnet.TORCH_NAMES).arrays
  count = golden.inputs['x'].size / 3
  for path, values in expected.items():
    found, before = changed['batch_stats'], variables['batch_stats']
    for key in path.split('/'):
      found, before = found[key], before[key]
    if key == 'var':
      # PyTorch divides by one less than the number of values.
      found = found + (found - 0.99 * before) / (count - 1)
    np.testing.assert_allclose(found, values, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('name', first_by_default(MODULES))
def test_parity_of_the_spatial_attentions(name):
  golden = golden_files.load(f'srnet_mprsa_{name}')
  weights = torch_to_flax(
    golden.state_dict, {'alone': srnet.attention_names('', 'attention')}
  )
  assert not weights.unused
  assert 'counts of training batches' in weights.notes[0]
  module = srnet.Attention((MODULES[name],), 64)
  x = jnp.asarray(golden.inputs['x'])
  empty = jax.eval_shape(
    lambda x: module.init(jax.random.key(0), x, train=False), x
  )
  variables = jax.tree_util.tree_map_with_path(
    lambda path, leaf: weights.arrays[
      '/'.join(['attention', *(key.key for key in path[1:])])
    ].reshape(leaf.shape),
    empty,
  )
  assert len(jax.tree.leaves(variables)) == len(weights.arrays)
  found = jax.jit(functools.partial(module.apply, train=False))(variables, x)
  golden.check('y', found)
  train = functools.partial(module.apply, train=True, mutable=['batch_stats'])
  found, _ = jax.jit(train)(variables, x)
  np.testing.assert_allclose(found, golden.outputs['train:y'], atol=1e-5)


def _count(network):
  lr = jnp.zeros((1, 8, 8, 3))
  shapes = jax.eval_shape(network.init, jax.random.key(0), lr)['params']
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize(
  ('scale', 'released'), [nightly(4, 3_058_398), nightly(8, 3_353_822)]
)
def test_attention_that_is_never_called_is_named(scale, released, tmp_path):
  """The release makes two unused modules if attention is off."""
  full = srnet.Model(scale=scale, variant='srnet')
  lr = jnp.zeros((1, 8, 8, 3))
  shapes = jax.eval_shape(full.init, jax.random.key(0), lr)['params']
  fusion = [shapes['main'][f'{end}_attention'] for end in ('head', 'tail')]
  unused = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(fusion))
  assert (
    _count(srnet.Model(scale=scale, variant='edsr-rat')) + unused == released
  )

  imported, network, _ = _imported(
    golden_files.load('srnet_x4_noattn'), tmp_path
  )
  meta = golden_files.load('srnet_x4_noattn').meta
  # 11,024 numbers of MPR-SA and 49 of attention on 16 channels, twice.
  assert _count(network) + 2 * (11_024 + 49) == meta['n_params']['main']
  counts, attention = imported.notes
  assert counts.startswith('ignored, counts of training batches: ')
  assert attention.startswith(
    'ignored, attention of the fusions that is never called: '
  )
  assert (
    attention.count('CALayer_head') == attention.count('CALayer_tail') == 19
  )


def test_bases_are_edsr_and_rcan_minus():
  """A main stream alone is the ablation's base."""
  sizes = {'blocks': 2, 'features': 16}
  ours = srnet.Model(scale=4, variant='edsr', **sizes)
  theirs = edsr.Model(scale=4, variant='baseline', **sizes)
  lr = model_checks.image(ours, 6, 5)
  params = model_checks.noise(ours)['params']['main']
  renamed = {k.replace('block_', 'body_'): v for k, v in params.items()}
  np.testing.assert_allclose(
    jax.jit(ours.apply)({'params': {'main': params}}, lr)[0],
    jax.jit(theirs.apply)({'params': renamed}, lr)[0],
    rtol=1e-5,
    atol=1e-5,
  )

  ours = srnet.Model(scale=4, variant='rcan-minus', **sizes)
  theirs = rcan.Model(scale=4, variant='rcan-minus', **sizes)
  params = model_checks.noise(ours)['params']['main']
  ours_of_rcan, _ = jax.jit(ours.apply)({'params': {'main': params}}, lr)
  blocks = [params.pop(f'block_{i}') for i in range(2)]
  for block in blocks:
    block['attention'] = block['attention']['channel']
  # RCAN's are one block in a loop.
  chain = jax.tree.map(lambda *leaves: np.stack(leaves), *blocks)
  np.testing.assert_allclose(
    ours_of_rcan,
    jax.jit(theirs.apply)({'params': {**params, 'block_*': chain}}, lr)[0],
    rtol=1e-5,
    atol=1e-5,
  )


@pytest.mark.parametrize(
  ('kind', 'size'),
  first_by_default(
    [
      (kind, size)
      for kind in ('mpr-sa', 'ssa')
      for size in ((2, 31), (17, 6), (1, 1), (1, 9), (3, 4), (5, 5))
    ],
    2,
  ),
)
def test_any_shape_is_the_middle_of_its_square(kind, size):
  module = srnet.Attention((kind,), 16)
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, *size, 16)).astype(np.float32)
  height, width = size
  rows, columns = max(0, width - height), max(0, height - width)
  top, left = rows // 2, columns // 2
  pad = ((0, 0), (top, rows - top), (left, columns - left), (0, 0))
  square = np.pad(x, pad, mode='reflect')
  init, apply = (
    jax.jit(functools.partial(f, train=False))
    for f in (module.init, module.apply)
  )
  variables = init(jax.random.key(0), square)
  expected = apply(variables, square)
  np.testing.assert_allclose(
    apply(variables, x),
    expected[:, top : top + height, left : left + width],
    atol=1e-6,
  )


def test_turned_images_give_turned_attention_of_equal_weights():
  """With equal kernels for all rotations, turned inputs give turned outputs."""
  module = srnet.SpatialAttention((1, 2, 4))
  x = jax.random.normal(jax.random.key(0), (1, 6, 9, 16))
  init, apply = (
    jax.jit(functools.partial(f, train=False))
    for f in (module.init, module.apply)
  )
  variables = init(jax.random.key(1), x)
  for i, pool in enumerate((1, 2, 4), 1):
    kernel = variables['params'][f'conv_{i}']['kernel']
    middle = (
      jnp.zeros_like(kernel).at[3, 3].set(jnp.tile(kernel[3, 3, :pool], (4, 1)))
    )
    variables['params'][f'conv_{i}']['kernel'] = middle
  turned = jnp.rot90(x, 1, (1, 2))
  np.testing.assert_allclose(
    apply(variables, turned),
    jnp.rot90(apply(variables, x), 1, (1, 2)),
    atol=1e-6,
  )


def _tiny(**overrides):
  sizes = {'blocks': 1, 'features': 16, 'reduction': 4}
  return srnet.Model(scale=2, **{**sizes, **overrides})


@pytest.mark.nightly
def test_sr_trains_both_streams_and_the_residual_one():
  network = _tiny()
  lr = model_checks.image(network, 7, 5, batch=2)
  variables = model_checks.noise(network)

  @jax.jit
  @jax.grad
  def gradient(params, of_sr, of_residual):
    (sr, aux), _ = network.apply(
      {**variables, 'params': params}, lr, train=True, mutable=['batch_stats']
    )
    total = of_sr * (sr**2).sum()
    return total + of_residual * (aux['residual'] ** 2).sum()

  def sums(of_sr, of_residual):
    grads = gradient(variables['params'], of_sr, of_residual)
    return {
      name: sum(float(jnp.abs(leaf).sum()) for leaf in jax.tree.leaves(tree))
      for name, tree in {
        **grads,
        'auxiliary tail': grads['auxiliary']['tail'],
        'auxiliary head': grads['auxiliary']['head'],
      }.items()
    }

  by_sr, by_residual = sums(1.0, 0.0), sums(0.0, 1.0)
  assert by_sr['main'] > 0
  assert by_sr['auxiliary head'] > 0
  # Features cross over between the streams, not the auxiliary image.
  assert by_sr['auxiliary tail'] == 0
  assert by_residual['main'] == 0
  assert by_residual['auxiliary tail'] > 0


def test_sign_and_skip_of_the_figure():
  """Where all blocks give zero, the tail sees sums of the two heads.

  x for the main head, y for the auxiliary one: as released y + (x - y), in the
  figure y + x; with the skip of the release and the sign of the figure x + 2y.
  """
  lr = jax.random.uniform(jax.random.key(1), (1, 5, 6, 3))
  base = {'variant': 'edsr-rat', 'scale': 2, 'blocks': 1, 'features': 8}
  network = srnet.Model(**base)
  variables = model_checks.noise(network)
  auxiliary, main = (variables['params'][k] for k in ('auxiliary', 'main'))
  auxiliary['sub_mean'] = main['sub_mean']  # both heads see the same image
  for stream in (auxiliary, main):
    for name in ('block_0', 'body_end'):
      stream[name] = jax.tree.map(jnp.zeros_like, stream[name])
  x, y = main['head'], auxiliary['head']

  def released(times):
    """The released formula, with `times` auxiliary heads added to the main."""
    head = jax.tree.map(lambda x, y: x + times * y, x, y)
    params = {**variables['params'], 'main': {**main, 'head': head}}
    return jax.jit(network.apply)({'params': params}, lr)

  def with_options(**options):
    return jax.jit(srnet.Model(**base, **options).apply)(variables, lr)

  for options, times in (
    ({'head_fusion_sign': 1}, 2),
    ({'head_fusion_sign': 1, 'skip_source': 'head'}, 1),
    ({'skip_source': 'head'}, 1),
  ):
    np.testing.assert_allclose(
      with_options(**options)[0], released(times)[0], atol=1e-5
    )
  figure = srnet.VARIANTS['figure'].options
  assert (figure['head_fusion_sign'], figure['skip_source']) == (1, 'head')


@pytest.mark.parametrize('rat', first_by_default([True, False]))
def test_halo_without_attention(rat):
  network = srnet.Model(
    scale=2, variant='edsr-rat', blocks=1, features=8, rat=rat
  )
  side = 2 * network.halo + 3
  lr = jax.random.uniform(jax.random.key(1), (2, side, 5, 3))
  variables = model_checks.noise(network)

  def middle(lr):
    sr, _ = network.apply(variables, lr)
    return sr[:, side - 1 : side + 1].sum()

  seen = np.asarray(jax.jit(jax.grad(middle))(lr) != 0).any((0, 2, 3))
  rows, centre = np.flatnonzero(seen), side // 2
  assert max(centre - rows[0], rows[-1] - centre) == network.halo


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'features': 12}, r'features=12: .* multiple of 8'),
    ({'block_attention': ('cbam',)}, r"attention=\('cbam',\): .* 'mpr-sa'"),
    ({'skip_source': 'tail'}, "skip_source='tail': give 'fused' or 'head'"),
  ],
)
def test_bad_options_are_refused(options, message):
  with pytest.raises(UserError, match=message):
    models.create({'name': 'srnet', 'scale': 4, **options})

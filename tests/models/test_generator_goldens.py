"""RCAN, CARN, MSRResNet and RRDBNet against the released code.

Outputs under PyTorch 2.13 of yulunzhang/RCAN f722e5d, nmhkahn/CARN-pytorch
40d3514, BasicSR 8d56e3a, RankSRGAN b313c24 (mmsr's names), xinntao/ESRGAN
7f37803 (old names) and 73e9b63, and cszn/KAIR fc1732f, whose weights are read
by the importer under their official names.
"""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax import models
from sr_jax.errors import UserError
from sr_jax.weights.published import import_weights
from tests import golden_files, model_checks
from tests.nightly import first_by_default, nightly

RCAN = {'channels': 3, 'features': 16, 'groups': 2, 'blocks': 2, 'reduction': 4}
RRDB = {'channels': 3, 'features': 16, 'blocks': 2, 'growth': 8}
CARN = {'channels': 3, 'features': 64, 'multi_scale': True}
CASES = [
  # file, model, scale, options, parameters that the file lacks
  ('rcan_x3', 'rcan', 3, RCAN, 0),
  (
    'rcan_x8_meanshift',
    'rcan',
    8,
    {'channels': 3, 'features': 8, 'groups': 1, 'blocks': 1, 'reduction': 2},
    0,
  ),
  # BasicSR keeps the two mean shifts (12 numbers each) out of the state_dict.
  ('basicsr_rcan_x4', 'rcan', 4, RCAN, 24),
  (
    'msrresnet_x3_basicsr',
    'msrresnet',
    3,
    {'channels': 3, 'features': 16, 'blocks': 2},
    0,
  ),
  (
    'msrresnet_x4_mmsr',
    'msrresnet',
    4,
    {'channels': 3, 'features': 16, 'blocks': 2},
    0,
  ),
  ('rrdbnet_x1_basicsr', 'rrdbnet', 1, {**RRDB, 'unshuffle': 4}, 0),
  ('rrdbnet_x2_basicsr', 'rrdbnet', 2, {**RRDB, 'unshuffle': 2}, 0),
  ('rrdbnet_x4_oldarch', 'rrdbnet', 4, {**RRDB, 'unshuffle': 1}, 0),
]


def apply(imported, lr):
  name, scale = imported.config['name'], imported.config['scale']
  network = models.module(name).Model(scale=scale, **imported.config['options'])

  @jax.jit
  def run(params, lr):
    return network.apply({'params': params}, lr)[0]

  return run(imported.params, lr)


def count(params):
  return sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(
  ('file', 'model', 'scale', 'options', 'missing'), CASES
)
def test_options_and_parameter_count(
  tmp_path, file, model, scale, options, missing
):
  golden = golden_files.load(file)
  weights = golden.write(tmp_path / 'weights.safetensors')
  imported = import_weights(weights, model=model)
  assert imported.config == {'name': model, 'scale': scale, 'options': options}
  assert count(imported.params) - missing == golden.meta['n_params']['main']


def test_trained_mean_shift_is_loaded_as_it_is(tmp_path):
  """The release tries to freeze the mean shift, but trains it."""
  golden = golden_files.load('rcan_x8_meanshift')
  weights = golden.write(tmp_path / 'weights.safetensors')
  kernel = import_weights(weights, model='rcan').params['sub_mean']['kernel']
  released = golden.state_dict['sub_mean.weight'][..., 0, 0]
  np.testing.assert_array_equal(kernel[0, 0], released.T)
  assert np.abs(released - np.eye(3)).max() > 1e-3


@pytest.mark.parametrize(
  ('scale', 'file', 'options'),
  first_by_default(
    [
      (scale, file, {**CARN, 'groups': groups, 'efficient': groups > 1})
      for file, groups in (('carn_m_multi', 4), ('carn_multi_formula', 1))
      for scale in (2, 3, 4)
    ]
  ),
)
def test_every_scale_of_carn(tmp_path, scale, file, options):
  golden = golden_files.load(file)
  weights = golden.write(tmp_path / 'weights.safetensors')
  imported = import_weights(weights, model='carn', scale=scale)
  assert imported.config == {'name': 'carn', 'scale': scale, 'options': options}
  assert imported.notes == []
  assert count(imported.params) == golden.meta['n_params']['main']


@pytest.mark.nightly
def test_one_scale_of_a_multi_scale_carn(tmp_path):
  golden = golden_files.load('carn_m_multi')
  weights = golden.write(tmp_path / 'weights.safetensors')
  with pytest.raises(UserError, match='not determine scale; give it'):
    import_weights(weights, model='carn')
  imported = import_weights(
    weights, model='carn', scale=4, variant='carn-m-single'
  )
  names = [
    f'upsample.up{s}.body.0.{leaf}'
    for s in (2, 3)
    for leaf in ('weight', 'bias')
  ]
  (note,) = imported.notes
  kind, _, listed = note.partition(': ')
  assert kind == 'ignored, of other scales'
  assert sorted(listed.split(', ')) == sorted(names)
  assert count(imported.params) == 294_171
  golden.check('y4', apply(imported, golden.inputs['x']))

  # The names of a release for one scale.
  single = {
    name.replace('upsample.up4.', 'upsample.up.'): tensor
    for name, tensor in golden.state_dict.items()
    if not name.startswith(('upsample.up2.', 'upsample.up3.'))
  }
  weights = golden._replace(state_dict=single).write(
    tmp_path / 'x4.safetensors'
  )
  again = import_weights(weights, model='carn')
  assert again.config == imported.config
  assert again.notes == []
  jax.tree.map(np.testing.assert_array_equal, again.params, imported.params)
  with pytest.raises(UserError, match='holds scale=4, but scale=S sets 2'):
    import_weights(weights, model='carn', scale=2)


@pytest.mark.parametrize('scheme', ['newarch', 'basicsr', 'kair'])
def test_all_names_of_rrdbnet_mean_the_same(tmp_path, scheme):
  """Names of the released x4 files; their tensors stand in the same order."""
  golden = golden_files.load('rrdbnet_x4_oldarch')
  path = golden_files.GOLDEN / 'rrdbnet_x4_names.json'
  names = json.loads(path.read_text())[scheme]
  tensors = dict(zip(names, golden.state_dict.values(), strict=True))
  old = import_weights(
    golden.write(tmp_path / 'a.safetensors'), model='rrdbnet'
  )
  renamed = golden._replace(state_dict=tensors)
  new = import_weights(
    renamed.write(tmp_path / 'b.safetensors'), model='rrdbnet'
  )
  assert new.config == old.config
  jax.tree.map(np.testing.assert_array_equal, new.params, old.params)


@pytest.mark.nightly
@pytest.mark.parametrize(
  ('scale', 'names'),
  [
    (1, {3: None, 6: None, 8: 2, 10: 4}),
    (2, {3: 3, 6: None, 8: 5, 10: 7}),
    (3, {3: 3, 6: None, 8: 5, 10: 7}),
    (8, {3: 3, 6: 6, 8: 11, 10: 13}),
  ],
)
def test_old_names_of_rrdbnet_at_other_scales(tmp_path, scale, names):
  """Layers are counted; a single upsampling may be by 2 or 3."""
  golden = golden_files.load('rrdbnet_x4_oldarch')
  tensors = {}
  for name, tensor in golden.state_dict.items():
    _, number, *rest = name.split('.')
    number = names.get(int(number), number)
    if number is not None:
      tensors['.'.join(['model', str(number), *rest])] = tensor
  if scale == 8:
    for leaf in ('weight', 'bias'):
      tensors[f'model.9.{leaf}'] = golden.state_dict[f'model.6.{leaf}']
  weights = golden._replace(state_dict=tensors).write(
    tmp_path / 'w.safetensors'
  )
  if scale in (2, 3):
    with pytest.raises(UserError, match='not determine scale; give it'):
      import_weights(weights, model='rrdbnet')
    imported = import_weights(weights, model='rrdbnet', scale=scale)
  else:
    imported = import_weights(weights, model='rrdbnet')
  assert imported.config['scale'] == scale
  assert imported.config['options'] == {**RRDB, 'unshuffle': 1}
  for layer, number in (('refine', names[8]), ('tail', names[10])):
    np.testing.assert_array_equal(
      imported.params[layer]['bias'], tensors[f'model.{number}.bias']
    )
  sr = jax.eval_shape(lambda lr: apply(imported, lr), jnp.zeros((1, 3, 5, 3)))
  assert sr.shape == (1, 3 * scale, 5 * scale, 3)


def test_rcan_without_groups_is_recognised(tmp_path):
  """SRNet's RCAN^-, by the names that its blocks would have in EDSR-PyTorch."""
  golden = golden_files.load('rcan_x3')
  tensors = {
    name.removeprefix('body.0.') if name.startswith('body.0.body.') else name: x
    for name, x in golden.state_dict.items()
    if not name.startswith(('body.1.', 'body.0.body.2.'))
  }
  weights = golden._replace(state_dict=tensors).write(
    tmp_path / 'w.safetensors'
  )
  imported = import_weights(weights, model='rcan')
  assert imported.config['options'] == {**RCAN, 'groups': 0}
  np.testing.assert_array_equal(
    imported.params['block_*']['attention']['expand']['bias'][1],
    golden.state_dict['body.0.body.1.body.3.conv_du.2.bias'],
  )


def test_pixel_unshuffle_mirrors_incomplete_cells():
  network = models.module('rrdbnet').Model(
    scale=2, blocks=1, features=4, growth=2
  )
  lr, apply = model_checks.image(network, 5, 7), jax.jit(network.apply)
  variables = model_checks.noise(network)
  sr, _ = apply(variables, lr)
  mirrored = jnp.pad(lr, ((0, 0), (0, 1), (0, 1), (0, 0)), 'symmetric')
  whole, _ = apply(variables, mirrored)
  np.testing.assert_allclose(sr, whole[:, :10, :14], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('name', [nightly('rrdbnet'), 'msrresnet'])
def test_initial_weights_are_a_tenth_of_he(name):
  """In RRDBNet within the dense blocks alone; biases of these are zero."""
  network = models.module(name).Model(scale=4, blocks=2)
  params = jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, 4, 4, 3)))
  flat = {
    jax.tree_util.keystr(path, simple=True, separator='/'): np.asarray(leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(params['params'])
  }
  for path, leaf in flat.items():
    small = name == 'msrresnet' or '/dense' in path
    if path.endswith('bias'):
      assert leaf.any() != small, path
    elif small and leaf.size > 10_000:
      fan_in = np.prod(leaf.shape[-4:-1])
      spread = leaf.std() * np.sqrt(fan_in / 2)
      assert spread == pytest.approx(0.1, rel=0.05), path


@pytest.mark.nightly
@pytest.mark.parametrize('variant', first_by_default(['carn-m', 'carn']))
def test_carn_serves_its_scales_by_the_same_parameters(variant):
  lr, trees = jnp.zeros((1, 4, 5, 3)), []
  for scale in (2, 3, 4):
    network = models.module('carn').Model(scale=scale, variant=variant)
    (sr, _), variables = jax.eval_shape(
      network.init_with_output, jax.random.key(1), lr
    )
    assert sr.shape == (1, 4 * scale, 5 * scale, 3)
    sr, _ = jax.eval_shape(network.apply, variables, lr)
    assert sr.shape == (1, 4 * scale, 5 * scale, 3)
    trees.append(variables)
  assert trees[0] == trees[1] == trees[2]
  with pytest.raises(UserError, match=r'scale 8 .* choose 2, 3 or 4'):
    models.create({'name': 'carn', 'scale': 8, 'variant': variant})

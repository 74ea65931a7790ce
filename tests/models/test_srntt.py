"""SRNTT's networks against the released code, through the importer.

Arrays of ZZUTK/SRNTT under TensorFlow 2.21 (as yeoyi519/SRNTT 30a4a45) and of
S-aiueo32/srntt-pytorch c1ee824 under PyTorch 2.13.
"""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax import models
from sr_jax.errors import UserError
from sr_jax.models import srntt
from sr_jax.models.critics import srntt_discriminator
from sr_jax.weights.published import import_weights
from tests import golden_files, model_checks
from tests.golden_files import GOLDEN
from tests.nightly import first_by_default
from tests.weights import npz_files, torch_files


def _tensorflow(name):
  """Arrays of a file by group, and its meta data."""
  with np.load(GOLDEN / f'{name}.npz') as data:
    arrays = {k: data[k] for k in data.files if k != 'meta'}
    meta = json.loads(str(data['meta']))
  groups = {
    group: golden_files.tensorflow_arrays(meta, group)
    for group in meta['state_dict']
  }
  return groups, arrays


@pytest.fixture(scope='module')
def released(tmp_path_factory):
  """The authors' generator as imported, and what its code gives."""
  groups, arrays = _tensorflow('srntt_tf_generator_formula')
  folder = tmp_path_factory.mktemp('released')
  (folder / 'srntt.npz').write_bytes(
    npz_files.tensorlayer_of_python_2(groups['texture_transfer'])
  )
  (folder / 'upscale.npz').write_bytes(npz_files.tensorlayer(groups['upscale']))
  return folder, arrays


def _image(array):
  """Images of [-1, 1] in [0, 1]."""
  return (array + 1) / 2


def test_authors_network(released):
  folder, arrays = released
  imported = import_weights(
    folder / 'srntt.npz', model='srntt', content=folder / 'upscale.npz'
  )
  assert imported.config['options'] == {
    'channels': 3,
    'features': 64,
    'blocks': 16,
    'transfer': True,
    'transfer_blocks': (4, 2, 1),
    'norm': True,
    'gated': False,
  }
  network = srntt.Model(scale=4, **imported.config['options'])
  maps = {f'relu{i}_1': arrays[f'in:map{i}'] for i in (3, 2, 1)}
  sr, aux = jax.jit(network.apply)(
    {'params': imported.params, 'batch_stats': imported.batch_stats},
    _image(arrays['in:x']),
    maps,
  )
  # In [0, 1] half as far apart.
  for ours, theirs in ((sr, 'srntt'), (aux['enlarged'], 'upscale')):
    np.testing.assert_allclose(ours, _image(arrays[f'out:{theirs}']), atol=2e-6)


def test_content_extractor_alone_enlarges(released):
  folder, arrays = released
  imported = import_weights(folder / 'upscale.npz', model='srntt')
  assert not imported.config['options']['transfer']
  assert srntt.METHOD(imported.config['options']) == {'name': 'supervised'}
  network = srntt.Model(scale=4, **imported.config['options'])
  sr, _ = jax.jit(network.apply)(
    {'params': imported.params, 'batch_stats': imported.batch_stats},
    _image(arrays['in:x']),
  )
  np.testing.assert_allclose(sr, _image(arrays['out:upscale']), atol=2e-6)


def test_parts_that_do_not_make_a_network(released, tmp_path):
  folder, _ = released
  transfer, content = folder / 'srntt.npz', folder / 'upscale.npz'
  with pytest.raises(UserError, match=r'srntt.npz: .* as content=FILE'):
    import_weights(transfer, model='srntt')
  with pytest.raises(UserError, match='both files hold content/'):
    import_weights(content, model='srntt', content=content)
  few = tmp_path / 'few.npz'
  few.write_bytes(npz_files.tensorlayer([np.zeros((3, 3, 3, 4), np.float32)]))
  with pytest.raises(UserError, match='holds 1 array without names'):
    import_weights(few, model='srntt')
  with pytest.raises(UserError, match='arrays without names'):
    import_weights(content, model='edsr')


@pytest.mark.parametrize('gated', first_by_default([True, False]))
def test_network_without_normalisation(tmp_path, gated):
  golden = golden_files.load('srntt_pytorch_x4_gated')
  weights = dict(golden.state_dict)
  if not gated:
    weights = {k: v for k, v in weights.items() if k[-2:] not in ('.a', '.b')}
  path = tmp_path / 'srntt.pth'
  path.write_bytes(torch_files.state_dict(weights))
  imported = import_weights(path, model='srntt')
  assert imported.config['options']['gated'] == gated
  network = srntt.Model(scale=4, **imported.config['options'])
  maps = {layer: jnp.asarray(golden.inputs[layer]) for layer in srntt.LAYERS}
  similarity = golden.inputs['weights'][..., 0]
  similarity = jnp.pad(similarity, ((0, 0), (1, 1), (1, 1)), 'edge')
  if not gated:  # what its gates would do, by hand
    gates = srntt._Gates()
    held = {
      'slope': golden.state_dict['texture_transfer.a'],
      'offset': golden.state_dict['texture_transfer.b'],
    }
    maps = gates.apply({'params': held}, maps, similarity)
  sr, aux = jax.jit(network.apply)(
    {'params': imported.params}, golden.inputs['x'], maps, similarity
  )
  golden.check('srntt', sr)
  golden.check('upscale', aux['enlarged'])


def _tiny(variant):
  """A small network, and weights with which every input affects the output."""
  options = {'features': 4, 'blocks': 1, 'transfer_blocks': (1, 1, 1)}
  network = srntt.Model(scale=4, variant=variant, **options)
  lr = jax.random.uniform(jax.random.key(0), (1, 4, 5, 3))
  variables = jax.tree.map(abs, model_checks.noise(network))
  return jax.jit(network.apply), variables, lr


@pytest.mark.nightly
@pytest.mark.parametrize(('variant', 'differs'), [('plain', 0), ('gated', 1)])
def test_similarity_changes_the_gated_network_alone(variant, differs):
  apply, variables, lr = _tiny(variant)
  maps = jax.tree.map(jnp.ones_like, srntt.no_maps(lr.shape))
  without, half = (
    apply(variables, lr, maps, similarity)[0]
    for similarity in (None, jnp.full(lr.shape[:3], 0.5))
  )
  assert (without != half).any() == differs


def test_maps_of_every_layer_reach_the_image():
  apply, variables, lr = _tiny('plain')
  nothing = srntt.no_maps(lr.shape)
  before, _ = apply(variables, lr, nothing)
  for layer, channels in srntt.LAYERS.items():
    assert nothing[layer].shape[-1] == channels
    maps = {**nothing, layer: jnp.ones_like(nothing[layer])}
    after, _ = apply(variables, lr, maps)
    assert (after != before).any()


def test_other_scales_are_refused():
  with pytest.raises(UserError, match='srntt enlarges by 4'):
    models.create({'name': 'srntt', 'scale': 2})


@pytest.mark.nightly
def test_authors_discriminator(tmp_path):
  groups, arrays = _tensorflow('srntt_tf_discriminator_formula')
  path = tmp_path / 'discrim.npz'
  path.write_bytes(npz_files.tensorlayer(groups['discriminator']))
  imported = import_weights(path, model='srntt_discriminator')
  assert imported.config['options'] == {
    'channels': 3,
    'features': 32,
    'side': 1,
    'hidden': 1024,
  }
  network = srntt_discriminator.Model(**imported.config['options'])
  variables = {'params': imported.params, 'batch_stats': imported.batch_stats}
  for train, name in ((False, 'logits'), (True, 'train:logits')):
    apply = jax.jit(
      functools.partial(network.apply, train=train, mutable=['batch_stats'])
    )
    logits, after = apply(variables, _image(arrays['in:x']))
    np.testing.assert_allclose(logits, arrays[f'out:{name}'], atol=2e-4)
  stats = after['batch_stats']['trunk']
  for ours, theirs in (('norm_0_0', 'n32s1'), ('norm_4_1', 'n512s2')):
    for leaf, ending in (('mean', 'moving_mean'), ('var', 'moving_variance')):
      expected = arrays[f'out:train_bn:discriminator/{theirs}/b/{ending}']
      np.testing.assert_allclose(stats[ours][leaf], expected, atol=1e-5)

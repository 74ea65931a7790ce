"""CrossNet against the released code, and its parts.

Arrays of htzheng/ECCV2018_CrossNet_RefSR 03959f2 under PyTorch 2.13.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from sr_jax.models import crossnet
from sr_jax.ops.compilation import jit
from sr_jax.ops.resize import imresize
from sr_jax.weights.names import to_flax_layout, torch_to_flax
from sr_jax.weights.published import import_weights
from tests import golden_files, model_checks

# What the release has, and the layer of it that changes nothing.
RELEASED, UNUSED = 35_183_841, 64 * 64 * 25 + 64


def _part(name, prefix):
  """A golden file of one part of the network, and its imported weights."""
  golden = golden_files.load(f'crossnet_{name}_formula')
  tensors = {f'{prefix}.{k}': v for k, v in golden.state_dict.items()}
  weights = torch_to_flax(tensors, crossnet.TORCH_NAMES)
  params = {
    path.partition('/')[2]: array for path, array in weights.arrays.items()
  }
  return golden, {'params': traverse_util.unflatten_dict(params, sep='/')}


def _check(golden, names, found):
  for name, ours in zip(names, found, strict=True):
    golden.check(name, ours)
    span = np.ptp(golden.outputs[name])
    assert golden.difference(name, ours) < 1e-4 * span


@pytest.mark.nightly
def test_flows_at_every_scale():
  golden, variables = _part('flownet', 'FlowNet')
  network = crossnet.Flow(64)
  flows = jit(network.apply)(
    variables, golden.inputs['lr'], golden.inputs['ref']
  )
  _check(golden, [f'flow_12_{i}' for i in (1, 2, 3, 4)], flows)


@pytest.mark.nightly
def test_features_at_every_scale():
  golden, variables = _part('encoder', 'Encoder')
  finest, *coarser = jit(crossnet.Encoder(64).apply)(
    variables, golden.inputs['x']
  )
  names = ['f0_head8', 'f1', 'f2', 'f3']
  _check(golden, names, [finest[..., :8], *coarser])


@pytest.mark.nightly
def test_decoder():
  golden, variables = _part('decoder', 'UNet_decoder_2')
  of_sisr, warped = (
    [golden.inputs[f'{kind}{i}'] for i in (1, 2, 3, 4)]
    for kind in ('lr', 'warp')
  )
  network = crossnet.Decoder(64, 3)
  image = jit(network.apply)(variables, of_sisr, warped)
  _check(golden, ['y'], [image])


@pytest.mark.nightly
def test_whole_network_through_the_importer(tmp_path):
  golden = golden_files.load('crossnet_full_formula')
  path = golden.write(tmp_path / 'crossnet.safetensors')
  imported = import_weights(path, model='crossnet', scale=1)
  assert imported.config['options'] == {'channels': 3, 'features': 64}
  assert any(
    'never uses' in note and f'{UNUSED:,} numbers' in note
    for note in imported.notes
  )
  held = sum(leaf.size for leaf in jax.tree.leaves(imported.params))
  total = sum(leaf.size for leaf in golden.state_dict.values())
  assert total == RELEASED == held + UNUSED
  network = crossnet.Model(scale=1, **imported.config['options'])
  sr, aux = jit(network.apply)(
    {'params': imported.params},
    *(golden.inputs[name] for name in ('lr', 'ref', 'sr')),
  )
  _check(golden, ['y'], [sr])
  assert aux['flows'][0].shape == (1, 64, 64, 2)


def test_published_parameter_count():
  counts = crossnet.VARIANTS['crossnet'].parameters
  assert set(counts.values()) == {RELEASED - UNUSED}


@pytest.fixture(scope='module')
def tiny():
  """A small network, compiled, its variables and images."""
  network = crossnet.Model(scale=4, features=4)
  lr = model_checks.image(network, 6, 9)
  reference, sisr = (
    model_checks.image(network, 24, 36, seed=seed) for seed in (1, 2)
  )
  variables = model_checks.noise(network, spread=0.03)
  return network, jit(network.apply), variables, (lr, reference, sisr)


@pytest.mark.nightly
def test_gradients_reach_every_tensor_through_sr_alone(tiny):
  network, _, variables, images = tiny

  def energy(variables):
    return (network.apply(variables, *images)[0] ** 2).sum()

  grads = jit(jax.grad(energy))(variables)
  for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
    keys = jax.tree_util.keystr(path)
    assert jnp.isfinite(leaf).all(), keys
    assert (leaf != 0).any(), keys


@pytest.mark.nightly
def test_inputs_default_to_the_enlarged_image(tiny):
  _, apply, variables, (lr, reference, sisr) = tiny
  enlarged = imresize(lr, scale=4)
  alone, _ = apply(variables, lr)
  seen = [
    apply(variables, lr, *images)[0]
    for images in (
      (enlarged, enlarged),
      (reference, enlarged),
      (enlarged, sisr),
      (reference, sisr),
    )
  ]
  np.testing.assert_allclose(alone, seen[0], atol=1e-6)
  for i, a in enumerate(seen):
    assert all((a != b).any() for b in seen[:i])


def test_flows_see_the_enlarged_image_and_not_sisr(tiny):
  _, apply, variables, (lr, reference, sisr) = tiny
  flow = apply(variables, lr, reference, sisr)[1]['flows'][0]
  other = apply(variables, lr, reference, 1 - sisr)[1]['flows'][0]
  np.testing.assert_array_equal(flow, other)
  assert (
    apply(variables, 1 - lr, reference, sisr)[1]['flows'][0] != flow
  ).any()


@pytest.mark.nightly
def test_sides_that_are_no_multiple_of_64_are_filled_up(tiny):
  network, apply, variables, (lr, reference, sisr) = tiny
  sr, aux = apply(variables, lr, reference, sisr)
  filled = [
    jnp.pad(x, ((0, 0), (0, 40), (0, 28), (0, 0)), 'edge')
    for x in (imresize(lr, scale=4), reference, sisr)
  ]
  refine = functools.partial(network.apply, method='refine')
  whole, flows = jit(refine)(variables, *filled)
  np.testing.assert_allclose(whole[:, :24, :36], sr, atol=1e-6)
  np.testing.assert_allclose(
    flows['flows'][0][:, :24, :36], aux['flows'][0], atol=1e-6
  )


def test_images_of_other_sizes_are_refused(tiny):
  _, apply, variables, (lr, reference, _) = tiny
  with pytest.raises(ValueError, match=r'reference \(1, 23, 36, 3\)'):
    apply(variables, lr, reference[:, :-1])


def test_kernels_of_transposed_convolutions_are_not_turned():
  weight = np.arange(2 * 3 * 16.0).reshape(2, 3, 4, 4)
  kernel = to_flax_layout(weight)
  assert kernel.shape == (4, 4, 3, 2)
  assert kernel[1, 2, 0, 1] == weight[1, 0, 1, 2]

"""SRFBN: the released code's outputs of every step."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest

from sr_jax import models
from sr_jax.errors import UserError
from sr_jax.models import srfbn
from sr_jax.models.parts.masking import masked_apply
from sr_jax.models.parts.parameters import expected_shapes
from sr_jax.weights.published import import_weights
from tests import golden_files, model_checks
from tests.nightly import first_by_default
from tests.weights import torch_files


def _golden(scale):
  """A golden file, and its tensors as the release names them."""
  golden = golden_files.load(f'srfbn_x{scale}')
  tensors = {f'module.{name}': x for name, x in golden.state_dict.items()}
  return golden, tensors


@pytest.mark.parametrize('scale', first_by_default([2, 3, 4, 8]))
def test_options_outputs_and_parameter_count(scale, tmp_path):
  """Arrays of Paper99/SRFBN_CVPR19 046f693 under PyTorch 2.13."""
  golden, tensors = _golden(scale)
  path = tmp_path / 'weights.pth'
  path.write_bytes(torch_files.state_dict(tensors))
  arguments = golden.meta['config']['args']
  imported = import_weights(
    path, model='srfbn', options={'steps': arguments['num_steps']}
  )
  assert imported.config == {
    'name': 'srfbn',
    'scale': scale,
    'options': {
      'channels': 3,
      'features': arguments['num_features'],
      'groups': arguments['num_groups'],
      'steps': arguments['num_steps'],
    },
  }
  assert imported.notes == []
  count = sum(leaf.size for leaf in jax.tree.leaves(imported.params))
  assert count == golden.meta['n_params']['main']

  network = models.module('srfbn').Model(
    scale=scale, **imported.config['options']
  )
  sr, aux = jax.jit(network.apply)(
    {'params': imported.params}, golden.inputs['x']
  )
  assert len(aux['outputs']) == arguments['num_steps']
  np.testing.assert_array_equal(sr, aux['outputs'][-1])


def test_a_training_record_determines_all_but_the_steps(tmp_path):
  """The release stores `state_dict` with further records of the training."""
  _, tensors = _golden(2)
  path = tmp_path / 'record.pth'
  values, raw = {}, {}
  for i, (name, array) in enumerate(tensors.items()):
    values[name] = torch_files.tensor(str(i), array.shape, length=array.size)
    raw[str(i)] = array.tobytes()
  record = {
    'epoch': torch_files.integer(7),
    'state_dict': torch_files.mapping(values),
  }
  path.write_bytes(torch_files.zip_file(torch_files.mapping(record), raw))
  with pytest.raises(UserError, match='does not determine steps; give it with'):
    import_weights(path, model='srfbn')
  imported = import_weights(path, model='srfbn', options={'steps': 3})
  assert "used 'state_dict'" in imported.notes


def test_published_sizes_determine_the_steps_too():
  for variant, entry in srfbn.VARIANTS.items():
    network = srfbn.Model(scale=4, variant=variant)
    assert srfbn.recognise(expected_shapes(network)) == {
      'scale': 4,
      'channels': 3,
      **entry.options,
    }


def test_fewer_steps_are_the_first_steps():
  options = {'scale': 2, 'groups': 2, 'features': 4}
  full = srfbn.Model(**options, steps=3)
  lr, variables = model_checks.image(full, 6, 5), model_checks.noise(full)
  _, aux = jax.jit(full.apply)(variables, lr)
  assert len({float(x.sum()) for x in aux['outputs']}) == 3
  for steps in (1, 2):
    early, _ = jax.jit(srfbn.Model(**options, steps=steps).apply)(variables, lr)
    np.testing.assert_allclose(
      early, aux['outputs'][steps - 1], rtol=1e-5, atol=1e-6
    )


def test_padding_changes_nothing_under_a_mask():
  network = srfbn.Model(scale=4, groups=2, steps=1, features=4)
  lr = np.random.default_rng(0).random((1, 6, 7, 3), np.float32)
  variables = model_checks.noise(network, spread=0.1)
  alone, _ = jax.jit(network.apply)(variables, lr)
  pad = ((0, 0), (0, 5), (0, 3), (0, 0))
  mask = np.pad(np.ones((1, 6, 7, 1), np.float32), pad)
  # The padding is mirrored, as the bilinear enlargement requires.
  large = jax.jit(functools.partial(masked_apply, network))(
    variables['params'], np.pad(lr, pad, 'symmetric'), mask
  )
  np.testing.assert_allclose(large[:, :24, :28], alone, atol=5e-6)


def test_impossible_options_are_refused():
  for options, reason in (
    ({'scale': 5}, 'scale=5: give 2, 3, 4 or 8'),
    ({'scale': 2, 'steps': 0}, 'steps=0: give a whole number from 1 to 256'),
    ({'scale': 2, 'steps': 200}, 'steps=200 of 6 groups: give at most 85'),
  ):
    with pytest.raises(UserError, match=reason):
      models.create({'name': 'srfbn', **options})

"""DRN against the released PyTorch code, through the importer.

The arrays are outputs of guoyongcs/DRN 39917f4 under PyTorch 2.13, with the
tensors under its names.
"""

from __future__ import annotations

import jax
import numpy as np
import pytest

from sr_jax import models
from sr_jax.models import drn
from sr_jax.weights.published import import_duals, import_weights
from tests import golden_files
from tests.nightly import nightly
from tests.weights import torch_files


@pytest.mark.parametrize(('scale', 'features'), [(2, 8), nightly(8, 4)])
def test_options_outputs_and_parameter_counts(tmp_path, scale, features):
  golden = golden_files.load(f'drn_x{scale}')
  levels = drn.levels(scale)
  primal, duals = tmp_path / 'primal.pt', tmp_path / 'dual.pt'
  primal.write_bytes(torch_files.state_dict(golden.state_dict))
  state_dicts = [golden.others[f'dual{i}'] for i in range(levels)]
  duals.write_bytes(torch_files.list_of_state_dicts(state_dicts))

  imported = import_weights(primal, model='drn')
  assert imported.config == {
    'name': 'drn',
    'scale': scale,
    'options': {'channels': 3, 'features': features, 'blocks': 2},
  }
  network = models.create(
    {'name': 'drn', 'scale': scale, **imported.config['options']}
  )
  sr, aux = jax.jit(network.apply)(
    {'params': imported.params}, golden.inputs['x']
  )
  outputs = aux['outputs']
  assert len(outputs) == levels + 1
  np.testing.assert_array_equal(sr, outputs[-1])

  slots = import_duals(duals, imported)
  assert list(slots) == [f'dual_{i}' for i in range(levels)]
  for i, params in enumerate(slots.values()):
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert count == golden.meta['n_params'][f'dual{i}']


@pytest.mark.parametrize(
  ('variant', 'count'), [('s', 864), ('l', 1080), ('s-x8', 432), ('l-x8', 540)]
)
def test_parameter_count_of_the_published_duals(variant, count):
  features = drn.VARIANTS[variant].options['features']
  network = drn.Dual(features=features)
  shapes = jax.eval_shape(
    network.init, jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32)
  )
  assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count

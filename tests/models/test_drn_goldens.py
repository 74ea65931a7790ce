"""DRN against the released PyTorch code, through the importer.

The arrays are outputs of guoyongcs/DRN 39917f4 under PyTorch 2.13, with the
tensors under its names.
"""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from sr_jax import models
from sr_jax.importers.weights import import_duals, import_weights
from sr_jax.models import drn
from tests.importers import torch_files

GOLDEN = Path(__file__).parents[1] / 'golden'


def _tensors(data, prefix):
  return {
    k.removeprefix(prefix): data[k] for k in data.files if k.startswith(prefix)
  }


def _close(ours, data, name):
  """Within 1e-4 of the value range, and within float32's own noise."""
  expected = data[f'out:{name}'].transpose(0, 2, 3, 1)
  # What the released code's own float32 output is off its float64 one.
  noise = json.loads(str(data['meta']))['f32_vs_f64_maxabs'][name]
  difference = np.abs(255 * np.asarray(ours) - expected).max()
  print(f'{name}: {difference:.3g}, noise {noise:.3g}')
  assert difference < 1e-4 * 255
  assert difference < 20 * noise + 2e-6 * np.abs(expected).max()


@pytest.mark.parametrize(('scale', 'features'), [(2, 8), (8, 4)])
def test_parity_with_released_code(tmp_path, scale, features):
  data = np.load(GOLDEN / f'drn_x{scale}.npz')
  counts = json.loads(str(data['meta']))['n_params']
  levels = drn.levels(scale)
  primal, duals = tmp_path / 'primal.pt', tmp_path / 'dual.pt'
  primal.write_bytes(torch_files.state_dict(_tensors(data, 'sd:')))
  state_dicts = [_tensors(data, f'sd_dual{i}:') for i in range(levels)]
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
  lr = data['in:x'].transpose(0, 2, 3, 1) / np.float32(255)
  sr, aux = jax.jit(lambda params, lr: network.apply({'params': params}, lr))(
    imported.params, lr
  )
  outputs = aux['outputs']
  assert len(outputs) == levels + 1
  np.testing.assert_array_equal(sr, outputs[-1])
  for i, output in enumerate(outputs):
    _close(output, data, f'y{i}')

  dual = drn.Dual(features=features)
  slots = import_duals(duals, imported)
  assert list(slots) == [f'dual_{i}' for i in range(levels)]
  for i, params in enumerate(slots.values()):
    large = data[f'out:y{i + 1}'].transpose(0, 2, 3, 1) / np.float32(255)
    _close(dual.apply({'params': params}, large), data, f'dual{i}')
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert count == counts[f'dual{i}']


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

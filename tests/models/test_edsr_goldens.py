"""EDSR against the released PyTorch code, through the importer.

The arrays are outputs of EDSR-PyTorch (as yulunzhang/RCAN f722e5d carries it)
and of BasicSR 8d56e3a under PyTorch 2.13, which also wrote the weight files:
zip and legacy format, float32 at scale 2, float16 at 3, bfloat16 at 4 (the
weights have eight significant bits, so that nothing is lost).
"""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from sr_jax import models
from sr_jax.importers.weights import import_weights

GOLDEN = Path(__file__).parents[1] / 'golden'


@pytest.mark.parametrize('scale', [2, 3, 4])
@pytest.mark.parametrize('system', ['edsr', 'basicsr_edsr'])
def test_parity_with_released_code(system, scale):
  """Within 1e-4 of the value range, and within float32's own noise."""
  data = np.load(GOLDEN / f'{system}_x{scale}.npz')
  meta = json.loads(str(data['meta']))
  residual_scale = meta['config']['args']['res_scale']
  value_range = 255 if system == 'edsr' else 1

  imported = import_weights(
    GOLDEN / 'torch' / f'{system}_x{scale}.pth',
    model='edsr',
    options={'residual_scale': residual_scale},
  )
  assert imported.config == {
    'name': 'edsr',
    'scale': scale,
    'options': {
      'channels': 3,
      'features': 16,
      'blocks': 2,
      'residual_scale': residual_scale,
    },
  }
  network = models.module('edsr').Model(
    scale=scale, **imported.config['options']
  )
  lr = data['in:x'].transpose(0, 2, 3, 1) / np.float32(value_range)
  sr = jax.jit(lambda params, lr: network.apply({'params': params}, lr)[0])(
    imported.params, lr
  )
  expected = data['out:y'].transpose(0, 2, 3, 1)
  difference = np.abs(np.asarray(sr) * value_range - expected).max()
  # What the released code's own float32 output is off its float64 one.
  noise = meta['f32_vs_f64_maxabs']['y']
  print(f'{system} x{scale}: {difference:.3g}, noise {noise:.3g}')
  assert difference < 1e-4 * value_range
  assert difference < 20 * noise + 2e-6 * np.abs(expected).max()


@pytest.mark.parametrize('scale', [2, 3, 4])
@pytest.mark.parametrize('system', ['edsr', 'basicsr_edsr'])
def test_parameter_count_is_the_released_one(system, scale):
  meta = json.loads(str(np.load(GOLDEN / f'{system}_x{scale}.npz')['meta']))
  imported = import_weights(
    GOLDEN / 'torch' / f'{system}_x{scale}.pth',
    model='edsr',
    options={'residual_scale': 1.0},
  )
  count = sum(leaf.size for leaf in jax.tree.leaves(imported.params))
  # BasicSR keeps the two mean shifts (12 numbers each) out of the state_dict.
  constants = 24 if system == 'basicsr_edsr' else 0
  assert count - constants == meta['n_params']['main']

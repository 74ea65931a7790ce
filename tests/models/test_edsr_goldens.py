"""EDSR against the released PyTorch code, through the importer.

The arrays are outputs of EDSR-PyTorch (as yulunzhang/RCAN f722e5d carries it)
and of BasicSR 8d56e3a under PyTorch 2.13, which also wrote the weight files:
zip and legacy format, float32 at scale 2, float16 at 3, bfloat16 at 4 (the
weights have eight significant bits, so that nothing is lost).
"""

from __future__ import annotations

import jax
import pytest

from sr_jax import models
from sr_jax.weights.published import import_weights
from tests import golden_files
from tests.nightly import nightly


@pytest.mark.parametrize(
  ('system', 'scale'),
  [
    ('edsr', 2),
    *(nightly('edsr', scale) for scale in (3, 4)),
    *(nightly('basicsr_edsr', scale) for scale in (2, 3, 4)),
  ],
)
def test_parity_with_released_code(system, scale):
  """Within 1e-4 of the value range, and within float32's own noise."""
  golden = golden_files.load(f'{system}_x{scale}')
  residual_scale = golden.meta['config']['args']['res_scale']
  imported = import_weights(
    golden_files.GOLDEN / 'torch' / f'{system}_x{scale}.pth',
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
  sr, _ = jax.jit(network.apply)(
    {'params': imported.params}, golden.inputs['x']
  )
  golden.check('y', sr)


@pytest.mark.parametrize('scale', [2, 3, 4])
@pytest.mark.parametrize('system', ['edsr', 'basicsr_edsr'])
def test_parameter_count_is_the_released_one(system, scale):
  meta = golden_files.load_meta(f'{system}_x{scale}')
  imported = import_weights(
    golden_files.GOLDEN / 'torch' / f'{system}_x{scale}.pth',
    model='edsr',
    options={'residual_scale': 1.0},
  )
  count = sum(leaf.size for leaf in jax.tree.leaves(imported.params))
  # BasicSR keeps the two mean shifts (12 numbers each) out of the state_dict.
  constants = 24 if system == 'basicsr_edsr' else 0
  assert count - constants == meta['n_params']['main']

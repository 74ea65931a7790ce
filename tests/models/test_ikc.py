"""IKC's networks and codes against arrays of the released code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax import models
from sr_jax.errors import UserError
from sr_jax.models import ikc
from sr_jax.models.parts.parameters import shapes_of
from sr_jax.ops.blur_kernels import gaussian_kernel
from sr_jax.ops.kernel_codes import encode, fitted, gaussian_basis
from sr_jax.weights.companions import import_companion
from sr_jax.weights.published import import_weights
from tests import golden_files
from tests.methods.ikc_files import arrays, written
from tests.nightly import first_by_default


@pytest.mark.parametrize(
  'name',
  first_by_default(
    [
      'sftmd_x2_nb1_formula',
      'sftmd_demo_x4_nb1_formula',
      'sftmd_x2_full_formula',
      'sftmd_x3_full_formula',
      'sftmd_x4_full_formula',
    ],
  ),
)
def test_sftmd_of_the_released_code(tmp_path, name):
  golden = golden_files.load(f'ikc_{name}')
  path = written(tmp_path / 'f.pth', golden.state_dict)
  imported = import_weights(path, model='ikc')
  config = imported.config
  network = models.create(
    {'name': 'ikc', 'scale': config['scale'], **config['options']}
  )
  code = golden.inputs['code'] * golden.value_range
  sr, _ = jax.jit(network.apply)(
    {'params': imported.params}, golden.inputs['x'], code
  )
  golden.check('pre', sr)
  if 'demo' not in name:  # the other class clips its own output
    golden.check('y', jnp.clip(sr, 0, 1))


def companion(tmp_path, slot, state_dict):
  """A companion of SFTMD, imported from its released names."""
  path = written(tmp_path / f'{slot}.pth', state_dict)
  params, notes = import_companion(path, 'ikc', slot)
  assert not notes
  made = ikc.COMPANIONS[slot]
  return made.Model(**made.recognise(shapes_of(params))), {'params': params}


@pytest.mark.parametrize('name', first_by_default(['nf8', 'full_formula']))
@pytest.mark.parametrize('slot', ['predictor', 'corrector'])
def test_companions_of_the_released_code(tmp_path, slot, name):
  golden = golden_files.load(f'ikc_{slot}_{name}')
  network, variables = companion(tmp_path, slot, golden.state_dict)
  inputs = [golden.inputs['x']]
  if slot == 'corrector':
    inputs.append(golden.inputs['code'] * golden.value_range)
  y = network.apply(variables, *inputs)
  np.testing.assert_allclose(y, golden.outputs['y'], rtol=1e-5, atol=2e-6)
  count = sum(leaf.size for leaf in jax.tree.leaves(variables))
  if name == 'full_formula':
    assert count == {'predictor': 430_730, 'corrector': 649_930}[slot]


def test_a_scaled_and_shifted_feature_map():
  golden = golden_files.load('ikc_sft_layer')
  tensors = golden.state_dict
  params = {
    f'{ours}_{i}': {
      'kernel': tensors[f'{part}_conv{i}.weight'].transpose(2, 3, 1, 0),
      'bias': tensors[f'{part}_conv{i}.bias'],
    }
    for part, ours in (('mul', 'scale'), ('add', 'shift'))
    for i in (1, 2)
  }
  x, code = (golden.inputs[k] * golden.value_range for k in ('x', 'code'))
  code = np.broadcast_to(code[:, None, None], (*x.shape[:3], code.shape[-1]))
  y = ikc.SFT(condition=32).apply({'params': params}, x, code)
  golden.check('y', y / golden.value_range)


@pytest.mark.nightly
def test_codes_of_gaussians():
  """The published basis, up to what random draws of kernels make of it."""
  golden = arrays('kernels_pca')
  kernels = np.stack(
    [gaussian_kernel(s**2, size=21) for s in golden['in:sigma']]
  )
  np.testing.assert_allclose(kernels, golden['out:iso'], atol=1e-8)
  basis = gaussian_basis(0.2, 4.0, size=21, codes=10)
  np.testing.assert_allclose(basis.T @ basis, np.eye(10), atol=1e-12)
  oriented = np.stack(
    [gaussian_kernel(a**2, b**2, t, size=21) for a, b, t in golden['in:aniso']]
  )
  np.testing.assert_allclose(oriented, golden['out:aniso'], atol=1e-7)
  codes = encode(np.concatenate([kernels, oriented]), basis)
  np.testing.assert_allclose(codes, golden['out:code_shipped'], atol=5e-3)
  # The released function, on other kernels; its signs are arbitrary.
  grid = golden['out:pca_grid']
  signs = np.sign((grid * basis).sum(0))
  np.testing.assert_allclose(grid[:, :6] * signs[:6], basis[:, :6], atol=1e-2)


def test_kernels_of_other_sizes_are_fitted():
  """Zeros are added or outer taps cut off, and the centre stays the centre."""
  wide = gaussian_kernel(4.0, size=33)
  np.testing.assert_allclose(
    fitted(wide, 21), gaussian_kernel(4.0, size=21), atol=1e-12
  )
  narrow = gaussian_kernel(1.0, size=5)
  padded = fitted(narrow, 21)
  np.testing.assert_allclose(padded[8:13, 8:13], narrow, atol=1e-12)
  assert padded.sum() == pytest.approx(1)
  even = np.zeros((4, 3))
  even[2, 1] = 1  # the centre
  assert fitted(even, 21)[10, 10] == 1
  with pytest.raises(
    UserError, match='41x41 taps, most of it outside the inne'
  ):
    fitted(np.ones((41, 41)) / 41**2, 21)

"""sr-jax interpolate, against the released script of ESRGAN."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import TINY
from safetensors.numpy import save_file

from sr_jax import checkpoints, models
from tests.golden_files import GOLDEN
from tests.nightly import nightly


@pytest.fixture
def pair(run, tmp_path):
  """The two checkpoints of the golden file."""
  golden = np.load(GOLDEN / 'rrdbnet_interp_alpha08.npz')
  paths = []
  for name in ('psnr', 'gan'):
    file, prefix = tmp_path / f'{name}.safetensors', f'sd_{name}:'
    tensors = {
      key.removeprefix(prefix): golden[key]
      for key in golden.files
      if key.startswith(prefix)
    }
    save_file(tensors, file)
    paths.append(tmp_path / name)
    done = run('import', file, '--model', 'rrdbnet', '-o', paths[-1])
    assert done.status == 0, done
  return paths


def enlarged(path, lr):
  loaded = checkpoints.load_params(path)
  network = models.create(loaded.config['model'])
  run = jax.jit(lambda params: network.apply({'params': params}, lr)[0])
  return run(loaded.params['generator'])


@pytest.mark.parametrize(
  ('alpha', 'name'),
  [nightly(0, 'psnr'), (0.8, 'interp'), nightly(1, 'gan')],
)
def test_parity_with_the_released_script(run, pair, tmp_path, alpha, name):
  """Outputs of xinntao/ESRGAN 73e9b63 under PyTorch 2.13."""
  golden = np.load(GOLDEN / 'rrdbnet_interp_alpha08.npz')
  out = tmp_path / 'between'
  done = run('interpolate', *pair, '--alpha', alpha, '-o', out)
  assert done.status == 0, done
  expected = golden[f'out:{name}'].transpose(0, 2, 3, 1)
  noise = json.loads(str(golden['meta']))['f32_vs_f64_maxabs'][name]
  sr = enlarged(out, golden['in:x'].transpose(0, 2, 3, 1))
  assert np.abs(sr - expected).max() < (
    20 * noise + 2e-6 * np.abs(expected).max()
  )
  config = checkpoints.load_params(out).config
  assert config['interpolation'] == {
    'a': str(pair[0]),
    'b': str(pair[1]),
    'alpha': alpha,
  }


def test_what_is_refused(run, pair, checkpoint, tmp_path):
  out = tmp_path / 'between'
  command = ('interpolate', *pair, '-o', out, '--alpha')
  for alpha in ('1.2', '-0.1', 'half', 'nan'):
    assert run(*command, alpha).refused('--alpha', alpha, 'from 0 to 1')
  unlike = ('interpolate', pair[0], checkpoint, '--alpha', 0.5, '-o', out)
  assert run(*unlike).refused(str(checkpoint), 'RRDBNet', 'EDSR')
  bare = ('interpolate', pair[0], 'bicubic', '--alpha', 0.5, '-o', out)
  assert run(*bare).refused('bicubic', 'no weights')
  assert not out.exists()
  again = ('interpolate', *pair, '--alpha', 0.5, '-o', checkpoint)
  assert run(*again).refused(str(checkpoint), 'exists')


@pytest.mark.nightly
def test_equal_shapes_of_unlike_networks(run, checkpoint, tmp_path):
  other, out = tmp_path / 'other', tmp_path / 'out'
  model = {**TINY, 'residual_scale': 0.5}
  init = jax.jit(models.create(model).init)
  params = init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))['params']
  config = {'method': {'name': 'supervised'}, 'model': model}
  checkpoints.save_params(other, {'generator': params}, config)
  done = run('interpolate', checkpoint, other, '--alpha', 0.5, '-o', out)
  assert done.refused('residual_scale=1.0 against residual_scale=0.5')
  # Another type of computation is no other network.
  low = tmp_path / 'low'
  config['model'] = {**TINY, 'dtype': 'bfloat16'}
  checkpoints.save_params(low, {'generator': params}, config)
  done = run('interpolate', checkpoint, low, '--alpha', 0.5, '-o', out)
  assert done.status == 0, done

"""--kernel kernelgan: what the commands make of KernelGAN's kernels."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import visible
from PIL import Image
from skimage import data as photographs

from sr_jax import checkpoints, models
from sr_jax.data.kernel_files import load_kernel
from sr_jax.inference import automatic, kernelgan
from sr_jax.inference.blind import KernelEstimate
from sr_jax.ops.blur_kernels import gaussian_kernel

PHOTO = photographs.astronaut()[:176, 130:306]


def _checkpoint(path, *, scale=2, degradation='direct'):
  model = {'name': 'mzsr', 'scale': scale, 'depth': 2, 'features': 4}
  network = models.create(model)
  params = network.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))['params']
  config = {
    'method': {
      'name': 'meta_transfer',
      'adapt': {'steps': 1, 'rates': (0.01,)},
    },
    'model': model,
    'degradation': {'name': degradation},
  }
  checkpoints.save_params(path, {'generator': params}, config)
  return path


@pytest.fixture(scope='module')
def adaptive(tmp_path_factory):
  """A checkpoint of a tiny MZSR x2 for direct sampling."""
  return _checkpoint(tmp_path_factory.mktemp('adaptive') / 'mzsr-tiny')


@pytest.fixture
def games(monkeypatch):
  """Replaces the game, which takes long, by kernels that grow with the seed."""
  played = []

  def play(images, *, scale, seeds, **options):
    del images, options
    kernelgan.check_scale(scale)
    played.extend(seeds)
    return [
      kernelgan.KernelGANEstimate(
        np.asarray(gaussian_kernel(1.0 + seed, size=25)), int(scale), seed
      )
      for seed in seeds
    ]

  monkeypatch.setattr(kernelgan, 'estimate_kernels', play)
  return played


def _save(path, image=PHOTO[::2, ::2]):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(image).save(path)
  return path


def test_upscale_tries_it_beside_other_kernels(run, adaptive, games, tmp_path):
  photo, out = _save(tmp_path / 'a.png'), tmp_path / 'out'
  command = ('upscale', photo, '-o', out, '--model', adaptive)
  kernels = ('--kernel', 'gaussian:1;kernelgan')
  done = run(*command, *kernels, '--seed', '2')
  assert done.status == 0, done
  assert 'kernelgan of seed 2, deviations 1.73 and 1.73 HR pixels' in done.out
  assert 'compare with --kernel auto' in done.out
  names = [n for n in visible(out) if not n.startswith('kernel_')]
  assert names == [
    'a_x2_gaussian-1.png',
    'a_x2_kernelgan.png',
    'a_x2_kernelgan_kernel.npy',
    'a_x2_kernelgan_kernel.png',
    'a_x2_kernels.png',
  ]
  taps = load_kernel(out / 'a_x2_kernelgan_kernel.npy')
  np.testing.assert_allclose(taps, gaussian_kernel(3.0, size=25))
  assert games == [2]
  # A finished result is not made again, but another seed makes another one.
  again = run(*command, *kernels, '--seed', '2')
  assert again.out.count('0 enlarged, 1 already there') == 2
  run(*command, '--kernel', 'kernelgan', '--seed', '1')
  assert games == [2, 1]


def test_evaluate_scores_it(run, adaptive, games, tmp_path):
  hr = _save(tmp_path / 'hr' / 'a.png').parent
  file = tmp_path / 'result.json'
  command = ('evaluate', '--model', adaptive, '--hr', hr, '--json', file)
  blur = ('--degradation', 'direct', '--kernel', 'gaussian:2')
  done = run(*command, *blur, '--assume-kernel', 'kernelgan', '--seed', '3')
  assert done.status == 0, done
  result = json.loads(file.read_text())
  assert result['assumed_kernel'] == 'kernelgan'
  assert result['images'][0]['kernel'] == 'kernelgan of seed 3'
  assert games == [3]


def test_estimate_kernel_writes_its_taps(run, games, tmp_path):
  photo, out = _save(tmp_path / 'a.png'), tmp_path / 'out'
  command = ('estimate-kernel', photo, '-o', out, '--by', 'kernelgan')
  done = run(*command, '--scale', '4')
  assert done.status == 0, done
  assert f'{photo}: kernelgan of seed 0 (deviations 1.00 and 1.00' in done.out
  (record,) = json.loads((out / 'kernels.json').read_text())
  assert (record['scale'], record['seed']) == (4, 0)
  np.testing.assert_allclose(record['deviations'], 1, atol=1e-3)
  assert load_kernel(out / 'a_kernel.npy').shape == (25, 25)


def test_what_it_refuses_is_named_in_one_line(run, adaptive, tmp_path):
  small = _save(tmp_path / 'small.png', PHOTO[:83, :90])
  flat = _save(tmp_path / 'flat.png', np.full((90, 90, 3), 128, np.uint8))
  by = ('--by', 'kernelgan')
  assert run('estimate-kernel', small, *by).refused(
    '90x83 pixels are too few for KernelGAN: give 84 or more a side'
  )
  assert run('estimate-kernel', flat, *by).refused('the image has no texture')
  photo = _save(tmp_path / 'a.png')
  assert run('estimate-kernel', photo, *by, '--scale', '3').refused(
    'KernelGAN estimates kernels of x2 and x4, not of x3'
  )
  command = ('upscale', '-o', tmp_path / 'out', '--kernel', 'kernelgan')
  assert run(*command, small, '--model', adaptive).refused(
    '90x83 pixels are too few for KernelGAN'
  )
  three = _checkpoint(tmp_path / 'three', scale=3)
  assert run(*command, photo, '--model', three).refused('not of x3')
  bicubic = _checkpoint(tmp_path / 'bicubic', degradation='blur-bicubic')
  assert run(*command, photo, '--model', bicubic).refused(
    'takes the blur before a bicubic reduction'
  )
  assert run(*command, photo).refused('edsr-small-x2')


def test_auto_offers_it_where_no_gaussian_fits(
  run, adaptive, tmp_path, monkeypatch
):
  odd = KernelEstimate((2.0, 2.0), 0.0, 2, 0.1, {'other': 0.9})
  monkeypatch.setattr(automatic, 'estimate_kernel', lambda *_, **__: odd)
  for side in (84, 83):  # KernelGAN refuses the smaller one
    photo = _save(tmp_path / f'{side}.png', PHOTO[:side, :side])
    command = ('upscale', photo, '-o', tmp_path / 'out', '--model', adaptive)
    done = run(*command)
    assert 'which no Gaussian fits' in done.out
    assert ('(--kernel kernelgan assumes no shape)' in done.out) == (side == 84)

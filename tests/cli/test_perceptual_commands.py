"""The commands evaluate --metrics, fit-niqe, and import of feature networks."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import texture
from skimage import data

from sr_jax import checkpoints
from sr_jax.data.image_io import Picture, write_image
from sr_jax.metrics import niqe
from sr_jax.metrics.lpips import BACKBONES
from sr_jax.weights import features as feature_weights
from tests import feature_oracle
from tests.weights import torch_files


@pytest.fixture
def large(tmp_path):
  """A folder of two photographs of two blocks each."""
  folder = tmp_path / 'large'
  photo = np.float32(data.astronaut() / 255)
  write_image(folder / 'one.png', Picture(photo[:104, :204]))
  write_image(folder / 'two.png', Picture(photo[200:404, 100:204, :1]))
  return folder


def test_table_and_json_of_all_metrics(run, large, tmp_path):
  rng = np.random.default_rng(0)
  linear, ma = tmp_path / 'alex.pth', tmp_path / 'ma.txt'
  tensors = {
    f'lin{i}.model.1.weight': rng.random((1, c, 1, 1), np.float32)
    for i, c in enumerate(BACKBONES['alex'].channels)
  }
  linear.write_bytes(torch_files.state_dict(tensors))
  ma.write_text('one.png 8\ntwo.png 6\n')
  file = tmp_path / 'r.json'
  names = ['psnr', 'ssim', 'rmse', 'niqe', 'lpips', 'ma', 'pi']
  done = run(
    *('evaluate', '--model', 'bicubic', '--hr', large, '--scale', 2),
    *('--metrics', ','.join(names), '--lpips-weights', 'random:0', linear),
    *('--ma-scores', ma, '--protocol', 'all', '--json', file),
  )
  assert done.status == 0, done
  result = json.loads(file.read_text())
  parts = [result, *result['others']]
  assert len(parts) == 3
  for part in parts:
    assert list(part['mean']) == names
    for row in part['images']:
      assert set(row) == {'name', 'seconds', *names}
    for key in set(names) - {'rmse'}:
      mean = np.mean([row[key] for row in part['images']])
      assert part['mean'][key] == pytest.approx(mean)
    squares = [row['rmse'] ** 2 for row in part['images']]
    assert part['mean']['rmse'] == pytest.approx(np.sqrt(np.mean(squares)))
    mean = part['mean']
    assert mean['pi'] == pytest.approx(((10 - mean['ma']) + mean['niqe']) / 2)
    assert {'niqe', 'lpips', 'ma', 'pi'} < set(part['protocol'])
  lines = done.out.splitlines()
  assert lines[-4].split()[1:-1] == 3 * [
    *('PSNR', 'SSIM', 'RMSE', 'NIQE', 'LPIPS', 'Ma', 'PI')
  ]
  assert lines[-5].split() == ['y-uint8', 'y-float', 'rgb']
  cells = lines[-1].split()
  assert cells[:5] == [
    'mean',
    *(f'{result["mean"][k]:.4f}' for k in ('psnr',)),
    f'{result["mean"]["ssim"]:.5f}',
    *(f'{result["mean"][k]:.4f}' for k in ('rmse', 'niqe')),
  ]
  assert any(line.startswith('NIQE: of SR alone') for line in lines)


def test_default_metrics_have_no_further_rules(run, photos, tmp_path):
  file = tmp_path / 'r.json'
  command = ('evaluate', '--model', 'bicubic', '--hr', photos, '--scale', 2)
  assert run(*command, '--json', file).status == 0
  result = json.loads(file.read_text())
  assert list(result['mean']) == ['psnr', 'ssim']
  assert 'niqe' not in result['protocol']


def test_images_that_a_metric_refuses_are_named(run, photos, tmp_path):
  command = ('evaluate', '--model', 'bicubic', '--hr', photos, '--scale', 2)
  done = run(*command, '--metrics', 'niqe')
  assert done.refused('one.png', '2 blocks of 96x96', '22x26')
  flat = tmp_path / 'flat.png'
  write_image(flat, Picture(np.full((104, 204, 3), 0.3, np.float32)))
  done = run(
    *('evaluate', '--model', 'bicubic', '--hr', flat, '--scale', 2),
    *('--metrics', 'niqe'),
  )
  assert done.refused('flat.png', '2 of 2 here are flat')
  assert run(*command, '--metrics', 'fid').refused("'fid'", 'choose from')
  done = run(
    *(*command, '--metrics', 'niqe'),
    *('--niqe-params', tmp_path / 'none.mat'),
  )
  assert done.refused('none.mat', 'modelparameters.mat')


def test_fit_niqe(run, tmp_path, caplog):
  folder, out = tmp_path / 'photos', tmp_path / 'own.npz'
  levels = np.random.default_rng(0).integers(0, 256, (2, 288, 672, 3))
  for i, photo in enumerate(levels):
    write_image(folder / f'{i}.png', Picture(np.float32(photo / 255)))
  write_image(folder / 'small.png', Picture(texture(90, 300)))
  done = run('fit-niqe', folder, '-o', out)
  assert done.status == 0, done
  assert '2 photographs' in done.out
  assert 'small.png' in caplog.text
  fitted = niqe.read_pristine(out)
  assert fitted.source in done.out
  # rgb2gray of MATLAB, rounded as its uint8.
  grey = np.round(levels @ [0.298936021, 0.587043074, 0.114020904])
  np.testing.assert_allclose(
    fitted.mean, niqe.fit_pristine(grey).mean, rtol=1e-6
  )
  before = out.read_bytes()
  assert run('fit-niqe', folder, '-o', out).refused('exists')
  assert out.read_bytes() == before
  assert run('fit-niqe', folder, '-o', tmp_path / 'own').refused('.npz')
  few = ('fit-niqe', folder / 'small.png', '-o', tmp_path / 'few.npz')
  assert run(*few).refused('more than 36', 'more photographs')


def test_import_of_features(run, tmp_path):
  file, out = tmp_path / 'vgg.pth', tmp_path / 'vgg19'
  tensors = feature_oracle.random_vgg(feature_oracle.VGG19, seed=0, last=5)
  file.write_bytes(torch_files.state_dict(tensors))
  done = run('import', file, '--model', 'vgg', '-o', out)
  assert done.status == 0, done
  assert 'up to conv2_1' in done.out
  options = {'model': 'vgg', 'layers': ['conv2_1'], 'variant': 'vgg19'}
  one, two = (feature_weights.load(p, **options) for p in (file, out))
  assert list(one) == list(two) == ['conv1_1', 'conv1_2', 'conv2_1']
  for name, layer in one.items():
    for leaf, array in layer.items():
      np.testing.assert_array_equal(array, two[name][leaf])
  info = run('info', out)
  assert info.status == 0, info
  assert 'parameters of features: 112,576' in info.out


def test_import_of_features_refuses(run, checkpoint, tmp_path):
  file, out = tmp_path / 'vgg.pth', tmp_path / 'out'
  command = ('import', file, '--model', 'vgg', '-o', out)
  assert run(*command).refused(str(file), 'vgg19-dcbb9e9d.pth', 'SHA-256')
  file.write_bytes(
    torch_files.state_dict(
      feature_oracle.random_vgg(feature_oracle.VGG19, seed=0, last=0)
    )
  )
  assert run(*command, '--scale', 2).refused('--scale', 'vgg')
  assert not out.exists()
  assert run(*command).status == 0
  assert run('upscale', file, '-o', tmp_path, '--model', out).refused(
    'does not enlarge'
  )
  with pytest.raises(ValueError, match='holds edsr, not the features of vgg'):
    feature_weights.load(
      checkpoint, model='vgg', layers=['conv1_1'], variant='vgg19'
    )
  assert checkpoints.load_params(out).config['model'] == {'name': 'vgg'}

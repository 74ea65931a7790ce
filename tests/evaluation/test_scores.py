"""Metrics by name, and the files that they need."""

from __future__ import annotations

import numpy as np
import pytest
from skimage import color as skimage_color
from skimage import data

from sr_jax.errors import UserError
from sr_jax.evaluation import scores
from sr_jax.metrics import niqe
from sr_jax.metrics.lpips import BACKBONES
from sr_jax.metrics.protocol import comparable, get_protocol, measure
from tests import feature_oracle
from tests.metrics import niqe_oracle
from tests.weights import torch_files

PHOTO = data.astronaut()[:110, 60:280]
NOISE = np.random.default_rng(0).normal(0, 12, PHOTO.shape)
NOISY = np.clip(PHOTO + NOISE, 0, 255).round() / 255


def score(metrics, sr, hr, protocol='y-uint8', **options):
  return measure(
    sr, hr, protocol=get_protocol(protocol), scale=4, metrics=metrics, **options
  )


@pytest.fixture
def linear(tmp_path):
  """A function that makes weights of LPIPS's linear layers."""

  def make(name, seed=0):
    rng = np.random.default_rng(seed)
    tensors = {
      f'lin{i}.model.1.weight': rng.random((1, c, 1, 1), np.float32)
      for i, c in enumerate(BACKBONES[name].channels)
    }
    path = tmp_path / f'{name}.pth'
    path.write_bytes(torch_files.state_dict(tensors))
    return path, [x.reshape(-1) for x in tensors.values()]

  return make


def test_niqe_is_of_the_rounded_luma_within_the_border():
  metrics = scores.choose('niqe')
  pristine = niqe.own_pristine()
  views = {
    'luma': np.round(skimage_color.rgb2ycbcr(NOISY)[..., 0]),
    'not rounded': skimage_color.rgb2ycbcr(NOISY)[..., 0],
    'grey': np.round(255 * skimage_color.rgb2gray(NOISY)),
  }
  found = score(metrics, NOISY, PHOTO / 255)
  expected = {
    name: niqe_oracle.niqe(view[4:-4, 4:-4], *pristine)
    for name, view in views.items()
  }
  whole = niqe_oracle.niqe(views['luma'], *pristine)
  assert found['niqe'] == pytest.approx(expected['luma'], rel=1e-9)
  for other in (expected['not rounded'], expected['grey'], whole):
    assert abs(found['niqe'] - other) > 1e-3
  # Of SR alone, whatever the colour of the protocol.
  for protocol in ('y-float', 'rgb'):
    assert score(metrics, NOISY, NOISY, protocol) == found


def test_parameters_are_part_of_the_protocol(tmp_path):
  own = niqe.own_pristine()
  other = tmp_path / 'other.npz'
  niqe.write_pristine(other, own._replace(mean=own.mean + 0.1))
  protocol = get_protocol('y-uint8')
  one, two = (
    protocol.to_dict(scores.choose('psnr,niqe', niqe_params=path))
    for path in (None, other)
  )
  comparable(one, dict(one))
  with pytest.raises(UserError, match='not compared: niqe'):
    comparable(one, two)
  assert 'niqe' not in protocol.to_dict(scores.choose('psnr,ssim'))


def test_rmse_of_a_folder_is_the_root_of_the_mean_square():
  (metric,) = scores.choose('rmse')
  hr = np.zeros((12, 12, 3))
  found = score([metric], hr + 10 / 255, hr, 'rgb')
  assert found['rmse'] == pytest.approx(10)
  assert metric.mean([3.0, 4.0]) == pytest.approx(np.sqrt(12.5))


def test_pi_of_given_ma_scores(tmp_path):
  file = tmp_path / 'ma.txt'
  file.write_text('sub/one.png\t8.5\n\ntwo.png 6\nthree  5e-1\n')
  metrics = scores.choose('niqe,ma,pi', ma_scores=file)
  for name, ma in (('sub/one.jpg', 8.5), ('two.png', 6), ('three.tif', 0.5)):
    found = score(metrics, NOISY, NOISY, name=name)
    assert found['ma'] == ma
    assert found['pi'] == pytest.approx(((10 - ma) + found['niqe']) / 2)
  with pytest.raises(UserError, match='no score of four'):
    score(metrics, NOISY, NOISY, name='four.png')


@pytest.mark.parametrize('line', ['one.png good', '7.5', 'one.png nan'])
def test_bad_lines_of_ma_scores(tmp_path, line):
  file = tmp_path / 'ma.txt'
  file.write_text(f'zero.png 3\n{line}\n')
  with pytest.raises(UserError, match='line 2 is not NAME SCORE'):
    scores.choose('ma', ma_scores=file)
  with pytest.raises(UserError, match='No such file'):
    scores.choose('ma', ma_scores=tmp_path / 'none.txt')
  (tmp_path / 'binary').write_bytes(b'\xff\xfe\x00')
  with pytest.raises(UserError, match='no text'):
    scores.choose('ma', ma_scores=tmp_path / 'binary')


def test_lpips_of_alexnet(tmp_path, linear):
  tensors = feature_oracle.random_alexnet(seed=0)
  backbone = tmp_path / 'alexnet.pth'
  backbone.write_bytes(torch_files.state_dict(tensors))
  path, weights = linear('alex')
  (metric,) = scores.choose('lpips', lpips_weights=(backbone, path))
  sr, hr = NOISY[:50, :43], PHOTO[:50, :43] / 255
  a, b = (
    [feature_oracle.alexnet(tensors, x)[i] for i in (1, 4, 7, 9, 11)]
    for x in (sr, hr)
  )
  expected = feature_oracle.lpips(a, b, weights)
  # No border is cut, and RGB taken, under every protocol.
  for protocol in ('y-uint8', 'rgb'):
    found = score([metric], sr, hr, protocol)['lpips']
    assert found == pytest.approx(expected, rel=1e-4)
  assert score([metric], hr, hr)['lpips'] == 0
  grey = score([metric], sr[..., :1], hr[..., :1])
  assert grey == score(
    [metric], *(np.repeat(x[..., :1], 3, -1) for x in (sr, hr))
  )
  assert 'v0.1 alex' in metric.rules
  with pytest.raises(UserError, match='31x31 pixels, the image has 30x43'):
    score([metric], sr[:30], hr[:30])
  assert np.isfinite(score([metric], sr[:31, :31], hr[:31, :31])['lpips'])


@pytest.mark.nightly
def test_lpips_of_vgg16(tmp_path, linear):
  tensors = feature_oracle.random_vgg(feature_oracle.VGG16, seed=0)
  backbone = tmp_path / 'vgg16.pth'
  backbone.write_bytes(torch_files.state_dict(tensors))
  path, weights = linear('vgg')
  (metric,) = scores.choose('lpips', lpips_weights=(backbone, path))
  sr, hr = NOISY[:16, :20], PHOTO[:16, :20] / 255
  a, b = (
    [
      feature_oracle.vgg(tensors, feature_oracle.VGG16, x)[i]
      for i in (3, 8, 15, 22, 29)
    ]
    for x in (sr, hr)
  )
  found = score([metric], sr, hr)['lpips']
  assert found == pytest.approx(feature_oracle.lpips(a, b, weights), rel=1e-4)


def test_lpips_needs_its_own_files(tmp_path, linear):
  with pytest.raises(
    UserError, match='lpips_weights=FILES, BACKBONE and LINEAR'
  ):
    scores.choose('lpips')
  with pytest.raises(UserError, match=r'put alex\.pth or vgg\.pth'):
    scores.choose('lpips', lpips_weights=('random:0', tmp_path / 'none.pth'))
  other = tmp_path / 'other.pth'
  other.write_bytes(torch_files.state_dict({'a': np.zeros(3, np.float32)}))
  with pytest.raises(UserError, match=r'it lacks lin0\.model'):
    scores.choose('lpips', lpips_weights=('random:0', other))
  squeeze = {
    f'lin{i}.model.1.weight': np.ones((1, 64, 1, 1), np.float32)
    for i in range(5)
  }
  other.write_bytes(torch_files.state_dict(squeeze))
  with pytest.raises(UserError, match='those of LPIPS for AlexNet or VGG16'):
    scores.choose('lpips', lpips_weights=('random:0', other))
  path, _ = linear('vgg')
  with pytest.raises(UserError, match='no such weights: put vgg16'):
    scores.choose('lpips', lpips_weights=(tmp_path / 'none', path))


def test_other_weights_are_other_rules(linear):
  rules = [
    scores.choose('lpips', lpips_weights=(f'random:{seed}', linear('alex')[0]))[
      0
    ].rules
    for seed in (0, 0, 1)
  ]
  assert rules[0] == rules[1] != rules[2]


def test_unknown_names_and_files_of_no_use(tmp_path):
  with pytest.raises(UserError, match="'fid': choose from psnr, ssim"):
    scores.choose('psnr,fid')
  with pytest.raises(UserError, match='niqe_params=FILE is for niqe and pi'):
    scores.choose('psnr', niqe_params=tmp_path / 'p.npz')
  with pytest.raises(UserError, match='lpips_weights=FILE is for lpips'):
    scores.choose('psnr', lpips_weights=('random:0', 'alex.pth'))
  with pytest.raises(UserError, match='ma_scores=FILE'):
    scores.choose('pi')
  names = [metric.name for metric in scores.choose(' ssim,psnr,ssim')]
  assert names == ['ssim', 'psnr']


def test_channels():
  metrics = scores.choose('niqe')
  five = np.zeros((120, 220, 5))
  with pytest.raises(UserError, match='NIQE needs 1 or 3 channels'):
    score(metrics, five, five, 'rgb')

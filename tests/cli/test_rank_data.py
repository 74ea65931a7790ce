"""rank-data: which patches it keeps, their labels, refusals; ranker import."""

from __future__ import annotations

import json

import numpy as np
import pytest
from skimage import data

from sr_jax import models
from sr_jax.data import degradation as degradations
from sr_jax.data import ranked
from sr_jax.data.image_io import Picture, read_rgb, write_image
from sr_jax.errors import UserError
from sr_jax.evaluation import benchmark
from sr_jax.inference import loading
from sr_jax.inference.upscaler import Upscaler
from sr_jax.metrics import niqe
from sr_jax.metrics.protocol import luma
from sr_jax.ops.color import rgb_to_grey
from sr_jax.weights import ranker as ranker_weights
from tests.weights import torch_files

LIMITS = {'--sharpness': 1, '--difference': 0}
FILTERS = tuple(x for pair in LIMITS.items() for x in pair)


def filters(option, limit):
  """The filters of rank-data, with another limit for one of them."""
  return [x for pair in (LIMITS | {option: limit}).items() for x in pair]


@pytest.fixture
def photos(tmp_path):
  """Three photographs: a sharp one of two patches, a flat one, a small one."""
  folder = tmp_path / 'photos'
  sharp = data.astronaut()[100:305, 100:345].astype(np.float32) / 255
  write_image(folder / 'sub' / 'sharp.png', Picture(sharp))
  flat = np.full((200, 202, 3), 0.5, np.float32)
  write_image(folder / 'flat.png', Picture(flat))
  write_image(folder / 'small.png', Picture(flat[:150]))
  return folder


@pytest.fixture
def command(photos, checkpoint, tmp_path):
  """Arguments of rank-data for three levels at x2, two of which are equal."""
  return (
    *('rank-data', '--hr', photos, '-o', tmp_path / 'set', '--scale', 2),
    *('--models', 'bicubic', 'bicubic', checkpoint),
    *('--patch', 200, '--stride', 40, '--held-out', 1),
  )


def test_patches_labels_and_record(run, command, photos, tmp_path, checkpoint):
  done = run(*command, *FILTERS)
  assert done.status == 0, done
  assert 'small.png: 202x150 holds no patch' in done.out
  assert 'sharp.png: 2 patches' in done.out
  assert '1 flat' in done.out  # it has no NIQE
  folder = tmp_path / 'set'
  assert not list(tmp_path.glob('.*'))
  record = json.loads((folder / 'rank.json').read_text())
  assert record['levels'] == ['bicubic', 'bicubic', str(checkpoint)]
  assert record['metrics']['niqe']['better'] == 'lower'
  assert niqe.own_pristine().source in record['metrics']['niqe']['rules']
  names = ['sub/sharp_0_0.png', 'sub/sharp_0_40.png']
  assert record['patches'] == {'training': [], 'held_out': names}
  assert record['held_out_photographs'] == ['sub/sharp.png']
  # What upscaling the whole photograph gives, cut and in 8 bits.
  hr = benchmark.read_levels(photos / 'sub' / 'sharp.png')[:204, :244]
  lr = degradations.Degradation().of_file(hr, '', 2).astype(np.float32)
  sr = Upscaler(loading.load('bicubic', scale=2))(lr)
  cut = np.round(255 * sr[:200, 40:240])
  np.testing.assert_array_equal(read_rgb(folder / '0' / names[1]), cut)
  scores = ranked.read_scores(folder / 'niqe.txt')
  assert set(scores) == {f'{i}/{name}' for i in range(3) for name in names}
  for name, score in scores.items():
    y = luma(read_rgb(folder / name), rounded=True)[4:-4, 4:-4, 0]
    expected = niqe.niqe(y, niqe.own_pristine())
    assert score == pytest.approx(float(expected), abs=1e-5)
  source = ranked.open_ranked(
    folder, metric='niqe', better='lower', part='held_out', min_size=200
  )
  np.testing.assert_array_equal(source.image(0, 0), source.image(0, 1))
  assert source.scores[0, 0] == source.scores[0, 1]
  assert source.scores[0, 0] != source.scores[0, 2]


def test_filters(run, command, tmp_path):
  """The sharpness of the last level, and how far its NIQE is from the middle's.

  Each measured here on the patches, and put just below and above.
  """
  assert run(*command, *FILTERS).status == 0
  folder = tmp_path / 'set'
  grey = {
    (i, name): np.round(
      255 * rgb_to_grey(read_rgb(folder / str(i) / 'sub' / name) / 255)[..., 0]
    )
    for i in (1, 2)
    for name in ('sharp_0_0.png', 'sharp_0_40.png')
  }
  own = niqe.own_pristine()
  apart = sorted(
    abs(float(niqe.niqe(grey[1, n], own) - niqe.niqe(grey[2, n], own)))
    for n in ('sharp_0_0.png', 'sharp_0_40.png')
  )
  sharp = sorted(
    float(niqe.sharpness(grey[2, n][None])[0])
    for n in ('sharp_0_0.png', 'sharp_0_40.png')
  )
  assert apart[0] < apart[1]
  assert sharp[0] < sharp[1]
  for i, (option, limit, why) in enumerate(
    (
      ('--sharpness', np.mean(sharp), '2 blurred'),
      ('--difference', np.mean(apart), '1 alike'),
    )
  ):
    again = [tmp_path / f's{i}' if a == folder else a for a in command]
    done = run(*again, *filters(option, limit))
    assert done.status == 0, done
    assert ': 1 patch\n' in done.out
    assert why in done.out
    last = [tmp_path / 'none' if a == folder else a for a in command]
    done = run(*last, *filters(option, 1000))
    assert done.refused('no patch is left', option)
    assert not (tmp_path / 'none').exists()
    assert not list(tmp_path.glob('.none*'))


def test_sharpness_by_a_plain_formula():
  """Gaussian of sigma 7/6 in 7x7, its mean taken twice."""
  image = np.random.default_rng(0).integers(0, 256, (12, 10)).astype(float)
  x = np.arange(-3, 4)
  taps = np.exp(-(x[:, None] ** 2 + x**2) / (2 * (7 / 6) ** 2))
  taps /= taps.sum()

  def blurred(a):
    padded = np.pad(a, 3, 'edge')
    windows = np.lib.stride_tricks.sliding_window_view(padded, (7, 7))
    return (windows * taps).sum((2, 3))

  expected = np.sqrt(blurred((image - blurred(image)) ** 2)).mean()
  found = niqe.sharpness(np.stack([image, np.full_like(image, 9.0)]))
  np.testing.assert_allclose(found, [expected, 0], rtol=1e-9, atol=1e-9)


def test_held_out_photographs(run, command, photos, tmp_path):
  write_image(
    photos / 'b.png',
    Picture(data.astronaut()[:200, 200:402].astype(np.float32) / 255),
  )
  arguments = [*command, *FILTERS]
  arguments[arguments.index('--held-out') + 1] = 0.5
  assert run(*arguments).status == 0
  record = json.loads((tmp_path / 'set' / 'rank.json').read_text())
  (held_out,) = record['held_out_photographs']
  stem = held_out.removesuffix('.png')
  parts = record['patches']
  assert parts['training']
  assert all(name.startswith(stem) for name in parts['held_out'])
  assert not any(name.startswith(stem) for name in parts['training'])


def test_refused_before_any_work(run, command, photos, tmp_path, checkpoint):
  folder = tmp_path / 'set'

  def changed(option, *values):
    arguments = list(command)
    at = arguments.index(option) + 1
    arguments[at : at + len(values)] = values
    return run(*arguments)

  assert changed('--patch', 199).refused('--patch 199', 'give 200 or more')
  assert changed('--patch', 250).refused('holds a patch of 250x250')
  assert changed('--hr', tmp_path / 'gone').refused('gone: no such file')
  assert changed('--models', 'bicubic', 'edsr-smal-x2').refused(
    "no model 'edsr-smal-x2'"
  )
  assert run(
    *('rank-data', '--hr', photos, '-o', folder),
    *('--models', checkpoint, 'edsr-small-x2', 'mzsr-x4'),
  ).refused('edsr-tiny enlarges by 2', 'mzsr-x4 by 4', 'one scale')
  assert run(*command, '--niqe-params', tmp_path / 'x.mat').refused('x.mat')
  assert not folder.exists()
  folder.mkdir()
  assert run(*command).refused('set: exists already')
  assert list(folder.iterdir()) == []


def test_nothing_is_left_of_an_interrupted_run(
  run, command, tmp_path, monkeypatch
):
  def interrupted(*unused):
    raise KeyboardInterrupt

  monkeypatch.setattr(degradations.Degradation, 'of_file', interrupted)
  before = sorted(tmp_path.iterdir())
  done = run(*command)
  assert done.status == 130
  assert sorted(tmp_path.iterdir()) == before


def _released(path):
  """A ranker of two stages in PyTorch's layout, under RankSRGAN's names."""
  rng = np.random.default_rng(0)
  sizes = {'conv0_0': (2, 3, 3), 'conv0_1': (2, 2, 4)}
  sizes |= {'conv1_0': (4, 2, 3), 'conv1_1': (4, 4, 4)}
  tensors = {}
  for name, (out, channels, side) in sizes.items():
    tensors[f'{name}.weight'] = rng.normal(size=(out, channels, side, side))
    tensors[f'{name}.bias'] = rng.normal(size=out)
    norm = name.replace('conv', 'bn')
    if name != 'conv0_0':
      for leaf in ('weight', 'bias', 'running_mean', 'running_var'):
        tensors[f'{norm}.{leaf}'] = rng.random(out) + 0.5
  for name, shape in (('classifier.0', (100, 4)), ('classifier.2', (1, 100))):
    tensors[f'{name}.weight'] = rng.normal(size=shape)
    tensors[f'{name}.bias'] = rng.normal(size=shape[0])
  tensors = {k: v.astype(np.float32) for k, v in tensors.items()}
  path.write_bytes(torch_files.state_dict(tensors))
  return path


def test_import_of_a_ranker_records_its_metric(run, tmp_path):
  """The rank-content loss requires the metric."""
  file = _released(tmp_path / 'Ranker_NIQE.pth')
  one, two = tmp_path / 'one', tmp_path / 'two'
  command = ('import', file, '--model', 'ranker', '-o')
  assert run(*command, one, '--metric', 'niqe').status == 0
  assert run(*command, two).status == 0
  network = models.create(
    {'name': 'ranker', 'scale': 1, 'features': 2, 'stages': 2}
  )
  found = ranker_weights.load(str(one), network, 'niqe')
  assert set(found) == {'params', 'batch_stats'}
  with pytest.raises(UserError, match='trained for niqe, not for pi'):
    ranker_weights.load(str(one), network, 'pi')
  with pytest.raises(UserError, match='--metric niqe records it'):
    ranker_weights.load(str(two), network, 'niqe')
  three = tmp_path / 'three'
  done = run('import', file, '--model', 'edsr', '-o', three, '--metric', 'ma')
  assert done.refused('--metric is for --model ranker')

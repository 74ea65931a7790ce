"""Evaluation called from Python: scores by hand, seeds, valid JSON."""

import dataclasses
import json
import math
from fractions import Fraction

import numpy as np
import pytest

from sr_jax import files
from sr_jax.data.degradation import Degradation
from sr_jax.data.image_io import Picture, write_image
from sr_jax.evaluation import timing
from sr_jax.evaluation.benchmark import evaluate_folder, protocols_of
from sr_jax.inference import loading
from sr_jax.inference.model import SRModel
from sr_jax.metrics.protocol import PROTOCOLS
from sr_jax.ops.resize import imresize
from tests.tiny_models import waves


def doubling():
  """A model that repeats every pixel 2x2 and needs no compilation."""
  return SRModel(
    name='doubling',
    scale=2,
    channels=None,
    halo=0,
    config={},
    params={},
    predict=lambda params, lr, mask=None: lr.repeat(2, 1).repeat(2, 2),
    on_host=True,
  )


def test_scores_by_hand(tmp_path):
  # LR is 100 everywhere; HR differs by 4 levels in every second column.
  levels = np.full((40, 44, 1), 100)
  levels[:, ::2] += 4
  write_image(tmp_path / 'hr/a.png', Picture(levels.astype(np.float32) / 255))
  lr = np.full((20, 22, 1), 100 / 255, np.float32)
  write_image(tmp_path / 'lr/a.png', Picture(lr))
  lines = []
  result = evaluate_folder(
    doubling(),
    hr_dir=tmp_path / 'hr',
    lr_dir=tmp_path / 'lr',
    protocols=protocols_of('rgb'),
    report=lines.append,
  )
  psnr = 10 * math.log10(255**2 / (4**2 / 2))
  assert result['images'][0]['psnr'] == pytest.approx(psnr)
  assert result['images'][0]['name'] == 'a.png'
  assert result['compile_seconds'] == 0
  assert result['model'] == 'doubling'
  assert result['scale'] == 2
  assert lines[-1].split()[:2] == ['mean', f'{psnr:.4f}']


def test_hr_is_cut_to_a_multiple_and_lr_rounded(tmp_path):
  rng = np.random.default_rng(0)
  hr = rng.random((31, 33, 3), np.float32)
  write_image(tmp_path / 'a.png', Picture(hr))
  seen = []

  def predict(params, lr, mask=None):
    seen.append(lr)
    return lr.repeat(2, 1).repeat(2, 2)

  model = dataclasses.replace(doubling(), predict=predict)
  evaluate_folder(model, hr_dir=tmp_path)
  assert [lr.shape for lr in seen] == [(1, 15, 16, 3)]
  np.testing.assert_allclose(seen[0] * 255, np.round(seen[0] * 255), atol=1e-4)


@pytest.mark.parametrize('scale', [1.5, 2.3, 3.7])
def test_scales_that_are_not_whole_by_hand(tmp_path, scale):
  hr = waves(50, 61)
  write_image(tmp_path / 'a.png', Picture(hr.astype(np.float32)))
  result = evaluate_folder(
    loading.load('bicubic', scale=scale),
    hr_dir=tmp_path,
    protocols=protocols_of('rgb'),
  )
  # Whole LR pixels, and the HR pixels that they cover.
  small = [math.floor(n / Fraction(str(scale))) for n in (50, 61)]
  height, width = (math.floor(n * Fraction(str(scale))) for n in small)
  hr = np.round(hr[:height, :width] * 255) / 255
  lr = np.round(imresize(hr, scale=1 / scale, shape=tuple(small)) * 255) / 255
  sr = imresize(lr.astype(np.float32), scale=scale)[:height, :width]
  sr = np.round(sr.clip(0, 1) * 255) / 255
  crop = slice(math.ceil(scale), -math.ceil(scale))
  mse = ((sr - hr)[crop, crop] ** 2).mean()
  expected = 10 * math.log10(1 / mse)
  assert result['mean']['psnr'] == pytest.approx(expected, abs=1e-3)
  assert result['scale'] == scale


def test_noise_depends_on_seed_and_name_alone():
  hr = np.random.default_rng(0).random((16, 16, 3))
  one, two = (Degradation(noise_sigma=9, seed=seed) for seed in (0, 1))
  lr = one.of_file(hr, 'a', 2)
  np.testing.assert_array_equal(
    lr, Degradation(noise_sigma=9).of_file(hr, 'a', 2)
  )
  assert (lr != one.of_file(hr, 'b', 2)).any()
  assert (lr != two.of_file(hr, 'a', 2)).any()
  np.testing.assert_allclose(lr * 255, np.round(lr * 255), atol=1e-9)


def test_degradation_in_words():
  full = Degradation('direct', 'gaussian:2.0', 4.0, 90, 7)
  assert str(full) == 'direct, kernel gaussian:2.0, noise 4 (seed 7), JPEG 90'
  assert str(Degradation()) == 'bicubic'


def test_protocols_of():
  assert [p.name for p in protocols_of('all')] == list(PROTOCOLS)
  assert protocols_of('rgb', 6)[0].crop == 6


def test_nested_spans_are_counted_once():
  spans = [(1.0, 2.0), (0.0, 3.0), (2.5, 4.0), (6.0, 6.5)]
  assert sum(timing._covered(spans)) == pytest.approx(4.5)


def test_json_without_infinities(tmp_path):
  path = tmp_path / 'a.json'
  files.write_json(path, {'a': [math.inf, {'b': -math.inf}], 'c': 1.5})
  assert json.loads(path.read_text()) == {
    'a': ['Infinity', {'b': '-Infinity'}],
    'c': 1.5,
  }
  assert [p.name for p in tmp_path.iterdir()] == ['a.json']

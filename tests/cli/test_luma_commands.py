"""Commands with a luma network: training, colour, grey, tiles, scores."""

from __future__ import annotations

import json

import numpy as np
import pytest
import skimage.data

from sr_jax import train_loop
from sr_jax.cli.main import main
from sr_jax.data.image_io import Picture, read_image, write_image
from sr_jax.inference import loading
from sr_jax.inference.automatic import upscale
from sr_jax.inference.upscaler import Upscaler
from sr_jax.ops.color import rgb_to_y, rgb_to_ycbcr
from sr_jax.ops.resize import imresize
from tests import tiny
from tests.tiny_models import random_image

PHOTO = skimage.data.astronaut()[:40, 180:236]


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  """A run of four steps of a small LapSRN."""
  config = tiny.config()
  config.unlock()
  config.model = {'name': 'lapsrn', 'variant': 'official', 'scale': 2}
  config.model.update({'depth': 1, 'features': 4})
  folder = tmp_path_factory.mktemp('luma') / 'run'
  train_loop.train_and_evaluate(config, folder)
  return folder


@pytest.mark.nightly
def test_chroma_is_bicubic_and_tiles_leave_no_trace(workdir):
  model = loading.load(workdir)
  assert (model.scale, model.channels) == (2, 3)
  # Of little contrast, so that not much is clipped.
  image = np.float32(0.4 + 0.1 * random_image(40, 56))
  for options in ({}, {'self_ensemble': True}, {'back_project': 1}):
    whole = upscale(model, image, tile='off', **options)
    tiles = upscale(model, image, tile=30, **options)
    np.testing.assert_allclose(tiles, whole, atol=1e-6)
    if not options:
      chroma = imresize(rgb_to_ycbcr(image)[..., 1:], scale=2)
      found = rgb_to_ycbcr(whole)[..., 1:]
      inside = ((whole > 0) & (whole < 1)).all(-1)
      assert inside.mean() > 0.2
      np.testing.assert_allclose(found[inside], chroma[inside], atol=1e-5)


def test_many_sizes_share_shapes(workdir):
  sizes = [(6 + i, 30 - 2 * i) for i in range(10)]
  model = loading.load(workdir)
  upscaler = Upscaler(model, sizes=sizes)
  for size in (sizes[0], sizes[7]):
    image = random_image(*size)
    np.testing.assert_allclose(
      upscaler(image), upscale(model, image), atol=2e-6
    )


def test_upscale_and_evaluate(workdir, tmp_path):
  hr = tmp_path / 'hr'
  write_image(hr / 'colour.png', Picture(PHOTO / 255))
  write_image(hr / 'grey.png', Picture(PHOTO[..., :1] / 255))
  out = tmp_path / 'out'
  arguments = ['upscale', str(hr), '-o', str(out), '--model', str(workdir)]
  assert main(arguments) == 0
  grey = read_image(out / 'grey_x2.png').color
  assert grey.shape == (80, 112, 1)
  # Y of the grey result is Y of the same picture in colour.
  colour = upscale(loading.load(workdir), PHOTO[..., :1].repeat(3, axis=-1))
  np.testing.assert_allclose(
    rgb_to_y(grey.repeat(3, axis=-1)), rgb_to_y(colour), atol=0.003
  )
  scores = tmp_path / 'scores.json'
  arguments = ['evaluate', '--model', str(workdir), '--hr', str(hr)]
  assert main([*arguments, '--json', str(scores)]) == 0
  result = json.loads(scores.read_text())
  assert [image['name'] for image in result['images']] == [
    'colour.png',
    'grey.png',
  ]
  assert 5 < result['mean']['psnr'] < 60

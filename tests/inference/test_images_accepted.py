"""The forms of images that `sr_jax.upscale` takes, and what its errors say."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import sr_jax
from sr_jax.cli import arguments
from sr_jax.errors import UserError
from tests.tiny_models import random_image, tiny

BYTES = (random_image(9, 12, 3) * 255).astype(np.uint8)


@pytest.fixture(scope='module')
def bicubic():
  return sr_jax.load('bicubic', scale=2)


@pytest.mark.parametrize('dtype', [np.uint8, np.float32])
def test_grey_images_stay_grey(bicubic, dtype):
  """An `[H, W]` image was refused, though it can mean but one thing."""
  grey = BYTES[..., 0] if dtype == np.uint8 else random_image(9, 12, 1)[..., 0]
  sr = sr_jax.upscale(bicubic, grey)
  assert sr.shape == (18, 24)
  whole = sr_jax.upscale(bicubic, grey[..., None])
  np.testing.assert_array_equal(sr, whole[..., 0])
  assert sr_jax.upscale(tiny(), grey).shape == (18, 24)


@pytest.mark.parametrize('mode', ['1', 'L', 'P', 'RGB', 'CMYK', 'RGBA'])
def test_images_of_pil(bicubic, mode):
  """They were refused, or read as indices into a palette."""
  image = Image.fromarray(BYTES).convert(mode)
  expected = {'1': 'L', 'P': 'RGB', 'CMYK': 'RGB'}.get(mode, mode)
  array = np.asarray(image.convert(expected))
  np.testing.assert_array_equal(
    sr_jax.upscale(bicubic, image), sr_jax.upscale(bicubic, array)
  )


def test_an_image_of_pil_is_turned_upright(bicubic):
  image = Image.fromarray(BYTES)
  image.getexif()[0x0112] = 6  # the camera was held upright
  np.testing.assert_array_equal(
    sr_jax.upscale(bicubic, image),
    sr_jax.upscale(bicubic, np.rot90(BYTES, -1).copy()),
  )


@pytest.mark.nightly
def test_arrays_do_not_need_pil():
  code = (
    'import sys, numpy as np; from sr_jax.inference.model import as_array;'
    'as_array(np.zeros((2, 3))); print("PIL" in sys.modules)'
  )
  result = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=False
  )
  assert result.stdout.strip() == 'False', result.stderr


def test_loadable_models_are_listed():
  names = sr_jax.loadable()
  assert {'bicubic', 'zssr', 'edsr-small-x2', 'mzsr-x2'} <= set(names)
  assert sr_jax.load(names[-1]).name == names[-1]


def test_errors_name_parameters(bicubic):
  """Errors of Python spoke of options of the command line."""
  trials = [
    ({'kernel': 'gaussian:1.0'}, 'back_project=N'),
    ({'adapt_steps': 2}, 'adapt_steps=N'),
  ]
  for given, advice in trials:
    with pytest.raises(UserError, match=advice) as error:
      sr_jax.upscale(bicubic, BYTES, **given)
    assert not re.search(r'\s\(?--\w', str(error.value))
  with pytest.raises(UserError, match='give scale=S'):
    sr_jax.load('bicubic')


@pytest.mark.parametrize(
  ('text', 'shown'),
  [
    ('add back_project=N or', 'add --back-project N or'),
    ('patch=8: too small', '--patch 8: too small'),
    ("key='a b': no part", "--key 'a b': no part"),
    (
      'holds scale=2, but scale=S sets 3',
      'holds scale=2, but --scale S sets 3',
    ),
    ('config.data.patch=8: no', 'config.data.patch=8: no'),
    ('give it with option steps=VALUE', 'give it with --option steps=VALUE'),
    ('other=N', 'other=N'),
  ],
)
def test_the_command_line_names_its_options(text, shown):
  names = ('back_project', 'patch', 'key', 'scale', 'option')
  assert arguments.as_options(text, names) == shown

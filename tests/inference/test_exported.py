"""Exported safetensors files open as checkpoints do, old ones too."""

import pathlib

import numpy as np
import pytest
import safetensors.numpy

import sr_jax
from sr_jax.errors import UserError
from sr_jax.weights.formats.safetensors_io import (
  export_safetensors,
  read_safetensors,
)

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / 'safetensors_0_1'
FILE = GOLDEN / 'edsr.safetensors'


def test_a_file_of_the_version_before_gives_the_same_image():
  """`edsr.safetensors` and the image were made by version 0.1."""
  model = sr_jax.load(FILE)
  assert (model.scale, model.channels) == (2, 3)
  with np.load(GOLDEN / 'expected.npz') as expected:
    sr = np.asarray(model.predict(model.params, expected['lr'][None], None))[0]
    np.testing.assert_allclose(sr, expected['sr'], atol=1e-5)


def test_it_can_be_imported_as_well(tmp_path):
  from sr_jax.cli.main import main

  copy = tmp_path / 'copy'
  assert main(['import', str(FILE), '--model', 'edsr', '-o', str(copy)]) == 0
  image = np.ones((3, 4, 3), np.float32) / 2
  np.testing.assert_array_equal(
    sr_jax.upscale(sr_jax.load(copy), image),
    sr_jax.upscale(sr_jax.load(FILE), image),
  )


def test_files_of_other_programs_are_refused(tmp_path):
  path = tmp_path / 'a.safetensors'
  safetensors.numpy.save_file({'a': np.zeros(1, np.float32)}, path)
  with pytest.raises(UserError, match='does not say which architecture'):
    sr_jax.load(path)


@pytest.mark.parametrize(
  ('change', 'reason'),
  [
    ({'options': {'blocks': 10**6}}, 'a.safetensors: '),
    ({'name': 'none'}, "unknown model 'none'"),
    ({'name': 'vgg'}, 'gives features'),
  ],
)
def test_configs_that_ask_for_too_much_are_refused(tmp_path, change, reason):
  tensors, config = read_safetensors(FILE)
  options = config['options'] | change.get('options', {})
  nested = {}
  for name, array in tensors.items():
    *parts, leaf = name.split('/')
    place = nested
    for part in parts:
      place = place.setdefault(part, {})
    place[leaf] = array
  path = tmp_path / 'a.safetensors'
  changed = {**config, **change, 'options': options}
  export_safetensors(nested, path, config=changed)
  with pytest.raises(UserError, match=reason):
    sr_jax.load(path)

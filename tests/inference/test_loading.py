"""Models by name and from checkpoints."""

from __future__ import annotations

import subprocess
import sys

import jax
import numpy as np
import pytest
import skimage.data

import sr_jax
from sr_jax import checkpoints, models
from sr_jax.errors import UserError
from sr_jax.inference import loading
from sr_jax.inference.automatic import upscale
from sr_jax.inference.loading import load
from tests.nightly import nightly
from tests.tiny_models import tiny, tiny_config

PHOTO = skimage.data.astronaut()[:80, 180:290]


def test_checkpoint_comes_back(tmp_path):
  model = tiny()
  checkpoints.save_params(tmp_path / 'new', model.params, model.config)
  loaded = load(tmp_path / 'new', scale=2)
  assert (loaded.scale, loaded.channels, loaded.halo) == (2, 3, model.halo)
  assert loaded.config == model.config
  np.testing.assert_array_equal(upscale(loaded, PHOTO), upscale(model, PHOTO))
  with pytest.raises(UserError, match='enlarges by 2, not by 3'):
    load(tmp_path / 'new', scale=3)


@pytest.mark.nightly
def test_a_head_for_each_scale(tmp_path):
  section = {'name': 'carn', 'scale': 2, 'variant': 'carn-m', 'features': 4}
  network = models.create(section)
  variables = jax.jit(network.init)(jax.random.key(0), np.ones((1, 8, 8, 3)))
  config = {'method': {'name': 'supervised'}, 'model': section}
  params = {'generator': variables['params']}
  checkpoints.save_params(tmp_path / 'a', params, config)
  assert load(tmp_path / 'a').scale == 2
  for scale in (2, 3, 4):
    assert load(tmp_path / 'a', scale=scale).scale == scale
  sr = upscale(load(tmp_path / 'a', scale=3), PHOTO[:8, :9])
  assert sr.shape == (24, 27, 3)
  for scale in (2.5, 8):
    with pytest.raises(UserError, match='enlarges by 2, 3, 4, not by'):
      load(tmp_path / 'a', scale=scale)


@pytest.fixture
def feedback(tmp_path):
  section = {'name': 'srfbn', 'scale': 2, 'variant': 'srfbn-s', 'features': 4}
  network = models.create(section)
  variables = jax.jit(network.init)(jax.random.key(0), np.ones((1, 8, 8, 3)))
  config = {'method': {'name': 'supervised'}, 'model': section}
  params = {'generator': variables['params']}
  checkpoints.save_params(tmp_path / 'srfbn', params, config)
  return tmp_path / 'srfbn', network, variables


@pytest.mark.nightly
def test_options_that_the_parameters_leave_open(feedback):
  path, network, variables = feedback
  lr = PHOTO[None, :8, :9] / np.float32(255)
  _, aux = network.apply(variables, lr)
  early = load(path, options={'steps': 2})
  assert early.name == f'{path} (steps=2)'  # tables show this name
  sr = early.predict(early.params, lr)
  np.testing.assert_allclose(sr, aux['outputs'][1].clip(0, 1), atol=1e-6)
  assert np.abs(sr - aux['outputs'][-1]).max() > 1e-3


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    nightly({'features': 5}, 'features=5: its parameters are not those'),
    ({'steps': 0}, 'steps=0: give a whole number from 1'),
    nightly({'stepz': 2}, "stepz=2: config.model does not fit 'srfbn'"),
    ({'scale': 3}, 'option scale: choose it by name or scale=S'),
  ],
)
def test_options_that_they_do_not(feedback, options, message):
  with pytest.raises(UserError, match=message):
    load(feedback[0], options=options)


def test_options_of_what_has_none():
  with pytest.raises(UserError, match='bicubic has no options: leave a=1 out'):
    load('bicubic', scale=2, options={'a': 1})


@pytest.mark.parametrize(
  ('section', 'message'),
  [
    (
      {'features': 5},
      r'body_0/conv1/bias is \(4,\), not \(5,\);.* and 8 more',
    ),
    ({'blocks': 2}, r'body_1/conv1/bias is missing, not \(4,\);.*and 1 more'),
    ({'blocks': 0}, 'blocks=0: give a whole number from 1 to 256'),
    ({'scale': 4}, r'upsample/conv_1/bias is missing'),
    ({'scale': 5}, 'scale=5: give 2, 3, 4 or 8'),
    ({'dtype': 'float33'}, "config.model.dtype: unknown 'float33'"),
    ({'features': 'many'}, "features='many': give a whole number"),
    ({'name': 'edsrr'}, 'did you mean'),
    (None, 'names no method and model'),
  ],
)
def test_parameters_of_another_config_are_refused(tmp_path, section, message):
  config = tiny_config()
  config['model'] = section and {**config['model'], **section}
  checkpoints.save_params(tmp_path / 'a', tiny().params, config)
  with pytest.raises(UserError, match=message) as error:
    load(tmp_path / 'a')
  assert str(tmp_path / 'a') in str(error.value)
  assert '\n' not in str(error.value)


def test_pretrained_weights_are_found_by_name(tmp_path, monkeypatch):
  root = tmp_path / 'pretrained'
  checkpoints.save_params(root / 'tiny-x2', tiny().params, tiny_config())
  monkeypatch.setattr(loading.importlib.resources, 'files', lambda _: tmp_path)
  assert load('tiny-x2').name == 'tiny-x2'
  with pytest.raises(UserError, match=r'did you mean tiny-x2\?.*each, tiny'):
    load('tinny-x2')


@pytest.mark.parametrize(
  ('name', 'scale', 'message'),
  [
    ('bicubik', None, r"no model 'bicubik'; did you mean bicubic\?"),
    ('zzz', None, 'give one of these or a path'),
    ('no/such/folder', None, 'no/such/folder: no such checkpoint'),
    ('bicubic', None, 'needs a scale'),
    ('bicubic', 1, 'scale must be above 1 and at most 100, not 1'),
    ('bicubic', float('nan'), 'scale must be above 1 and at most 100, not nan'),
    ('zssr', None, 'needs a scale'),
    ('zssr', 1.0, 'scale must be above 1 and at most 100, not 1'),
    (
      'zssr-gradual',
      float('inf'),
      'scale must be above 1 and at most 100, not inf',
    ),
  ],
)
def test_unknown_models_are_refused_in_one_line(name, scale, message):
  with pytest.raises(UserError, match=message) as error:
    load(name, scale=scale)
  assert '\n' not in str(error.value)


def test_package_is_light_until_used():
  code = (
    'import sys, sr_jax;'
    'assert not {"jax", "numpy", "flax"} & set(sys.modules);'
    'sr_jax.load("bicubic", scale=2); assert "jax" in sys.modules'
  )
  subprocess.run([sys.executable, '-c', code], check=True)
  assert sr_jax.upscale is upscale
  with pytest.raises(AttributeError, match='no attribute'):
    _ = sr_jax.nothing


def test_a_model_is_shown_in_one_line():
  """`repr(model)` printed all weights."""
  assert repr(tiny()).startswith("SRModel('tiny', scale=2, ")
  assert repr(load('bicubic', scale=3)) == (
    "SRModel('bicubic', scale=3, 0 parameters)"
  )

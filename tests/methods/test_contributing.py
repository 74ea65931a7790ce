"""Follows the recipe "Add a method" of CONTRIBUTING.md, and trains it."""

import importlib
import pathlib
import re
import sys
import textwrap

import jax
import numpy as np
import pytest

from sr_jax import checkpoints, methods, train_loop
from sr_jax.errors import UserError
from sr_jax.inference import loading

ROOT = pathlib.Path(__file__).parents[2]
TEACHER = ROOT / 'sr_jax' / 'pretrained' / 'edsr-small-x2'


def _files():
  """The code blocks of the recipe, by the name of their file."""
  text = (ROOT / 'CONTRIBUTING.md').read_text()
  recipe = text[text.index('## Add a method') :]
  steps = re.findall(
    r'^\d\. Write[^`]*`([^`]+\.py)`.*?^   ```python\n(.*?)^   ```',
    recipe,
    re.M | re.S,
  )
  return {name: textwrap.dedent(code) for name, code in steps}


@pytest.fixture
def added(tmp_path, monkeypatch):
  """`get_config` of the recipe; its method is on the path of methods."""
  files = _files()
  assert list(files) == [
    'sr_jax/methods/distillation.py',
    'configs/distilled.py',
  ]
  lines = [line for code in files.values() for line in code.splitlines()]
  assert all(len(line) <= 80 for line in lines)
  folder = tmp_path / 'methods'
  folder.mkdir()
  method, config = files.values()
  (folder / 'distillation.py').write_text(method)
  monkeypatch.setattr(methods, '__path__', [*methods.__path__, str(folder)])
  monkeypatch.setattr(sys, 'dont_write_bytecode', True)
  importlib.invalidate_caches()
  namespace = {}
  exec(compile(config, 'distilled.py', 'exec'), namespace)
  yield namespace['get_config']
  sys.modules.pop('sr_jax.methods.distillation', None)


def _config(get_config, steps):
  config = get_config('smoke')
  config.method.teacher_from = str(TEACHER)
  config.model.update({'blocks': 1, 'features': 4})
  config.update({'steps': steps, 'log_every': 1})
  config.data.patch = config.data.batch_size = 8
  config.eval.crops = 1
  config.eval.crop_size = 32
  config.checkpoint.every = 1
  return config


def test_the_recipe_adds_a_method(added, tmp_path):
  assert 'distillation' in methods.names()
  run = tmp_path / 'run'
  train_loop.train_and_evaluate(_config(added, 1), run)
  state = train_loop.train_and_evaluate(_config(added, 2), run)
  assert int(state.step) == 2
  teacher = checkpoints.load_params(TEACHER).params['generator']
  jax.tree.map(np.testing.assert_array_equal, state.frozen['teacher'], teacher)
  model = loading.load(run)
  assert set(model.params) == {'generator'}
  lr = np.full((1, 5, 4, 3), 0.5, np.float32)
  assert model.predict(model.params, lr, None).shape == (1, 10, 8, 3)
  config = _config(added, 2)
  config.method.teacher_weight = 1.5
  with pytest.raises(UserError, match=r'teacher_weight=1\.5: give a number'):
    train_loop.train_and_evaluate(config, tmp_path / 'other')

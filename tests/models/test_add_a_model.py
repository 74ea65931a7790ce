"""Follows the recipe "Add a model" of CONTRIBUTING.md to the letter."""

import re
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import sr_jax
from sr_jax import models, train_loop
from tests import model_checks, tiny

RECIPE = Path(__file__).parents[2] / 'CONTRIBUTING.md'


@pytest.fixture
def mini(tmp_path, monkeypatch):
  """The file of the recipe, on the path of the package's models."""
  section = RECIPE.read_text().partition('## Add a model\n')[2]
  code = re.search(r'( *)```python\n(.*?)\n\1```', section, re.DOTALL)[2]
  folder = tmp_path / 'models'
  folder.mkdir()
  (folder / 'mini.py').write_text(textwrap.dedent(code))
  monkeypatch.setattr(models, '__path__', [*models.__path__, str(folder)])
  yield 'mini'
  sys.modules.pop('sr_jax.models.mini', None)
  vars(models).pop('mini', None)


def test_the_recipe_passes_the_checks_of_every_model(mini):
  assert mini in models.names()
  for variant, entry in models.module(mini).VARIANTS.items():
    for scale in entry.parameters:
      model_checks.check_count(mini, variant, scale)
      model_checks.check_shapes(mini, scale)
  model_checks.check_channels(mini)
  model_checks.check_low_precision(mini)
  model_checks.check_gradients_and_reach(mini, 2)


def test_the_recipe_trains_is_evaluated_and_enlarges(mini, tmp_path):
  """`dtype` was missing in the recipe, and `channels` at the evaluation."""
  config = tiny.config(steps=2, eval={'every': 2})
  with config.unlocked():
    config.model = {
      'name': mini,
      'variant': 'paper',
      'scale': 2,
      'dtype': 'float32',
    }
  train_loop.train_and_evaluate(config, tmp_path / 'run')
  lines = (tmp_path / 'run').rglob('*.jsonl')
  assert any('psnr' in path.read_text() for path in lines)
  model = sr_jax.load(str(tmp_path / 'run'))
  sr = sr_jax.upscale(model, np.full((6, 5, 3), 99, np.uint8))
  assert sr.shape == (12, 10, 3)

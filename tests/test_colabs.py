"""Every notebook runs from its first cell to its last, at smoke size."""

import json
import pathlib

import jax
import numpy as np
import pytest
from matplotlib import pyplot

ROOT = pathlib.Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / 'colabs').glob('*.ipynb'))
# What replaces the values of a notebook's cell tagged `parameters`.
SMOKE = {
  'quickstart': {'SIDE': 96, 'STEPS': 2, 'WORKDIR': 'run'},
  'meta_learning': {'SMOKE': True},
}


def _notebook(path):
  return json.loads(path.read_text())


def _has_tag(cell, tag):
  return tag in cell['metadata'].get('tags', ())


def _run(path):
  """The names that the code cells leave behind, run in order."""
  names = {'__name__': '__main__'}
  for cell in _notebook(path)['cells']:
    if cell['cell_type'] != 'code' or _has_tag(cell, 'colab-only'):
      continue
    code = ''.join(cell['source'])
    exec(compile(code, f'{path.name}: {cell["id"]}', 'exec'), names)
    if _has_tag(cell, 'parameters'):
      smoke = SMOKE[path.stem]
      assert smoke.keys() <= names.keys()
      names.update(smoke)
  return names


def _leaves(tree):
  return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def _check_quickstart(names, folder):
  side = SMOKE['quickstart']['SIDE']
  assert names['lr'].shape == (side // 2, side // 2, 3)
  for sr in (*names['enlarged'].values(), names['trained_sr']):
    assert sr.shape == (side, side, 3)
    assert 0 <= sr.min() < sr.max() <= 1
  assert list(names['scores']) == ['y-uint8', 'y-float', 'rgb']
  for scores in names['scores'].values():
    bicubic, network = scores['bicubic'], scores['edsr-small-x2']
    assert network['psnr'] > bicubic['psnr'] + 0.5
    assert network['ssim'] > bicubic['ssim']

  assert (folder / 'run' / 'checkpoints' / '2').is_dir()
  assert names['trained'].config['steps'] == 2

  # A pure step: the old state is as it was, and again gives the same.
  state, after = names['state'], names['after']
  assert (int(state.step), int(after.step)) == (0, 1)
  again, _ = names['jit'](names['train_step'])(state, names['support'])
  for a, b in zip(_leaves(again.params), _leaves(after.params), strict=True):
    np.testing.assert_array_equal(a, b)
  losses = names['several']['loss']
  assert len(set(losses.tolist())) == 3
  np.testing.assert_allclose(losses[0], names['metrics']['loss'], rtol=1e-5)
  gradient = _leaves(names['meta_gradient'])
  assert all(np.isfinite(leaf).all() for leaf in gradient)
  assert max(np.abs(leaf).max() for leaf in gradient) > 0


def _check_meta_learning(names, folder):
  del folder
  # Exact and first-order outer gradients are not the same.
  exact, first = (
    np.concatenate([x.ravel() for x in _leaves(names['flat_gradient'](o, p))])
    for o, p in (('exact', names['random_mlp']), ('first', names['random_mlp']))
  )
  assert np.abs(exact - first).max() > 1e-4 * np.abs(exact).max()
  # Outer training lowers the outer loss, on the toy and on photographs.
  for runs, name in (
    (names['toy'], 'exact, 5 steps'),
    (names['photo'], 'joint'),
  ):
    losses = np.asarray(runs[name][1])
    assert np.isfinite(losses).all()
  toy = np.asarray(names['toy']['exact, 5 steps'][1])
  assert toy[-20:].mean() < toy[:20].mean()


CHECKS = {
  'quickstart': _check_quickstart,
  'meta_learning': _check_meta_learning,
}


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv('MPLBACKEND', 'agg')
  monkeypatch.setattr(pyplot, 'show', lambda: pyplot.close('all'))
  CHECKS[path.stem](_run(path), tmp_path)


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_stored_without_results(path):
  notebook = _notebook(path)
  assert notebook['nbformat'] == 4
  assert len(notebook['cells']) < 40
  code = [c for c in notebook['cells'] if c['cell_type'] == 'code']
  assert all(c['outputs'] == [] for c in code)
  assert all(c['execution_count'] is None for c in code)
  assert sum(_has_tag(c, 'colab-only') for c in code) == 1

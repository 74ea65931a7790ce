"""Every notebook runs from its first cell to its last, at smoke size."""

import ast
import json
import pathlib

import jax
import nbclient
import nbformat
import numpy as np
import pytest
from ipykernel.kernelspec import write_kernel_spec

ROOT = pathlib.Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / 'colabs').glob('*.ipynb'))
# What replaces the values of a notebook's cell tagged `parameters`.
SMOKE = {
  'blind_kernels': {'SMOKE': True},
  'meta_learning': {'SMOKE': True},
  'quickstart': {'SIDE': 96, 'STEPS': 2, 'WORKDIR': 'run'},
}
MOST_CELLS = {'blind_kernels': 25, 'meta_learning': 40, 'quickstart': 15}


def _notebook(path):
  return json.loads(path.read_text())


def _has_tag(cell, tag):
  return tag in cell['metadata'].get('tags', ())


def _run(path):
  """Runs the code cells in order; returns the names that they define."""
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


@pytest.mark.nightly
def test_quickstart_runs(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  _check_quickstart(_run(ROOT / 'colabs' / 'quickstart.ipynb'), tmp_path)


def _run_in_kernel(path, folder, report):
  """Runs a notebook as Jupyter does.

  Args:
    path: The notebook.
    folder: The folder in which it runs.
    report: Code of a last cell, which prints JSON.

  Returns:
    The cells that were run, and what the last one printed.
  """
  notebook = nbformat.read(path, as_version=4)
  cells = []
  for cell in notebook.cells:
    if cell.cell_type == 'code' and not _has_tag(cell, 'colab-only'):
      cells.append(cell)
    if _has_tag(cell, 'parameters'):
      values = [f'{k} = {v!r}' for k, v in SMOKE[path.stem].items()]
      cells.append(nbformat.v4.new_code_cell('\n'.join(values)))
  notebook.cells = [*cells, nbformat.v4.new_code_cell(report)]
  where = {'metadata': {'path': str(folder)}}
  nbclient.NotebookClient(notebook, timeout=600, resources=where).execute()
  (printed,) = notebook.cells[-1].outputs
  return cells, json.loads(printed.text)


@pytest.fixture
def own_kernel(tmp_path_factory, monkeypatch):
  """Makes `python3` the running interpreter, whatever else is installed.

  It compiles as it does for users: what trainings of so few steps reach depends
  on how sums are ordered.
  """
  folder = tmp_path_factory.mktemp('jupyter')
  write_kernel_spec(folder / 'kernels' / 'python3')
  for name in ('JAX_DISABLE_MOST_OPTIMIZATIONS', 'XLA_FLAGS'):
    monkeypatch.delenv(name)
  monkeypatch.setenv('JUPYTER_PATH', str(folder))
  monkeypatch.setenv('PYTHONPATH', str(ROOT))


META_LEARNING_REPORT = """
import json

def plain(curves):
  return {name: np.asarray(curve).tolist() for name, curve in curves.items()}

print(json.dumps({
  'toy': plain(toy_curves),
  'photo': plain(photo_curves),
  'losses': [run[1].tolist() for runs in (toy, photo) for run in runs.values()],
  'cosine': cosine,
  'scores': list(scores.values()),
}))
"""


@pytest.mark.nightly
@pytest.mark.usefixtures('own_kernel')
def test_meta_learning_runs(tmp_path):
  path = ROOT / 'colabs' / 'meta_learning.ipynb'
  cells, report = _run_in_kernel(path, tmp_path, META_LEARNING_REPORT)
  outputs = [output for cell in cells for output in cell.outputs]
  # Nothing warned, and every figure is there.
  assert {o.name for o in outputs if o.output_type == 'stream'} == {'stdout'}
  pictures = sum('image/png' in o.get('data', ()) for o in outputs)
  assert pictures == 9
  assert np.isfinite(np.concatenate(report['losses'])).all()
  _check_toy(report['toy'], report['cosine'])
  _check_photo(report['photo'])
  for score in report['scores']:
    assert score['10'] > score['bicubic'] + 1
    assert score['10'] > score['0'] + 0.5


def _check_toy(curves, cosine):
  """Query losses after 0, 1, ... updates."""
  curves = {name: np.array(curve) for name, curve in curves.items()}
  for name in ('exact, 1 step', 'exact, 5 steps'):
    assert curves[name][-1] < 0.5 * curves[name][0]
    assert curves[name][1] < 0.8 * curves['joint'].min()
  # The orders differ, and the exact one learns faster.
  assert cosine < 0.9
  assert curves['exact, 1 step'][1] < 0.8 * curves['first, 1 step'][1]


def _check_photo(curves):
  """Query PSNR after 0, 1, ... updates."""
  curves = {name: np.array(curve) for name, curve in curves.items()}
  before = curves['before meta-training']
  for name in ('exact, 5 steps', 'first, 5 steps'):
    # The updates that meta-training went through help where they did not.
    assert curves[name][1:].min() > curves[name][0]
    assert curves[name][1:6].mean() > before[1:6].mean() + 0.1
  difference = curves['exact, 5 steps'] - curves['first, 5 steps']
  assert np.abs(difference).max() > 0.005


BLIND_KERNELS_REPORT = """
import json

print(json.dumps({
  'widths': {' '.join(key): values for key, values in widths.items()},
  'scores': {str(name): score for name, score in scores.items()},
  'origins': origins,
  'games': gan_widths,
  'automatic': auto_widths,
  'sheet': sheet.shape,
}))
"""


@pytest.mark.nightly
@pytest.mark.usefixtures('own_kernel')
def test_blind_kernels_runs(tmp_path):
  path = ROOT / 'colabs' / 'blind_kernels.ipynb'
  cells, report = _run_in_kernel(path, tmp_path, BLIND_KERNELS_REPORT)
  outputs = [output for cell in cells for output in cell.outputs]
  said = ''.join(o.text for o in outputs if o.output_type == 'stream')
  assert 'Warning' not in said
  assert 'all kernels side by side' in said
  pictures = sum('image/png' in o.get('data', ()) for o in outputs)
  assert pictures == 7
  # Standard deviations of 0.7 and 2.
  narrow, wide = report['widths']['astronaut network']
  assert abs(narrow - 0.5**0.5) < 0.3
  assert abs(wide - 2) < 0.3
  scores = report['scores']
  assert scores['1.0'] > scores['bicubic'] + 0.5
  assert abs(scores['estimated'] - scores['1.0']) < 1
  assert scores['1.0'] > scores['1.5'] + 1
  likely = {k: max(v, key=v.get) for k, v in report['origins'].items()}
  assert likely['gaussian:2'] == 'blurred'
  assert likely['motion of 10 pixels'] == likely['out of focus'] == 'other'
  # KernelGAN's kernels are alike although the blurs are not.
  spread, known = (
    max(report[way]) - min(report[way]) for way in ('games', 'automatic')
  )
  assert known > 1
  assert spread < 0.5 * known
  # Three thumbnails of 96 pixels, with labels.
  assert report['sheet'][0] == 96 + 14
  assert report['sheet'][1] >= 3 * 96 + 4


def test_every_notebook_has_its_test():
  assert [path.stem for path in NOTEBOOKS] == list(SMOKE)


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_stored_without_results(path):
  notebook = _notebook(path)
  assert notebook['nbformat'] == 4
  assert len(notebook['cells']) < MOST_CELLS[path.stem]
  code = [c for c in notebook['cells'] if c['cell_type'] == 'code']
  assert all(c['outputs'] == [] for c in code)
  assert all(c['execution_count'] is None for c in code)
  assert sum(_has_tag(c, 'colab-only') for c in code) == 1


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_imports_of_a_notebook_exist(path):
  """The names that a notebook imports exist; this does not run the notebook."""
  for cell in _notebook(path)['cells']:
    if cell['cell_type'] != 'code' or _has_tag(cell, 'colab-only'):
      continue
    tree = ast.parse(''.join(cell['source']))
    found = [
      node
      for node in ast.walk(tree)
      if isinstance(node, ast.ImportFrom)
      and (node.module or '').partition('.')[0] in ('sr_jax', 'configs')
    ]
    module = ast.Module(found, [])
    exec(compile(module, path.name, 'exec'), {'__name__': '__main__'})


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_no_cell_shows_a_state(path):
  """A cell that ends in a train state would print thousands of lines."""
  for cell in _notebook(path)['cells']:
    if cell['cell_type'] != 'code' or _has_tag(cell, 'colab-only'):
      continue
    *_, last = ast.parse(''.join(cell['source'])).body
    shown = ast.unparse(last) if isinstance(last, ast.Expr) else ''
    assert 'train_and_evaluate' not in shown

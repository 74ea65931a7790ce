"""IKC on the command line: import, export, upscale, Gaussian8."""

import json
import pathlib
import re
import shlex

import jax
import numpy as np
import pytest
from conftest import texture, visible

from sr_jax import checkpoints, models
from sr_jax.cli.main import make_parser
from sr_jax.data.image_io import Picture, read_image, write_image
from sr_jax.inference.loading import load
from sr_jax.models import ikc
from sr_jax.ops.blur_kernels import gaussian_kernel
from sr_jax.ops.kernel_codes import gaussian_basis
from tests.methods import ikc_files
from tests.test_configs import parse_train_flags
from tests.weights import torch_files


@pytest.fixture(scope='module')
def paths(tmp_path_factory):
  """Files in the layout of the released weights, made by formula."""
  return ikc_files.files(tmp_path_factory.mktemp('released'))


@pytest.fixture(scope='module')
def imported(paths, tmp_path_factory):
  """The checkpoint that they become."""
  from sr_jax.cli.main import main

  path = tmp_path_factory.mktemp('imported') / 'ikc'
  status = main(
    [
      *('import', str(paths['sftmd']), '--model', 'ikc', '-o', str(path)),
      *('--predictor', str(paths['predictor'])),
      *('--corrector', str(paths['corrector'])),
    ]
  )
  assert status == 0
  return path


TINY = {
  **{'name': 'ikc', 'scale': 2, 'blocks': 1, 'features': 4},
  **{'condition': 4, 'codes': 3},
}


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
  """A checkpoint of tiny networks with random weights."""
  rng = np.random.default_rng(0)
  basis = gaussian_basis(0.2, 2.0, size=21, codes=3).astype('f')
  image = jax.ShapeDtypeStruct((1, 8, 8, 3), np.float32)
  networks = {'generator': (models.create(TINY), (image,))}
  for slot, made in ikc.COMPANIONS.items():
    network = made.Model(features=4, codes=3)
    networks[slot] = network, network.example_inputs
  params = {'codes': {'basis': basis}}
  for slot, (network, inputs) in networks.items():
    shapes = jax.eval_shape(network.init, jax.random.key(0), *inputs)['params']
    params[slot] = jax.tree.map(
      lambda x: rng.normal(scale=0.2, size=x.shape).astype('f'), shapes
    )
  path = tmp_path_factory.mktemp('tiny') / 'ikc'
  config = {
    'method': {'name': 'kernel_correction', 'corrections': 5},
    'model': TINY,
    'degradation': {'name': 'blur-bicubic'},
  }
  checkpoints.save_params(path, params, config)
  return path


@pytest.fixture
def photo(tmp_path):
  path = tmp_path / 'in' / 'photo.png'
  path.parent.mkdir()
  write_image(path, Picture(texture(9, 8, 3)))
  return path


@pytest.mark.nightly
def test_all_networks_are_imported_with_a_basis(run, imported):
  model = load(imported)
  assert model.iterations == 7
  assert {*model.params} == {'generator', 'predictor', 'corrector', 'codes'}
  basis = gaussian_basis(0.2, 4.0, size=21, codes=10)
  np.testing.assert_allclose(model.params['codes']['basis'], basis, atol=1e-6)
  said = run('info', imported)
  assert 'parameters of predictor: 430,730' in said.out
  assert 'parameters of corrector: 649,930' in said.out


def test_without_companions_the_kernel_must_be_given(run, paths, tmp_path):
  done = run('import', paths['sftmd'], '--model', 'ikc', '-o', tmp_path / 'a')
  assert done.status == 0, done
  assert 'Gaussians of 0.2 to 4 HR pixels on 21x21 taps' in done.out
  assert 'blocks that the released code never uses' in done.out
  assert load(tmp_path / 'a').needs_kernel
  command = ('import', paths['sftmd'], '--model', 'ikc', '-o', tmp_path / 'b')
  done = run(*command, '--predictor', paths['predictor'])
  assert done.refused('needs its corrector too: give --corrector FILE')
  done = run(
    *(*command, '--predictor', paths['corrector']),
    *('--corrector', paths['corrector']),
  )
  assert done.status == 2
  assert 'corrector.pth: ' in done.err
  plain = tmp_path / 'c'
  done = run(*command[:3], 'edsr', '--pca', paths['sftmd'], '-o', plain)
  assert done.status == 2


def test_the_published_basis_is_kept(run, paths, tmp_path):
  matrix = np.random.default_rng(0).normal(size=(441, 10)).astype('f')
  file, odd = tmp_path / 'pca_matrix.pth', tmp_path / 'odd.pth'
  file.write_bytes(torch_files.tensor_alone(matrix))
  odd.write_bytes(torch_files.tensor_alone(matrix[:400]))
  command = ('import', paths['sftmd'], '--model', 'ikc', '-o')
  done = run(*command, tmp_path / 'x', '--pca', odd)
  assert done.refused('odd.pth: must hold finite numbers, (K * K, 10)')
  done = run(*command, tmp_path / 'x', '--pca', file)
  assert done.status == 0, done
  held = load(tmp_path / 'x').params['codes']['basis']
  np.testing.assert_array_equal(held, matrix)


@pytest.mark.nightly
def test_exported_networks_keep_codes_and_companions(
  run, tiny, photo, tmp_path
):
  file, copy = tmp_path / 'ikc.safetensors', tmp_path / 'copy'
  assert run('export', tiny, '--to', 'safetensors', '-o', file).status == 0
  assert run('import', file, '--model', 'ikc', '-o', copy).status == 0
  whole = load(tiny)
  assert load(file).iterations == 5
  assert load(file).config['method'] == whole.config['method']
  for path in (file, copy):
    model = load(path)
    assert model.iterations is not None
    for slot, tree in whole.params.items():
      for name, leaf in _flat(tree).items():
        np.testing.assert_array_equal(_flat(model.params[slot])[name], leaf)


def _flat(tree, prefix=''):
  if not isinstance(tree, dict):
    return {prefix: tree}
  return {
    key: leaf
    for name, inner in tree.items()
    for key, leaf in _flat(inner, f'{prefix}/{name}').items()
  }


@pytest.mark.nightly
def test_upscale_estimates_and_corrects(run, tiny, photo, tmp_path):
  out = tmp_path / 'out'
  command = ('upscale', photo, '--model', tiny)
  done = run(*command, '-o', out, '--iterations', 2)
  assert done.status == 0, done
  assert 'kernel: estimated from each image, 2 corrections' in done.out
  assert '/ikc, 2 corrections, ' in done.out
  two = read_image(out / 'photo_x2.png').color
  assert two.shape == (18, 16, 3)
  # The same again is there already; another number is another result.
  assert 'already there' in run(*command, '-o', out, '--iterations', 2).out
  done = run(*command, '-o', out, '--iterations', 0)
  assert done.status == 0, done
  assert len([name for name in visible(out) if name.endswith('.png')]) == 2
  done = run(*command, '-o', tmp_path / 'k', '--kernel', 'sigma:1.3')
  assert done.status == 0, done
  assert 'kernel: sigma:1.3, 21x21 taps, blur-bicubic' in done.out
  known = read_image(tmp_path / 'k' / 'photo_x2.png').color
  assert np.abs(known - two).max() > 0
  for more, reason in (
    (('--kernel', 'sigma:1.3', '--iterations', 2), '--kernel SPEC out'),
    (('--adapt-steps', 2), 'give --iterations N in place of --adapt-steps N'),
    (('--noise', 2), 'trained for noise of 0 grey levels'),
    (('--back-project', 1), 'needs a known kernel'),
  ):
    done = run(*command, '-o', tmp_path / 'no', *more)
    assert done.refused(reason), more


def test_gaussian8_has_a_row_for_each_kernel(run, tmp_path):
  hr, file = tmp_path / 'hr', tmp_path / 'r.json'
  hr.mkdir()
  for name in ('a', 'b'):
    write_image(hr / f'{name}.png', Picture(texture(32, 28, 3)))
  command = ('evaluate', '--model', 'bicubic', '--hr', hr, '--scale', 2)
  set_ = ('--degradation', 'gaussian8')
  done = run(*command, *set_, '--json', file)
  assert done.status == 0, done
  rows = [
    line.split() for line in done.out.splitlines() if line.startswith('kernel ')
  ]
  assert [row[1] for row in rows] == [
    f'sigma:{s:g}' for s in np.round(np.linspace(0.8, 1.6, 8), 6)
  ]
  result = json.loads(file.read_text())
  assert result['degradation'] == 'gaussian8'
  means = [one['mean']['psnr'] for one in result['kernels']]
  assert result['mean']['psnr'] == pytest.approx(np.mean(means))
  assert done.out.splitlines()[-1].split()[1] == f'{np.mean(means):.4f}'
  # As with each kernel alone, whose SPEC names 21x21 taps.
  one = run(
    *(*command, '--degradation', 'blur-bicubic', '--kernel', 'sigma:1.6'),
    *('--json', file),
  )
  assert one.status == 0, one
  alone = json.loads(file.read_text())
  assert alone['mean'] == result['kernels'][-1]['mean']
  assert run(*command, *set_, '--kernel', 'bd').refused('leave out --kernel')
  done = run(*command[:-1], 2.5, *set_)
  assert done.refused('gaussian8 is a set of kernels for x2, x3 and x4')


def test_gaussian8_has_21_taps_at_x4_too():
  """SPECs by variance have as many taps as the Gaussian needs."""
  from sr_jax.data.kernel_files import parse_kernel_spec

  kernel = parse_kernel_spec('sigma:3.2')
  assert kernel.shape == (21, 21)
  np.testing.assert_allclose(kernel, gaussian_kernel(3.2**2, size=21))
  assert parse_kernel_spec(f'gaussian:{3.2**2}').shape == (33, 33)


@pytest.mark.nightly
def test_ikc_is_measured_without_the_kernel(run, tiny, tmp_path):
  hr = tmp_path / 'hr.png'
  write_image(hr, Picture(texture(32, 28, 3)))
  scores = {}
  for name, more in {
    'blind': ('--iterations', 1),
    'true': ('--assume-kernel', 'true'),
    'wrong': ('--assume-kernel', 'sigma:1.9'),
    'same': ('--assume-kernel', 'sigma:0.5'),
  }.items():
    file = tmp_path / f'{name}.json'
    done = run(
      *('evaluate', '--model', tiny, '--hr', hr, '--json', file),
      *('--degradation', 'blur-bicubic', '--kernel', 'sigma:0.5', *more),
    )
    assert done.status == 0, done
    scores[name] = json.loads(file.read_text())['mean']['psnr']
  assert scores['true'] == scores['same']
  assert len({*scores.values()}) == 3


def test_commands_of_the_documentation_parse(monkeypatch):
  root = pathlib.Path(__file__).parents[2]
  text = (root / 'docs' / 'ikc.md').read_text().replace('\\\n', ' ')
  blocks = re.findall(r'^```bash\n(.*?)^```$', text, re.M | re.S)
  commands = [
    shlex.split(line) for block in blocks for line in block.splitlines()
  ]
  assert len(commands) == 15
  monkeypatch.chdir(root)
  for words in commands:
    if words[0] == 'sr-jax':
      assert make_parser().parse_args(words[1:]).command == words[1]
    elif words[1] == '-m':
      assert (root / words[2].replace('.', '/')).with_suffix('.py').exists()
    else:
      assert words[:2] == ['python', 'train.py']
      assert parse_train_flags(words[2:]).model.name == 'ikc'

"""upscale and evaluate with kernels that are estimated, and with several."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import visible
from PIL import Image
from skimage import data as photographs

from sr_jax import checkpoints, models
from sr_jax.cli import _kernels
from sr_jax.data.kernel_files import load_kernel
from sr_jax.data.kernel_names import KERNELS_TO_TRY
from sr_jax.inference import automatic
from sr_jax.inference.blind import KernelEstimate
from sr_jax.ops.blur_kernels import gaussian_kernel
from sr_jax.ops.degrade import degrade, quantize

MODEL = {'name': 'mzsr', 'scale': 2, 'depth': 2, 'features': 4}
HR = photographs.astronaut()[:176, 130:306]


@pytest.fixture(scope='module')
def adaptive(tmp_path_factory):
  """A checkpoint of a tiny MZSR x2 for direct sampling."""
  network = models.create(MODEL)
  params = network.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))['params']
  config = {
    'method': {
      'name': 'meta_transfer',
      'adapt': {'steps': 1, 'rates': (0.01,)},
    },
    'model': MODEL,
    'degradation': {'name': 'direct'},
  }
  path = tmp_path_factory.mktemp('adaptive') / 'mzsr-tiny'
  checkpoints.save_params(path, {'generator': params}, config)
  return path


def write(path, image):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(np.uint8(np.round(255 * np.asarray(image)))).save(path)


def blurred():
  kernel = gaussian_kernel(3.0)
  return quantize(
    degrade(None, HR / 255, scale=2, degradation='direct', kernel=kernel)
  )


@pytest.fixture(scope='module')
def outcome(adaptive, tmp_path_factory):
  """Folders of inputs and of results without --kernel, and what was said."""
  from sr_jax.cli.main import main

  folder = tmp_path_factory.mktemp('auto')
  write(folder / 'in' / 'blurred.png', blurred())
  whole = photographs.astronaut()[:, 80:432] / 255
  clean = quantize(degrade(None, whole, scale=2))
  write(folder / 'in' / 'clean.png', clean)
  write(folder / 'in' / 'flat.png', np.full((48, 48, 3), 0.5))
  write(folder / 'in' / 'small.png', np.zeros((20, 30, 3)))
  command = ['upscale', folder / 'in', '-o', folder / 'out']
  command += ['--model', adaptive]
  return folder, [str(word) for word in command], main


def test_every_image_gets_its_own_kernel(outcome, capsys):
  """One line each says the estimate, what is done, how to override it."""
  folder, command, main = outcome
  assert main(command) == 2
  said = capsys.readouterr()
  lines = [line for line in said.out.splitlines() if 'override it' in line]
  assert len(lines) == 2
  assert 'blurred.png: kernel gaussian:' in lines[0]
  assert 'clean.png: looks like a clean reduction' in lines[1]
  assert '(edsr-small-x2, ' in said.out
  faults = [line for line in said.err.splitlines() if 'error' in line]
  assert len(faults) == 2
  assert 'flat.png: the image has no texture' in faults[0]
  assert 'small.png: 30x20 pixels are too few' in faults[1]
  # The kernel of clean.png was estimated, but edsr-small-x2 uses none.
  assert visible(folder / 'out') == [
    'blurred_x2.png',
    'blurred_x2_kernel.npy',
    'blurred_x2_kernel.png',
    'clean_x2.png',
  ]
  taps = load_kernel(folder / 'out' / 'blurred_x2_kernel.npy')
  offsets = np.arange(len(taps)) - len(taps) // 2
  variance = (taps.sum(0) * offsets**2).sum()
  assert 2.0 < variance < 4.0
  # The same with --kernel auto: all of it is there.
  assert main([*command, '--kernel', 'auto']) == 2
  assert '0 enlarged, 2 already there' in capsys.readouterr().out


def test_files_of_others_are_not_replaced(run, adaptive, tmp_path):
  write(tmp_path / 'a.png', blurred())
  out = tmp_path / 'out'
  write(out / 'a_x2_kernel.png', np.zeros((8, 8, 3)))
  before = (out / 'a_x2_kernel.png').read_bytes()
  command = ('upscale', tmp_path / 'a.png', '-o', out, '--model', adaptive)
  assert run(*command).refused('a_x2_kernel.png: exists already')
  assert (out / 'a_x2_kernel.png').read_bytes() == before


def test_several_kernels_make_one_sheet(run, adaptive, tmp_path):
  write(tmp_path / 'a.png', blurred())
  out = tmp_path / 'out'
  command = ('upscale', tmp_path / 'a.png', '-o', out, '--model', adaptive)
  kernels = ('--kernel', 'gaussian:0.5; gaussian:4,1,0.3;auto')
  done = run(*command, *kernels)
  assert done.status == 0, done
  names = [n for n in visible(out) if not n.startswith('kernel_')]
  assert names == [
    'a_x2_auto.png',
    'a_x2_auto_kernel.npy',
    'a_x2_auto_kernel.png',
    'a_x2_gaussian-0.5.png',
    'a_x2_gaussian-4,1,0.3.png',
    'a_x2_kernels.png',
  ]
  assert f'side by side in {out / "a_x2_kernels.png"}' in done.out
  with Image.open(out / 'a_x2_kernels.png') as sheet:
    assert sheet.size == (3 * 176 + 2 * 2, 176 + 14)
    parts = [np.asarray(sheet)[14:, i * 178 : i * 178 + 176] for i in range(3)]
  named = ('gaussian-0.5', 'gaussian-4,1,0.3', 'auto')
  for part, name in zip(parts, named, strict=True):
    with Image.open(out / f'a_x2_{name}.png') as result:
      np.testing.assert_array_equal(part, np.asarray(result))
  again = run(*command, *kernels)
  assert again.status == 0
  assert again.out.count('0 enlarged, 1 already there') == 3


def test_sheet_names_the_network_that_auto_chose(
  run, adaptive, tmp_path, monkeypatch
):
  """A thumbnail under `auto` alone seemed to be made by MZSR."""
  write(tmp_path / 'a.png', blurred()[:32, :24])
  estimate = KernelEstimate((1.0, 1.0), 0.0, 2, 0.1, {'blurred': 0.1})
  monkeypatch.setattr(automatic, 'estimate_kernel', lambda *_, **__: estimate)
  sheets = []
  monkeypatch.setattr(
    _kernels,
    'save_sheet',
    lambda path, results: sheets.append([label for label, _ in results]),
  )
  out = tmp_path / 'out'
  command = ('upscale', tmp_path / 'a.png', '-o', out, '--model', adaptive)
  for _ in range(2):  # the second run finds finished results
    assert run(*command, '--kernel', 'gaussian:0.5;auto').status == 0
  assert sheets == [['gaussian:0.5', 'auto: edsr-small-x2']] * 2
  names = [n for n in visible(out) if not n.startswith('kernel_')]
  assert names == ['a_x2_auto.png', 'a_x2_gaussian-0.5.png']


def test_evaluate_estimates_each_image(run, adaptive, tmp_path):
  hr = tmp_path / 'hr'
  write(hr / 'a.png', HR / 255)
  command = ('evaluate', '--model', adaptive, '--hr', hr, '--json')
  blur = ('--degradation', 'direct', '--kernel', 'gaussian:3.0')
  results = {}
  for assumed in ('auto', 'gaussian:3.0', 'gaussian:0.3'):
    file = tmp_path / 'result.json'
    done = run(*command, file, *blur, '--assume-kernel', assumed)
    assert done.status == 0, done
    results[assumed] = json.loads(file.read_text())
    assert results[assumed]['kernel'] == 'gaussian:3.0'
    assert results[assumed]['assumed_kernel'] == assumed
  (row,) = results['auto']['images']
  assert row['kernel'].startswith('gaussian:')
  psnr = {name: r['mean']['psnr'] for name, r in results.items()}
  true, others = psnr['gaussian:3.0'], psnr
  assert abs(others['auto'] - true) <= abs(others['gaussian:0.3'] - true)
  # Without a kernel MZSR estimates it too.
  file = tmp_path / 'plain.json'
  done = run(*command, file)
  assert done.status == 0, done
  assert json.loads(file.read_text())['assumed_kernel'] == 'auto'
  lr = tmp_path / 'lr'
  write(lr / 'a.png', blurred())
  done = run(*command, file, '--lr', lr, '--kernel', 'auto')
  assert done.status == 0, done
  assert json.loads(file.read_text())['degradation'] == 'given'


def test_misspelled_kernels_are_refused_with_the_whole_list(run, tmp_path):
  write(tmp_path / 'a.png', HR[:16, :16] / 255)
  command = ('upscale', tmp_path / 'a.png', '-o', tmp_path / 'out')
  assert run(*command, '--kernel', 'gaussian:1;gausian:2').refused(
    f"no kernel 'gausian:2'; did you mean gaussian:2? ({KERNELS_TO_TRY})"
  )
  assert run(*command, '--kernel', 'Auto').refused('did you mean auto?')


@pytest.mark.parametrize('kernel', ['gaussian:1', 'auto'])
def test_kernel_without_a_model_that_uses_it(run, tmp_path, kernel):
  """The default model uses none; the error named no model that does."""
  write(tmp_path / 'a.png', HR[:16, :16] / 255)
  command = ('upscale', tmp_path / 'a.png', '-o', tmp_path / 'out')
  assert run(*command, '--kernel', kernel).refused(
    '--kernel: model edsr-small-x2 uses a kernel only for back-projection',
    'such as --model mzsr-x2',
    '--back-project N',
  )


def test_evaluate_refuses_a_kernel_without_use(run, checkpoint, tmp_path):
  write(tmp_path / 'hr' / 'a.png', HR / 255)
  command = ('evaluate', '--model', checkpoint, '--hr', tmp_path / 'hr')
  assert run(*command, '--assume-kernel', 'gaussian:1').refused(
    '--assume-kernel: model ', 'such as --model mzsr-x2'
  )
  assert run(*command, '--kernel', 'auto').refused('uses a kernel only')

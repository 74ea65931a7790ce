"""The commands import, export, info and _self_check."""

from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
from scipy import ndimage

from sr_jax import checkpoints, models
from sr_jax.cli import _self_check
from sr_jax.inference import loading
from sr_jax.weights.formats.safetensors_io import read_safetensors
from sr_jax.weights.stablehlo import load_stablehlo
from tests.tiny_models import tiny, tiny_config
from tests.weights import torch_files

GOLDEN = Path(__file__).parents[1] / 'golden'


def test_safetensors_there_and_back(run, checkpoint, tmp_path):
  file, copy = tmp_path / 'w.safetensors', tmp_path / 'copy'
  done = run('export', checkpoint, '--to', 'safetensors', '-o', file)
  assert done.status == 0, done
  _, config = read_safetensors(file)
  assert config == {
    'name': 'edsr',
    'scale': 2,
    'options': {
      'blocks': 1,
      'features': 4,
      'residual_scale': 1.0,
      'channels': 3,
    },
  }
  done = run('import', file, '--model', 'edsr', '-o', copy)
  assert done.status == 0, done
  assert 'edsr x2 (' in done.out
  assert '1,283 parameters' in done.out
  one, two = (loading.load(path) for path in (checkpoint, copy))
  lr = np.random.default_rng(0).random((1, 9, 7, 3), np.float32)
  np.testing.assert_array_equal(
    one.predict(one.params, lr, None), two.predict(two.params, lr, None)
  )


def test_running_statistics_there_and_back(run, tmp_path):
  model = {'name': 'drrn', 'scale': 2, 'units': 1, 'features': 4}
  lr = np.random.default_rng(0).random((1, 9, 7, 3), np.float32)
  variables = models.create(model).init(jax.random.key(0), lr[..., :1])
  # Of a trained network: no mean is zero, no variance one.
  statistics = jax.tree.map(
    lambda x: x + 0.1 * np.arange(1, x.size + 1, dtype='f').reshape(x.shape),
    variables['batch_stats'],
  )
  slots = {'generator': variables['params'], 'batch_stats': statistics}
  one, file, two = (tmp_path / name for name in ('a', 'w.safetensors', 'b'))
  config = {'method': {'name': 'supervised'}, 'model': model}
  checkpoints.save_params(one, slots, config)
  assert run('export', one, '--to', 'safetensors', '-o', file).status == 0
  done = run('import', file, '--model', 'drrn', '-o', two)
  assert done.status == 0, done
  count = sum(leaf.size for leaf in jax.tree.leaves(variables['params']))
  assert f'{count:,} parameters and 9 running statistics' in done.out
  first, second = (loading.load(path) for path in (one, two))
  jax.tree.map(np.testing.assert_array_equal, first.params, second.params)
  np.testing.assert_array_equal(
    first.predict(first.params, lr, None),
    second.predict(second.params, lr, None),
  )

  tensors = dict(safetensors.numpy.load_file(file))
  del tensors['norm_0_1/mean']
  safetensors.numpy.save_file(tensors, file)
  command = ('import', file, '--model', 'drrn', '--scale', 2)
  done = run(*command, '-o', tmp_path / 'c')
  assert done.status == 2
  assert '- norm_0_1/mean (4,)' in done.err


def test_import_does_not_overwrite(run, checkpoint, tmp_path):
  file = tmp_path / 'w.safetensors'
  run('export', checkpoint, '--to', 'safetensors', '-o', file)
  before = sorted(p.stat().st_mtime_ns for p in checkpoint.rglob('*'))
  done = run('import', file, '--model', 'edsr', '-o', checkpoint)
  assert done.refused(str(checkpoint), 'exists')
  assert before == sorted(p.stat().st_mtime_ns for p in checkpoint.rglob('*'))


def test_import_options(run, checkpoint, tmp_path):
  file, copy = tmp_path / 'w.safetensors', tmp_path / 'copy'
  run('export', checkpoint, '--to', 'safetensors', '-o', file)
  command = ('import', file, '--model', 'edsr', '-o', copy)
  assert run(*command, '--option', 'blocks').refused('KEY=VALUE')
  assert run(*command, '--scale', 3).refused('scale=2', '3')
  assert run(*command, '--option', 'residual_scale=0.1').status == 0
  stored = checkpoints.load_params(copy).config['model']
  assert stored['residual_scale'] == 0.1


def test_import_of_one_of_several_networks(run, checkpoint, tmp_path):
  """W8: no option chose one of several networks of a file."""
  file = tmp_path / 'w.safetensors'
  run('export', checkpoint, '--to', 'safetensors', '-o', file)
  command = ('import', file, '--model', 'edsr', '-o', tmp_path / 'copy')
  assert run(*command, '--key', 'g').refused("--key 'g': no part of this name")
  raw = {str(i): np.zeros(1, np.float32).tobytes() for i in range(2)}
  tensors = [torch_files.tensor(i, (1,), length=1) for i in raw]
  value = {
    key: torch_files.mapping({'head.0.weight': tensor})
    for key, tensor in zip('gh', tensors, strict=True)
  }
  path = tmp_path / 'both.pth'
  path.write_bytes(torch_files.zip_file(torch_files.mapping(value), raw))
  command = ('import', path, *command[2:])
  assert run(*command).refused("several fit: 'g', 'h'; choose one with --key")
  assert run(*command, '--key', 'h').refused('are not those of edsr')


def test_import_with_dual_networks(run, checkpoint, tmp_path):
  data = np.load(GOLDEN / 'drn_x2.npz')
  tensors, dual = (
    {k.removeprefix(p): data[k] for k in data.files if k.startswith(p)}
    for p in ('sd:', 'sd_dual0:')
  )
  primal, one, two, broken = (tmp_path / f'{i}.pt' for i in range(4))
  primal.write_bytes(torch_files.state_dict(tensors))
  for path, duals in ((one, [dual]), (two, [dual] * 2), (broken, [tensors])):
    path.write_bytes(torch_files.list_of_state_dicts(duals))
  copy = tmp_path / 'copy'
  command = ('import', primal, '--model', 'drn', '-o', copy, '--dual')
  assert run(*command, two).refused(str(two), 'no list of 1 dual networks')
  assert run(*command, primal).refused(str(primal), 'no list of 1')
  assert run(*command, broken).refused(str(broken), 'dual network 0')
  done = run(*command, one)
  assert done.status == 0, done
  # The counts of the released code.
  assert f'{21_640 + 432:,} parameters' in done.out
  assert 'parameters of dual_0: 432' in run('info', copy).out
  assert loading.load(copy).config['method']['name'] == 'dual_regression'

  done = run('import', one, '--model', 'drn', '-o', tmp_path / 'other')
  assert done.refused(str(one), 'list of 1', '--dual')
  file = tmp_path / 'w.safetensors'
  run('export', checkpoint, '--to', 'safetensors', '-o', file)
  done = run(
    *('import', file, '--model', 'edsr', '--dual', one),
    *('-o', tmp_path / 'other'),
  )
  assert done.refused('model edsr has no dual networks')


def test_import_lists_what_does_not_fit(run, checkpoint, tmp_path):
  file = tmp_path / 'w.safetensors'
  run('export', checkpoint, '--to', 'safetensors', '-o', file)
  done = run(
    *('import', file, '--model', 'edsr', '--variant', 'baseline'),
    *('-o', tmp_path / 'copy'),
  )
  assert done.status == 2
  assert 'Traceback' not in done.err
  assert not (tmp_path / 'copy').exists()


def test_stablehlo_gives_the_same_image(run, checkpoint, tmp_path):
  file = tmp_path / 'w.stablehlo'
  done = run('export', checkpoint, '--to', 'stablehlo', '-o', file)
  assert done.status == 0, done
  lr = np.random.default_rng(0).random((1, 9, 7, 3), np.float32)
  model = loading.load(checkpoint)
  expected = model.predict(model.params, lr, None)
  np.testing.assert_allclose(load_stablehlo(file)(lr), expected, atol=1e-6)


def test_bicubic_has_nothing_to_export(run, tmp_path):
  command = ('export', 'bicubic', '--to', 'stablehlo', '-o', tmp_path / 'a')
  assert run(*command).refused('bicubic')


def test_info(run, checkpoint, tmp_path):
  lines = run('info', checkpoint).out.splitlines()
  assert lines[0] == 'training step: none, imported weights'
  assert '  model.scale: 2' in lines
  assert 'parameters of generator: 1,283' in lines
  # 3x3 kernels of 4 -> 4 channels with their biases, twice.
  assert f'  {"body_0":<20} {2 * (9 * 4 * 4 + 4):>5}' in lines
  loaded = checkpoints.load_params(checkpoint)
  trained = tmp_path / 'trained'
  checkpoints.save_params(
    trained, loaded.params, loaded.config, {'name': 'y-uint8', 'crop': 2}, 70
  )
  text = run('info', trained).out
  assert text.startswith('training step: 70\n')
  assert 'protocol of its scores:\n  name: y-uint8\n  crop: 2\n' in text


def test_doctor(run):
  done = run('doctor')
  assert done.status == 0, done
  assert done.out.count('\nok     ') == 4
  assert 'jax ' in done.out
  assert 'device 0: cpu' in done.out


def test_doctor_reports_that_jax_cannot_start(run, monkeypatch):
  def devices():
    raise RuntimeError('Unable to initialize backend\n  cuda')

  monkeypatch.setattr(jax, 'devices', devices)
  assert run('doctor').refused('Unable to initialize backend cuda')


def test_doctor_reports_what_is_broken(run, monkeypatch):
  checks = {'sums': lambda: 0.5, 'products': lambda: 0.0}
  monkeypatch.setattr(_self_check, '_CHECKS', checks)
  done = run('doctor')
  assert done.refused('sums is off by 0.5')
  assert 'FAILED sums' in done.out


def _conv(x, layer):
  """Zero-padded correlation in float64 by SciPy."""
  kernel = layer['kernel'].astype(np.float64)
  return layer['bias'] + np.stack(
    [
      sum(
        ndimage.correlate(x[..., i], kernel[:, :, i, o], mode='constant')
        for i in range(x.shape[-1])
      )
      for o in range(kernel.shape[-1])
    ],
    axis=-1,
  )


def _shift(x, layer):
  return x @ layer['kernel'][0, 0].astype(np.float64) + layer['bias']


def test_expected_values_of_doctor_are_those_of_scipy():
  network = models.create(_self_check._TINY)
  p = _self_check._tiny_params(network)['params']
  head = _conv(_shift(255.0 * _self_check._pattern(), p['sub_mean']), p['head'])
  body = np.maximum(_conv(head, p['body_0']['conv1']), 0)
  body = head + _conv(body, p['body_0']['conv2'])
  wide = _conv(head + _conv(body, p['body_end']), p['upsample']['conv_0'])
  # Channel 4c + 2i + j of a pixel becomes its sub-pixel (i, j), as in torch.
  parts = wide.reshape(12, 12, 32, 2, 2).transpose(0, 3, 1, 4, 2)
  sr = _shift(_conv(parts.reshape(24, 24, 32), p['tail']), p['add_mean']) / 255
  assert sr.mean() == pytest.approx(_self_check._SR_MEAN, abs=1e-6)
  np.testing.assert_allclose(sr[11, 11], _self_check._SR_PIXEL, atol=1e-6)


def test_info_escapes_control_characters(run, tmp_path):
  """Escapes in a stranger's config reached the terminal raw (W11)."""
  config = tiny_config() | {'data': {'\x1b[2J': 'a\x1b]0;b\x07'}}
  checkpoints.save_params(tmp_path / 'a', tiny().params, config)
  done = run('info', tmp_path / 'a')
  assert '\x1b' not in done.out
  assert r'data.\x1b[2J: a\x1b]0;b\x07' in done.out

"""Checkpoints: round trips, other device counts, damage, full disks."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax import checkpoints, experiment, methods, train_loop
from sr_jax.errors import UserError
from tests import tiny

CONFIG = {
  'method': {'name': 'supervised'},
  'model': {'name': 'edsr', 'scale': 2, 'blocks': 1, 'features': 4},
}
PARAMS = {
  'generator': {
    'head': {'kernel': np.arange(6, dtype=np.float32).reshape(2, 3)},
    'deep': {'er': {'bias': jnp.ones(3)}},
  }
}


def _single_device(code, *arguments):
  """Runs Python in a fresh process with one device."""
  return subprocess.run(
    [sys.executable, '-c', code, *map(str, arguments)],
    capture_output=True,
    text=True,
    timeout=120,
    env=os.environ | {'JAX_PLATFORMS': 'cpu'},
  )


def test_weights_round_trip(tmp_path):
  protocol = {'name': 'y-uint8'}
  checkpoints.save_params(tmp_path / 'a', PARAMS, CONFIG, protocol, step=7)
  loaded = checkpoints.load_params(tmp_path / 'a')
  jax.tree.map(np.testing.assert_array_equal, loaded.params, PARAMS)
  assert loaded.config == CONFIG
  assert loaded.protocol == protocol
  assert loaded.step == 7
  assert os.listdir(tmp_path) == ['a']


def test_nothing_is_overwritten(tmp_path):
  (tmp_path / 'a').mkdir()
  with pytest.raises(UserError, match='exists'):
    checkpoints.save_params(tmp_path / 'a', PARAMS, CONFIG)


@pytest.mark.parametrize('where', ['', 'checkpoints', 'checkpoints/4'])
def test_a_run_opens_from_any_of_its_folders(run, where):
  assert checkpoints.load_params(run / where).step == 4


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """A finished run on eight devices."""
  folder = tmp_path_factory.mktemp('run')
  assert jax.device_count() == 8
  train_loop.train_and_evaluate(tiny.config(), folder)
  return folder


def test_saved_on_eight_devices_opens_on_one(run):
  code = """
import sys, jax, numpy as np
from sr_jax import checkpoints
loaded = checkpoints.load_params(sys.argv[1])
print(jax.device_count(), loaded.step)
print(sum(float(np.abs(x).sum()) for x in jax.tree.leaves(loaded.params)))
"""
  result = _single_device(code, run)
  devices, step, total = result.stdout.split()
  assert (devices, step) == ('1', '4'), result.stderr
  ours = jax.tree.leaves(checkpoints.load_params(run).params)
  np.testing.assert_allclose(
    float(total), sum(float(np.abs(x).sum()) for x in ours), rtol=1e-6
  )


def test_a_run_on_eight_devices_resumes_on_one(run, tmp_path):
  code = """
import json, sys
from sr_jax import train_loop
config = json.load(open(sys.argv[1] + '/config.json')) | {'steps': 5}
print(int(train_loop.train_and_evaluate(config, sys.argv[1]).step))
"""
  copy = tmp_path / 'copy'
  subprocess.run(['cp', '-r', run, copy], check=True)
  result = _single_device(code, copy)
  assert result.stdout.split()[-1] == '5', result.stderr


@pytest.mark.parametrize('where', ['', 'nothing/here'])
def test_a_folder_without_checkpoints_is_refused(tmp_path, where):
  with pytest.raises(UserError, match='checkpoint'):
    checkpoints.load_params(tmp_path / where)


@pytest.mark.parametrize('damage', ['about', 'params', 'data'])
def test_a_cut_off_checkpoint_is_refused_in_one_line(tmp_path, damage):
  """In a process of its own: Orbax's other reads outlive the failed one."""
  folder = tmp_path / 'a'
  checkpoints.save_params(folder, PARAMS, CONFIG)
  if damage == 'about':
    (folder / 'about' / 'metadata').write_text('{"config": {')
  elif damage == 'params':
    (folder / 'params' / '_METADATA').unlink()
  else:
    for path in (folder / 'params').rglob('d/*'):
      path.write_bytes(path.read_bytes()[:3])
  code = """
import sys
from sr_jax import checkpoints
from sr_jax.errors import UserError
try:
  checkpoints.load_params(sys.argv[1])
except UserError as error:
  print(error)
"""
  lines = _single_device(code, folder).stdout.splitlines()
  assert len(lines) == 1
  assert str(folder) in lines[0]


def test_a_full_disk_leaves_the_previous_checkpoint_and_no_remains(tmp_path):
  """The limit on file size stands in for a disk that fills up."""
  code = """
import resource, sys
import numpy as np
from sr_jax import checkpoints
from sr_jax.errors import UserError
config = {'method': {'name': 'supervised'}, 'model': {}}
noise = np.random.default_rng(0).standard_normal(200_000).astype('f')
small = {'generator': {'w': noise[:10]}}
checkpoints.save_params(sys.argv[1] + '/first', small, config)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
  checkpoints.save_params(
    sys.argv[1] + '/second', {'generator': {'w': noise}}, config)
except UserError as error:
  print(error)
"""
  result = _single_device(code, tmp_path)
  lines = result.stdout.splitlines()
  assert len(lines) == 1, result.stderr
  assert 'second' in lines[0]
  assert os.listdir(tmp_path) == ['first']
  loaded = checkpoints.load_params(tmp_path / 'first')
  assert loaded.params['generator']['w'].shape == (10,)


@pytest.mark.parametrize(
  ('about', 'reason'),
  [
    ({'format': 1, 'step': 3}, 'holds no config'),
    ([1, 2], 'holds no config'),
    ({'format': 2, 'config': CONFIG}, 'its format 2 is not 1'),
    ({'config': CONFIG}, 'its format None is not 1'),
  ],
)
def test_an_about_file_of_others_is_refused_in_one_line(
  tmp_path, about, reason
):
  checkpoints.save_params(tmp_path / 'a', PARAMS, CONFIG)
  (tmp_path / 'a' / 'about' / 'metadata').write_text(json.dumps(about))
  with pytest.raises(UserError, match=reason) as error:
    checkpoints.load_params(tmp_path / 'a')
  assert str(tmp_path / 'a') in str(error.value)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('resumed', [False, True])
def test_newest_and_best_are_kept(tmp_path, resumed):
  best_by = {'psnr': False, 'niqe': True}
  options = {'keep': 2, 'keep_best': 1, 'best_by': best_by}
  keeper = checkpoints.Keeper(tmp_path, **options)
  config = experiment.to_plain(tiny.config())
  method = methods.module(config).make(config)
  batch = {'hr': np.zeros((1, 16, 16, 3), np.uint8)}
  state = method.init(jax.random.key(0), batch, {}, 2)
  niqe = {1: 7.0, 2: 6.0, 3: 4.0, 5: 5.0, 6: 9.0}
  for step, psnr in enumerate([30.0, 35.0, 31.0, None, 32.0, 30.0], 1):
    state = state.replace(step=jnp.asarray(step, jnp.int32))
    scores = psnr and {'psnr': psnr, 'niqe': niqe[step]}
    keeper.save(state, state.params, {'config': config}, scores)
    if resumed:
      keeper.close()
      keeper = checkpoints.Keeper(tmp_path, **options)
  keeper.wait()
  assert keeper.steps() == [2, 3, 5, 6]
  keeper.close()


def test_the_about_file_is_json_with_a_format(run):
  text = (run / 'checkpoints' / '4' / 'about' / 'metadata').read_text()
  about = json.loads(text)
  assert about['format'] == 1
  assert about['config']['steps'] == 4

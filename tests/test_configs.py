"""Every experiment of configs/: keys, smoke preset, docstring, abstract run."""

import functools
import importlib
import json
import math
import pathlib
import re
import shlex
import subprocess
import sys
import warnings

import jax
import ml_collections
import numpy as np
import pytest
from absl import flags
from ml_collections import config_flags

from configs import common
from sr_jax import experiment, methods
from sr_jax.data import spectra

ROOT = pathlib.Path(__file__).parent.parent
FILES = sorted((ROOT / 'configs').rglob('*.py'))
FILES.remove(ROOT / 'configs' / 'common.py')
every_file = pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
every_preset = pytest.mark.parametrize('preset', [None, 'smoke'])


def parse_train_flags(arguments):
  """The config that `python train.py ARGUMENTS` would run; cwd is the root.

  Raises:
    Exception: of several types, for what train.py refuses.
  """
  argv = ['train.py', *arguments]
  values = flags.FlagValues()
  config = config_flags.DEFINE_config_file(
    'config', None, '', values, lock_config=True, sys_argv=argv
  )
  flags.DEFINE_string('workdir', None, '', flag_values=values)
  flags.mark_flags_as_required(['config', 'workdir'], values)
  with warnings.catch_warnings():
    # ml_collections still loads the file by it.
    warnings.filterwarnings('ignore', r'the load_module\(\)')
    assert values(argv) == ['train.py']
    config.value.to_dict()  # the file is loaded at its first use
  return config.value


def _module(path):
  name = path.relative_to(ROOT).with_suffix('').as_posix().replace('/', '.')
  return importlib.import_module(name)


def _leaves(config):
  """Values by dotted key."""
  leaves = {}
  for key, value in config.items():
    if isinstance(value, ml_collections.ConfigDict):
      leaves |= {f'{key}.{name}': v for name, v in _leaves(value).items()}
    else:
      leaves[key] = value
  return leaves


def _types(config):
  """Types by dotted key, without the section `method`."""
  leaves = _leaves(config).items()
  return {k: type(v) for k, v in leaves if not k.startswith('method.')}


def test_the_folder_has_experiments():
  stems = {path.stem for path in FILES}
  assert {'edsr', 'edsr_small', 'mzsr', 'mzsr_pretrain'} <= stems


@every_preset
@every_file
def test_keys_and_types_are_those_of_the_base(path, preset):
  config = _module(path).get_config(preset)
  assert _types(config) == _types(common.base())
  assert config.method.name in methods.names()


@every_file
def test_presets_change_no_key_or_type_of_the_method(path):
  full, smoke = (
    {k: type(v) for k, v in _leaves(_module(path).get_config(preset)).items()}
    for preset in (None, 'smoke')
  )
  assert smoke == full


@every_file
def test_smoke_is_smaller_and_needs_no_files(path):
  full = _module(path).get_config()
  smoke = _module(path).get_config('smoke')
  assert smoke.steps <= 100 < full.steps
  for key in ('batch_size', 'patch'):
    assert smoke.data[key] <= full.data[key]
  assert smoke.data.source == 'embedded'
  assert smoke.eval.folders == ()
  assert smoke.checkpoint.init_from == ''
  assert smoke.model == full.model
  for section in (smoke.eval, smoke.checkpoint):
    assert smoke.steps % section.every == 0


@every_file
def test_unknown_preset_is_refused_by_name(path):
  with pytest.raises(ValueError, match=r"unknown preset 'smok'.*:smoke"):
    _module(path).get_config('smok')


@every_file
def test_docstring_gives_command_and_origin(path, monkeypatch):
  monkeypatch.chdir(ROOT)
  doc = _module(path).__doc__
  assert re.search(r'et al\., [A-Z]\w+ \d{4}[,)]|[Oo]ur own', doc)
  unfolded = doc.replace('\\\n', ' ')
  command = re.search(r'^  python train\.py (.*)', unfolded, re.M)
  arguments = shlex.split(command[1])
  config = parse_train_flags(arguments)
  where = arguments[arguments.index('--config') + 1]
  assert where == path.relative_to(ROOT).as_posix()
  # Flags that the text names outside the command.
  named = shlex.split(' '.join(re.findall(r'--config\.\S+=\S+', doc)))
  assert named
  changed = parse_train_flags(['--config', where, '--workdir', 'x', *named])
  assert _leaves(changed).keys() == _leaves(config).keys()


def _presets_to_trace():
  """Every config whole, and by default a small :smoke of each method.

  `test_smoke_preset_trains` runs the others of :smoke.
  """
  slow = (
    *('crossnet', 'esrgan', 'ikc_sftmd'),
    *('metakernelgan', 'ranker', 'srntt'),
  )
  seen, cases = set(), []
  for path in FILES:
    name = _module(path).get_config('smoke').method.name
    cases.append(
      pytest.param(path, None, id=path.stem, marks=pytest.mark.nightly)
    )
    if name not in seen and path.stem not in slow:
      cases.append(pytest.param(path, 'smoke', id=f'{path.stem}:smoke'))
    seen.add(name)
  return cases


@pytest.mark.parametrize(('path', 'preset'), _presets_to_trace())
def test_method_starts_and_steps_abstractly(path, preset):
  config = experiment.to_plain(_module(path).get_config(preset))
  for key in ('features_from', 'ranker_from'):
    if key in config['method']:
      config['method'][key] = 'random:0'
  method = methods.make(config)
  data, scale = config['data'], config['model']['scale']
  side = data['patch'] * scale
  wide = side + 2 * round(method.margin(scale) * scale)
  images = data['batch_size']
  batch = {'hr': jax.ShapeDtypeStruct((images, wide, wide, 3), np.uint8)}
  if 'spectra' in method.uses:
    photo = np.tile(np.arange(80.0), (80, 1))
    one = spectra.example(photo, 2, np.random.default_rng(0))
    batch = {
      name: jax.ShapeDtypeStruct((images, *value.shape), value.dtype)
      for name, value in one._asdict().items()
    }
  if 'labels' in method.uses:
    batch['labels'] = jax.ShapeDtypeStruct((images, side, side, 1), np.uint8)
  frozen = jax.eval_shape(method.frozen)
  init = functools.partial(method.init, shapes=batch, scale=scale)
  state = jax.eval_shape(init, jax.random.key(0), frozen=frozen)
  count = sum(math.prod(p.shape) for p in jax.tree.leaves(state.params))
  assert 1000 < count < 1e9
  step = functools.partial(method.train_step, scale=scale)
  after, metrics = jax.eval_shape(step, state, batch)
  assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
    lambda x: (x.shape, x.dtype), state
  )
  assert metrics['loss'].shape == ()


@pytest.mark.nightly
@every_file
def test_smoke_preset_trains(path, tmp_path):
  """`train.py --config FILE:smoke`, as a user starts it, from start to end."""
  file = path.relative_to(ROOT).as_posix()
  workdir = tmp_path / 'run'
  done = subprocess.run(
    [
      *(sys.executable, 'train.py'),
      *('--config', f'{file}:smoke', '--workdir', str(workdir)),
    ],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=900,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  metrics = [json.loads(line) for line in lines]
  losses = [line['loss'] for line in metrics if 'loss' in line]
  assert losses
  assert np.isfinite(losses).all()
  steps = _module(path).get_config('smoke').steps
  assert (workdir / 'checkpoints' / str(steps)).is_dir()

"""The config of a run: completed, checked, compared on resume."""

import importlib
import json
import pathlib

import ml_collections
import numpy as np
import pytest

from configs import common
from sr_jax import checkpoints, experiment, methods
from sr_jax.errors import Optional, UserError, check
from sr_jax.train_loop import train_and_evaluate
from tests import tiny

DIGEST = 'd' * 64


def _complete(**sections):
  return experiment.complete(tiny.config(**sections))


def test_missing_keys_get_the_defaults():
  """B19: a mapping of a few keys ended in a KeyError."""
  config = experiment.complete({'steps': 3, 'data': {'patch': 8}})
  expected = experiment.to_plain(common.base())
  expected['steps'], expected['data']['patch'] = 3, 8
  assert config == expected
  # Another model does not get the defaults of this one.
  config = experiment.complete({'model': {'name': 'srcnn'}})
  assert config['model'] == {'name': 'srcnn', 'scale': 2, 'dtype': 'float32'}
  config = experiment.complete({'method': {'name': 'gan', 'rank_weight': 2.0}})
  assert config['method']['rank_weight'] == 2.0
  assert config['method']['perceptual'] == 'esrgan'


# Methods whose rules are in another file.
_FILES = {'gan': '_gan_config', 'kernel_conditioned': '_kernel_codes'}


def _rules(name):
  """The allowed keys and values of a method, from its file."""
  file = _FILES.get(name, name)
  module = importlib.import_module(f'sr_jax.methods.{file}')
  return getattr(module, '_RULES', None) or module.RULES


# All but ZSSR, which is trained on the image that it enlarges.
TRAINED = sorted(set(methods.names()) - {'zero_shot'})


@pytest.mark.parametrize('name', TRAINED)
def test_every_method_has_defaults(name):
  """Only gan, reference and supervised had; others refused a part of a config.

  A run that began before a key existed can be resumed in the same way (B7).
  """
  section = experiment.complete({'method': {'name': name}})['method']
  check('config.method', section, _rules(name))
  now = experiment.complete({'method': {'name': name, 'outputs': 'none'}})
  for key in section.keys() - {'name'}:
    before = json.loads(json.dumps(now))
    del before['method'][key]
    assert experiment.resumed(before, now, pathlib.Path('run')) == now


@pytest.mark.parametrize('name', TRAINED)
def test_a_missing_key_of_a_method_is_one_line(name):
  """What `methods.make` is given in Python may be a part of a config."""
  whole = experiment.complete({'method': {'name': name}})
  needed = [k for k, r in _rules(name).items() if not isinstance(r, Optional)]
  for key in sorted({*needed} - {'name'}):
    config = json.loads(json.dumps(whole))
    del config['method'][key]
    with pytest.raises(UserError) as error:
      methods.make(config)
    assert str(error.value).startswith(f'config.method.{key} is missing: give')
    assert '\n' not in str(error.value)


def test_every_config_of_the_project_is_accepted():
  folder = pathlib.Path(common.__file__).parent
  names = sorted(p.stem for p in folder.glob('*.py') if p.stem != 'common')
  assert len(names) > 30
  for name in names:
    module = __import__(f'configs.{name}', fromlist=['get_config'])
    for preset in ('', 'smoke'):
      config = module.get_config(preset)
      assert experiment.complete(config) == experiment.to_plain(config)


@pytest.mark.parametrize(
  ('config', 'reason'),
  [
    ({'data': {'batchsize': 2}}, "'batchsize': did you mean batch_size?"),
    ({'optimizer': {'learnin_rate': 1.0}}, 'did you mean learning_rate?'),
    ({'modle': {}}, 'did you mean model?'),
    ({'data': 3}, 'config.data=3: give a section'),
    ({'data': {'source': None}}, 'config.data.source=None: give text'),
    ({'model': {'name': 5}}, 'config.model.name=5: give text'),
    ({'eval': {'scales': 2}}, 'config.eval.scales=2: give a list'),
    ({'data': {'augment': 1}}, 'config.data.augment=1: give True or False'),
    ({'seed': np.zeros(3)}, 'config: Object of type ndarray is not JSON'),
    ([1, 2], 'config: give a mapping'),
    (ml_collections.ConfigDict({'data': {'pacth': 1}}), 'did you mean patch?'),
  ],
)
def test_unknown_keys_and_wrong_types_are_named(config, reason):
  """Typos in a config file were ignored, or raw TypeErrors."""
  with pytest.raises(UserError) as error:
    experiment.complete(config)
  assert reason in str(error.value)
  assert '\n' not in str(error.value)


_WHOLE_FROM_1 = ('log_every', 'data.batch_size', 'data.patch', 'eval.every')
_WHOLE_FROM_1 += ('eval.crops', 'eval.crop_size', 'checkpoint.every')
_WHOLE_FROM_1 += ('checkpoint.keep',)
_WHOLE_FROM_0 = ('steps', 'seed', 'profile', 'data.workers', 'data.prefetch')
_WHOLE_FROM_0 += ('data.reference_size', 'checkpoint.keep_best')
_WHOLE_FROM_0 += ('degradation.jpeg_quality',)
_BAD = (-1, float('nan'), float('inf'), 2**63, 'many', None, [], 1.5, True)


def _nested(key, value):
  *sections, last = key.split('.')
  config = {last: value}
  for section in reversed(sections):
    config = {section: config}
  return config


def test_every_number_has_a_range():
  """T5, T6: of 387 bad values 127 were accepted and 38 gave tracebacks."""
  bad = [(key, value) for key in _WHOLE_FROM_1 for value in (0, *_BAD)]
  bad += [(key, value) for key in _WHOLE_FROM_0 for value in _BAD]
  fractions = (-1, float('nan'), float('inf'), 2**63, 'many', None, [])
  bad += [('model.scale', value) for value in (0, *fractions)]
  bad += [('data.unlabelled_share', value) for value in (1.5, *fractions)]
  bad += [('degradation.noise_sigma', value) for value in fractions]
  for key in ('data.scales', 'eval.scales'):
    bad += [(key, [value]) for value in (0, *fractions)]
  for key, value in bad:
    with pytest.raises(UserError) as error:
      experiment.complete(_nested(key, value))
    assert f'config.{key}=' in str(error.value)
    assert '\n' not in str(error.value)


def test_a_refused_config_leaves_no_workdir(tmp_path):
  """T6: a refused config left a new workdir behind."""
  for sections in (
    {'eval': {'scales': (0,)}},
    {'seed': 2**63},
    {'model': {'features': 0}},
    {'data': {'source': 'folder:/nowhere/at/all'}},
    {'eval': {'crop_size': 33}},
    {'checkpoint': {'init_from': '/nowhere'}},
  ):
    with pytest.raises(UserError) as error:
      train_and_evaluate(tiny.config(**sections), tmp_path / 'a' / 'b')
    assert '\n' not in str(error.value)
    assert not list(tmp_path.iterdir()), sections


@pytest.mark.parametrize(
  ('sections', 'reason'),
  [
    (
      {'optimizer': {'learning_rate': 0.5}},
      'optimizer.learning_rate is 0.001 there, 0.5 here',
    ),
    ({'seed': 3}, 'seed is 0 there, 3 here'),
    ({'model': {'blocks': 2}}, 'model.blocks is 1 there, 2 here'),
    ({'eval': {'protocol': 'rgb'}}, 'different protocols'),
    ({'optimizer': {'schedule': 'cosine'}}, 'optimizer.schedule'),
  ],
)
def test_what_binds_a_resumed_run(tmp_path, sections, reason):
  before, now = _complete(), _complete(**sections)
  with pytest.raises(UserError, match=reason) as error:
    experiment.resumed(before, now, tmp_path)
  if 'protocols' not in reason:
    assert f'{tmp_path} holds another experiment' in str(error.value)


def test_what_a_resumed_run_may_change(tmp_path):
  now = _complete(
    steps=9,
    log_every=1,
    profile=7,
    eval={'every': 3, 'metrics': 'psnr'},
    checkpoint={'every': 5, 'best_by': 'ssim'},
    data={'workers': 2, 'cache_dir': 'elsewhere'},
  )
  assert experiment.resumed(_complete(), now, tmp_path) == now


def test_cosine_decay_binds_the_number_of_steps(tmp_path):
  cosine = {'optimizer': {'schedule': 'cosine'}}
  before, now = _complete(steps=1, **cosine), _complete(steps=2, **cosine)
  with pytest.raises(UserError, match='steps is 1 there, 2 here'):
    experiment.resumed(before, now, tmp_path)


def test_keys_of_later_versions_do_not_make_another_experiment(
  tmp_path, caplog
):
  """B7: a new config key made older runs "another experiment"."""
  before, now = _complete(), _complete(data={'margin': True})
  del before['optimizer']['clip_value'], before['profile']
  del before['data']['margin']
  resumed = experiment.resumed(before, now, tmp_path)
  # Such a run made its LR without a margin, and goes on so.
  assert resumed['data']['margin'] is False
  assert 'data.margin: the run began without this setting' in caplog.text
  now['data']['margin'] = False
  assert resumed == now


@pytest.mark.parametrize('damage', ['data', 'eval', 'optimizer'])
def test_a_damaged_config_of_a_workdir_is_one_line(tmp_path, damage):
  before = _complete() | {damage: 5}
  with pytest.raises(UserError) as error:
    experiment.resumed(before, _complete(), tmp_path)
  assert str(tmp_path) in str(error.value)


def test_data_may_move_but_not_change(tmp_path, caplog):
  """T3 and B7: changed files were accepted, moved files were refused."""
  before = _complete()
  moved = _complete(data={'source': 'folder:/elsewhere'})
  experiment.write(tmp_path, before, DIGEST)
  experiment.check_data(before, before, tmp_path, DIGEST)
  assert not caplog.records
  experiment.check_data(before, moved, tmp_path, DIGEST)
  assert "data.source is 'embedded' there, 'folder:/elsewhere'" in caplog.text
  with pytest.raises(UserError, match='the training data changed') as error:
    experiment.check_data(before, before, tmp_path, 'e' * 64)
  with pytest.raises(UserError, match=r'another experiment: data\.source is'):
    experiment.check_data(before, moved, tmp_path, 'e' * 64)
  # The error says how to go on all the same.
  path = tmp_path / 'data.json'
  assert str(error.value).endswith(f'remove {path}')
  path.unlink()
  experiment.check_data(before, before, tmp_path, 'e' * 64)
  with pytest.raises(UserError, match='another experiment'):
    experiment.check_data(before, moved, tmp_path, DIGEST)


def test_the_config_is_written_whole(tmp_path):
  config = _complete()
  experiment.write(tmp_path, config, DIGEST)
  assert sorted(p.name for p in tmp_path.iterdir()) == [
    'config.json',
    'data.json',
  ]
  assert json.loads((tmp_path / 'config.json').read_text()) == config
  assert experiment.stored(tmp_path) == config
  assert experiment.stored(tmp_path / 'nothing') is None
  (tmp_path / 'config.json').write_text('{"steps": ')
  with pytest.raises(UserError, match=r'cannot read .*config\.json'):
    experiment.stored(tmp_path)


def test_without_config_json_the_checkpoint_says_what_the_run_is(tmp_path):
  """W11: without config.json the comparison was skipped."""
  assert checkpoints.stored_config(tmp_path) is None
  config = _complete()
  params = {'generator': {'w': np.ones(3, np.float32)}}
  checkpoints.save_params(tmp_path / 'checkpoints' / '3', params, config)
  assert checkpoints.has_checkpoints(tmp_path)
  assert checkpoints.stored_config(tmp_path) == config
  with pytest.raises(UserError, match='seed is 0 there, 1 here'):
    train_and_evaluate(tiny.config(seed=1), tmp_path)

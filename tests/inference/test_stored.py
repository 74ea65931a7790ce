"""Untrusted checkpoints: any bad config is refused quickly in one line."""

from __future__ import annotations

import copy
import json
import time

import numpy as np
import pytest

from sr_jax import checkpoints
from sr_jax.errors import UserError
from sr_jax.inference.loading import load
from tests.nightly import nightly
from tests.tiny_models import tiny, tiny_config

VALUES = (
  None, 5, -1, 0, '', 'x', [], {}, [[]], {'name': 'edsr'}, float('nan'),
  float('inf'), 1e308, 2**63, 10**400, True, 2.5, '\x1b[31m', 100_000,
  ['a', None],
)  # fmt: skip


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp('stored') / 'a'
  config = tiny_config() | {
    'data': {'scales': [2]},
    'eval': {'protocol': 'y-uint8'},
  }
  checkpoints.save_params(path, tiny().params, config)
  return path


def _refusal(folder, config):
  """The line with which a config is refused, '' if the model loads."""
  file = folder / 'about' / 'metadata'
  about = json.loads(file.read_text())
  about.pop('checksum', None)  # as of a file that someone made by hand
  text = json.dumps({**about, 'config': config})
  file.write_text(text)
  started = time.process_time()
  try:
    load(folder)
    message = ''
  except UserError as error:
    message = str(error)
    assert message.isprintable(), config
    assert str(folder) in message
  finally:
    file.write_text(json.dumps(about))
  assert time.process_time() - started < 10, config
  return message


def _places(value, path=()):
  yield path
  if isinstance(value, dict):
    for key, item in value.items():
      yield from _places(item, (*path, key))


def _changed(config, path, value):
  if not path:
    return value
  config = copy.deepcopy(config)
  section = config
  for key in path[:-1]:
    section = section[key]
  section[path[-1]] = value
  return config


@pytest.mark.nightly
def test_any_value_at_any_place_of_a_config(folder):
  """W5: a config with `model.name=5` or `data=[]` was a traceback."""
  config = json.loads((folder / 'about' / 'metadata').read_text())['config']
  refused = sum(
    _refusal(folder, _changed(config, path, value)) != ''
    for path in _places(config)
    for value in VALUES
  )
  assert refused > 100
  assert not _refusal(folder, config)


@pytest.mark.parametrize(
  ('key', 'value', 'message'),
  [
    ('blocks', 100_000, 'model.blocks=100000, but no size or number'),
    ('blocks', 10**12, 'model.blocks=1000000000000'),
    ('features', 10**9, 'model.features=1000000000'),
    nightly('blocks', 256, 'the network has more than'),
    ('name', 5, 'config.model.name=5: give text'),
    ('scale', 2**63, 'config.model.scale=a number of 20 digits'),
    ('scale', None, 'config.model.scale=None: a scale must be'),
    ('parent', 5, 'not usable'),
    ('\x1b[2J', 5, 'has the key'),
  ],
)
def test_networks_that_the_parameters_do_not_show(folder, key, value, message):
  """W4: a network of 100,000 blocks was traced for hours, then refused."""
  config = tiny_config()
  config['model'][key] = value
  assert message in _refusal(folder, config)


def test_deep_and_endless_configs(folder):
  deep = {}
  for _ in range(500):
    deep = {'a': deep}
  for extra in (deep, {'a': list(range(20_000))}, {'a': 'x' * 10_000}):
    config = tiny_config() | {'data': extra}
    assert 'config' in _refusal(folder, config)
  deep = '[' * 100_000 + ']' * 100_000
  file = folder / 'about' / 'metadata'
  kept = file.read_text()
  try:
    file.write_text('{"format": 1, "config": {"a": ' + deep + '}}')
    with pytest.raises(UserError, match='cannot read') as error:
      load(folder)
    assert '\n' not in str(error.value)
  finally:
    file.write_text(kept)


def test_numbers_that_some_parameter_has_are_accepted(tmp_path):
  """Wide networks are not refused for their width."""
  config = tiny_config()
  config['model'] |= {'features': 600}
  checkpoints.save_params(tmp_path / 'a', tiny().params, config)
  with pytest.raises(UserError, match='features=600'):
    load(tmp_path / 'a')
  params = {'generator': {'head': {'kernel': np.zeros((3, 3, 3, 600))}}}
  checkpoints.save_params(tmp_path / 'b', params, config)
  with pytest.raises(UserError, match='is missing, not'):
    load(tmp_path / 'b')

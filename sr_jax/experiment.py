"""What a run is asked to do: its config as plain values, and `config.json`.

The file lies in the workdir. A resumed run must be the same experiment, so its
config is compared with the one that the run began with.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from sr_jax import methods
from sr_jax.errors import UserError
from sr_jax.metrics.protocol import comparable, get_protocol

FILE = 'config.json'

# Smallest allowed value of each counter in the config.
_LEAST = {
  'steps': 0,
  'log_every': 1,
  'eval.every': 1,
  'eval.crops': 1,
  'checkpoint.every': 1,
  'checkpoint.keep': 1,
  'checkpoint.keep_best': 0,
  'data.workers': 0,
  'data.prefetch': 0,
  'optimizer.warmup_steps': 0,
}
# What a resumed run may change, because no finished update depends on it.
_FREE = ('steps', 'log_every', 'multihost', 'eval', 'checkpoint')
# Where frozen networks lie: their checksums are compared instead.
_FREE_METHOD = ('features_from', 'ranker_from', 'sisr_from')
_FREE_DATA = ('workers', 'prefetch', 'cache_dir')


def to_plain(config: Any) -> dict[str, Any]:
  """A ConfigDict, or any mapping, as plain values that JSON can hold."""
  if hasattr(config, 'to_dict'):
    config = config.to_dict()
  return json.loads(json.dumps(config))


def check_numbers(config: Mapping[str, Any]) -> None:
  """Refuses counts that the loop cannot run with.

  Raises:
    UserError: a count is too small.
  """
  flat = _flat(config)
  for key, least in _LEAST.items():
    if flat[key] < least:
      raise UserError(f'config.{key}={flat[key]}: give {least} or more')


def check_same(folder: pathlib.Path, config: Mapping[str, Any]) -> None:
  """Compares the `config.json` of a workdir with the config of this start.

  Raises:
    UserError: the workdir belongs to another experiment.
  """
  stored, config = map(methods.updated, (_read(folder / FILE), config))
  # The best checkpoint is kept by its score.
  comparable(*(get_protocol(c['eval']['protocol']) for c in (stored, config)))
  before, now = _flat(_binding(stored)), _flat(_binding(config))
  missing = object()
  unlike = [
    f'{key} is {before.get(key)!r} there, {now.get(key)!r} here'
    for key in sorted(before | now)
    if before.get(key, missing) != now.get(key, missing)
  ]
  if unlike:
    raise UserError(
      f'{folder} holds another experiment: {"; ".join(unlike[:3])}; use a new'
      ' --workdir, or the old values to resume'
    )


def write(folder: pathlib.Path, config: Mapping[str, Any]) -> None:
  """Writes `config.json`, whole or not at all.

  Raises:
    UserError: it cannot be written.
  """
  path = folder / FILE
  temporary = path.with_suffix('.tmp')
  try:
    temporary.write_text(json.dumps(config, indent=2) + '\n')
    temporary.replace(path)
  except OSError as error:
    raise UserError(f'cannot write {path}: {error.strerror}') from error


def _read(path: pathlib.Path) -> dict[str, Any]:
  try:
    return json.loads(path.read_text())
  except (OSError, ValueError) as error:
    raise UserError(f'cannot read {path}: {error}; remove it') from error


def _binding(config: Mapping[str, Any]) -> dict[str, Any]:
  """What makes an experiment: the config without what a resume may change."""
  free = set(_FREE)
  if config['optimizer']['schedule'] == 'cosine':
    free.remove('steps')  # the rate depends on it
  config = {k: v for k, v in config.items() if k not in free}
  data = {k: v for k, v in config['data'].items() if k not in _FREE_DATA}
  method = {k: v for k, v in config['method'].items() if k not in _FREE_METHOD}
  return config | {'data': data, 'method': method}


def _flat(tree: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  flat = {}
  for key, value in tree.items():
    if isinstance(value, Mapping):
      flat |= _flat(value, f'{prefix}{key}.')
    else:
      flat[prefix + key] = value
  return flat

"""What a run is asked to do: its config, complete and checked.

The config lies in the workdir as `config.json`, beside `data.json`, which holds
a digest of the training data. A resumed run must be the same experiment on the
same data, so both are compared with those the run began with.
"""

from __future__ import annotations

import hashlib
import json
import logging
import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from sr_jax import defaults, errors, methods, optimizers
from sr_jax.errors import UserError
from sr_jax.files import write_json
from sr_jax.metrics.protocol import comparable, get_protocol

_log = logging.getLogger(__name__)

FILE = 'config.json'
_DATA = 'data.json'

# What a resumed run may change, because no finished update depends on it.
_FREE = frozenset({'steps', 'log_every', 'multihost', 'profile'})
_FREE_SECTIONS = ('eval.', 'checkpoint.')
# What may differ between the processes of a run.
_LOCAL = frozenset({'data.workers', 'data.prefetch', 'data.cache_dir'})
# Where the training data lie: free if the data are the same.
_PLACES = frozenset(
  f'data.{key}'
  for key in ('source', 'lr_folder', 'unlabelled', 'labels', 'reference')
)
# Where frozen networks lie: their checksums are compared instead.
_FROZEN = frozenset(
  f'method.{key}' for key in ('features_from', 'ranker_from', 'sisr_from')
)
# Keys of later versions whose default is not what runs did before they existed,
# and what those runs did.
_BEFORE: dict[str, Any] = {'data.margin': False}


def to_plain(config: Any) -> dict[str, Any]:
  """A ConfigDict, or any mapping, as plain values that JSON can hold.

  Raises:
    UserError: it is no mapping, or holds other values.
  """
  if hasattr(config, 'to_dict'):
    config = config.to_dict()
  try:
    plain = json.loads(json.dumps(config))
  except (TypeError, ValueError) as error:
    raise UserError(
      f'config: {error}; use numbers, text, True, False, lists and sections'
    ) from None
  if not isinstance(plain, dict):
    raise UserError('config: give a mapping of sections, or a ConfigDict')
  return plain


def complete(config: Any) -> dict[str, Any]:
  """A config as plain values, missing keys filled, everything checked.

  Args:
    config: A ConfigDict or any mapping, whole or in part.

  Raises:
    UserError: a key is unknown, or a value is not accepted.
  """
  filled = methods.updated(_filled(to_plain(config)))
  optimizer = errors.Section(optimizers.RULES)
  rules = {**defaults.RULES, 'optimizer': optimizer}
  errors.check('config', filled, rules)
  for section, common in defaults.COMMON.items():
    shown = {k: v for k, v in filled[section].items() if k in common}
    errors.check(f'config.{section}', shown, common)
  return filled


def _filled(config: dict[str, Any]) -> dict[str, Any]:
  """A config with the defaults of the keys that it lacks."""
  base = to_plain(defaults.base())
  # Further keys of these sections depend on their name.
  name = _name(config, 'method')
  if name and name != base['method']['name']:
    base['method'] = to_plain(defaults.METHODS.get(name, {}))
  if _name(config, 'model') not in (None, base['model']['name']):
    base['model'] = {k: base['model'][k] for k in ('scale', 'dtype')}
  return _merged(base, config)


def _name(config: dict[str, Any], section: str) -> str | None:
  given = config.get(section)
  name = given.get('name') if isinstance(given, dict) else None
  return name if isinstance(name, str) else None


def _merged(base: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
  merged = {**base, **given}
  for key, value in base.items():
    if isinstance(value, dict) and isinstance(given.get(key), dict):
      merged[key] = _merged(value, given[key])
  return merged


def stored(folder: pathlib.Path) -> dict[str, Any] | None:
  """The config that a workdir holds, None if it holds none.

  Raises:
    UserError: it is damaged.
  """
  return _read(folder / FILE)


def resumed(
  before: Mapping[str, Any], now: Mapping[str, Any], folder: pathlib.Path
) -> dict[str, Any]:
  """The config to resume with; the workdir must hold the same experiment.

  Keys that did not exist when the run began keep it as it was.

  Args:
    before: The config that the run began with.
    now: The config of this start, complete.
    folder: The workdir.

  Raises:
    UserError: the workdir belongs to another experiment.
  """
  try:
    old = _flat(_filled(methods.updated(to_plain(before))))
    new = _flat(now)
    protocols = [get_protocol(c['eval.protocol']) for c in (old, new)]
  except (KeyError, TypeError, AttributeError) as error:
    raise UserError(
      f'{folder / FILE} is damaged ({error!r}); restore it, or use a new'
      ' workdir'
    ) from error
  comparable(*protocols)  # the best checkpoint is kept by its score
  for key in sorted((_BEFORE.keys() - _flat(before).keys()) & new.keys()):
    if new[key] != _BEFORE[key]:
      _log.warning(
        '%s: the run began without this setting and goes on with %r',
        *(key, _BEFORE[key]),
      )
    old[key] = new[key] = _BEFORE[key]
  # The rate of a cosine depends on the number of steps.
  cosine = old.get('optimizer.schedule') == 'cosine'
  free = _LOCAL | _PLACES | _FROZEN | (_FREE - {'steps'} if cosine else _FREE)
  unlike = [
    key
    for key in _differing(old, new)
    if key not in free and not key.startswith(_FREE_SECTIONS)
  ]
  if unlike:
    raise _another(folder, old, new, unlike)
  return _nested(now, new)


def check_data(
  before: Mapping[str, Any],
  now: Mapping[str, Any],
  folder: pathlib.Path,
  digest: str,
) -> None:
  """Refuses to resume with training data other than those of before.

  They may have moved to another folder.

  Args:
    before: The config that the run began with.
    now: The config of this start.
    folder: The workdir.
    digest: Digest of the training data of this start.

  Raises:
    UserError: they changed, or lie elsewhere and cannot be compared.
  """
  old, new = _flat(before), _flat(now)
  moved = [k for k in _differing(old, new) if k in _PLACES and k in old]
  data = _read(folder / _DATA)
  if data is not None and data.get('digest') == digest:
    if moved:
      _log.warning('the data of the run moved: %s', _shown(old, new, moved))
  elif moved:
    raise _another(folder, old, new, moved)
  elif data is not None:
    raise UserError(
      f'{folder}: the training data changed since the run began (files were'
      ' added, removed or replaced): put them back, or use a new workdir; to'
      f' go on with the changed data all the same, remove {folder / _DATA}'
    )


def write(folder: pathlib.Path, config: Mapping[str, Any], digest: str) -> None:
  """Writes `config.json` and `data.json`, each whole or not at all.

  Raises:
    UserError: one of them cannot be written.
  """
  write_json(folder / _DATA, {'digest': digest})
  write_json(folder / FILE, config)


def shared(config: Mapping[str, Any]) -> dict[str, Any]:
  """What all processes of a run must agree on, by flat keys."""
  skip = _LOCAL | _PLACES | _FROZEN
  return {k: v for k, v in _flat(config).items() if k not in skip}


def code_digest() -> str:
  """Digest of the installed sr_jax and the version of JAX."""
  digest = hashlib.sha256(jax.__version__.encode())
  package = pathlib.Path(__file__).parent
  for path in sorted(package.rglob('*.py')):
    digest.update(str(path.relative_to(package)).encode())
    digest.update(path.read_bytes())
  return digest.hexdigest()


def _read(path: pathlib.Path) -> dict[str, Any] | None:
  if not path.exists():
    return None
  try:
    value = json.loads(path.read_text())
  except (OSError, ValueError) as error:
    raise UserError(f'cannot read {path}: {error}; remove it') from error
  if not isinstance(value, dict):
    raise UserError(f'cannot read {path}: it holds no settings; remove it')
  return value


def _differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
  missing = object()
  return [
    key
    for key in sorted(old.keys() | new.keys())
    if old.get(key, missing) != new.get(key, missing)
  ]


def _another(
  folder: pathlib.Path,
  old: Mapping[str, Any],
  new: Mapping[str, Any],
  keys: list[str],
) -> UserError:
  return UserError(
    f'{folder} holds another experiment: {_shown(old, new, keys[:3])}; use a'
    ' new workdir, or the old values to resume'
  )


def _shown(
  old: Mapping[str, Any], new: Mapping[str, Any], keys: list[str]
) -> str:
  return '; '.join(
    f'{key} is {old.get(key)!r} there, {new.get(key)!r} here' for key in keys
  )


def _flat(tree: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  flat = {}
  for key, value in tree.items():
    if isinstance(value, Mapping):
      flat |= _flat(value, f'{prefix}{key}.')
    else:
      flat[prefix + key] = value
  return flat


def _nested(
  tree: Mapping[str, Any], flat: Mapping[str, Any], prefix: str = ''
) -> dict[str, Any]:
  """`tree` with the values of `flat`, the inverse of `_flat`."""
  return {
    key: _nested(value, flat, f'{prefix}{key}.')
    if isinstance(value, Mapping)
    else flat[prefix + key]
    for key, value in tree.items()
  }

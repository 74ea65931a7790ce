"""Trains one experiment: `train.py --config configs/NAME.py --workdir DIR`.

Any value of the config can be set on the command line, as in
`--config.optimizer.learning_rate=1e-3`. A second start with the same workdir
resumes exactly where the last checkpoint left off.
"""

import difflib
import functools
import logging
import os
import pathlib
import runpy
import signal
import sys
from collections.abc import Sequence
from typing import Any

_CONFIGS = pathlib.Path('configs')
_STOPPED = 'train.py: stopped by a signal before the first step'


def _stop_early(*unused: object) -> None:
  """Ends the process before there is a run that could save anything.

  At once: an exception in the middle of an import crashes some libraries.
  """
  del unused
  print(_STOPPED, file=sys.stderr)
  sys.stderr.flush()
  os._exit(0)


def start() -> None:
  """Listens to SIGTERM before the imports, which take seconds; then trains."""
  signal.signal(signal.SIGTERM, _stop_early)
  from absl import app, flags
  from ml_collections import config_flags

  config = config_flags.DEFINE_config_file(
    'config', None, 'Experiment, a file of configs/.', lock_config=True
  )
  workdir = flags.DEFINE_string(
    'workdir', None, 'Folder for checkpoints, logs and image strips.'
  )
  flags.mark_flags_as_required(['config', 'workdir'])
  app.run(
    functools.partial(main, config=config, workdir=workdir),
    flags_parser=functools.partial(_parse, config=config),
  )


def _parse(argv: list[str], *, config: Any) -> list[str]:
  """Parses flags; a wrong one ends in one line and exit status 2."""
  from absl import flags

  from sr_jax.errors import wants_traceback

  try:
    rest = flags.FLAGS(argv)
    config.value.to_dict()  # a file that cannot be loaded fails here
  except Exception as error:  # a config file is any Python
    if wants_traceback():
      raise
    hint = _missing_file(argv) or _unknown_key(argv) or _reason(error)
    sys.exit(_complain(hint))
  return rest


def _missing_file(argv: Sequence[str]) -> str | None:
  """Says that the config's file does not exist, and which ones do."""
  name = _value_of('--config', argv)
  path = pathlib.Path(name.partition(':')[0]) if name else None
  if path is None or path.is_file():
    return None
  known = sorted(p for p in _CONFIGS.glob('*.py') if p.stem != 'common')
  nearby = {p.stem: p for p in (*known, *path.parent.glob('*.py'))}
  near = difflib.get_close_matches(path.stem, nearby, n=1)
  hint = f'did you mean {nearby[near[0]]}? ' if near else ''
  listed = ', '.join(p.stem for p in known)
  return f'--config={name}: no such file; {hint}{_CONFIGS} has {listed}'


def _unknown_key(argv: Sequence[str]) -> str | None:
  """Names the first flag that sets a key the config does not have."""
  config = _loaded(_value_of('--config', argv))
  if config is None:
    return None
  for argument in argv:
    name, prefix, key = argument.partition('=')[0].partition('--config.')
    if name or not prefix:
      continue
    *sections, last = key.split('.')
    part, path = config, 'config'
    for section in (*sections, last):
      keys = sorted(part.keys()) if hasattr(part, 'keys') else []
      if section not in keys:
        near = difflib.get_close_matches(section, keys, n=1)
        near = near or [k for k in keys if _abbreviates(section, k)]
        hint = f'did you mean --{path}.{near[0]}? ' if near else ''
        return (
          f'--{path}.{section}: no such key; {hint}{path} has'
          f' {", ".join(keys) or "no keys"}'
        )
      part, path = part[section], f'{path}.{section}'
  return None


def _loaded(name: str | None) -> object | None:
  """The config that a file gives, before flags change it; None if it fails."""
  try:
    path, colon, preset = (name or '').partition(':')
    get_config = runpy.run_path(path)['get_config']
    return get_config(preset) if colon else get_config()
  except Exception:
    return None  # the error of the flag itself says why


def _abbreviates(short: str, key: str) -> bool:
  """Whether `short` is the initials of a key's words, as lr and its like."""
  return short == ''.join(word[0] for word in key.split('_'))


def _value_of(flag: str, argv: Sequence[str]) -> str | None:
  """What the command line gives a flag, in either of the two spellings."""
  for argument, following in zip(argv, [*argv[1:], None], strict=True):
    if argument == flag:
      return following
    if argument.startswith(f'{flag}='):
      return argument.partition('=')[2]
  return None


def _reason(error: BaseException) -> str:
  """What went wrong, without the traceback that ml_collections quotes."""
  while error.args and isinstance(error.args[0], BaseException):
    error = error.args[0]
  # str() of a KeyError is the repr of its message.
  text = str(error.args[0] if isinstance(error, KeyError) else error)
  if 'Traceback' in text:
    text = text.strip().splitlines()[-1]
  return ' '.join(text.split())


def _complain(reason: str) -> int:
  print(f'train.py: error: {reason}', file=sys.stderr)
  return 2


def main(argv: list[str], *, config: Any, workdir: Any) -> int:
  """Runs the experiment; returns the exit status.

  Args:
    argv: The program, and arguments that are no flags.
    config: The flag of the experiment.
    workdir: The flag of its folder.
  """
  from absl import flags

  if len(argv) > 1:
    return _complain(f'unexpected argument {argv[1]!r}; values are --flags')
  # Orbax tells of every file it touches, and its errors come as exceptions;
  # --verbosity=0 shows all.
  if not flags.FLAGS['verbosity'].present:
    logging.getLogger('absl').setLevel(logging.CRITICAL)
    # In place of absl's handler, whose level is that of all loggers.
    logging.basicConfig(format='%(message)s', level=logging.WARNING, force=True)
  from sr_jax import train_loop
  from sr_jax.errors import UserError, wants_traceback
  from sr_jax.runs.stopping import StoppedEarly

  try:
    train_loop.train_and_evaluate(config.value, workdir.value)
  except StoppedEarly:
    print(_STOPPED, file=sys.stderr)
  except (UserError, OSError, KeyboardInterrupt) as error:
    if wants_traceback():
      raise
    return _failed(error)
  return 0


def _failed(error: BaseException) -> int:
  """Prints one line for what ended a run; returns the exit status."""
  if isinstance(error, KeyboardInterrupt):
    _complain('interrupted; the last checkpoint is kept')
    return 130
  if isinstance(error, OSError):
    where = f'{error.filename}: ' if error.filename else ''
    return _complain(f'{where}{error.strerror or error}')
  return _complain(str(error))


if __name__ == '__main__':
  start()

"""Trains one experiment: `train.py --config configs/NAME.py --workdir DIR`.

Any value of the config can be set on the command line, as in
`--config.optimizer.learning_rate=1e-3`. A second start with the same workdir
resumes exactly where the last checkpoint left off.
"""

import logging
import sys

from absl import app, flags
from ml_collections import config_flags

from sr_jax.errors import UserError

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'Experiment, a file of configs/.', lock_config=True
)
_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Folder for checkpoints, logs and image strips.'
)
flags.mark_flags_as_required(['config', 'workdir'])


def _parse(argv: list[str]) -> list[str]:
  """Parses flags; a wrong one ends in one line and exit status 2."""
  try:
    rest = flags.FLAGS(argv)
    _CONFIG.value.to_dict()  # a file that cannot be loaded fails here
  except (
    flags.Error,
    AttributeError,
    KeyError,
    OSError,
    TypeError,
    ValueError,
  ) as error:
    sys.exit(_complain(_reason(error)))
  return rest


def _reason(error: Exception) -> str:
  """What went wrong, without the traceback that ml_collections quotes."""
  while error.args and isinstance(error.args[0], Exception):
    error = error.args[0]
  # str() of a KeyError is the repr of its message.
  text = str(error.args[0] if isinstance(error, KeyError) else error)
  if 'Traceback' in text:
    text = text.strip().splitlines()[-1]
  return ' '.join(text.split())


def _complain(reason: str) -> int:
  print(f'train.py: error: {reason}', file=sys.stderr)
  return 2


def main(argv: list[str]) -> int:
  """Runs the experiment; returns the exit status."""
  if len(argv) > 1:
    return _complain(f'unexpected argument {argv[1]!r}; values are --flags')
  # Orbax tells of every file it touches, and its errors come as exceptions;
  # --verbosity=0 shows all.
  if not flags.FLAGS['verbosity'].present:
    logging.getLogger('absl').setLevel(logging.CRITICAL)
    # In place of absl's handler, whose level is that of all loggers.
    logging.basicConfig(format='%(message)s', level=logging.WARNING, force=True)
  from sr_jax import train_loop

  try:
    train_loop.train_and_evaluate(_CONFIG.value, _WORKDIR.value)
  except UserError as error:
    return _complain(str(error))
  except KeyboardInterrupt:
    _complain('interrupted; the last checkpoint is kept')
    return 130
  except OSError as error:
    where = f'{error.filename}: ' if error.filename else ''
    return _complain(f'{where}{error.strerror or error}')
  return 0


if __name__ == '__main__':
  app.run(main, flags_parser=_parse)

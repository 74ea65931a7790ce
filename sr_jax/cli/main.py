"""The `sr-jax` command: the table of its commands, and how it reports faults.

A command is a module of `sr_jax.cli` with two functions: `add_options(parser)`
and `run(args)`, which returns the exit status. Everything heavy (JAX, NumPy,
Pillow) is imported inside `run`, so that `sr-jax --help` answers at once.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence

import sr_jax
from sr_jax.cli import (
  arguments,
  degrade,
  doctor,
  estimate_kernel,
  evaluate,
  export,
  fit_niqe,
  import_weights,
  info,
  interpolate,
  prepare,
  rank_data,
  upscale,
)
from sr_jax.errors import UserError, wants_traceback

# name -> (module, one line of help)
_COMMANDS = {
  'doctor': (
    doctor,
    'Show devices, versions and memory, and check that all works.',
  ),
  'upscale': (upscale, 'Enlarge images.'),
  'estimate-kernel': (
    estimate_kernel,
    'Estimate the blur of images from themselves.',
  ),
  'evaluate': (evaluate, 'Measure a model on HR images.'),
  'degrade': (degrade, 'Make LR images of HR images.'),
  'import': (import_weights, 'Turn published weights into a checkpoint.'),
  'export': (export, 'Turn a checkpoint into a file for other software.'),
  'interpolate': (interpolate, 'Make the network between two.'),
  'fit-niqe': (fit_niqe, 'Fit the parameters of NIQE to photographs.'),
  'prepare': (prepare, 'Bring a data set into the form that training reads.'),
  'rank-data': (rank_data, "Make the data set of RankSRGAN's ranker."),
  'info': (info, 'Show what a checkpoint holds.'),
}


def main(argv: Sequence[str] | None = None) -> int:
  """Runs one command.

  Returns:
    The exit status: 0 on success, 2 on anything that the user can mend, which
    one line on stderr describes. With `--debug` or SR_JAX_TRACEBACK=1 the
    exception is raised instead, for those who change the code.
  """
  _quieten()
  try:
    return _run(argv)
  except (UserError, KeyboardInterrupt, MemoryError, OSError) as error:
    if wants_traceback():
      error.__suppress_context__ = False  # the cause is what matters now
      raise
    return _fail(error)


def _run(argv: Sequence[str] | None) -> int:
  args = make_parser().parse_args(argv)
  if args.debug:
    os.environ['SR_JAX_TRACEBACK'] = '1'
  module, _ = _COMMANDS[args.command]
  try:
    status = module.run(args)
  except UserError as error:
    error.args = (arguments.as_options(str(error), vars(args)),)
    raise
  sys.stdout.flush()  # a broken pipe shows here, where it can be reported
  return status


def _fail(error: BaseException) -> int:
  """Prints the one line that reports an error; the exit status."""
  status = 2
  if isinstance(error, KeyboardInterrupt):
    message, status = 'interrupted', 130
  elif isinstance(error, BrokenPipeError):
    # Python would complain once more when it closes standard output.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    message = 'the reader of the output went away'
  elif isinstance(error, MemoryError):
    message = f'not enough memory: {_first_line(error)}'
  elif isinstance(error, OSError):
    where = f'{error.filename}: ' if error.filename else ''
    message = f'{where}{error.strerror or _first_line(error)}'
  else:
    message = str(error)
  print(f'sr-jax: error: {message}', file=sys.stderr)
  return status


def _first_line(error: BaseException) -> str:
  return (str(error).splitlines() or [type(error).__name__])[0]


def _quieten() -> None:
  """Shows only warnings and errors, of the libraries too."""
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '1')
  logging.basicConfig(level=logging.WARNING, format='sr-jax: %(message)s')
  logging.getLogger('absl').setLevel(logging.WARNING)


def make_parser() -> argparse.ArgumentParser:
  """The parser of the whole command line."""
  parser = arguments.Parser(
    prog='sr-jax',
    description='Image super-resolution: enlarge, measure, convert.',
  )
  parser.add_argument(
    '--version', action='version', version=f'sr_jax {sr_jax.__version__}'
  )
  arguments.add_debug(parser, default=False)
  commands = parser.add_subparsers(
    dest='command', metavar='COMMAND', required=True
  )
  for name, (module, summary) in _COMMANDS.items():
    command = commands.add_parser(name, help=summary, description=summary)
    module.add_options(command)
    arguments.add_debug(command, default=argparse.SUPPRESS)
  return parser

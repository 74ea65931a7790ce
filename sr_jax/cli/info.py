"""`sr-jax info`: prints the contents of a checkpoint."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

from sr_jax.errors import UserError, printable


def add_options(parser: argparse.ArgumentParser) -> None:
  """Adds the options of the command."""
  parser.add_argument('checkpoint', metavar='CHECKPOINT')


def run(args: argparse.Namespace) -> int:
  """Prints training step, config, scores, protocol and parameter counts."""
  from sr_jax import checkpoints
  from sr_jax.inference import loading

  if args.checkpoint in loading.WITHOUT_WEIGHTS:
    raise UserError(f'{args.checkpoint} is no checkpoint: it has no weights')
  path = loading.pretrained().get(args.checkpoint, args.checkpoint)
  loaded = checkpoints.load_params(path)
  step = 'none, imported weights' if loaded.step is None else loaded.step
  print(f'training step: {step}')
  _print_section('config', loaded.config)
  if loaded.scores:
    _print_section('scores at this step', loaded.scores)
  if loaded.protocol is not None:
    _print_section('protocol of its scores', loaded.protocol)
  for slot, tree in loaded.params.items():
    counts = {name: _count(part) for name, part in tree.items()}
    total = f'{sum(counts.values()):,}'
    print(f'parameters of {printable(slot)}: {total}')
    for name, count in counts.items():
      print(f'  {printable(name):<20} {count:>{len(total)},}')
  return 0


def _count(tree: Any) -> int:
  import jax

  return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _print_section(title: str, values: Mapping[str, Any]) -> None:
  print(f'{title}:')
  for line in _lines(values):
    print(f'  {printable(line)}')


def _lines(values: Mapping[str, Any], prefix: str = '') -> Iterator[str]:
  """Yields `section.key: value` for nested values."""
  for key, value in values.items():
    if isinstance(value, Mapping):
      yield from _lines(value, f'{prefix}{key}.')
    else:
      yield f'{prefix}{key}: {value}'

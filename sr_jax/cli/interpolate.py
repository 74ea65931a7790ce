"""`sr-jax interpolate`: the network between two."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sr_jax.cli import arguments
from sr_jax.errors import UserError

if TYPE_CHECKING:
  from sr_jax.inference.model import SRModel

# Slots of the SR network; discriminators and dual networks are left behind.
_SLOTS = ('generator', 'batch_stats')


def add_options(parser: argparse.ArgumentParser) -> None:
  """Adds the options of the command."""
  parser.description = (
    'Make the network between two of one architecture, parameter by '
    'parameter: (1 - ALPHA) A + ALPHA B. Between one trained for PSNR (A) and '
    'a GAN that began with it (B), ALPHA trades fidelity for texture.'
  )
  for name in ('A', 'B'):
    parser.add_argument(
      name.lower(), metavar=name, help='pretrained name or checkpoint folder'
    )
  parser.add_argument(
    '--alpha',
    required=True,
    type=arguments.share,
    metavar='ALPHA',
    help='from 0, which is A, to 1, which is B; 0.8 in ESRGAN',
  )
  parser.add_argument(
    '-o', dest='output', required=True, type=Path, metavar='CHECKPOINT'
  )


def run(args: argparse.Namespace) -> int:
  """Writes the checkpoint."""
  from sr_jax import checkpoints
  from sr_jax.weights.interpolation import interpolate

  if args.output.exists():
    raise UserError(f'{args.output}: exists already: choose another name')
  a, b = (_load(name) for name in (args.a, args.b))
  try:
    _refuse_unlike(a, b)
    params = interpolate(_network(a), _network(b), args.alpha)
  except UserError as error:
    raise UserError(f'{args.a} and {args.b}: {error}') from None
  checkpoints.save_params(
    args.output,
    params,
    {
      **a.config,
      'interpolation': {'a': args.a, 'b': args.b, 'alpha': args.alpha},
    },
  )
  print(
    f'{1 - args.alpha:g} {args.a} + {args.alpha:g} {args.b} -> {args.output}'
  )
  return 0


def _load(name: str) -> SRModel:
  from sr_jax.inference import loading

  if name in loading.WITHOUT_WEIGHTS:
    raise UserError(f'{name} has no weights: give a checkpoint')
  return loading.load(name)


def _network(model: SRModel) -> dict[str, Any]:
  return {s: model.params[s] for s in _SLOTS if s in model.params}


def _refuse_unlike(a: SRModel, b: SRModel) -> None:
  """Refuses different networks whose parameters have the same shapes."""
  from sr_jax import models

  first, second = (
    models.create({**m.config['model'], 'dtype': 'float32'}) for m in (a, b)
  )
  if first != second:
    raise UserError(
      'different networks are not interpolated: '
      f'{_options(first, second)} against {_options(second, first)}'
    )


def _options(network: Any, other: Any) -> str:
  """Those of a network that another one does not share."""
  if type(network) is not type(other):
    return type(network).__name__
  return ', '.join(
    f'{field.name}={getattr(network, field.name)!r}'
    for field in dataclasses.fields(network)
    if getattr(network, field.name) != getattr(other, field.name)
  )

"""`sr-jax export`: a checkpoint for other software."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sr_jax.cli import arguments
from sr_jax.errors import UserError

if TYPE_CHECKING:
  from sr_jax.inference.model import SRModel


def add_options(parser: argparse.ArgumentParser) -> None:
  """Adds the options of the command."""
  parser.add_argument('checkpoint', metavar='CHECKPOINT', help=arguments.MODEL)
  parser.add_argument(
    '--to',
    required=True,
    choices=('safetensors', 'stablehlo'),
    help='the weights; or a program for any image size that needs only JAX',
  )
  parser.add_argument(
    '-o', dest='output', required=True, type=Path, metavar='FILE'
  )


def run(args: argparse.Namespace) -> int:
  """Writes the weights or the program."""
  from sr_jax import models
  from sr_jax.inference import loading
  from sr_jax.weights.formats.safetensors_io import export_safetensors
  from sr_jax.weights.stablehlo import export_stablehlo

  if args.checkpoint in loading.WITHOUT_WEIGHTS:
    raise UserError(
      f'{args.checkpoint} has no weights to export: give a checkpoint'
    )
  model = loading.load(args.checkpoint)
  if args.to == 'safetensors':
    slots, sections = _companions(model)
    export_safetensors(
      model.params['generator'],
      args.output,
      config=_explicit(model.config['model']) | sections,
      batch_stats=model.params.get('batch_stats', {}),
      slots=slots,
    )
  else:
    network = models.create(model.config['model'])
    export_stablehlo(
      lambda params, lr: model.predict(params, lr, None),
      model.params,
      args.output,
      scale=model.whole_scale,
      channels=model.channels or 3,
      least_side=network.least_side,
    )
  size = args.output.stat().st_size / 2**20
  print(f'{model.name} x{model.scale} -> {args.output} ({size:.1f} MiB)')
  return 0


def _companions(model: SRModel) -> tuple[dict[str, Any], dict[str, Any]]:
  """Slots that inference needs besides the network, and sections for them."""
  from sr_jax import models

  companions = models.module(model.config['model']['name']).COMPANIONS
  if not companions:
    return {}, {}
  names = ('codes', *companions)
  slots = {name: model.params[name] for name in names if name in model.params}
  sections = {
    name: dict(model.config[name])
    for name in ('method', 'degradation')
    if name in model.config
  }
  return slots, {'sections': sections}


def _explicit(config: Mapping[str, Any]) -> dict[str, Any]:
  """A model's config with every option spelled out, the variant's too."""
  from sr_jax import models

  network: Any = models.create(config)
  options = {
    field.name: getattr(network, field.name)
    for field in dataclasses.fields(network)
    if field.name not in ('scale', 'dtype', 'parent', 'name')
  }
  return {'name': config['name'], 'scale': network.scale, 'options': options}

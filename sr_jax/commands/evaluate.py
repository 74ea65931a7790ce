"""`sr-jax evaluate`: a model's scores on a folder of images."""

from __future__ import annotations

import argparse
import functools

from sr_jax import evaluation, inference
from sr_jax.commands.degrade import degradation_of
from sr_jax.errors import UserError


def run(args: argparse.Namespace) -> int:
  """Prints the table, writes JSON and images if asked to."""
  if args.lr is not None:
    _refuse_degradation(args)
  degradation = None if args.lr is not None else degradation_of(args)
  protocols = evaluation.protocols_of(args.protocol, args.crop)
  model = inference.load(args.model, scale=args.scale)
  result = evaluation.evaluate_folder(
    model,
    hr_dir=args.hr,
    lr_dir=args.lr,
    degradation=degradation,
    protocols=protocols,
    self_ensemble=args.self_ensemble,
    back_project=args.back_project,
    tile=args.tile,
    save_images=args.save_images,
    report=functools.partial(print, flush=True),
  )
  if args.json is not None:
    evaluation.write_json(args.json, result)
  return 0


def _refuse_degradation(args: argparse.Namespace) -> None:
  """Options that would have no effect on LR images from files."""
  given = {
    '--degradation': args.degradation,
    '--kernel': args.kernel,
    '--noise': args.noise,
    '--jpeg': args.jpeg,
  }
  if names := [name for name, value in given.items() if value]:
    raise UserError(
      f'--lr gives the LR images as they are: leave out {", ".join(names)}'
    )

"""`sr-jax evaluate`: a model's scores on a folder of images."""

from __future__ import annotations

import argparse
import functools

from sr_jax import files
from sr_jax.cli.degrade import degradation_of
from sr_jax.data.degradation import Degradation
from sr_jax.errors import UserError
from sr_jax.evaluation import benchmark as evaluation
from sr_jax.evaluation import scores
from sr_jax.inference import loading


def run(args: argparse.Namespace) -> int:
  """Prints the table, writes JSON and images if asked to."""
  protocols = evaluation.protocols_of(args.protocol, args.crop)
  metrics = scores.choose(
    args.metrics,
    niqe_params=args.niqe_params,
    lpips_weights=args.lpips_weights,
    ma_scores=args.ma_scores,
  )
  model = loading.load(args.model, scale=args.scale, options=dict(args.option))
  if args.reference_level and args.reference_dir is None:
    raise UserError('--reference-level: give --reference-dir as well')
  if args.lr is not None:
    _refuse_degradation(args, fits=model.fitting is not None)
  result = evaluation.evaluate_folder(
    model,
    hr_dir=args.hr,
    lr_dir=args.lr,
    reference_dir=args.reference_dir,
    reference_level=args.reference_level,
    degradation=_degradation(args),
    protocols=protocols,
    metrics=metrics,
    self_ensemble=args.self_ensemble,
    back_project=args.back_project,
    adapt_steps=args.adapt_steps,
    tile=args.tile,
    save_images=args.save_images,
    report=functools.partial(print, flush=True),
  )
  if args.json is not None:
    files.write_json(args.json, result)
  return 0


def _degradation(args: argparse.Namespace) -> Degradation | None:
  """How LR is made, or was made; a blur of given LR means direct sampling."""
  blurred = args.kernel not in (None, 'bicubic')
  if args.lr is not None and blurred and args.degradation is None:
    args.degradation = 'direct'
  return degradation_of(args)


def _refuse_degradation(args: argparse.Namespace, *, fits: bool) -> None:
  """Options that would have no effect on LR images from files.

  A model that fits itself to them does use what is known of their making.
  """
  given = {'--jpeg': args.jpeg}
  if not fits:
    given |= {
      '--degradation': args.degradation,
      '--kernel': args.kernel,
      '--noise': args.noise,
    }
  if names := [name for name, value in given.items() if value]:
    raise UserError(
      f'--lr gives the LR images as they are: leave out {", ".join(names)}'
    )

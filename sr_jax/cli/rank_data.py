"""`sr-jax rank-data`: makes the data set of RankSRGAN's ranker."""

from __future__ import annotations

import argparse
from pathlib import Path

from sr_jax.cli import arguments


def add_options(parser: argparse.ArgumentParser) -> None:
  """Adds the options of the command: a list, however long."""
  parser.description = (
    "Make the data set of RankSRGAN's ranker: patches of photographs, reduced "
    'and enlarged by three models, with their NIQE, and rank.json, which '
    'records how. For another metric, add its scores as METRIC.txt.'
  )
  parser.add_argument(
    '--hr', required=True, type=Path, help='folder or file of photographs'
  )
  parser.add_argument(
    '-o', dest='output', required=True, type=Path, metavar='DIR'
  )
  parser.add_argument(
    '--models',
    required=True,
    nargs=3,
    metavar=('PSNR', 'MIDDLE', 'LAST'),
    help='models from the best PSNR to the most perceptual one, such as '
    f'SRResNet, SRGAN and ESRGAN; each a {arguments.MODEL}',
  )
  parser.add_argument(
    '--scale',
    type=arguments.scale,
    metavar='S',
    help='needed by bicubic and zssr',
  )
  parser.add_argument(
    '--patch',
    type=arguments.positive,
    default=296,
    metavar='P',
    help='side of a patch in pixels (default: 296)',
  )
  parser.add_argument(
    '--stride',
    type=arguments.positive,
    default=148,
    metavar='N',
    help='distance of neighbouring patches in pixels (default: 148)',
  )
  parser.add_argument(
    '--sharpness',
    type=float,
    default=4.2075,
    metavar='T',
    help='smallest mean local deviation of a patch of LAST, in grey levels '
    '(default: 4.2075)',
  )
  parser.add_argument(
    '--difference',
    type=float,
    default=0.1,
    metavar='T',
    help='smallest difference of the NIQE of MIDDLE and LAST (default: 0.1)',
  )
  parser.add_argument(
    '--held-out',
    type=arguments.share,
    default=0.1,
    metavar='SHARE',
    help='share of the photographs that evaluate the ranker (default: 0.1)',
  )
  parser.add_argument(
    '--niqe-params',
    type=Path,
    metavar='FILE',
    help='NIQE parameters, as for evaluate (default: those of sr_jax)',
  )
  parser.add_argument(
    '--seed',
    type=arguments.count,
    default=0,
    help='seed of the choice of held-out photographs (default: 0)',
  )


def run(args: argparse.Namespace) -> int:
  """Writes the data set, whole or not at all."""
  from sr_jax.evaluation import rank_data

  rank_data.make(
    args.hr,
    args.output,
    names=args.models,
    scale=args.scale,
    grid=rank_data.Grid(
      args.patch, args.stride, args.sharpness, args.difference
    ),
    held_out=args.held_out,
    niqe_params=args.niqe_params,
    seed=args.seed,
  )
  return 0

"""`sr-jax rank-data`: what RankSRGAN's ranker is trained on."""

from __future__ import annotations

import argparse
from pathlib import Path

from sr_jax.cli import arguments


def add_options(parser: argparse.ArgumentParser) -> None:
  """Adds the options of the command: a list, however long."""
  parser.description = (
    "Make the data set of RankSRGAN's ranker: patches of photographs, reduced "
    'and enlarged by three models, with their NIQE, and rank.json, which '
    'records how. Scores of another metric serve as METRIC.txt beside niqe.txt.'
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
    help='from the one for PSNR to the most perceptual one, such as SRResNet, '
    f'SRGAN and ESRGAN; each a {arguments.MODEL}',
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
    help='side of a patch (default: 296)',
  )
  parser.add_argument(
    '--stride',
    type=arguments.positive,
    default=148,
    metavar='N',
    help='from a patch to the next (default: 148)',
  )
  parser.add_argument(
    '--sharpness',
    type=float,
    default=4.2075,
    metavar='T',
    help='least mean local deviation of a patch of LAST, in grey levels '
    '(default: 4.2075)',
  )
  parser.add_argument(
    '--difference',
    type=float,
    default=0.1,
    metavar='T',
    help='by more than this the NIQE of MIDDLE and LAST must differ '
    '(default: 0.1)',
  )
  parser.add_argument(
    '--held-out',
    type=arguments.share,
    default=0.1,
    metavar='SHARE',
    help='of the photographs, to judge the ranker by (default: 0.1)',
  )
  parser.add_argument(
    '--niqe-params',
    type=Path,
    metavar='FILE',
    help='as of evaluate (default: our own)',
  )
  parser.add_argument(
    '--seed',
    type=arguments.count,
    default=0,
    help='of which photographs are held out (default: 0)',
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

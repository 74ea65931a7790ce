"""`sr-jax evaluate`: a model's scores on a folder of images."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sr_jax.cli import arguments
from sr_jax.errors import UserError, counted

if TYPE_CHECKING:
  from sr_jax.data.degradation import Degradation

# Sets of kernels, see `evaluation.kernel_sets`.
_SETS = ('gaussian8',)


def add_options(parser: argparse.ArgumentParser) -> None:
  """Adds the options of the command: a list, however long."""
  parser.add_argument('--model', required=True, help=arguments.MODEL)
  parser.add_argument(
    '--hr', required=True, type=Path, help='folder or file of large images'
  )
  parser.add_argument(
    '--lr',
    type=Path,
    help='folder or file of their small images; without it they are made',
  )
  parser.add_argument(
    '--scale',
    type=arguments.any_scale,
    metavar='S',
    help='needed by bicubic and zssr; a checkpoint has its own, or a range',
  )
  parser.add_argument(
    '--reference-dir',
    type=Path,
    metavar='DIR',
    help='folder of references, for srntt: of 001.png these are 001 and 001_1, '
    '001_2, ...; of 001_0.png, 001_1 and so on, as in CUFED5, whose folder may '
    'be the same',
  )
  parser.add_argument(
    '--reference-level',
    type=arguments.count,
    default=0,
    metavar='N',
    help='take the reference of this number alone; in CUFED5 1 is the most '
    'similar (default: all together)',
  )
  arguments.add_degradation(
    parser,
    _SETS,
    '; gaussian8 is the last one with eight kernels in turn, as in papers '
    'after IKC: a row for each, and the mean',
  )
  parser.add_argument(
    '--assume-kernel',
    metavar='SPEC',
    help='the blur that the model is given, where it is not that of --kernel; '
    'auto estimates it from each LR image (also --kernel auto), kernelgan '
    'trains KernelGAN on it; true is the kernel of LR, for ikc, which is given '
    'none by itself',
  )
  arguments.add_upscaler(parser)
  parser.add_argument(
    '--protocol',
    default='y-uint8',
    metavar='NAME',
    help='y-uint8, y-float, rgb, or all to compare them (default: y-uint8)',
  )
  parser.add_argument(
    '--crop',
    type=int,
    metavar='N',
    help='border that is not measured (default: the scale)',
  )
  parser.add_argument(
    '--metrics',
    default='psnr,ssim',
    metavar='NAMES',
    help='of psnr, ssim, rmse (of PIRM), niqe (of SR alone), lpips, ma, and '
    'pi, which is ((10 - ma) + niqe) / 2 (default: psnr,ssim)',
  )
  parser.add_argument(
    '--niqe-params',
    type=Path,
    metavar='FILE',
    help='for niqe and pi: modelparameters.mat of its authors, '
    'niqe_pris_params.npz of BasicSR, whose scores are those of papers, or a '
    'file of fit-niqe (default: our own, whose scores are not)',
  )
  parser.add_argument(
    '--lpips-weights',
    nargs=2,
    metavar=('BACKBONE', 'LINEAR'),
    help="for lpips: torchvision's AlexNet or VGG16 (a .pth, or what import "
    'made of it with --model alexnet or vgg) and the weights of LPIPS v0.1 for '
    'it (alex.pth or vgg.pth)',
  )
  parser.add_argument(
    '--ma-scores',
    type=Path,
    metavar='FILE',
    help='for ma and pi: lines NAME SCORE, computed elsewhere on the images '
    'that --save-images writes',
  )
  parser.add_argument(
    '--json',
    type=Path,
    metavar='FILE',
    help='write the result; an infinite PSNR is the string "Infinity"',
  )
  parser.add_argument(
    '--save-images', type=Path, metavar='DIR', help='write the results as PNG'
  )


def run(args: argparse.Namespace) -> int:
  """Prints the table, writes JSON and images if asked to."""
  from sr_jax import files
  from sr_jax.evaluation import benchmark, kernel_sets, scores
  from sr_jax.inference import loading
  from sr_jax.inference.automatic import ESTIMATED

  protocols = benchmark.protocols_of(args.protocol, args.crop)
  metrics = scores.choose(
    args.metrics,
    niqe_params=args.niqe_params,
    lpips_weights=args.lpips_weights,
    ma_scores=args.ma_scores,
  )
  if args.kernel in ESTIMATED:  # which names no degradation
    args.kernel, args.assume_kernel = None, args.assume_kernel or args.kernel
  model = loading.load(args.model, scale=args.scale, options=dict(args.option))
  if args.reference_level and args.reference_dir is None:
    raise UserError('--reference-level: give --reference-dir as well')
  if args.lr is not None:
    _refuse_degradation(args, fits=model.fitting is not None)
  shared: Any = {
    'hr_dir': args.hr,
    'protocols': protocols,
    'metrics': metrics,
    'options': arguments.upscale_options(args),
    'assumed_kernel': args.assume_kernel,
    'save_images': args.save_images,
    'peak': args.peak,
    'report': _report,
  }
  if args.degradation in _SETS:
    _refuse_beside_set(args)
    name, args.degradation = args.degradation, None
    result = kernel_sets.evaluate_kernels(
      model, name, degradation=arguments.degradation_of(args), **shared
    )
  else:
    result = benchmark.evaluate_folder(
      model,
      lr_dir=args.lr,
      reference_dir=args.reference_dir,
      reference_level=args.reference_level,
      degradation=_degradation(args),
      **shared,
    )
  if args.json is not None:
    files.write_json(args.json, result)
  if left_out := result['left_out']:
    raise UserError(
      f'left out, and in no mean: {counted(len(left_out), "image")}:'
      f' {"; ".join(left_out.values())}'
    )
  return 0


def _refuse_beside_set(args: argparse.Namespace) -> None:
  """Refuses options that would have no effect beside a set of kernels."""
  given = {
    '--lr': args.lr,
    '--kernel': args.kernel,
    '--reference-dir': args.reference_dir,
  }
  if names := [name for name, value in given.items() if value is not None]:
    raise UserError(
      f'--degradation {args.degradation} has kernels of its own: leave out'
      f' {", ".join(names)}'
    )


def _report(line: str) -> None:
  print(arguments.as_options(line, ('kernel',)), flush=True)


def _degradation(args: argparse.Namespace) -> Degradation | None:
  """How LR is made, or was made; a blur of given LR means direct sampling."""
  blurred = args.kernel not in (None, 'bicubic')
  if args.lr is not None and blurred and args.degradation is None:
    args.degradation = 'direct'
  return arguments.degradation_of(args)


def _refuse_degradation(args: argparse.Namespace, *, fits: bool) -> None:
  """Options that would have no effect on LR images from files.

  A model that fits itself to them does use what is known of their making.
  """
  given = {'--jpeg': args.jpeg, '--preset': args.preset}
  if not fits or args.degradation == 'real':
    given |= {
      '--degradation': args.degradation,
      '--kernel': args.kernel,
      '--noise': args.noise,
    }
  if names := [name for name, value in given.items() if value]:
    raise UserError(
      f'--lr gives the LR images as they are: leave out {", ".join(names)}'
    )

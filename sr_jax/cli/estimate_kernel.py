"""`sr-jax estimate-kernel`: the blur of images, estimated from themselves."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sr_jax.cli import arguments

if TYPE_CHECKING:
  import numpy as np

  from sr_jax.data.image_io import Picture
  from sr_jax.inference.blind import KernelEstimate
  from sr_jax.inference.kernelgan import KernelGANEstimate


def add_options(parser: argparse.ArgumentParser) -> None:
  """Adds the options of the command."""
  parser.description = (
    'Estimate the blur that each image had before it was sampled: a Gaussian, '
    'from its power spectrum, printed as a SPEC for --kernel; or any kernel, '
    'by KernelGAN. -o also writes taps, a picture of them and JSON. It is an '
    'estimate: try neighbouring widths.'
  )
  parser.add_argument('inputs', nargs='+', metavar='IMAGE', type=Path)
  parser.add_argument(
    '-o',
    dest='output',
    type=Path,
    metavar='DIR',
    help='folder for NAME_kernel.npy, NAME_kernel.png and kernels.json',
  )
  parser.add_argument(
    '--scale',
    type=arguments.any_scale,
    default=2,
    metavar='S',
    help='scale that the image shall be enlarged by (default: 2)',
  )
  parser.add_argument(
    '--by',
    choices=('auto', 'network', 'spectrum', 'kernelgan'),
    default='auto',
    help='a trained network for scales 2 to 4 and files of whole numbers; a '
    'fit to the spectrum, which takes narrow kernels for wider ones; or '
    'KernelGAN, trained on each image for half a minute, for x2 and x4, whose '
    'kernels hardly depend on the image if it is small (default: auto)',
  )
  parser.add_argument(
    '--seed',
    type=arguments.count,
    default=0,
    help='of what kernelgan draws (default: 0)',
  )


def run(args: argparse.Namespace) -> int:
  """Estimates every image's kernel; returns 2 if one could not be estimated."""
  import sys

  from sr_jax.cli._kernels import save_kernel_files
  from sr_jax.data.image_io import find_images, read_image
  from sr_jax.errors import UserError
  from sr_jax.files import write_json

  failed, records = 0, []
  for found in find_images(args.inputs):
    try:
      picture = read_image(found.path)
      estimate = _estimate(args, picture)
    except UserError as error:
      shown = str(error).removeprefix(f'{found.path}: ')
      print(f'sr-jax: error: {found.path}: {shown}', file=sys.stderr)
      failed += 1
      continue
    remarks = _remarks(estimate, picture.color)
    print(f'{found.path}: {estimate.spec}{remarks}', flush=True)
    records.append({'image': found.relative.as_posix(), **_record(estimate)})
    if args.output:
      stem = args.output / found.relative.with_suffix('')
      save_kernel_files(stem, estimate.kernel)
  if args.output and records:
    write_json(args.output / 'kernels.json', records)
  return 2 if failed else 0


def _estimate(
  args: argparse.Namespace, picture: Picture
) -> KernelEstimate | KernelGANEstimate:
  from sr_jax.inference import blind, kernelgan

  image, by = picture.color, args.by
  if by == 'kernelgan':
    return kernelgan.estimate_kernel(image, scale=args.scale, seed=args.seed)
  if by == 'auto' and picture.bit_depth is None:
    by = 'spectrum'  # the network was trained on whole grey levels
  return blind.estimate_kernel(image, scale=args.scale, by=by)


def _remarks(
  estimate: KernelEstimate | KernelGANEstimate, image: np.ndarray
) -> str:
  """What else the estimate says, for a person."""
  from sr_jax.inference import kernelgan
  from sr_jax.inference.kernelgan import KernelGANEstimate

  if isinstance(estimate, KernelGANEstimate):
    wide, narrow = estimate.widths
    return (
      f' (deviations {wide:.2f} and {narrow:.2f} HR pixels, which hardly depend'
      ' on the image if it is small: compare with --by auto)'
    )
  words = []
  if estimate.expected_error is not None:
    words.append(f'widths within about {estimate.expected_error:.2f} HR pixels')
  if not estimate.gaussian:
    line = 'looks like motion or defocus, which no Gaussian fits'
    if kernelgan.takes(image, estimate.scale):
      line += ': --by kernelgan assumes no shape'
    words.append(line)
  if not estimate.blurred:
    words.append(
      'does not look blurred: a model without kernel may serve better'
    )
  return f' ({"; ".join(words)})' if words else ''


def _record(estimate: KernelEstimate | KernelGANEstimate) -> dict[str, Any]:
  """The estimate for kernels.json."""
  from sr_jax.inference.kernelgan import KernelGANEstimate

  if isinstance(estimate, KernelGANEstimate):  # its taps have their own file
    more = {'scale': estimate.scale, 'deviations': estimate.widths}
    return {'kernel': estimate.spec, 'seed': estimate.seed, **more}
  return {'kernel': estimate.spec, **dataclasses.asdict(estimate)}

"""`sr-jax estimate-kernel`: the blur of images, estimated from themselves."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sr_jax.cli import arguments

if TYPE_CHECKING:
  from sr_jax.inference.blind import KernelEstimate


def add_options(parser: argparse.ArgumentParser) -> None:
  """Adds the options of the command."""
  parser.description = (
    'Estimate the Gaussian blur that each image had before it was sampled, '
    'from its power spectrum. Prints it as a SPEC for --kernel; -o also '
    'writes taps, a picture of them and JSON. It is an estimate: try '
    'neighbouring widths.'
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
    choices=('auto', 'network', 'spectrum'),
    default='auto',
    help='a trained network for scales 2 to 4, or a fit to the spectrum, which '
    'takes narrow kernels for wider ones (default: auto)',
  )


def run(args: argparse.Namespace) -> int:
  """Estimates every image's kernel; returns 2 if one could not be estimated."""
  import sys

  from sr_jax.cli._kernels import save_kernel_files
  from sr_jax.data.image_io import find_images, read_image
  from sr_jax.errors import UserError
  from sr_jax.files import write_json
  from sr_jax.inference.blind import estimate_kernel

  failed, records = 0, []
  for found in find_images(args.inputs):
    try:
      color = read_image(found.path).color
      estimate = estimate_kernel(color, scale=args.scale, by=args.by)
    except UserError as error:
      shown = str(error).removeprefix(f'{found.path}: ')
      print(f'sr-jax: error: {found.path}: {shown}', file=sys.stderr)
      failed += 1
      continue
    print(f'{found.path}: {estimate.spec}{_remarks(estimate)}', flush=True)
    records.append({'image': found.relative.as_posix(), **_record(estimate)})
    if args.output:
      stem = args.output / found.relative.with_suffix('')
      save_kernel_files(stem, estimate.kernel)
  if args.output and records:
    write_json(args.output / 'kernels.json', records)
  return 2 if failed else 0


def _remarks(estimate: KernelEstimate) -> str:
  """What else the estimate says, for a person."""
  words = []
  if estimate.expected_error is not None:
    words.append(f'widths within about {estimate.expected_error:.2f} HR pixels')
  if not estimate.gaussian:
    words.append('looks like motion or defocus, which no Gaussian fits')
  if not estimate.blurred:
    words.append(
      'does not look blurred: a model without kernel may serve better'
    )
  return f' ({"; ".join(words)})' if words else ''


def _record(estimate: KernelEstimate) -> dict[str, Any]:
  """The estimate for kernels.json."""
  return {'kernel': estimate.spec, **dataclasses.asdict(estimate)}

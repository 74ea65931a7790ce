"""`sr-jax upscale`: enlarges image files, one by one, in kind."""

from __future__ import annotations

import argparse
from pathlib import Path

from sr_jax.cli import arguments
from sr_jax.data.kernel_names import KERNELS_TO_TRY, MEANING

_DEFAULT_MODEL = 'edsr-small-x2'


def add_options(parser: argparse.ArgumentParser) -> None:
  """Adds the options of the command: a list, however long."""
  parser.description = (
    'Enlarge images. OUT gets the same folders as the input; photo.png becomes '
    'photo_x2.png. Grey, 16 bits and ICC profiles are kept; palettes become '
    'RGB, EXIF orientation is applied; transparency is enlarged by bicubic, '
    'and colours of transparent pixels do not affect visible ones.'
  )
  parser.add_argument(
    'inputs',
    nargs='+',
    metavar='INPUT',
    type=Path,
    help='image file (PNG, JPEG, BMP, WebP, TIFF or .npy array), or a folder, '
    'whose images are all enlarged, with those of its subfolders',
  )
  parser.add_argument(
    '-o',
    dest='output',
    required=True,
    type=Path,
    metavar='OUT',
    help='folder for the results; for one input file also a file name',
  )
  parser.add_argument(
    '--model',
    default=_DEFAULT_MODEL,
    help=f'{arguments.MODEL} (default: {_DEFAULT_MODEL})',
  )
  parser.add_argument(
    '--scale',
    type=arguments.any_scale,
    metavar='S',
    help='needed by bicubic and zssr; a checkpoint has its own, or a range',
  )
  parser.add_argument(
    '--kernel',
    metavar='SPEC',
    help='blur of the input before it was sampled, for mzsr and zssr models '
    f'and for --back-project: {KERNELS_TO_TRY}; {MEANING}; auto estimates it '
    'from each image, kernelgan trains KernelGAN on each image by --seed (x2 '
    'and x4, half a minute); several are all tried and shown side by side. '
    'The default model uses no kernel: choose --model mzsr-x2 as well '
    '(default: auto for mzsr models, no blur for others)',
  )
  parser.add_argument(
    '--noise',
    type=float,
    default=0.0,
    metavar='SIGMA',
    help='noise of the input in grey levels (of 255), for mzsr and zssr',
  )
  parser.add_argument(
    '--seed',
    type=arguments.count,
    default=0,
    help='seed of the random choices of zssr and kernelgan (default: 0)',
  )
  parser.add_argument(
    '--reference',
    nargs='+',
    type=Path,
    default=[],
    metavar='FILE',
    help='sharp photographs whose texture srntt transfers; without any, the '
    'image is its own reference. Also writes NAME_strip.png, which shows '
    'bicubic, result and references, and NAME_similarity.png, which is white '
    'where they match',
  )
  arguments.add_upscaler(parser)
  parser.add_argument(
    '--overwrite',
    action='store_true',
    help='do again what is already in OUT (default: skip it)',
  )


def run(args: argparse.Namespace) -> int:
  """Enlarges every input; returns 2 if one could not be enlarged."""
  from sr_jax.cli import _upscale_files

  return _upscale_files.run(args)

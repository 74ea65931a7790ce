"""`sr-jax prepare`: converts data sets to the form that training reads."""

from __future__ import annotations

import argparse
from pathlib import Path

from sr_jax.errors import counted


def add_options(parser: argparse.ArgumentParser) -> None:
  """Adds the options of the command."""
  kinds = parser.add_subparsers(dest='kind', metavar='KIND', required=True)
  raw = kinds.add_parser(
    'sr-raw',
    help='aligned LR and HR images of SR-RAW',
    description='Write aligned LR and HR images of SR-RAW (Zhang et al., CVPR '
    '2019) as DIR/X4/LR and DIR/X4/HR. Existing pairs are kept.',
  )
  raw.add_argument(
    'folder', type=Path, help="folder of the sequences, such as SR-RAW's train"
  )
  raw.add_argument('-o', dest='output', type=Path, required=True, metavar='DIR')
  raw.add_argument('--scale', type=int, choices=(4, 8), required=True)
  tfds = kinds.add_parser(
    'tfds',
    help='a TFDS data set of a folder of images',
    description='Write the images of a folder as the TFDS data set '
    'image_folder_sr/NAME, which data.source=tfds:image_folder_sr/NAME then '
    'reads. Neither needs TensorFlow.',
  )
  tfds.add_argument('folder', type=Path, help='folder of images')
  tfds.add_argument('--name', required=True, help='name of the data set')
  tfds.add_argument(
    '--data-dir', type=Path, metavar='DIR', help='where TFDS keeps data sets'
  )
  tfds.add_argument(
    '--on-bad',
    choices=('refuse', 'skip'),
    default='refuse',
    help='whether files that are no images are refused or left out',
  )


def run(args: argparse.Namespace) -> int:
  """Prepares one data set and prints what it holds."""
  if args.kind == 'sr-raw':
    return _sr_raw(args)
  return _tfds(args)


def _sr_raw(args: argparse.Namespace) -> int:
  from sr_jax.data import sr_raw

  done = sr_raw.prepare(args.folder, args.output, args.scale)
  where = args.output / f'X{args.scale}'
  pairs, skipped = counted(len(done.written), 'pair'), len(done.skipped)
  print(f'{pairs} in {where}, {skipped} skipped')
  return 0


def _tfds(args: argparse.Namespace) -> int:
  from sr_jax.data import tfds_folder

  name = tfds_folder.prepare(
    args.folder, name=args.name, data_dir=args.data_dir, on_bad=args.on_bad
  )
  print(f'tfds:{name}')
  return 0

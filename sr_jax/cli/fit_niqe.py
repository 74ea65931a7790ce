"""`sr-jax fit-niqe`: NIQE's parameters out of a folder of photographs."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sr_jax.errors import UserError, counted

if TYPE_CHECKING:
  import numpy as np

  from sr_jax.data.image_io import Found

_log = logging.getLogger(__name__)


def add_options(parser: argparse.ArgumentParser) -> None:
  """Adds the options of the command."""
  parser.description = (
    'Fit the parameters of NIQE to photographs: sharp and free of noise and '
    'artifacts, of 192x96 pixels at least. Scores under different parameters '
    'are not comparable.'
  )
  parser.add_argument('inputs', nargs='+', metavar='PHOTOS', type=Path)
  parser.add_argument(
    '-o', dest='output', required=True, type=Path, metavar='FILE.npz'
  )


def run(args: argparse.Namespace) -> int:
  """Writes the parameters and says of how many photographs they are."""
  from sr_jax.data.image_io import find_images
  from sr_jax.metrics import niqe

  if args.output.suffix != '.npz':
    raise UserError(f'{args.output}: give the parameters a name in .npz')
  if args.output.exists():
    raise UserError(f'{args.output}: exists already: choose another name')
  found = find_images(args.inputs)
  skipped: list[str] = []
  pristine = niqe.fit_pristine(_photographs(found, skipped))
  if skipped:
    names = ', '.join(skipped[:5]) + (', ...' if len(skipped) > 5 else '')
    _log.warning(
      'left out, fewer than two blocks in %s: %s',
      *(counted(len(skipped), 'image'), names),
    )
  niqe.write_pristine(args.output, pristine)
  count = len(found) - len(skipped)
  print(f'{counted(count, "photograph")} -> {args.output} ({pristine.source})')
  return 0


def _photographs(
  found: Sequence[Found], skipped: list[str]
) -> Iterator[np.ndarray]:
  """Grey levels `[H, W]`, whole as the authors take them."""
  import numpy as np

  from sr_jax.data.image_io import read_rgb
  from sr_jax.metrics import niqe
  from sr_jax.ops.color import rgb_to_grey

  for file in found:
    levels = np.round(255 * rgb_to_grey(read_rgb(file.path) / 255))[..., 0]
    if (levels.shape[0] // niqe.BLOCK) * (levels.shape[1] // niqe.BLOCK) < 2:
      skipped.append(str(file.path))
    else:
      yield levels

"""The `sr-jax` command: its options, and how its failures are told.

Each command lives in its own file of `sr_jax.cli`, imported when it runs:
`sr-jax --help` must not wait for JAX.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import sr_jax
from sr_jax.cli import arguments
from sr_jax.errors import UserError

_DEFAULT_MODEL = 'edsr-small-x2'
_MODEL = (
  'pretrained name, checkpoint folder, bicubic, zssr, zssr-gradual, zssr-shared'
  ' or zssr-each'
)


def main(argv: Sequence[str] | None = None) -> int:
  """Runs one command; 0 on success, 2 on anything the user can mend."""
  _quieten()
  try:
    args = _parser().parse_args(argv)
    module, _, _ = _COMMANDS[args.command]
    status = importlib.import_module(f'sr_jax.cli.{module}').run(args)
    sys.stdout.flush()  # while a broken pipe can still be told
    return status
  except UserError as error:
    return _fail(str(error))
  except KeyboardInterrupt:
    return _fail('interrupted', 130)
  except BrokenPipeError:
    # Python would complain once more when it closes standard output.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return _fail('the reader of the output went away')
  except MemoryError as error:
    return _fail(f'not enough memory: {_first_line(error)}')
  except OSError as error:
    where = f'{error.filename}: ' if error.filename else ''
    return _fail(f'{where}{error.strerror or _first_line(error)}')


def _fail(message: str, status: int = 2) -> int:
  print(f'sr-jax: error: {message}', file=sys.stderr)
  return status


def _first_line(error: BaseException) -> str:
  return (str(error).splitlines() or [type(error).__name__])[0]


def _quieten() -> None:
  """Warnings and errors only, from the libraries too."""
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '1')
  logging.basicConfig(level=logging.WARNING, format='sr-jax: %(message)s')
  logging.getLogger('absl').setLevel(logging.WARNING)


class _Parser(argparse.ArgumentParser):
  """Tells bad usage in one line, as every other fault."""

  def error(self, message: str) -> NoReturn:
    """Raises instead of printing the usage."""
    raise UserError(f'{message} (see {self.prog} --help)')


def _parser() -> argparse.ArgumentParser:
  parser = _Parser(
    prog='sr-jax',
    description='Image super-resolution: enlarge, measure, convert.',
    allow_abbrev=False,
  )
  parser.add_argument(
    '--version', action='version', version=f'sr_jax {sr_jax.__version__}'
  )
  commands = parser.add_subparsers(
    dest='command', metavar='COMMAND', required=True
  )

  for name, (_, fill, summary) in _COMMANDS.items():
    fill(
      commands.add_parser(
        name, help=summary, description=summary, allow_abbrev=False
      )
    )
  return parser


def _doctor(parser: argparse.ArgumentParser) -> None:
  """No options."""
  del parser


def _upscale(parser: argparse.ArgumentParser) -> None:
  parser.description = (
    'Enlarge images. Folders are mirrored below OUT; photo.png becomes '
    'photo_x2.png. Grey, 16 bits and ICC profiles are kept; palettes become '
    'RGB, EXIF orientation is applied; transparency is enlarged by bicubic, '
    'the colour before it premultiplied.'
  )
  parser.add_argument('inputs', nargs='+', metavar='INPUT', type=Path)
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
    help=f'{_MODEL} (default: {_DEFAULT_MODEL})',
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
    help='the blur that made the input, used by mzsr, zssr and '
    f'--back-project: {arguments.SPEC}',
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
    help='of what zssr draws at random (default: 0)',
  )
  parser.add_argument(
    '--reference',
    nargs='+',
    type=Path,
    default=[],
    metavar='FILE',
    help='sharp photographs that lend their texture, for srntt; without them '
    'the image is its own. Also writes NAME_strip.png, which shows bicubic, '
    'result and references, and NAME_similarity.png, white where they match',
  )
  arguments.add_upscaler(parser)
  parser.add_argument(
    '--overwrite',
    action='store_true',
    help='do again what is already in OUT (default: skip it)',
  )


def _evaluate(parser: argparse.ArgumentParser) -> None:
  parser.add_argument('--model', required=True, help=_MODEL)
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
  arguments.add_degradation(parser)
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


def _degrade(parser: argparse.ArgumentParser) -> None:
  parser.description = (
    'Make LR images of HR images: 8-bit PNG under the same names, and '
    'degradation.json, which records how.'
  )
  parser.add_argument(
    '--hr', required=True, type=Path, help='folder or file of large images'
  )
  parser.add_argument(
    '-o', dest='output', required=True, type=Path, metavar='DIR'
  )
  parser.add_argument(
    '--scale', required=True, type=arguments.scale, metavar='S'
  )
  arguments.add_degradation(parser)


def _import(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    'weights',
    type=Path,
    metavar='WEIGHTS',
    help='.pth, .pt, .safetensors, .npz of TensorLayer, or a TensorFlow 1 '
    'checkpoint: NAME, where NAME.index and NAME.data-00000-of-00001 lie',
  )
  parser.add_argument(
    '--model',
    required=True,
    metavar='NAME',
    help='architecture, such as edsr; vgg and alexnet are those of perceptual '
    'losses and lpips',
  )
  parser.add_argument(
    '--variant', metavar='V', help='published size (default: as in the file)'
  )
  parser.add_argument(
    '--scale',
    type=arguments.scale,
    metavar='S',
    help='(default: as in the file, which does not tell it for mzsr)',
  )
  arguments.add_options(
    parser,
    'one option of the architecture that the file does not tell, such as '
    'residual_scale=0.1',
  )
  parser.add_argument(
    '--dual',
    type=Path,
    metavar='FILE',
    help='dual networks to keep beside the weights, as drn has them',
  )
  parser.add_argument(
    '--metric',
    choices=('niqe', 'pi', 'ma'),
    help='of a ranker: what it was trained for; its higher scores must be the '
    'worse ones',
  )
  parser.add_argument(
    '--content',
    type=Path,
    metavar='FILE',
    help='the rest of the network, as upscale.npz is of srntt.npz',
  )
  parser.add_argument(
    '--features',
    metavar='FILE',
    help="VGG19's weights to keep beside the weights, by which srntt matches "
    "references: torchvision's file, or what import made of it",
  )
  parser.add_argument(
    '--sisr',
    metavar='CHECKPOINT',
    help='what enlarges the image before crossnet warps onto it, a model that '
    'sr-jax has (default: bicubic)',
  )
  parser.add_argument(
    '-o', dest='output', required=True, type=Path, metavar='CHECKPOINT'
  )


def _export(parser: argparse.ArgumentParser) -> None:
  parser.add_argument('checkpoint', metavar='CHECKPOINT', help=_MODEL)
  parser.add_argument(
    '--to',
    required=True,
    choices=('safetensors', 'stablehlo'),
    help='the weights; or a program for any image size that needs only JAX',
  )
  parser.add_argument(
    '-o', dest='output', required=True, type=Path, metavar='FILE'
  )


def _interpolate(parser: argparse.ArgumentParser) -> None:
  parser.description = (
    'Make the network between two of one architecture, parameter by '
    'parameter: (1 - ALPHA) A + ALPHA B. Between one trained for PSNR (A) and '
    'a GAN that began with it (B), ALPHA trades fidelity for texture.'
  )
  for name in ('A', 'B'):
    parser.add_argument(
      name.lower(), metavar=name, help='pretrained name or checkpoint folder'
    )
  parser.add_argument(
    '--alpha',
    required=True,
    type=arguments.share,
    metavar='ALPHA',
    help='from 0, which is A, to 1, which is B; 0.8 in ESRGAN',
  )
  parser.add_argument(
    '-o', dest='output', required=True, type=Path, metavar='CHECKPOINT'
  )


def _fit_niqe(parser: argparse.ArgumentParser) -> None:
  parser.description = (
    'Fit the parameters of NIQE to photographs: sharp and free of noise and '
    'artifacts, of 192x96 pixels at least. Scores under different parameters '
    'are not comparable.'
  )
  parser.add_argument('inputs', nargs='+', metavar='PHOTOS', type=Path)
  parser.add_argument(
    '-o', dest='output', required=True, type=Path, metavar='FILE.npz'
  )


def _rank_data(parser: argparse.ArgumentParser) -> None:
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
    f'SRGAN and ESRGAN; each a {_MODEL}',
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


def _info(parser: argparse.ArgumentParser) -> None:
  parser.add_argument('checkpoint', metavar='CHECKPOINT')


# name -> (module of sr_jax.cli, its options, one line)
_COMMANDS: dict[str, tuple[str, Callable[[_Parser], None], str]] = {
  'doctor': (
    'doctor',
    _doctor,
    'Show devices, versions and memory, and check that all works.',
  ),
  'upscale': ('upscale', _upscale, 'Enlarge images.'),
  'evaluate': ('evaluate', _evaluate, 'Measure a model on HR images.'),
  'degrade': ('degrade', _degrade, 'Make LR images of HR images.'),
  'import': (
    'import_weights',
    _import,
    'Turn published weights into a checkpoint.',
  ),
  'export': (
    'export',
    _export,
    'Turn a checkpoint into a file for other software.',
  ),
  'interpolate': (
    'interpolate',
    _interpolate,
    'Make the network between two.',
  ),
  'fit-niqe': (
    'fit_niqe',
    _fit_niqe,
    'Fit the parameters of NIQE to photographs.',
  ),
  'rank-data': (
    'rank_data',
    _rank_data,
    "Make the data set of RankSRGAN's ranker.",
  ),
  'info': ('info', _info, 'Show what a checkpoint holds.'),
}

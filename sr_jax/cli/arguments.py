"""The parser, options that several commands share, and types of values."""

from __future__ import annotations

import argparse
import ast
import math
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from sr_jax.data.kernel_names import KERNELS, MEANING
from sr_jax.errors import UserError

if TYPE_CHECKING:
  from sr_jax.data.degradation import Degradation
  from sr_jax.inference.options import UpscaleOptions

MODEL = (
  'pretrained name, checkpoint folder, bicubic, zssr, zssr-gradual, zssr-shared'
  ' or zssr-each'
)


class Parser(argparse.ArgumentParser):
  """Reports bad usage in one line, and refuses an option given twice."""

  def __init__(self, **options: Any):
    """Takes what `argparse.ArgumentParser` takes."""
    super().__init__(allow_abbrev=False, **options)
    self.given: set[str] = set()
    for action in (None, 'store'):  # what options without an action get
      self.register('action', action, _StoreOnce)

  def error(self, message: str) -> NoReturn:
    """Raises instead of printing the usage.

    Raises:
      UserError: always.
    """
    raise UserError(f'{message} (see {self.prog} --help)')


def as_options(message: str, names: Iterable[str]) -> str:
  """An error of the library with command-line options in place of parameters.

  The library advises `tile=N`, which is `--tile N` on the command line, and
  begins with `patch=8: ` where that parameter is at fault.

  Args:
    message: The error; `scale=2` amid it is a value, no advice, and stays.
    names: The parameters that are options here.
  """
  known = '|'.join(sorted(names))
  fault = rf'^({known})=([^\s:]+)(?=:)'
  advice = rf"(?<![\w.-])({known})=([A-Z]+\b|0\b|auto\b|kernelgan\b|'[^']*')"
  for pattern in (fault, advice):
    message = re.sub(pattern, _as_option, message)
  if 'option' in names:
    message = re.sub(r'\boption (?=\w+=[A-Z])', '--option ', message)
  return message


def _as_option(match: re.Match[str]) -> str:
  return f'--{match[1].replace("_", "-")} {match[2]}'


class _StoreOnce(argparse.Action):
  """Stores a value; argparse's own action would silently keep the last one."""

  def __call__(
    self,
    parser: argparse.ArgumentParser,
    namespace: argparse.Namespace,
    values: str | Sequence[Any] | None,
    option_string: str | None = None,
  ) -> None:
    assert isinstance(parser, Parser)
    if option_string and self.dest in parser.given:
      more = ', with all its values' if self.nargs else ''
      parser.error(f'{option_string} is given twice: give it once{more}')
    parser.given.add(self.dest)
    setattr(namespace, self.dest, values)


def add_debug(parser: argparse.ArgumentParser, *, default: Any) -> None:
  """Adds the option for those who change the code."""
  parser.add_argument(
    '--debug',
    action='store_true',
    default=default,
    help='raise errors with their traceback, as SR_JAX_TRACEBACK=1 does',
  )


def positive(text: str) -> int:
  """Argparse type: a whole number above 0."""
  if not text.isdecimal() or int(text) < 1:
    raise argparse.ArgumentTypeError(f'{text!r} is not a number above 0')
  return int(text)


def scale(text: str) -> int:
  """Argparse type: a scale."""
  if not text.isdecimal() or int(text) < 2:
    raise argparse.ArgumentTypeError(
      f'{text!r} is not a whole number of 2 or more'
    )
  return int(text)


def any_scale(text: str) -> float:
  """Argparse type: a scale above 1, whole or not."""
  try:
    scale = float(text)
  except ValueError:
    scale = math.nan
  if not 1 < scale < math.inf:
    raise argparse.ArgumentTypeError(f'{text!r} is not a number above 1')
  return int(scale) if scale == int(scale) else scale


def steps(text: str) -> int | str:
  """Argparse type: a number of steps from 0, or auto."""
  if text == 'auto' or text.isdecimal():
    return text if text == 'auto' else int(text)
  raise argparse.ArgumentTypeError(f'{text!r} is neither auto nor a number')


def count(text: str) -> int:
  """Argparse type: a whole number from 0."""
  if not text.isdecimal():
    raise argparse.ArgumentTypeError(f'{text!r} is not a number from 0')
  return int(text)


def share(text: str) -> float:
  """Argparse type: a number from 0 to 1."""
  try:
    share = float(text)
  except ValueError:
    share = math.nan
  if not 0 <= share <= 1:
    raise argparse.ArgumentTypeError(f'{text!r} is not a number from 0 to 1')
  return share


def tile(text: str) -> int | str:
  """Argparse type: side of a tile in LR pixels, auto, off or chop."""
  return text if text in ('auto', 'off', 'chop') else positive(text)


def option(text: str) -> tuple[str, Any]:
  """Argparse type: `KEY=VALUE`, a Python literal or plain text as value."""
  key, equals, value = text.partition('=')
  if not key or not equals:
    raise argparse.ArgumentTypeError(f'{text!r}: write KEY=VALUE')
  try:
    return key, ast.literal_eval(value)
  except (ValueError, SyntaxError):
    return key, value


def add_model_options(parser: argparse.ArgumentParser, purpose: str) -> None:
  """Single options of the architecture."""
  parser.add_argument(
    '--option',
    type=option,
    action='append',
    default=[],
    metavar='KEY=VALUE',
    help=f'{purpose}; may be repeated',
  )


def white(text: str) -> float:
  """A positive finite number."""
  value = float(text)
  if not 0 < value < math.inf:
    raise argparse.ArgumentTypeError(f'{text} is not above 0: give a value')
  return value


def add_upscaler(parser: argparse.ArgumentParser) -> None:
  """Adds the options of applying a model to an image."""
  parser.add_argument(
    '--self-ensemble',
    action='store_true',
    help='enlarge the image in its 8 flips and rotations and average the '
    'results, which is usually a little better and takes 8 times as long',
  )
  parser.add_argument(
    '--back-project',
    type=count,
    metavar='N',
    help='number of corrections after the network: each reduces the result '
    'again and adds the difference to the input. 5 to 10 make the result agree '
    'with the input, for measured data, or with a known --kernel; not for '
    'noisy or compressed images, whose faults grow (default: 0; zssr models '
    'choose their own number)',
  )
  parser.add_argument(
    '--adapt-steps',
    type=steps,
    metavar='N|auto',
    help='number of gradient steps by which mzsr and zssr models adapt to each '
    'image: more steps take longer and often restore more. auto stops when '
    'the image is no longer reconstructed better from its own reduction; 0 '
    'turns the adaptation of mzsr off (default: 10 for mzsr models, up to '
    '3,000 for zssr models)',
  )
  parser.add_argument(
    '--iterations',
    type=steps,
    metavar='N|auto',
    help='corrections of the kernel that ikc estimates from the image; auto '
    'stops when they hardly change it, at the latest after 7 (default: auto)',
  )
  parser.add_argument(
    '--tile',
    type=tile,
    default='auto',
    metavar='auto|N|off|chop',
    help='work on tiles of N LR pixels; auto fits them to the memory; the '
    'result is the same but for rcan, san, drn, srnet and crossnet; the '
    'published scores of rcan and san need chop, the four parts of their '
    'test scripts (default: auto)',
  )
  parser.add_argument(
    '--peak',
    type=white,
    default=0.0,
    metavar='VALUE',
    help='value of white in 16-bit files and arrays, if it is not the largest '
    'of their type: 4095 for 12-bit data of a camera or scanner. Without it '
    'such images are taken for nearly black ones (default: the largest value '
    'of the type; upscale scales arrays by their own minimum and maximum)',
  )
  add_model_options(
    parser,
    'one option of the architecture that the weights leave open, such as '
    'steps=2, which ends srfbn after two of its steps',
  )


def upscale_options(args: argparse.Namespace, **others: Any) -> UpscaleOptions:
  """The options that `add_upscaler` and other options of a command describe."""
  from sr_jax.inference.options import UpscaleOptions

  return UpscaleOptions(
    self_ensemble=args.self_ensemble,
    back_project=args.back_project,
    adapt_steps=args.adapt_steps,
    iterations=args.iterations,
    tile=args.tile,
    **others,
  )


def add_degradation(
  parser: argparse.ArgumentParser, sets: Sequence[str] = (), more: str = ''
) -> None:
  """How LR images are made.

  Args:
    parser: The parser of the command.
    sets: Names of sets of kernels that the command takes as well.
    more: What they do, for the help.
  """
  parser.add_argument(
    '--degradation',
    choices=('bicubic', 'direct', 'blur-bicubic', 'real', *sets),
    help='MATLAB resize; blur and take every S-th pixel; blur and MATLAB '
    'resize; or blurs, resizes, noise and JPEG that are drawn for each image'
    f'{more} (default: bicubic)',
  )
  parser.add_argument(
    '--preset',
    choices=('bsrgan', 'realesrgan', 'camera-mild'),
    help='what real draws (default: realesrgan)',
  )
  parser.add_argument(
    '--kernel',
    metavar='SPEC',
    help=f'blur of direct and blur-bicubic: {KERNELS}; {MEANING}',
  )
  parser.add_argument(
    '--noise',
    type=float,
    default=0.0,
    metavar='SIGMA',
    help='add Gaussian noise of SIGMA grey levels (of 255)',
  )
  parser.add_argument(
    '--jpeg',
    type=int,
    metavar='Q',
    help='compress as JPEG of quality Q, 1..100',
  )
  parser.add_argument(
    '--seed',
    type=count,
    default=0,
    help='of the noise, and of what real, zssr and kernelgan draw (default: 0)',
  )


def degradation_of(args: argparse.Namespace) -> Degradation:
  """The degradation that the options of `add_degradation` describe."""
  from sr_jax.data.degradation import REAL, Degradation
  from sr_jax.data.real_presets import DEFAULT

  real = None
  if args.degradation == REAL:
    real = {'preset': args.preset or DEFAULT}
  elif args.preset:
    raise UserError('--preset: give --degradation real as well')
  return Degradation(
    degradation=args.degradation or 'bicubic',
    kernel=args.kernel,
    noise_sigma=args.noise,
    jpeg_quality=args.jpeg,
    seed=args.seed,
    real=real,
  )

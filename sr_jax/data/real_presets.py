"""Ranges of realistic degradations: presets, and changes by a config.

Every operation has a row (share, least, most): the share of the images to which
it is applied, and the range from which its parameter is drawn uniformly. If a
row has a fourth number, the parameter is drawn in steps of this size.

`bsrgan` and `realesrgan` are the ranges of the released code of the two papers,
see `ops.realistic`. `camera-mild` is our own and stands for pictures of a good
camera: lens blur, the noise of photons and amplifier, and JPEG of high quality.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from sr_jax.errors import OneOf, Range, Rules, Section, UserError, check
from sr_jax.ops.kernel_families import FAMILIES, NONE
from sr_jax.ops.per_image import GAUSSIAN, METHODS
from sr_jax.ops.realistic import Limits

Ranges = dict[str, Any]

# Real-ESRGAN's families without sinc: isotropic and anisotropic Gaussians,
# generalised Gaussians and plateaus, as shares.
_MIXED = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
_OFF = (0, 1, 1)
_ANY_METHOD = (1 / 3, 1 / 3, 1 / 3, 0)
_QUALITY = (1.0, 30, 95, 1)


def _families(share: float, sinc: float) -> tuple[float, ...]:
  """Shares of the families if `share` of the images are blurred."""
  return (*(share * (1 - sinc) * part for part in _MIXED), share * sinc)


def _realesrgan(scale: float) -> Ranges:
  del scale  # the ranges are those of x4 at every scale
  blur = {
    'families': _families(1.0, 0.1),
    'taps': (7, 21),
    'sigma': (0.2, 3),
    'variance': (0, 0),
    'generalised_beta': (0.5, 4),
    'plateau_beta': (1, 2),
    'small_cutoff': (1 / 3, 1),
    'large_cutoff': (1 / 5, 1),
  }
  first = {
    **blur,
    'up': (0.2, 1, 1.5),
    'down': (0.7, 0.15, 1),
    'reduce': _OFF,
    'sample': _OFF,
    'methods': _ANY_METHOD,
    'gaussian': (0.5, 1, 30),
    'poisson': (0.5, 0.05, 3),
    'colours': (0.6, 0.4, 0),
  }
  second = {
    **{k: v for k, v in first.items() if k not in ('reduce', 'sample')},
    'families': _families(0.8, 0.1),
    'sigma': (0.2, 1.5),
    'up': (0.3, 1, 1.2),
    'down': (0.4, 0.3, 1),
    'gaussian': (0.5, 1, 25),
    'poisson': (0.5, 0.05, 2.5),
  }
  return {
    'order': 'rounds',
    'halved': (1, 0),
    'halving': _ANY_METHOD,
    'first': {**first, 'jpeg': _QUALITY},
    'second': second,
    'last': {
      'methods': _ANY_METHOD,
      'sinc': (0.8, 1 / 3, 1),
      'taps': (7, 21),
      'jpeg': _QUALITY,
      'jpeg_place': (0.5, 0.5),
    },
  }


def _bsrgan(scale: float) -> Ranges:
  real = _realesrgan(scale)
  blur = {
    'families': (0.5, 0.5, 0, 0, 0, 0, 0),
    'taps': (7, 25),
    'sigma': (0, 2 + 0.2 * scale),
    'variance': (0, 4 + scale),
  }
  return {
    'order': 'shuffled',
    'halved': (0.75, 0.25) if scale == 4 else (1, 0),
    'halving': (1 / 6, 1 / 6, 1 / 6, 1 / 2),
    'first': {
      **real['first'],
      **blur,
      'up': _OFF,
      'down': _OFF,
      'reduce': (0.75, 1, 2 * scale),
      'sample': (0.25, 0.1, 0.6 * scale),
      'gaussian': (1, 2, 25, 1),
      'poisson': _OFF,
      'colours': (0.4, 0.4, 0.2),
      'jpeg': (0.9, 30, 95, 1),
    },
    'second': {
      **real['second'],
      **blur,
      'up': _OFF,
      'down': _OFF,
      'gaussian': _OFF,
      'poisson': _OFF,
    },
    'last': {**real['last'], 'sinc': _OFF, 'jpeg_place': (0, 1)},
  }


def _camera_mild(scale: float) -> Ranges:
  real = _realesrgan(scale)
  first = {
    **real['first'],
    'families': (0.4, 0.4, 0.05, 0.05, 0.05, 0.05, 0),
    'sigma': (0.1, 0.6 * scale),
    'up': _OFF,
    'down': (0.3, 0.8, 1),
    'gaussian': (0.3, 1, 5),
    'poisson': (0.6, 0.05, 0.6),
    'colours': (0.9, 0.1, 0),
    'jpeg': _OFF,
  }
  return {
    **real,
    'first': first,
    'second': {
      **real['second'],
      'families': (0,) * 7,
      'up': _OFF,
      'down': _OFF,
      'gaussian': _OFF,
      'poisson': _OFF,
    },
    'last': {
      **real['last'],
      'sinc': (0.2, 0.6, 1),
      'jpeg': (0.7, 75, 98, 1),
      'jpeg_place': (0, 1),
    },
  }


# name -> ranges at a scale
PRESETS: dict[str, Callable[[float], Ranges]] = {
  'bsrgan': _bsrgan,
  'realesrgan': _realesrgan,
  'camera-mild': _camera_mild,
}
DEFAULT = 'realesrgan'

ORDERS = ('rounds', 'shuffled')


class _Interval(NamedTuple):
  """Rule for a row (least, most) within a range."""

  least: float
  most: float
  odd: bool = False

  @property
  def wanted(self) -> str:
    """Description of the rows that the rule accepts."""
    kind = 'odd numbers' if self.odd else 'numbers'
    return (
      f'(least, most), {kind} from {self.least:g} to {self.most:g}, the least'
      ' first'
    )

  def accepts(self, value: Any) -> bool:
    """Whether it is such a row."""
    if not isinstance(value, (list, tuple)) or len(value) != 2:
      return False
    number = Range(self.least, self.most, whole=self.odd)
    if not all(number.accepts(v) for v in value) or value[0] > value[1]:
      return False
    return not self.odd or all(v % 2 for v in value)


class _Drawn(NamedTuple):
  """Rule for a row (share, least, most), with or without a step."""

  least: float
  most: float

  @property
  def wanted(self) -> str:
    """Description of the rows that the rule accepts."""
    return (
      '(share from 0 to 1, least, most), the last two from'
      f' {self.least:g} to {self.most:g}, the least first'
    )

  def accepts(self, value: Any) -> bool:
    """Whether it is such a row."""
    if not isinstance(value, (list, tuple)) or len(value) not in (3, 4):
      return False
    step = value[3] if len(value) == 4 else 1
    return (
      Range(0, 1).accepts(value[0])
      and _Interval(self.least, self.most).accepts(value[1:3])
      and Range(0, self.most, open='left').accepts(step)
    )


class _Shares(NamedTuple):
  """Rule for shares of the images by alternatives.

  Attributes:
    names: The alternatives.
    whole: Whether the shares sum to 1. Otherwise the rest of the images gets
      none of the alternatives.
  """

  names: Sequence[str]
  whole: bool = True

  @property
  def wanted(self) -> str:
    """Description of the rows that the rule accepts."""
    total = '1' if self.whole else '1 or less'
    return f'the shares of {", ".join(self.names)}, whose sum is {total}'

  def accepts(self, value: Any) -> bool:
    """Whether it is such a row."""
    if not isinstance(value, (list, tuple)) or len(value) != len(self.names):
      return False
    if not all(Range(0, 1).accepts(v) for v in value):
      return False
    total = sum(value)
    return total < 1 + 1e-6 and (not self.whole or total > 1 - 1e-6)


_METHODS = _Shares(METHODS[:GAUSSIAN])
_ROUND: Rules = {
  'families': _Shares(FAMILIES[:NONE], whole=False),
  'taps': _Interval(1, 61, odd=True),
  'sigma': _Interval(0, 30),
  'variance': _Interval(0, 900),
  'generalised_beta': _Interval(0.1, 20),
  'plateau_beta': _Interval(0.1, 20),
  'small_cutoff': _Interval(0.01, 1),
  'large_cutoff': _Interval(0.01, 1),
  'up': _Drawn(1, 4),
  'down': _Drawn(0.02, 1),
  'reduce': _Drawn(1, 50),
  'sample': _Drawn(0, 30),
  'methods': _METHODS,
  'gaussian': _Drawn(0, 255),
  'poisson': _Drawn(0, 100),
  'colours': _Shares(('channels', 'grey', 'covariance')),
}
_JPEG = _Drawn(1, 100)
_SECOND = {k: v for k, v in _ROUND.items() if k not in ('reduce', 'sample')}
_RULES: Rules = {
  'order': OneOf(ORDERS),
  'halved': _Shares(('whole', 'halved')),
  'halving': _METHODS,
  'first': Section({**_ROUND, 'jpeg': _JPEG}),
  'second': Section(_SECOND),
  'last': Section(
    {
      'methods': _METHODS,
      'sinc': _Drawn(0.01, 1),
      'taps': _Interval(1, 61, odd=True),
      'jpeg': _JPEG,
      'jpeg_place': _Shares(('before', 'after')),
    }
  ),
}
# Operations of which an image gets at most one; their shares sum to 1 at most.
_TOGETHER = (('up', 'down', 'reduce', 'sample'), ('gaussian', 'poisson'))
# Operations that the order 'shuffled' does not have.
_UNUSED = (
  *(('second', key) for key in ('up', 'down', 'gaussian', 'poisson')),
  ('last', 'sinc'),
)


def ranges(preset: str, changes: Mapping[str, Any], scale: float) -> Ranges:
  """Returns the ranges of a preset at a scale, with changes.

  Args:
    preset: Name of a preset.
    changes: Values that replace those of the preset, by section; empty values
      change nothing.
    scale: Reduction factor.

  Raises:
    UserError: The preset or a key is unknown, or a value is not accepted.
  """
  path = 'config.degradation.real'
  if preset not in PRESETS:
    near = difflib.get_close_matches(str(preset), PRESETS, n=1)
    hint = f'did you mean {near[0]}?' if near else f'choose from {[*PRESETS]}'
    raise UserError(f'{path}.preset={preset!r}: unknown preset; {hint}')
  merged = _merged(PRESETS[preset](scale), changes)
  check(path, merged, _RULES)
  for name in ('first', 'second'):
    section = merged[name]
    for keys in _TOGETHER:
      if sum(section[key][0] for key in keys if key in section) > 1 + 1e-6:
        raise UserError(
          f'{path}.{name}: the shares of {", ".join(keys)} sum to more than 1'
        )
  if merged['order'] == 'shuffled':
    for name, key in _UNUSED:
      if merged[name][key][0]:
        raise UserError(
          f"{path}.{name}.{key}: order='shuffled' has no such operation; give"
          ' it the share 0'
        )
  return merged


def changed(section: Any) -> bool:
  """Whether `config.degradation.real` differs from its default."""
  if isinstance(section, Mapping):
    return any(changed(value) for value in section.values())
  return section not in (None, (), [], '', DEFAULT)


def _merged(preset: Ranges, changes: Mapping[str, Any]) -> Ranges:
  merged = dict(preset)
  for key, value in changes.items():
    if isinstance(value, Mapping) and isinstance(preset.get(key), dict):
      merged[key] = _merged(preset[key], value)
    elif value not in ((), [], ''):
      merged[key] = value
  return merged


def limits(drawn: Ranges) -> Limits:
  """Bounds of the parameters that are drawn from ranges."""
  first, second = (
    most if share else 1.0
    for share, _, most, *_ in (
      drawn[name]['up'] for name in ('first', 'second')
    )
  )
  sampled = (GAUSSIAN,) if drawn['first']['sample'][0] else ()
  return Limits(
    taps=tuple(drawn[name]['taps'][1] for name in ('first', 'second', 'last')),
    factors=(first, second),
    methods=(
      _used(drawn['halving']) if drawn['halved'][1] else (),
      (*_used(drawn['first']['methods']), *sampled),
      *(_used(drawn[name]['methods']) for name in ('second', 'last')),
    ),
  )


def _used(shares: Sequence[float]) -> tuple[int, ...]:
  """Indices of the methods that are drawn."""
  return tuple(i for i, share in enumerate(shares) if share)

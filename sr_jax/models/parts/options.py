"""Types of a network's options, which define the allowed values.

The type of a network's field defines the range of the option:

class EDSR(base.Network):
  scale: SubPixelScale
  blocks: Count
  residual_scale: float

`check` compares a network with its types before it is traced, so that a typing
error in a config, or the config of a file from the internet, ends in one line.
A plain `int` allows 1 to 4096, a plain `float` any finite number.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import flax.linen as nn

from sr_jax import errors
from sr_jax.errors import FLAG, TEXT, Kind, Many, Range, Row, Rule, whole

# Fields that are not checked here: those of every Linen module, and `dtype`.
_OTHERS = ('parent', 'name', 'dtype')


class Among(NamedTuple):
  """Rule for an option that has one of a few values.

  Attributes:
    values: The allowed numbers or strings.
  """

  values: tuple[Any, ...]

  @property
  def wanted(self) -> str:
    """Description of the allowed values."""
    *most, last = map(repr, self.values)
    return f'{", ".join(most)} or {last}'

  def accepts(self, value: Any) -> bool:
    """Whether the value is one of `values`; True does not count as 1."""
    plain = isinstance(value, int | float | str) and not isinstance(value, bool)
    return plain and value in self.values


class Odd(NamedTuple):
  """Rule for an odd number up to `most`, such as the side of a kernel."""

  most: int

  @property
  def wanted(self) -> str:
    """Description of the range."""
    return f'an odd number from 1 to {self.most}'

  def accepts(self, value: Any) -> bool:
    """Whether the value is an odd number in the range."""
    return whole(1, self.most).accepts(value) and value % 2 == 1


class SubPixel(NamedTuple):
  """Rule for the scale of one or more stages of sub-pixel convolution."""

  @property
  def wanted(self) -> str:
    """Description of the usual scales."""
    return '2, 3, 4 or 8'

  def accepts(self, value: Any) -> bool:
    """Whether the value is 3 or a power of two."""
    if not whole(2, 64).accepts(value):
      return False
    return value == 3 or value & (value - 1) == 0


class Either(NamedTuple):
  """Rule for an option that follows one of several rules."""

  rules: Sequence[Rule]

  @property
  def wanted(self) -> str:
    """Description of the values that one of the rules accepts."""
    return ' or '.join(rule.wanted for rule in self.rules)

  def accepts(self, value: Any) -> bool:
    """Whether one of the rules accepts the value."""
    return any(rule.accepts(value) for rule in self.rules)


# Whole scales.
Scale = Annotated[int, whole(1, 100)]
AnyScale = Annotated[float, Range(1, 100)]
SubPixelScale = Annotated[int, SubPixel()]
# Number of blocks, layers, groups or steps.
Count = Annotated[int, whole(1, 256)]
CountOrNone = Annotated[int, whole(0, 256)]
# Number of channels of a layer.
Width = Annotated[int, whole(1, 4096)]
WidthOrNone = Annotated[int, whole(0, 4096)]
# Number of channels of images.
Channels = Annotated[int, whole(1, 4096)]
KernelSize = Annotated[int, Odd(63)]

_PLAIN: dict[Any, Rule] = {
  int: whole(1, 4096),
  float: Range(-1e6, 1e6),
  bool: FLAG,
  str: TEXT,
  types.NoneType: Kind(types.NoneType, 'None'),
}


def check(network: nn.Module) -> None:
  """Checks that options have values that the types of their fields allow.

  Raises:
    UserError: An option has another value; the error names the first one and
      the allowed values.
  """
  hints = typing.get_type_hints(type(network), include_extras=True)
  names = [field.name for field in dataclasses.fields(network)]
  names = [name for name in names if name not in _OTHERS]
  errors.check(
    'config.model',
    {name: getattr(network, name) for name in names},
    {name: _rule(hints[name]) for name in names},
  )


def _rule(hint: Any) -> Rule:
  """Returns the rule of a field's type."""
  origin, parts = typing.get_origin(hint), typing.get_args(hint)
  if origin is Annotated:
    return parts[1]
  if origin in (typing.Union, types.UnionType):
    return Either([_rule(part) for part in parts])
  if origin is tuple and Ellipsis not in parts:
    return Row([_rule(part) for part in parts])
  if origin in (tuple, list, Sequence):
    return _Short(Many(_rule(parts[0])))
  return _PLAIN.get(hint, errors.ANYTHING)


class _Short(NamedTuple):
  """Rule for a list of at most 64 entries."""

  entries: Many

  @property
  def wanted(self) -> str:
    """Description of the entries."""
    return self.entries.wanted

  def accepts(self, value: Any) -> bool:
    """Whether the value is a list that the rule allows."""
    return self.entries.accepts(value) and len(value) <= 64

"""The exception for what a user can mend, and the ranges of config values."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

# Largest whole number of a config: steps are counted in int32.
_MOST_WHOLE = 2**31 - 1
# Largest of the other numbers, where no smaller one is given.
_MOST = 1e9


def printable(text: object) -> str:
  r"""Text from a file as one line that is safe to print.

  What could move a terminal's cursor, change its colours or hide letters is
  written as an escape such as `\x1b`.
  """
  return ''.join(
    c if c.isprintable() else c.encode('unicode_escape').decode()
    for c in str(text)
  )


def counted(number: int, noun: str) -> str:
  """A number of things in words, such as `1 image` or `1,200 images`.

  Args:
    number: How many.
    noun: The name of one, whose plural takes an s, or es after ch.
  """
  ending = '' if number == 1 else 'es' if noun.endswith('ch') else 's'
  return f'{number:,} {noun}{ending}'


class UserError(ValueError):
  """A fault of input or usage: one line that names it and how to mend it.

  The command line prints the message and exits with status 2; library callers
  may catch it as the ValueError it is. A message may quote names out of files
  that strangers made, so what is not printable in it is escaped; line breaks
  are kept, since a list of differences follows the line of some messages.
  """

  def __init__(self, message: object = '') -> None:
    super().__init__('\n'.join(map(printable, str(message).split('\n'))))


def wants_traceback() -> bool:
  """Whether SR_JAX_TRACEBACK=1 asks to raise errors instead of reporting them.

  For those who change the code: one line hides the file and line of a fault.
  """
  return os.environ.get('SR_JAX_TRACEBACK') == '1'


class Rule(Protocol):
  """Which values a config key takes.

  Attributes:
    wanted: The accepted values in words, as an error message names them.
  """

  @property
  def wanted(self) -> str:
    """Such as `a number from 0 to below 1`."""
    ...

  def accepts(self, value: Any) -> bool:
    """Whether the key may have this value."""
    ...


class Range(NamedTuple):
  """Rule for a key that holds one finite number.

  Attributes:
    least: Lower end.
    most: Upper end.
    open: Which ends are not accepted themselves.
    whole: Whether only whole numbers are accepted.
  """

  least: float = 0
  most: float = _MOST
  open: Literal['', 'left', 'right', 'both'] = ''
  whole: bool = False

  @property
  def wanted(self) -> str:
    """The range in words."""
    kind = 'a whole number' if self.whole else 'a number'
    ends = [f'{n}' if self.whole else f'{n:g}' for n in self[:2]]
    lower = 'above' if self.open in ('left', 'both') else 'from'
    below = 'below ' if self.open in ('right', 'both') else ''
    return f'{kind} {lower} {ends[0]} to {below}{ends[1]}'

  def accepts(self, value: Any) -> bool:
    """Whether it is a number within the range; NaN is within none."""
    kinds = int if self.whole else (int, float)
    if not isinstance(value, kinds) or isinstance(value, bool):
      return False
    if self.open in ('left', 'both') and value == self.least:
      return False
    if self.open in ('right', 'both') and value == self.most:
      return False
    return bool(self.least <= value <= self.most)


def whole(least: int = 0, most: int = _MOST_WHOLE) -> Range:
  """Rule for a key that holds one whole number."""
  return Range(least, most, whole=True)


class Kind(NamedTuple):
  """Rule for a key whose value only has to be of one type."""

  type: type
  wanted: str

  def accepts(self, value: Any) -> bool:
    """Whether the type agrees."""
    return isinstance(value, self.type)


TEXT = Kind(str, 'text in quotes')
FLAG = Kind(bool, 'True or False')
SECTION = Kind(dict, 'a section with keys of its own')
ANYTHING = Kind(object, 'anything')


class OneOf(NamedTuple):
  """Rule for a key that names one of several things."""

  names: Sequence[str]

  @property
  def wanted(self) -> str:
    """The names."""
    return 'one of ' + ', '.join(map(repr, self.names))

  def accepts(self, value: Any) -> bool:
    """Whether it is one of the names."""
    return isinstance(value, str) and value in self.names


class Many(NamedTuple):
  """Rule for a key that holds a list, every entry by the same rule."""

  entry: Rule
  least: int = 0

  @property
  def wanted(self) -> str:
    """What the list holds."""
    return f'a list of {self.least} or more entries, each {self.entry.wanted}'

  def accepts(self, value: Any) -> bool:
    """Whether it is a list, long enough, whose entries are accepted."""
    if not isinstance(value, (list, tuple)) or len(value) < self.least:
      return False
    return all(self.entry.accepts(entry) for entry in value)


class Row(NamedTuple):
  """Rule for a key that holds a fixed number of values, each by its rule."""

  entries: Sequence[Rule]

  @property
  def wanted(self) -> str:
    """What the row holds."""
    return f'({", ".join(entry.wanted for entry in self.entries)})'

  def accepts(self, value: Any) -> bool:
    """Whether it has as many values as there are rules, all accepted."""
    if not isinstance(value, (list, tuple)) or len(value) != len(self.entries):
      return False
    return all(e.accepts(v) for e, v in zip(self.entries, value, strict=True))


class Optional(NamedTuple):
  """Rule for a key that the section may lack."""

  entry: Rule

  @property
  def wanted(self) -> str:
    """Description of the values that the rule accepts."""
    return self.entry.wanted

  def accepts(self, value: Any) -> bool:
    """Whether its value is accepted, if there is one."""
    return self.entry.accepts(value)


class Section(NamedTuple):
  """Rule for a section within a section: `check` looks at its keys by name."""

  rules: Rules

  @property
  def wanted(self) -> str:
    """Which keys it has."""
    return f'a section with the keys {_list(self.rules)}'

  def accepts(self, value: Any) -> bool:
    """Whether it is a section at all."""
    return isinstance(value, Mapping)


Rules = Mapping[str, Rule]


def check(path: str, section: Any, rules: Rules) -> None:
  """Refuses a section of the config that does not keep to its rules.

  check('config.optimizer', section, {'b1': Range(0, 1, open='right')}) raises
  `config.optimizer.b1=1.5: give a number from 0 to below 1`.

  Args:
    path: Path of the section in messages.
    section: Its keys and values.
    rules: By key.

  Raises:
    UserError: a key is unknown or missing, or its value is not accepted.
  """
  if not isinstance(section, Mapping):
    raise UserError(f'{path}={_shown(section)}: give {SECTION.wanted}')
  for key in section:
    if key not in rules:
      near = difflib.get_close_matches(str(key), rules, n=1)
      hint = f'did you mean {near[0]}?' if near else f'it has {_list(rules)}'
      raise UserError(f'{path} has no key {key!r}: {hint}')
  for key, rule in rules.items():
    if isinstance(rule, Optional):
      if key not in section:
        continue
      rule = rule.entry
    if key not in section:
      raise UserError(f'{path}.{key} is missing: give {rule.wanted}')
    value = section[key]
    if not rule.accepts(value):
      raise UserError(f'{path}.{key}={_shown(value)}: give {rule.wanted}')
    if isinstance(rule, Section):
      check(f'{path}.{key}', value, rule.rules)


def _list(rules: Rules) -> str:
  return ', '.join(sorted(rules)) or 'none'


def _shown(value: Any) -> str:
  """A value as a message shows it, on one line and not too long."""
  text = f'{value:g}' if isinstance(value, float) else repr(value)
  return text if len(text) <= 60 else f'{text[:57]}...'

"""Escaping of untrusted text, and ranges of config values."""

import math

import pytest

from sr_jax.errors import (
  ANYTHING,
  FLAG,
  TEXT,
  Many,
  OneOf,
  Optional,
  Range,
  Row,
  Section,
  UserError,
  check,
  counted,
  printable,
  whole,
)

RULES = {
  'b1': Range(0, 1, open='right'),
  'eps': Range(0, 1, open='both'),
  'steps': whole(1),
  'name': OneOf(('adam', 'sgd')),
  'flag': FLAG,
  'pairs': Many(Row((TEXT, Range()))),
  'scales': Many(Range(1, 8), least=1),
  'inner': Section({'rate': Range(0, 1)}),
  'later': Optional(whole()),
  'model': ANYTHING,
}
SECTION = {
  'b1': 0,
  'eps': 0.5,
  'steps': 2**31 - 1,
  'name': 'sgd',
  'flag': False,
  'pairs': [['*/bias', 0.1]],
  'scales': (1, 2.5),
  'inner': {'rate': 1},
  'model': None,
}


def test_values_within_their_ranges_pass():
  check('config', SECTION, RULES)
  check('config', SECTION | {'later': 0}, RULES)


@pytest.mark.parametrize(
  ('key', 'values', 'wanted'),
  [
    (
      'b1',
      [1.5, 1, -1, math.nan, math.inf, 2**63, 10**400, '0.5', True, None, ()],
      'a number from 0 to below 1',
    ),
    ('eps', [0, 1.0, -math.inf], 'a number above 0 to below 1'),
    (
      'steps',
      [0, 2**31, 2**63, 1.0, math.nan, False, [1]],
      'a whole number from 1 to 2147483647',
    ),
    ('name', ['adamm', 1, ['sgd'], None], "one of 'adam', 'sgd'"),
    ('flag', [0, 'yes', None], 'True or False'),
    (
      'pairs',
      [[['a', -1]], [['a']], 'ab', [3], {'a': 1}, [[1, 1]]],
      'a list of 0 or more entries, each (text in quotes, a number from 0 to'
      ' 1e+09)',
    ),
    ('scales', [(), [0.5], 2], 'a list of 1 or more entries, each a number'),
    ('later', [-1, None], 'a whole number from 0'),
  ],
)
def test_values_out_of_range_are_refused_in_one_line(key, values, wanted):
  for value in values:
    with pytest.raises(UserError) as caught:
      check('config.optimizer', SECTION | {key: value}, RULES)
    line = str(caught.value)
    assert line.startswith(f'config.optimizer.{key}=')
    assert f': give {wanted}' in line
    assert '\n' not in line
    assert len(line) < 250


def test_the_line_names_the_value():
  with pytest.raises(UserError) as caught:
    check('config.optimizer', {'b1': 1.5}, {'b1': RULES['b1']})
  assert str(caught.value) == (
    'config.optimizer.b1=1.5: give a number from 0 to below 1'
  )


def test_unknown_and_missing_keys_are_refused():
  with pytest.raises(UserError, match=r"config has no key 'stepss': did you"):
    check('config', SECTION | {'stepss': 1}, RULES)
  with pytest.raises(UserError, match=r"no key 'zzz': it has b1, eps"):
    check('config', SECTION | {'zzz': 1}, RULES)
  less = {k: v for k, v in SECTION.items() if k != 'flag'}
  with pytest.raises(UserError, match=r'config\.flag is missing'):
    check('config', less, RULES)


def test_sections_within_sections_are_checked():
  with pytest.raises(UserError, match=r'config\.inner\.rate=2: give'):
    check('config', SECTION | {'inner': {'rate': 2}}, RULES)
  for value in (3, None, [], 'rate'):
    with pytest.raises(UserError, match=r'config\.inner=.*: give a section'):
      check('config', SECTION | {'inner': value}, RULES)


@pytest.mark.parametrize(
  ('text', 'safe'),
  [
    ('größe 3', 'größe 3'),
    ('a\x1b[31mred\x07', r'a\x1b[31mred\x07'),
    ('two\nlines\r', r'two\nlines\r'),
    ('\u202egnp.exe', r'\u202egnp.exe'),  # right to left
    ('\udc80', r'\udc80'),  # a byte of a file name that is no text
  ],
)
def test_untrusted_text_is_escaped(text, safe):
  """W11: control characters in names of a file reached the terminal."""
  assert printable(text) == safe


def test_messages_are_escaped_line_by_line():
  error = UserError('a.mat: holds \x1b[2J\n- missing')
  assert str(error) == 'a.mat: holds \\x1b[2J\n- missing'


def test_one_thing_is_not_many():
  """Messages said `1 patches`."""
  assert counted(1, 'patch') == '1 patch'
  assert counted(0, 'patch') == '0 patches'
  assert counted(1234, 'image') == '1,234 images'

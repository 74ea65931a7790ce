"""The README's commands parse, its code compiles, its links lead somewhere."""

import pathlib
import re
import shlex

import pytest

from sr_jax.cli.main import make_parser
from sr_jax.data.kernel_names import KERNELS, KERNELS_TO_TRY
from tests.test_configs import parse_train_flags

ROOT = pathlib.Path(__file__).parent.parent
TEXT = (ROOT / 'README.md').read_text()
FENCES = re.findall(r'^```(\w*)\n(.*?)^```$', TEXT, re.M | re.S)
PROSE = re.sub(r'^```.*?^```$', '', TEXT, flags=re.M | re.S)


def _blocks(language):
  return [body for name, body in FENCES if name == language]


def _commands():
  """Every single command of the bash blocks, as its words."""
  commands = []
  for block in _blocks('bash'):
    for line in block.replace('\\\n', ' ').splitlines():
      shell = shlex.shlex(line, posix=True, punctuation_chars='&|;')
      shell.whitespace_split = True
      command = []
      for word in [*shell, ';']:
        if not set(word) <= set('&|;'):
          command.append(word)
        elif command:
          commands.append(command)
          command = []
  return commands


def _starting(*words):
  found = [c[len(words) :] for c in _commands() if c[: len(words)] == [*words]]
  return [
    pytest.param(arguments, id=' '.join(arguments)) for arguments in found
  ]


SR_JAX = _starting('sr-jax')
TRAIN = _starting('python', 'train.py')
LINKS = sorted(set(re.findall(r'\]\(([^)\s]+)\)', PROSE)))


def test_there_is_something_to_check():
  assert len(re.findall('^```', TEXT, re.M)) == 2 * len(FENCES)
  assert len(SR_JAX) >= 5
  assert len(TRAIN) >= 2
  assert _blocks('python')
  assert LINKS


def test_kernels_are_listed_as_in_help_and_errors(capsys):
  """README, `--help` and the error gave three different lists of kernels."""
  assert f'`{KERNELS_TO_TRY}`' in TEXT
  for command, kernels in [('upscale', KERNELS_TO_TRY), ('degrade', KERNELS)]:
    with pytest.raises(SystemExit):
      make_parser().parse_args([command, '--help'])
    assert kernels in ' '.join(capsys.readouterr().out.split())


@pytest.mark.parametrize('arguments', SR_JAX)
def test_sr_jax_command_parses(arguments):
  parsed = make_parser().parse_args(arguments)
  assert parsed.command == arguments[0]


@pytest.mark.parametrize('arguments', TRAIN)
def test_train_command_parses(arguments, monkeypatch):
  monkeypatch.chdir(ROOT)
  assert parse_train_flags(arguments).steps > 0


@pytest.mark.parametrize(
  'flag',
  [
    '--config.data.sorce=embedded',
    '--config.steps=many',
    '--config=configs/none.py',
    '--stesp=3',
  ],
)
def test_wrong_train_command_is_noticed(flag, monkeypatch):
  monkeypatch.chdir(ROOT)
  with pytest.raises(Exception, match=r'sorce|many|none\.py|stesp'):
    parse_train_flags(['--config=configs/edsr.py', '--workdir=x', flag])


def test_flags_in_the_text_are_accepted(monkeypatch):
  monkeypatch.chdir(ROOT)
  named = re.findall(r'`(--config\.[\w.]+=[^`\s]+)', PROSE.replace('\n', ' '))
  assert len(named) >= 4
  for flag in named:
    where = ('--config', 'configs/edsr.py', '--workdir', 'x')
    parse_train_flags([*where, flag])


@pytest.mark.parametrize('code', _blocks('python'))
def test_python_block_compiles(code):
  compile(code, 'README.md', 'exec')


@pytest.mark.parametrize('target', LINKS)
def test_link_leads_somewhere(target):
  path, _, anchor = target.partition('#')
  if '://' in path:
    return  # the network is not asked
  assert (ROOT / path).exists()
  if anchor and not path:
    headings = re.findall(r'^#+ (.+)$', PROSE, re.M)
    slugs = [
      re.sub(r'[^\w -]', '', h.lower()).replace(' ', '-') for h in headings
    ]
    assert anchor in slugs

"""README and docs: commands parse, code compiles, links lead somewhere."""

import ast
import functools
import pathlib
import pkgutil
import re
import runpy
import shlex
import textwrap
from typing import NamedTuple

import pytest

import sr_jax
from sr_jax.cli.main import make_parser
from sr_jax.data.kernel_names import KERNELS, KERNELS_TO_TRY
from tests.test_configs import parse_train_flags

ROOT = pathlib.Path(__file__).parent.parent
DOCS = ROOT / 'docs'


class Page(NamedTuple):
  """A page and its parts.

  Attributes:
    path: The file.
    text: All of it.
    fences: (language, content) of the code blocks.
    prose: The text without code blocks.
  """

  path: pathlib.Path
  text: str
  fences: list[tuple[str, str]]
  prose: str

  def blocks(self, language):
    return [body for name, body in self.fences if name == language]


def _page(path):
  text = path.read_text()
  fence = re.compile(r'^( *)```([^\n`]*)\n(.*?)^\1```$', re.M | re.S)
  fences = [
    (language, textwrap.dedent(body))
    for _, language, body in fence.findall(text)
  ]
  return Page(path, text, fences, fence.sub('', text))


PAGES = [
  _page(path)
  for path in (ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *DOCS.glob('*.md'))
]
every_page = pytest.mark.parametrize('page', PAGES, ids=lambda p: p.path.stem)


def _words(line):
  """The single commands of a line of shell, as their words."""
  shell = shlex.shlex(line, posix=True, punctuation_chars='&|;')
  shell.whitespace_split = True
  command = []
  for word in [*shell, ';']:
    if not set(word) <= set('&|;'):
      command.append(word)
    elif command:
      yield command
      command = []


def _commands(*start):
  """Arguments of the commands of all pages that start with these words."""
  found = {}
  for page in PAGES:
    for block in page.blocks('bash'):
      for line in block.replace('\\\n', ' ').splitlines():
        for command in _words(line):
          if tuple(command[: len(start)]) == start:
            found[' '.join(command)] = command[len(start) :]
  return [pytest.param(words, id=line) for line, words in found.items()]


SR_JAX = _commands('sr-jax')
TRAIN = _commands('python', 'train.py')


def test_there_is_something_to_check():
  assert len(PAGES) >= 22
  for page in PAGES:
    assert page.text.count('```') == 2 * len(page.fences)
  assert len(SR_JAX) >= 30
  assert len(TRAIN) >= 15
  assert sum(len(page.blocks('python')) for page in PAGES) >= 5


def test_readme_is_short():
  """It was manual and lab book at once, of a thousand lines."""
  assert len((ROOT / 'README.md').read_text().splitlines()) <= 200


def test_index_names_every_page():
  """In its text, and in its lists for the site."""
  index = (DOCS / 'index.md').read_text()
  pages = {path.stem for path in DOCS.glob('*.md')} - {'index'}
  assert not {name for name in pages if f'({name}.md)' not in index}
  assert not pages - set(index.splitlines())
  notebooks = (ROOT / 'colabs').glob('*.ipynb')
  names = {f'generated/colabs/{path.stem}' for path in notebooks}
  assert not names - set(index.splitlines())


def test_error_texts_exist():
  """Each message of the tables, between placeholders, is text of the code."""
  text = (DOCS / 'troubleshooting.md').read_text()
  rows = re.findall(r'^\| ([^|]+) \|', text, re.M)
  quoted = [part for row in rows for part in re.findall(r'`([^`]+)`', row)]
  pieces = [piece.strip() for message in quoted for piece in message.split('…')]
  files = [ROOT / 'train.py', *(ROOT / 'sr_jax').rglob('*.py')]
  strings = ' '.join(
    node.value
    for file in files
    for node in ast.walk(ast.parse(file.read_text()))
    if isinstance(node, ast.Constant) and isinstance(node.value, str)
  )
  assert len(pieces) >= 40
  assert not [piece for piece in pieces if piece not in strings]


def test_api_page_names_every_module():
  text = (DOCS / 'api.md').read_text()
  listed = set(re.findall(r'^   sr_jax\.(\w+)$', text, re.M))
  modules = {m.name for m in pkgutil.iter_modules(sr_jax.__path__)}
  assert listed == modules - {'__main__', 'cli'}


def test_site_turns_docstrings_into_restructuredtext():
  """Tables were block quotes, and `Object`s ended the code too late."""
  conf = runpy.run_path(str(DOCS / 'conf.py'))
  lines = [
    'Some `Object`s and `{"a": 1}`.',
    '',
    '  name  `x`',
    '        more',
    '',
    '  next  one',
    '',
    'Args:',
    '  x: the `size',
    '    of` it',
  ]
  conf['_docstring'](None, 'module', 'm', None, None, lines)
  assert lines == [
    'Some ``Object``\\ s and ``{"a": 1}``.',
    '',
    '::',
    '',
    '  name  `x`',
    '        more',
    '',
    '  next  one',
    '',
    'Args:',
    '  x: the ``size',
    '    of`` it',
    '',
  ]


def test_site_links_to_its_own_pages():
  conf = runpy.run_path(str(DOCS / 'conf.py'))
  text = '[a](../sr_jax/ops/__init__.py) [b](../CONTRIBUTING.md#x) [c](x)'
  assert conf['_link'](text, '../', 'generated/') == (
    '[a](generated/api/sr_jax.ops.rst) [b](generated/contributing.md#x) [c](x)'
  )


def test_kernels_are_listed_as_in_help_and_errors(capsys):
  """README, `--help` and the error gave three different lists of kernels."""
  assert f'`{KERNELS_TO_TRY}`' in (DOCS / 'adapt.md').read_text()
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


def _accepted(flag, config):
  try:
    parse_train_flags(['--config', config, '--workdir', 'x', flag])
  except AttributeError:  # a key of another method
    return False
  return True


def test_flags_in_the_text_are_accepted(monkeypatch):
  """Each by one of the configs that its page names, or by edsr.py."""
  monkeypatch.chdir(ROOT)
  count = 0
  for page in PAGES:
    configs = {'configs/edsr.py', *re.findall(r'configs/\w+\.py', page.text)}
    configs = sorted(name for name in configs if (ROOT / name).is_file())
    for flag in re.findall(r'`(--config\.[\w.]+=[^`\s]+)', page.prose):
      count += 1
      assert any(_accepted(flag, config) for config in configs), flag
  assert count >= 10


@every_page
def test_python_blocks_compile(page):
  for code in page.blocks('python'):
    compile(code, page.path.name, 'exec')


@functools.cache
def _anchors(path):
  """Anchors of the headings, as GitHub makes them."""
  headings = re.findall(r'^#+ (.+)$', _page(path).prose, re.M)
  return {
    re.sub(r'[^\w -]', '', heading.lower()).replace(' ', '-')
    for heading in headings
  }


def _broken(page):
  """Links of a page that lead nowhere; the network is not asked."""
  for target in re.findall(r'\]\(([^)\s]+)\)', page.prose):
    path, _, anchor = target.partition('#')
    if '://' in path:
      continue
    file = (page.path.parent / path).resolve() if path else page.path
    inside = file.is_relative_to(ROOT) and file.is_file()
    if not inside or (anchor and anchor not in _anchors(file)):
      yield target


@every_page
def test_links_lead_somewhere(page):
  assert not list(_broken(page))


def test_broken_links_are_noticed():
  text = '[a](none.md) [b](train.md#nowhere) [c](#no) [d](train.md#resume)'
  page = Page(DOCS / 'x.md', text, [], text)
  assert list(_broken(page._replace(path=DOCS / 'train.md'))) == [
    'none.md',
    'train.md#nowhere',
    '#no',
  ]


@every_page
def test_named_scripts_exist(page):
  """`python -m benchmarks.NAME` in text and commands."""
  for name in re.findall(r'python -m\s+benchmarks\.(\w+)', page.text):
    assert (ROOT / 'benchmarks' / f'{name}.py').is_file(), name

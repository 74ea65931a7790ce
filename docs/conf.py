"""Settings of the documentation site, for Sphinx.

  pip install '.[docs]'
  sphinx-build -W --keep-going docs docs/_build/html

Notebooks are shown as they are stored, without results. SR_JAX_DOCS_EXECUTE=1
executes them at full size, which takes more than half an hour on CPU.
"""

from __future__ import annotations

import json
import os
import pathlib
import re

import sr_jax

DOCS = pathlib.Path(__file__).parent
ROOT = DOCS.parent
GENERATED = DOCS / 'generated'

project = 'sr_jax'
version = release = sr_jax.__version__
extensions = [
  'myst_nb',
  'sphinx.ext.autodoc',
  'sphinx.ext.autosummary',
  'sphinx.ext.napoleon',
]
exclude_patterns = ['_build', '_templates']
templates_path = ['_templates']

html_theme = 'sphinx_book_theme'
html_title = f'sr_jax {release}'
html_theme_options = {'navigation_depth': 2, 'show_toc_level': 2}

myst_heading_anchors = 4

_execute = os.environ.get('SR_JAX_DOCS_EXECUTE') == '1'
if _execute:  # notebooks import configs/
  paths = [str(ROOT), *filter(None, [os.environ.get('PYTHONPATH')])]
  os.environ['PYTHONPATH'] = os.pathsep.join(paths)
nb_execution_mode = 'force' if _execute else 'off'
nb_execution_timeout = -1
nb_execution_raise_on_error = True

autosummary_generate = True
autodoc_default_options = {'member-order': 'bysource'}
autodoc_typehints = 'signature'
napoleon_use_ivar = True

_CODE = re.compile(r'(?<!`)`([^`]+)`(\w?)(?!`)')


def _link(text: str, root: str, here: str) -> str:
  """Leads links to files of the repository to the pages that show them.

  Args:
    text: A page.
    root: The path from the page to the root of the repository, in its links.
    here: The path from the page to the folder of generated pages.
  """
  root = re.escape(root)
  text = re.sub(
    rf'\]\({root}CONTRIBUTING\.md', f']({here}contributing.md', text
  )
  text = re.sub(rf'\]\({root}(colabs/\w+\.ipynb)', rf']({here}\1', text)

  def module(match: re.Match) -> str:
    name = match[1].replace('/', '.').removesuffix('.__init__')
    return f']({here}api/{name}.rst)'

  return re.sub(rf'\]\({root}(sr_jax/[\w/]+)\.py\)', module, text)


def _copy_pages() -> None:
  """Copies what the site shows and does not lie in its folder."""
  (GENERATED / 'colabs').mkdir(parents=True, exist_ok=True)
  for path in (ROOT / 'colabs').glob('*.ipynb'):
    notebook = json.loads(path.read_text())
    notebook['cells'] = [
      cell
      for cell in notebook['cells']
      if 'colab-only' not in cell['metadata'].get('tags', ())
    ]
    (GENERATED / 'colabs' / path.name).write_text(json.dumps(notebook))
  text = _link((ROOT / 'CONTRIBUTING.md').read_text(), '', '')
  text = re.sub(r'\]\((?!api/)(\w+/)', r'](../../\1', text)
  (GENERATED / 'contributing.md').write_text(text)


def _read(app, docname: str, source: list[str]) -> None:
  """Changes the links of a page of this folder."""
  del app
  if '/' not in docname:
    source[0] = _link(source[0], '../', 'generated/')


def _docstring(app, what, name, of, options, lines: list[str]) -> None:
  """Turns a docstring into reStructuredText, before its sections are read.

  An indented block after an empty line is a table or a command, whose lines
  stay as they are. Elsewhere names between single backticks are code.
  """
  del app, what, name, of, options
  blocks = []
  before, literal = 0, None  # indentations of the last line, and of a table
  for block in '\n'.join(lines).strip('\n').split('\n\n'):
    indent = _indent(block)
    if literal is None or indent < literal:
      literal = indent if indent > before else None
      if literal:
        blocks.append(' ' * before + '::')
    if literal is None:
      block = _CODE.sub(_code, block)
      before = _indent(block.rpartition('\n')[2])
    blocks.append(block)
  lines[:] = [*'\n\n'.join(blocks).splitlines(), '']


def _code(match: re.Match) -> str:
  # The end of the code is marked where a letter follows, as in `Object`s.
  return f'``{match[1]}``' + ('\\ ' if match[2] else '') + match[2]


def _indent(text: str) -> int:
  return len(text) - len(text.lstrip(' '))


def setup(app) -> None:
  """Called by Sphinx."""
  _copy_pages()
  app.connect('source-read', _read)
  app.connect('autodoc-process-docstring', _docstring, priority=400)

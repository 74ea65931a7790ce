"""The package as a whole: light imports, no TensorFlow, no torch."""

import pathlib
import subprocess
import sys

import pytest

import sr_jax

# Makes packages look as if they were not installed.
BLOCK = """
import builtins, importlib.util, sys
real_import, real_find = builtins.__import__, importlib.util.find_spec
def blocked(name):
  return name.split('.')[0] in ('tensorflow', 'torch', 'tensorboard')
def guarded_import(name, *args, **kwargs):
  if blocked(name):
    raise ModuleNotFoundError(f'No module named {name!r}', name=name)
  return real_import(name, *args, **kwargs)
builtins.__import__ = guarded_import
importlib.util.find_spec = (
  lambda name, package=None: None if blocked(name) else real_find(name, package)
)
"""


def _python(code, *arguments):
  return subprocess.run(
    [sys.executable, '-c', code, *map(str, arguments)],
    capture_output=True,
    text=True,
    timeout=240,
    check=False,
  )


def test_core_imports_without_tensorflow_and_torch():
  code = (
    BLOCK
    + """
import importlib, pkgutil, sr_jax
names = [m.name for m in pkgutil.walk_packages(sr_jax.__path__, 'sr_jax.')]
for name in names:
  importlib.import_module(name)
print(len(names))
"""
  )
  result = _python(code)
  assert result.returncode == 0, result.stderr
  assert int(result.stdout) > 40


@pytest.mark.nightly
def test_core_trains_and_upscales_without_tensorflow_and_torch(tmp_path):
  code = (
    BLOCK
    + """
import numpy as np
sys.path.insert(0, '.')
from tests import tiny
import sr_jax
from sr_jax import train_loop
train_loop.train_and_evaluate(tiny.config(steps=2), sys.argv[1])
sr = sr_jax.upscale(sr_jax.load(sys.argv[1]), np.zeros((6, 5, 3), np.uint8))
print(sr.shape)
"""
  )
  result = _python(code, tmp_path)
  assert result.stdout.splitlines()[-1:] == ['(12, 10, 3)'], result.stderr


def test_import_is_light():
  code = (
    'import sys, sr_jax; print("jax" in sys.modules, "numpy" in sys.modules)'
  )
  assert _python(code).stdout.split() == ['False', 'False']


def test_public_names_can_be_found():
  """B20: `dir(sr_jax)` showed neither load nor upscale; types were hidden."""
  code = """
import importlib.resources, sys, sr_jax
names = ['SRModel', 'UpscaleOptions', 'Upscaler', '__version__', 'load']
names += ['loadable', 'upscale']
print(names == dir(sr_jax), 'jax' in sys.modules)
print(sr_jax.Upscaler.__module__, hasattr(sr_jax, 'none'))
print(importlib.resources.files('sr_jax').joinpath('py.typed').is_file())
"""
  words = _python(code).stdout.split()
  assert words == [
    *('True', 'False', 'sr_jax.inference.upscaler', 'False', 'True'),
  ]


def test_few_modules_lie_at_the_root():
  """Ten at most; `__main__` is only the name that `python -m` asks for."""
  root = pathlib.Path(sr_jax.__file__).parent
  names = {path.stem for path in root.glob('*.py')} - {'__init__', '__main__'}
  assert len(names) <= 10, names


def test_train_py_needs_no_exception_from_the_linter():
  """Its imports stood below code, under three `noqa` comments."""
  text = (pathlib.Path(sr_jax.__file__).parents[1] / 'train.py').read_text()
  assert 'noqa' not in text

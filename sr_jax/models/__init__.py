"""Architectures: one paper per file, found by module name.

A network gives `(sr, aux)`. Where losses may see more than SR, `aux['outputs']`
holds all images they see, in the order they are made; the last one is SR.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

from sr_jax.errors import UserError
from sr_jax.models import critics, features

if TYPE_CHECKING:
  import flax.linen as nn

_DTYPES = ('float32', 'bfloat16', 'float16')


def names() -> list[str]:
  """Names of all architectures that enlarge, one per file of this package."""
  return _files_of(__path__)


def critic_names() -> list[str]:
  """Names of the networks that judge images, one per file of `critics`."""
  return _files_of(critics.__path__)


def feature_names() -> list[str]:
  """Names of the networks that only give features for losses and metrics."""
  return _files_of(features.__path__)


def _files_of(path: Iterable[str]) -> list[str]:
  return sorted(m.name for m in pkgutil.iter_modules(path) if not m.ispkg)


def module(name: str) -> ModuleType:
  """The file of one architecture; it offers `Model`, `VARIANTS`, `TORCH_NAMES`.

  Raises:
    UserError: no architecture has this name.
  """
  if name in names():
    return importlib.import_module(f'sr_jax.models.{name}')
  if name in critic_names():
    return importlib.import_module(f'sr_jax.models.critics.{name}')
  if name in feature_names():
    raise UserError(f'model {name!r} gives features and does not enlarge')
  known = [*names(), *critic_names()]
  near = difflib.get_close_matches(name, [*known, *feature_names()], n=1)
  hint = f'did you mean {near[0]!r}?' if near else f'choose from {known}'
  raise UserError(f'unknown model {name!r}; {hint}')


def create(config: Mapping[str, Any]) -> nn.Module:
  """The Linen module that a `model` section describes.

  Args:
    config: `name`, `scale` and what else the architecture's `Model` takes:
      `variant`, `dtype` (by name), overrides of single options.

  Raises:
    UserError: unknown name, variant, option or dtype.
  """
  options = dict(config)
  name = options.pop('name')
  architecture = module(name)
  if options.get('dtype', 'float32') not in _DTYPES:
    raise UserError(
      f'config.model.dtype: unknown {options["dtype"]!r}; choose from {_DTYPES}'
    )
  try:
    return architecture.Model(**options)
  except TypeError as error:
    raise UserError(f'config.model does not fit {name!r}: {error}') from error

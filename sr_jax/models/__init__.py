"""Architectures: one paper per file, found by module name.

A network gives `(sr, aux)`. Where losses may see more than SR, `aux['outputs']`
holds all images they see, in the order they are made; the last one is SR.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

from sr_jax.errors import UserError

if TYPE_CHECKING:
  import flax.linen as nn

_SHARED = ('common', 'critic', 'luma', 'masking', 'parameters')
# Networks that judge images instead of enlarging them.
CRITICS = (
  'ranker',
  'srgan_discriminator',
  'srntt_discriminator',
  'vgg_discriminator',
)
# They do not enlarge; losses and metrics compare what they give.
FEATURES = ('alexnet', 'vgg')
_DTYPES = ('float32', 'bfloat16', 'float16')


def names() -> list[str]:
  """Names of all architectures that enlarge, one per file of this package."""
  return sorted(
    module.name
    for module in pkgutil.iter_modules(__path__)
    if module.name not in {*_SHARED, *CRITICS, *FEATURES}
  )


def module(name: str) -> ModuleType:
  """The file of one architecture; it offers `Model`, `VARIANTS`, `TORCH_NAMES`.

  Raises:
    UserError: no architecture has this name.
  """
  if name in FEATURES:
    raise UserError(f'model {name!r} gives features and does not enlarge')
  known = [*names(), *CRITICS]
  if name not in known:
    near = difflib.get_close_matches(name, [*known, *FEATURES], n=1)
    hint = f'did you mean {near[0]!r}?' if near else f'choose from {known}'
    raise UserError(f'unknown model {name!r}; {hint}')
  return importlib.import_module(f'sr_jax.models.{name}')


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

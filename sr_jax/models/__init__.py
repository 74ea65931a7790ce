"""Architectures: one paper per file, found by module name.

A network returns `(sr, aux)`. If it has further outputs for losses,
`aux['outputs']` holds all images in the order of their computation; the last
one is SR.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import re
import traceback
from collections.abc import Iterable, Mapping
from typing import Any

from sr_jax.errors import UserError
from sr_jax.models import critics, estimators, features
from sr_jax.models.parts import base
from sr_jax.models.parts.architecture import Architecture, of_file
from sr_jax.models.parts.options import check
from sr_jax.typing import Network, Refining

_DTYPES = ('float32', 'bfloat16', 'float16')


def names() -> list[str]:
  """Names of all architectures that enlarge images, one per file here."""
  return _files_of(__path__)


def critic_names() -> list[str]:
  """Names of the networks that judge images, one per file of `critics`."""
  return _files_of(critics.__path__)


def feature_names() -> list[str]:
  """Names of the networks that compute features for losses and metrics."""
  return _files_of(features.__path__)


def estimator_names() -> list[str]:
  """Names of the networks that estimate how an image was degraded."""
  return _files_of(estimators.__path__)


def _files_of(path: Iterable[str]) -> list[str]:
  return sorted(m.name for m in pkgutil.iter_modules(path) if not m.ispkg)


def module(name: str) -> Architecture:
  """Returns the contents of the file of an architecture.

  Raises:
    UserError: No architecture has this name, or its file is incomplete.
  """
  if name in names():
    return of_file(importlib.import_module(f'sr_jax.models.{name}'))
  if name in critic_names():
    return of_file(importlib.import_module(f'sr_jax.models.critics.{name}'))
  if name in estimator_names():
    return of_file(importlib.import_module(f'sr_jax.models.estimators.{name}'))
  if name in feature_names():
    raise UserError(f'model {name!r} gives features and does not enlarge')
  known = [*names(), *critic_names()]
  near = difflib.get_close_matches(str(name), [*known, *feature_names()], n=1)
  hint = f'did you mean {near[0]!r}?' if near else f'choose from {known}'
  raise UserError(f'unknown model {name!r:.80}; {hint}')


def create(config: Mapping[str, Any]) -> Network:
  """Creates the network that a `model` section describes, without computing.

  Args:
    config: `name`, `scale` and further arguments of the architecture's `Model`:
      `variant`, `dtype` (by name), and values of options.

  Raises:
    UserError: A name, variant, option or dtype is unknown, or a value is not
      allowed.
  """
  options = dict(config)
  if not isinstance(name := options.pop('name', None), str):
    raise UserError(
      f'config.model.name={name!r:.80}: give the name of an architecture, one'
      f' of {", ".join(names())}'
    )
  architecture = module(name)
  if options.get('dtype', 'float32') not in _DTYPES:
    raise UserError(
      f'config.model.dtype: unknown {options["dtype"]!r:.80}; choose from'
      f' {_DTYPES}'
    )
  if 'variant' in options:  # for an error that names the architecture
    architecture.options_of(options['variant'])
  try:
    network = architecture.Model(**options)
  except TypeError as error:
    if reason := _refused_option(error, options, architecture):
      raise UserError(
        f'config.model does not fit {name!r}: {reason}'
      ) from error
    raise
  if not isinstance(network, base.Network):
    raise UserError(
      f'model {name!r}: {type(network).__name__} must derive from'
      ' sr_jax.models.parts.base.Network; see CONTRIBUTING.md, "Add a model"'
    )
  check(network)
  network.check()
  return network


def create_refining(config: Mapping[str, Any], user: str) -> Refining:
  """Creates a network that refines an enlarged image.

  Args:
    config: A section as for `create`.
    user: The method that needs such a network, for the error message.

  Raises:
    UserError: As for `create`, or the network does not refine an enlargement.
  """
  network = create(config)
  if not isinstance(network, base.RefiningNetwork):
    raise UserError(
      f'config.model.name={config["name"]!r}: {user} trains networks that'
      ' refine an enlarged image, such as mzsr'
    )
  return network


# Python's messages if the arguments of a call do not fit a signature.
_SIGNATURE = re.compile(
  r"(?:unexpected keyword argument|required \S+ arguments?:?) '(\w+)'"
  r'|(keywords must be strings)'
)


def _refused_option(
  error: TypeError, options: Mapping[str, Any], architecture: Architecture
) -> str | None:
  """Explains why `Model` or the network's constructor refused its arguments.

  Returns:
    The reason. None if the error comes from deeper code: then the code of the
    architecture has a fault, which a traceback explains better.
  """
  frames = traceback.extract_tb(error.__traceback__)
  # Frames of this call and of `Model`, without Linen's wrapper of constructors.
  own = [frame for frame in frames if '/flax/' not in frame.filename]
  if len(own) > 2 or not (match := _SIGNATURE.search(str(error))):
    return None
  option = match[1]
  if option is None:
    return 'names of options are strings'
  if 'required' in match[0]:
    return f'give {option}'
  if option not in options:
    return None
  if option in ('dtype', 'channels'):
    return (
      f'it has no option {option!r}; its network must declare one to take it,'
      ' see CONTRIBUTING.md, "Add a model"'
    )
  known = {'channels', 'scale', 'variant'}.union(
    *(variant.options for variant in architecture.VARIANTS.values())
  )
  near = difflib.get_close_matches(option, known, n=1)
  hint = (
    f'did you mean {near[0]!r}?' if near else f'choose from {sorted(known)}'
  )
  return f'it has no option {option!r}; {hint}'

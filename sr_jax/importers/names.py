"""Names and layouts of published weights, turned into those of Flax."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from sr_jax.errors import UserError

# In this order: an averaged copy is what its authors evaluated.
_WRAPPERS = ('params_ema', 'params', 'state_dict', 'model', 'net')
_PREFIXES = ('module.', 'model.', 'net.')
_LEAVES = {'weight': 'kernel', 'bias': 'bias'}


class Weights(NamedTuple):
  """Tensors under Flax paths, before they are compared with a model.

  Attributes:
    arrays: float32 in Flax layout, by path (`head/kernel`).
    sources: The file's name of each path's tensor.
    unused: Tensors that no rule knows, by the file's name.
    notes: What was chosen or ignored, one line each.
  """

  arrays: dict[str, np.ndarray]
  sources: dict[str, str]
  unused: dict[str, np.ndarray]
  notes: list[str]


def unwrap(value: Any) -> tuple[dict[str, np.ndarray], list[str]]:
  """The state_dict inside training records and name prefixes, and notes.

  Raises:
    UserError: there is none.
  """
  notes = []
  while isinstance(value, dict):
    inner = [k for k in _WRAPPERS if isinstance(value.get(k), dict)]
    if not inner:
      break
    notes.append(f'used {inner[0]!r}')
    if others := [k for k in value if k != inner[0]]:
      notes.append(f'ignored beside it: {_list(others)}')
    value = value[inner[0]]
  if not isinstance(value, dict) or not any(
    isinstance(v, np.ndarray) for v in value.values()
  ):
    raise UserError(f'holds no state_dict; looked for {", ".join(_WRAPPERS)}')
  tensors = {k: v for k, v in value.items() if isinstance(v, np.ndarray)}
  for name in tensors:
    if not isinstance(name, str) or not name.isprintable() or len(name) > 200:
      raise UserError(f'has a tensor of the unusual name {name!r:.80}')
  if others := [k for k in value if k not in tensors]:
    notes.append(f'ignored, no tensors: {_list(others)}')
  return tensors, notes


def _list(names: list[Any]) -> str:
  """A few names, as the file has them."""
  shown = ', '.join(f'{name!r:.40}' for name in names[:10])
  return shown if len(names) <= 10 else f'{shown} and {len(names) - 10} more'


def to_flax(value: Any, module: ModuleType) -> Weights:
  """Names and layouts of a file's contents, as one model file has them.

  Args:
    value: What `read_tensors` or `read_safetensors` gives.
    module: A file of `sr_jax.models`; the scheme of its `TORCH_NAMES` that
      knows most of the names is used, or Flax paths as they are.

  Raises:
    UserError: no scheme knows any name, two names mean one parameter, or a
      tensor is not of finite floating-point numbers.
  """
  tensors, notes = unwrap(value)
  if all('/' in name for name in tensors):
    paths = {name: name for name in tensors}
    layouts = tensors
  else:
    tensors, paths = _translate_all(tensors, module.TORCH_NAMES)
    layouts = {
      name: to_flax_layout(tensors[name])
      if path.endswith('/kernel')
      else tensors[name]
      for name, path in paths.items()
    }
  arrays: dict[str, np.ndarray] = {}
  sources: dict[str, str] = {}
  for name, path in paths.items():
    if path in arrays:
      raise UserError(f'{sources[path]} and {name} both mean {path}')
    arrays[path] = _float32(name, layouts[name])
    sources[path] = name
  unused = {k: v for k, v in tensors.items() if k not in paths}
  return Weights(arrays, sources, unused, notes)


def to_flax_layout(weight: np.ndarray) -> np.ndarray:
  """Convolution OIHW -> HWIO, dense OI -> IO; other shapes as they are."""
  if weight.ndim == 4:
    return weight.transpose(2, 3, 1, 0)
  return weight.T if weight.ndim == 2 else weight


def _translate_all(
  tensors: dict[str, np.ndarray], schemes: Mapping[str, Mapping[str, str]]
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
  """Tensors without a wrapper's prefix, and the Flax paths of their names.

  A prefix is taken off only where no scheme knows the names as they are.
  """
  stripped: dict[str, np.ndarray] | None = tensors
  while stripped:
    translations = [
      {name: path for name in stripped if (path := _translate(name, rules))}
      for rules in schemes.values()
    ]
    paths = max(translations, key=len)
    if paths:
      return stripped, paths
    stripped = _strip(stripped)
  raise UserError(
    f'tensor names such as {next(iter(tensors))!r} are of none of the known '
    f'schemes: {", ".join(schemes)}'
  )


def _strip(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray] | None:
  """Tensors without the wrapper prefix of all their names; None without one."""
  for prefix in _PREFIXES:
    if all(name.startswith(prefix) for name in tensors):
      return {k.removeprefix(prefix): v for k, v in tensors.items()}
  return None


def _translate(name: str, rules: Mapping[str, str]) -> str | None:
  """Flax path of one tensor name, such as `body.3.conv1.weight`."""
  layer, _, leaf = name.rpartition('.')
  if leaf not in _LEAVES:
    return None
  for rule, path in rules.items():
    pattern = re.sub(r'\\\{(\w+)\\\}', r'(?P<\1>[0-9]+)', re.escape(rule))
    if match := re.fullmatch(pattern, layer):
      return f'{path.format(**match.groupdict())}/{_LEAVES[leaf]}'
  return None


def _float32(name: str, array: np.ndarray) -> np.ndarray:
  if array.dtype.kind != 'f':
    raise UserError(f'{name} holds {array.dtype} numbers, not floating point')
  with np.errstate(over='ignore'):
    array = array.astype(np.float32, copy=False)
  if not np.isfinite(array).all():
    raise UserError(f'{name} holds numbers that are not finite')
  return array

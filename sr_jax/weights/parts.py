"""Chooses the network among the parts of a file of weights.

Training code often saves several networks in one file, together with other
records.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from sr_jax.errors import UserError, counted

# Names under which training code stores the network, in order of preference.
# The averaged copy is first, because it is the one that authors evaluate.
WRAPPERS = (
  'params_ema',
  'params',
  'state_dict',
  'model_state_dict',
  'model',
  'net',
)


def unwrap(value: Any) -> tuple[dict[str, np.ndarray], list[str]]:
  """Finds the state_dict inside the record that training code saved.

  Returns:
    The tensors by name, and notes on what was chosen and ignored.

  Raises:
    UserError: The record holds no state_dict.
  """
  notes = []
  while isinstance(value, dict):
    inner = [k for k in WRAPPERS if isinstance(value.get(k), dict)]
    if not inner:
      break
    notes.append(f'used {inner[0]!r}')
    if others := [k for k in value if k != inner[0]]:
      notes.append(f'ignored beside it: {listed(others)}')
    value = value[inner[0]]
  if isinstance(value, list):
    raise UserError(
      f'holds a list of {counted(len(value), "network")}, as dual networks are'
      ' saved: give it as dual=FILE, beside the weights of the primal network'
    )
  if not isinstance(value, dict) or not any(
    isinstance(v, np.ndarray) for v in value.values()
  ):
    raise UserError(f'holds no state_dict; looked for {", ".join(WRAPPERS)}')
  tensors = {k: v for k, v in value.items() if isinstance(v, np.ndarray)}
  check_names(tensors)
  if others := [k for k in value if k not in tensors]:
    notes.append(f'ignored, no tensors: {listed(others)}')
  return tensors, notes


def part(value: Any, key: str) -> Any:
  """Returns one part of the contents of a file.

  Args:
    value: The result of `read_tensors` or `read_safetensors`.
    key: Name of a dictionary at any level; if two have the same name, `A/B` is
      the one within A. Otherwise the first word of the names of tensors.

  Raises:
    UserError: No part has this name, or several have.
  """
  parts = _parts(value)
  ending = [p for p in parts if f'/{p}'.endswith(f'/{key}')]
  chosen = [p for p in ending if p == key] or ending
  if len(chosen) == 1:
    return parts[chosen[0]]
  if not chosen and isinstance(value, dict):
    prefix = f'{key.removesuffix(".")}.'
    tensors = {
      name.removeprefix(prefix): array
      for name, array in value.items()
      if isinstance(name, str) and name.startswith(prefix)
    }
    if tensors:
      return tensors
  have = f'it has {listed(chosen or list(parts))}' if parts else 'it has none'
  raise UserError(
    f'key={key!r:.40}: {"several parts" if chosen else "no part"} of this name;'
    f' {have}'
  )


def _parts(value: Any, prefix: str = '', depth: int = 3) -> dict[str, Any]:
  """Lists nested dictionaries that hold tensors, by the path of their keys."""
  parts: dict[str, Any] = {}
  if not isinstance(value, dict) or depth == 0:
    return parts
  for key, inner in value.items():
    if not isinstance(inner, dict) or not holds_tensors(inner):
      continue
    parts[f'{prefix}{key}'] = inner
    parts |= _parts(inner, f'{prefix}{key}/', depth - 1)
  return parts


def holds_arrays(value: Mapping[Any, Any]) -> bool:
  """Whether some of the values are arrays."""
  return any(isinstance(v, np.ndarray) for v in value.values())


def holds_tensors(value: Mapping[Any, Any], depth: int = 3) -> bool:
  """Whether a dictionary holds tensors, at most `depth` levels down."""
  return holds_arrays(value) or (
    depth > 0
    and any(
      holds_tensors(v, depth - 1) for v in value.values() if isinstance(v, dict)
    )
  )


def check_names(names: Iterable[Any]) -> None:
  """Refuses names of tensors that no training code writes.

  Raises:
    UserError: A name is of this kind.
  """
  for name in names:
    if not isinstance(name, str) or not name.isprintable() or len(name) > 200:
      raise UserError(f'has a tensor of the unusual name {name!r:.80}')


def listed(names: list[Any]) -> str:
  """Lists at most ten names, quoted as they are in the file."""
  shown = ', '.join(f'{name!r:.40}' for name in names[:10])
  return shown if len(names) <= 10 else f'{shown} and {len(names) - 10} more'

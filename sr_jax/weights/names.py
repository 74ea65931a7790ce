"""Translates names and layouts of published weights into those of Flax."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from sr_jax.errors import UserError, counted
from sr_jax.models.parts.architecture import Architecture
from sr_jax.weights.parts import (
  WRAPPERS,
  check_names,
  holds_arrays,
  holds_tensors,
  listed,
  unwrap,
)

# First words of tensor names under which training code stores the SR network,
# next to networks of losses and discriminators.
_MODEL_WORDS = frozenset(
  {'ema_model', 'g', 'generator', 'model', 'module', 'net', 'netG', 'net_g'}
)
# Endings of PyTorch's tensor names, and of the Flax paths. A rule that contains
# the ending names one tensor; it takes precedence over a rule without, which
# names a layer.
_TORCH_LEAVES = {
  '': '',
  '.weight': '/kernel',
  '.bias': '/bias',
  '.running_mean': '/mean',
  '.running_var': '/var',
}
# A counter that PyTorch's batch normalisation stores with its statistics.
_TORCH_COUNT = '.num_batches_tracked'
_MAT_LEAVES = {'_f': '/kernel', '_b': '/bias'}
_TF_LEAVES = {'/kernel': '/kernel', '/bias': '/bias'}
# Variables that TensorFlow 1 stores for training only.
_TF_SLOT = re.compile(r'(.+)/(Adam(?:_[0-9]+)?)')
_TF_STATE = {
  r'beta[12]_power(_[0-9]+)?': 'state of the optimizer',
  r'global_step': 'step of the training',
  r'stop_grad': 'switch of the training',
}


class Weights(NamedTuple):
  """The tensors of a file under Flax paths, not yet compared with a model.

  Attributes:
    arrays: float32 arrays in Flax layout, by Flax path (such as `head/kernel`).
    sources: Name in the file of the tensor at each Flax path.
    unused: Tensors to which no rule applies, by their names in the file.
    notes: One line on each choice that was made and each part that was ignored.
  """

  arrays: dict[str, np.ndarray]
  sources: dict[str, str]
  unused: dict[str, np.ndarray]
  notes: list[str]


def _fitting_part(
  value: Any, schemes: Mapping[str, Mapping[str, str]]
) -> tuple[dict[str, np.ndarray], list[str]]:
  """Finds the state_dict of the only part of a file that fits the schemes.

  Training code chooses the names of the parts freely, for example `generator`
  and `discriminator`, or `g` and `d`. If a file has none of the usual names,
  each part is tried.

  Returns:
    The tensors by name, and notes on what was chosen and ignored.

  Raises:
    UserError: No part fits, or several fit.
  """
  parts = (
    {
      key: part
      for key, part in value.items()
      if isinstance(part, dict) and holds_tensors(part)
    }
    if isinstance(value, dict) and not holds_arrays(value)
    else {}
  )
  if not parts or any(key in parts for key in WRAPPERS):
    return unwrap(value)
  fitting = []
  for key, part in parts.items():
    try:
      tensors, notes = _fitting_part(part, schemes)
      if not any('/' in name for name in tensors):
        _translate_all(tensors, schemes)
    except UserError:
      continue
    fitting.append((key, tensors, notes))
  if len(fitting) != 1:
    count = 'none' if not fitting else 'several'
    names = listed([key for key, *_ in fitting] or list(parts))
    raise UserError(
      f'of its parts, {count} fit: {names}; choose one with key=NAME'
    )
  ((key, tensors, notes),) = fitting
  used = [f'used {key!r}']
  if others := [k for k in value if k != key]:
    used.append(f'ignored beside it: {listed(others)}')
  return tensors, [*used, *notes]


def to_flax(value: Any, module: Architecture) -> Weights:
  """Translates a PyTorch or safetensors file by the names of a model.

  Args:
    value: The result of `read_tensors` or `read_safetensors`.
    module: The model's file in `sr_jax.models`, which defines `TORCH_NAMES`.

  Raises:
    UserError: As for `torch_to_flax`.
  """
  return torch_to_flax(value, module.TORCH_NAMES)


def torch_to_flax(
  value: Any, schemes: Mapping[str, Mapping[str, str]]
) -> Weights:
  """Translates a file's contents by the scheme that knows most of its names.

  Names that are Flax paths already are kept.

  Args:
    value: The result of `read_tensors` or `read_safetensors`.
    schemes: Rules for each naming scheme: a PyTorch name pattern to Flax path.

  Raises:
    UserError: No scheme knows any name, two names mean the same parameter, or a
      tensor is empty or does not hold finite floating-point numbers.
  """
  tensors, notes = _fitting_part(value, schemes)
  counts = [name for name in tensors if name.endswith(_TORCH_COUNT)]
  if counts:
    notes.append(f'ignored, counts of training batches: {listed(counts)}')
    tensors = {k: v for k, v in tensors.items() if k not in counts}
  # Names with a slash are Flax paths.
  if any('/' in name for name in tensors):
    paths = {name: name for name in tensors}
    layouts = tensors
  else:
    tensors, paths, taken = _translate_all(tensors, schemes)
    notes += taken
    layouts = {
      name: to_flax_layout(tensors[name])
      if path.endswith('/kernel')
      else tensors[name]
      for name, path in paths.items()
    }
  return _collect({**tensors, **layouts}, paths, notes)


def tf_to_flax(
  variables: Mapping[str, np.ndarray], module: Architecture
) -> Weights:
  """Translates a TensorFlow 1 checkpoint by the names of a model.

  TensorFlow's kernels have Flax's layout. Variables of the optimizer are left
  out and noted.

  Args:
    variables: The result of `read_bundle`.
    module: The model's file in `sr_jax.models`. The scheme of its `TF_NAMES`
      that knows most of the names is used.

  Raises:
    UserError: As for `torch_to_flax`.
  """
  check_names(variables)
  weights, notes = _without_training(variables)
  schemes = module.TF_NAMES
  paths = _translate_by_best(weights, schemes, _TF_LEAVES)
  if not paths:
    raise _unknown(variables, schemes)
  return _collect(weights, paths, notes)


def mat_to_flax(
  tensors: Mapping[str, np.ndarray], module: Architecture
) -> Weights:
  """Translates a MATLAB file by the names of a model.

  Args:
    tensors: The result of `read_mat`, whose layouts are Flax's.
    module: The model's file in `sr_jax.models`. The scheme of its `MAT_NAMES`
      that knows most of the names is used.

  Raises:
    UserError: As for `torch_to_flax`.
  """
  check_names(tensors)
  schemes = module.MAT_NAMES
  paths = _translate_by_best(tensors, schemes, _MAT_LEAVES)
  if not paths:
    raise _unknown(tensors, schemes)
  return _collect(tensors, paths, [])


def npz_to_flax(arrays: Sequence[np.ndarray], module: Architecture) -> Weights:
  """Translates a file of arrays without names by their order in a model.

  Args:
    arrays: The result of `read_params`, whose kernels have Flax's layout.
    module: The model's file in `sr_jax.models`, which defines `npz_arrays`.

  Raises:
    UserError: The model has no release with this number of arrays, or as for
      `torch_to_flax`.
  """
  found = module.npz_arrays(arrays)
  if not found:
    raise UserError(
      f'holds {counted(len(arrays), "array")} without names; no release of this'
      ' model has this number of arrays'
    )
  names = {path: f'array {i} ({path})' for i, path in enumerate(found)}
  tensors = {names[path]: array for path, array in found.items()}
  return _collect(tensors, {name: path for path, name in names.items()}, [])


def merged(parts: Sequence[Weights]) -> Weights:
  """Merges the weights of several files.

  Raises:
    UserError: Two files hold the same parameter.
  """
  first, *others = parts
  for other in others:
    if twice := sorted(first.arrays.keys() & other.arrays.keys()):
      raise UserError(f'both files hold {twice[0]}: leave one out')
    first = Weights(
      first.arrays | other.arrays,
      first.sources | other.sources,
      first.unused | other.unused,
      [*first.notes, *other.notes],
    )
  return first


def _without_training(
  variables: Mapping[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], list[str]]:
  """Separates weights from variables of the training, which become notes."""
  weights: dict[str, np.ndarray] = {}
  slots: Counter[str] = Counter()
  state: dict[str, list[str]] = {}
  for name, array in variables.items():
    slot = _TF_SLOT.fullmatch(name)
    kinds = [
      kind for rule, kind in _TF_STATE.items() if re.fullmatch(rule, name)
    ]
    if slot and slot[1] in variables:
      slots[slot[2]] += 1
    elif kinds:
      state.setdefault(kinds[0], []).append(name)
    else:
      weights[name] = array
  notes = [f'ignored, {kind}: {listed(names)}' for kind, names in state.items()]
  if slots:
    counts = ', '.join(f'{count} x /{slot}' for slot, count in slots.items())
    notes.insert(0, f'ignored, moments of the optimizer: {counts}')
  return weights, notes


def without_ignored(weights: Weights, rules: Mapping[str, str]) -> Weights:
  """Leaves out tensors that have no effect in the released code, and notes it.

  Args:
    weights: The result of `to_flax`.
    rules: Descriptions of such tensors by name patterns as in `TORCH_NAMES`.
  """
  endings = dict.fromkeys(_TORCH_LEAVES, '')
  ignored: dict[str, list[str]] = {}
  unused = {}
  for name, array in weights.unused.items():
    if reason := _translate(name, rules, endings):
      ignored.setdefault(reason, []).append(name)
    else:
      unused[name] = array
  notes = []
  for reason, names in ignored.items():
    count = sum(weights.unused[name].size for name in names)
    notes.append(
      f'ignored, {reason}: {", ".join(names)} ({counted(count, "number")})'
    )
  return weights._replace(unused=unused, notes=[*weights.notes, *notes])


def _collect(
  tensors: Mapping[str, np.ndarray],
  paths: Mapping[str, str],
  notes: list[str],
) -> Weights:
  """Builds `Weights` from tensors and the Flax paths of their names."""
  arrays: dict[str, np.ndarray] = {}
  sources: dict[str, str] = {}
  for name, path in paths.items():
    if path in arrays:
      raise UserError(f'{sources[path]} and {name} both mean {path}')
    arrays[path] = _float32(name, tensors[name])
    sources[path] = name
  unused = {k: v for k, v in tensors.items() if k not in paths}
  return Weights(arrays, sources, unused, notes)


def to_flax_layout(weight: np.ndarray) -> np.ndarray:
  """Transposes convolutions OIHW to HWIO and dense layers OI to IO."""
  if weight.ndim == 4:
    return weight.transpose(2, 3, 1, 0)
  return weight.T if weight.ndim == 2 else weight


def _translate_all(
  tensors: dict[str, np.ndarray], schemes: Mapping[str, Mapping[str, str]]
) -> tuple[dict[str, np.ndarray], dict[str, str], list[str]]:
  """Finds the Flax paths of tensor names, after removing a common prefix.

  A prefix is removed only if no scheme knows the full names. If there are
  several prefixes, the part is taken whose names are all known to a scheme:
  PyTorch Lightning stores the networks of losses next to the model.

  Returns:
    The tensors by their names without prefix, the Flax paths of the names, and
    notes on what was ignored.

  Raises:
    UserError: No scheme knows the names, or several parts are known.
  """
  parts = [(tensors, '')]
  while parts:
    known = [
      (part, paths, prefix)
      for part, prefix in parts
      if (paths := _translate_by_best(part, schemes, _TORCH_LEAVES))
    ]
    whole = [k for k in known if len(k[0]) == len(k[1])] or known
    if len(whole) > 1:
      names = listed([prefix for _, _, prefix in whole])
      raise UserError(
        f'holds several networks that fit: {names}; choose one with key=NAME'
      )
    if whole:
      ((part, paths, prefix),) = whole
      left = len(tensors) - len(part)
      notes = [f'used {prefix!r}, ignored {counted(left, "tensor")} beside it']
      return part, paths, notes if left else []
    parts = [sub for part, prefix in parts for sub in _strip(part, prefix)]
  raise _unknown(tensors, schemes)


def _unknown(names: Iterable[str], schemes: Iterable[str]) -> UserError:
  return UserError(
    f'tensor names such as {next(iter(names))!r} are of none of the known '
    f'schemes: {", ".join(schemes) or "this model has none for such files"}'
  )


def _strip(
  tensors: Mapping[str, np.ndarray], prefix: str
) -> list[tuple[dict[str, np.ndarray], str]]:
  """Divides tensors by the first word of their names, and removes the word.

  A word that not all names share must be one of `_MODEL_WORDS`. Otherwise a
  layer of one network could be taken for a whole network of another scheme.

  Returns:
    For each part, the tensors by their shorter names, and the removed prefix.
  """
  parts: dict[str, dict[str, np.ndarray]] = {}
  for name, array in tensors.items():
    first, dot, rest = name.partition('.')
    if dot:
      parts.setdefault(first, {})[rest] = array
  common = [len(part) == len(tensors) for part in parts.values()]
  return [
    (part, f'{prefix}{first}.')
    for (first, part), alone in zip(parts.items(), common, strict=True)
    if alone or first in _MODEL_WORDS
  ]


def _translate_by_best(
  names: Iterable[str],
  schemes: Mapping[str, Mapping[str, str]],
  leaves: Mapping[str, str],
) -> dict[str, str]:
  """Flax paths by name, from the scheme that knows the most names."""
  translations = [
    {name: path for name in names if (path := _translate(name, rules, leaves))}
    for rules in schemes.values()
  ]
  return max(translations, key=len, default={})


def _translate(
  name: str, rules: Mapping[str, str], leaves: Mapping[str, str]
) -> str | None:
  """Flax path of one tensor name, such as `body.3.conv1.weight`."""
  for ending, leaf in leaves.items():
    if not name.endswith(ending):
      continue
    layer = name.removesuffix(ending)
    for rule, path in rules.items():
      if match := _pattern(rule).fullmatch(layer):
        return f'{path.format(**match.groupdict())}{leaf}'
  return None


@functools.cache
def _pattern(rule: str) -> re.Pattern[str]:
  """Regular expression of a rule, in which `{i}` stands for a number."""
  numbers = re.sub(r'\\\{(\w+)\\\}', r'(?P<\1>[0-9]+)', re.escape(rule))
  return re.compile(numbers)


def _float32(name: str, array: np.ndarray) -> np.ndarray:
  if not array.size:
    raise UserError(f'{name} holds no numbers')
  if array.dtype.kind != 'f':
    raise UserError(f'{name} holds {array.dtype} numbers, not floating point')
  with np.errstate(over='ignore'):
    array = array.astype(np.float32, copy=False)
  if not np.isfinite(array).all():
    raise UserError(f'{name} holds numbers that are not finite')
  return array

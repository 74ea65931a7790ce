"""Names and layouts of published weights, turned into those of Flax."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from sr_jax.errors import UserError
from sr_jax.models.parts.architecture import Architecture

# In this order: an averaged copy is what its authors evaluated.
_WRAPPERS = (
  'params_ema',
  'params',
  'state_dict',
  'model_state_dict',
  'model',
  'net',
)
# First words under which training codes keep the network that enlarges, beside
# those of losses and judges.
_MODEL_WORDS = frozenset(
  {'ema_model', 'g', 'generator', 'model', 'module', 'net', 'netG', 'net_g'}
)
# A rule without the ending names a layer, one with it a single tensor, which
# wins.
_TORCH_LEAVES = {
  '': '',
  '.weight': '/kernel',
  '.bias': '/bias',
  '.running_mean': '/mean',
  '.running_var': '/var',
}
# What PyTorch's batch normalisation keeps beside its statistics.
_TORCH_COUNT = '.num_batches_tracked'
_MAT_LEAVES = {'_f': '/kernel', '_b': '/bias'}
_TF_LEAVES = {'/kernel': '/kernel', '/bias': '/bias'}
# What TensorFlow 1 keeps beside the weights, in training alone.
_TF_SLOT = re.compile(r'(.+)/(Adam(?:_[0-9]+)?)')
_TF_STATE = {
  r'beta[12]_power(_[0-9]+)?': 'state of the optimizer',
  r'global_step': 'step of the training',
  r'stop_grad': 'switch of the training',
}


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
  if isinstance(value, list):
    raise UserError(
      f'holds a list of {len(value)}, as dual networks are saved: give these'
      ' with --dual, beside the weights of the primal network'
    )
  if not isinstance(value, dict) or not any(
    isinstance(v, np.ndarray) for v in value.values()
  ):
    raise UserError(f'holds no state_dict; looked for {", ".join(_WRAPPERS)}')
  tensors = {k: v for k, v in value.items() if isinstance(v, np.ndarray)}
  _check_names(tensors)
  if others := [k for k in value if k not in tensors]:
    notes.append(f'ignored, no tensors: {_list(others)}')
  return tensors, notes


def _fitting_part(
  value: Any, schemes: Mapping[str, Mapping[str, str]]
) -> tuple[dict[str, np.ndarray], list[str]]:
  """The state_dict of the only part of a file that fits, and notes.

  Files of training name their parts as they please: `generator` beside
  `discriminator`, `g` beside `d`. Where none of the usual names is there, the
  parts are tried.

  Raises:
    UserError: none of the parts fits, or several.
  """
  parts = (
    {
      key: part
      for key, part in value.items()
      if isinstance(part, dict) and _holds_tensors(part)
    }
    if isinstance(value, dict) and not _holds_arrays(value)
    else {}
  )
  if not parts or any(key in parts for key in _WRAPPERS):
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
    raise UserError(f'of its parts {_list(list(parts))}, {count} fit')
  ((key, tensors, notes),) = fitting
  used = [f'used {key!r}']
  if others := [k for k in value if k != key]:
    used.append(f'ignored beside it: {_list(others)}')
  return tensors, [*used, *notes]


def _holds_arrays(value: Mapping[Any, Any]) -> bool:
  return any(isinstance(v, np.ndarray) for v in value.values())


def _holds_tensors(value: Mapping[Any, Any], depth: int = 3) -> bool:
  """Whether there are tensors in it or not far below."""
  return _holds_arrays(value) or (
    depth > 0
    and any(
      _holds_tensors(v, depth - 1)
      for v in value.values()
      if isinstance(v, dict)
    )
  )


def _check_names(names: Iterable[Any]) -> None:
  for name in names:
    if not isinstance(name, str) or not name.isprintable() or len(name) > 200:
      raise UserError(f'has a tensor of the unusual name {name!r:.80}')


def _list(names: list[Any]) -> str:
  """A few names, as the file has them."""
  shown = ', '.join(f'{name!r:.40}' for name in names[:10])
  return shown if len(names) <= 10 else f'{shown} and {len(names) - 10} more'


def to_flax(value: Any, module: Architecture) -> Weights:
  """Names and layouts of a file's contents, as one model file has them.

  Args:
    value: What `read_tensors` or `read_safetensors` gives.
    module: A file of `sr_jax.models`, for its `TORCH_NAMES`.

  Raises:
    UserError: as `torch_to_flax`.
  """
  return torch_to_flax(value, module.TORCH_NAMES)


def torch_to_flax(
  value: Any, schemes: Mapping[str, Mapping[str, str]]
) -> Weights:
  """Names and layouts of a file's contents under given schemes of names.

  The scheme that knows most of the names is used, or Flax paths as they are.

  Raises:
    UserError: no scheme knows any name, two names mean one parameter, or a
      tensor is empty or not of finite floating-point numbers.
  """
  tensors, notes = _fitting_part(value, schemes)
  counts = [name for name in tensors if name.endswith(_TORCH_COUNT)]
  if counts:
    notes.append(f'ignored, counts of training batches: {_list(counts)}')
    tensors = {k: v for k, v in tensors.items() if k not in counts}
  # Of Flax; without one are those of a network's root alone.
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
  """Names of a TensorFlow 1 checkpoint, as one model file has them.

  Kernels lie in Flax's order already. The optimizer's variables are left out
  and noted.

  Args:
    variables: What `read_bundle` gives.
    module: A file of `sr_jax.models`; the scheme of its `TF_NAMES` that knows
      most of the names is used.

  Raises:
    UserError: as `to_flax`.
  """
  _check_names(variables)
  weights, notes = _without_training(variables)
  schemes = module.TF_NAMES
  paths = _translate_by_best(weights, schemes, _TF_LEAVES)
  if not paths:
    raise _unknown(variables, schemes)
  return _collect(weights, paths, notes)


def mat_to_flax(
  tensors: Mapping[str, np.ndarray], module: Architecture
) -> Weights:
  """Names of a MATLAB file, as one model file has them; layouts are Flax's.

  Args:
    tensors: What `read_mat` gives.
    module: A file of `sr_jax.models`; the scheme of its `MAT_NAMES` that knows
      most of the names is used.

  Raises:
    UserError: as `to_flax`.
  """
  _check_names(tensors)
  schemes = module.MAT_NAMES
  paths = _translate_by_best(tensors, schemes, _MAT_LEAVES)
  if not paths:
    raise _unknown(tensors, schemes)
  return _collect(tensors, paths, [])


def npz_to_flax(arrays: Sequence[np.ndarray], module: Architecture) -> Weights:
  """Arrays of a file that has no names, as one model file knows their order.

  Args:
    arrays: What `read_params` gives; kernels lie in Flax's order.
    module: A file of `sr_jax.models`, for its `npz_arrays`.

  Raises:
    UserError: it knows no such number of arrays, or as `to_flax`.
  """
  found = module.npz_arrays(arrays)
  if not found:
    raise UserError(
      f'holds {len(arrays)} arrays without names, which is not what this model'
      ' was released as'
    )
  names = {path: f'array {i} ({path})' for i, path in enumerate(found)}
  tensors = {names[path]: array for path, array in found.items()}
  return _collect(tensors, {name: path for path, name in names.items()}, [])


def merged(parts: Sequence[Weights]) -> Weights:
  """Weights that lie in several files.

  Raises:
    UserError: two hold the same.
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
  """Variables that may be weights, and notes on all others."""
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
  notes = [f'ignored, {kind}: {_list(names)}' for kind, names in state.items()]
  if slots:
    counts = ', '.join(f'{count} x /{slot}' for slot, count in slots.items())
    notes.insert(0, f'ignored, moments of the optimizer: {counts}')
  return weights, notes


def without_ignored(weights: Weights, rules: Mapping[str, str]) -> Weights:
  """Leaves out what a model file knows to be without effect, and notes it.

  Args:
    weights: From `to_flax`.
    rules: Names as in `TORCH_NAMES`, and what such tensors are.
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
    notes.append(f'ignored, {reason}: {", ".join(names)} ({count:,} numbers)')
  return weights._replace(unused=unused, notes=[*weights.notes, *notes])


def _collect(
  tensors: Mapping[str, np.ndarray],
  paths: Mapping[str, str],
  notes: list[str],
) -> Weights:
  """Tensors under the paths of their names, and those that have none."""
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
  """Convolution OIHW -> HWIO, dense OI -> IO; other shapes as they are."""
  if weight.ndim == 4:
    return weight.transpose(2, 3, 1, 0)
  return weight.T if weight.ndim == 2 else weight


def _translate_all(
  tensors: dict[str, np.ndarray], schemes: Mapping[str, Mapping[str, str]]
) -> tuple[dict[str, np.ndarray], dict[str, str], list[str]]:
  """Tensors without a wrapper's prefix, their names' Flax paths, and notes.

  A prefix is taken off only where no scheme knows the names as they are. Of
  tensors under several prefixes those are taken that a scheme knows wholly, as
  Lightning keeps the networks of its losses beside the model.

  Raises:
    UserError: no scheme knows the names, or those of several parts.
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
      names = _list([prefix for _, _, prefix in whole])
      raise UserError(f'holds several networks that fit: {names}')
    if whole:
      ((part, paths, prefix),) = whole
      left = len(tensors) - len(part)
      notes = [f'used {prefix!r}, ignored {left} tensors beside it']
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
  """Tensors by the first word of their names, without it; and that prefix.

  A word that is not common to all names must be usual for a model: layers of
  some networks are networks that others' schemes know.
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
  """Flax paths of the names that the best scheme knows."""
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
  """Expression for a rule whose `{i}` stand for numbers."""
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

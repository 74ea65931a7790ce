"""Imports published weights into a model, and checks every tensor.

Every tensor of the file is used or reported as ignored, every parameter of the
model is filled, and all shapes agree.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from sr_jax import models
from sr_jax.errors import UserError, counted
from sr_jax.models.parts.architecture import Architecture
from sr_jax.models.parts.parameters import (
  expected_shapes,
  stack,
  unstacked_shapes,
)
from sr_jax.typing import Network
from sr_jax.weights.formats import mat_file, npz_params
from sr_jax.weights.formats.safetensors_io import (
  read_safetensors,
  split_slots,
)
from sr_jax.weights.formats.tf_bundle import find_bundle, read_bundle
from sr_jax.weights.formats.torch_pickle import read_tensors
from sr_jax.weights.names import (
  Weights,
  mat_to_flax,
  merged,
  npz_to_flax,
  tf_to_flax,
  to_flax,
  torch_to_flax,
  without_ignored,
)
from sr_jax.weights.parts import part

_LISTED = 20

Shapes = Mapping[str, tuple[int, ...]]
# (name, value) of an option, by the parameter that sets it.
Given = Mapping[str, tuple[str, Any]]


class Imported(NamedTuple):
  """The imported weights of one model.

  Attributes:
    config: `name`, `scale` and `options` of the model.
    params: Nested dictionary of float32 NumPy arrays, which may be read-only.
    batch_stats: Running statistics, in the same form; {} if the network has
      none.
    notes: One line on each choice that was made and each part that was ignored.
    slots: Parameters of further networks by slot, in a file that `sr-jax
      export` wrote.
  """

  config: dict[str, Any]
  params: dict[str, Any]
  batch_stats: dict[str, Any]
  notes: list[str]
  slots: Mapping[str, Any] = MappingProxyType({})


def import_weights(
  path: str | os.PathLike[str],
  *,
  model: str,
  variant: str | None = None,
  scale: int | None = None,
  options: Mapping[str, Any] | None = None,
  content: str | os.PathLike[str] | None = None,
  key: str | None = None,
) -> Imported:
  """Reads published weights into a model's parameters and statistics.

  Options that are not given are derived from the shapes of the tensors.

  Args:
    path: A `.pth`, `.pt`, `.safetensors` or `.mat` file, a `.npz` file of
      TensorLayer, or a TensorFlow 1 checkpoint as in `find_bundle`.
    model: Name of the architecture, such as `edsr`.
    variant: A published size; must agree with the tensors.
    scale: SR factor; must agree with the tensors.
    options: Options of the model, which override those of the variant.
    content: A second file with the rest of the network, for example SRNTT's
      upscale.npz with its content extractor.
    key: The part of a file of several networks to import, such as `params` or
      `generator`; see `parts.part`.

  Raises:
    UserError: The file cannot be read or contradicts a given option; an option
      is neither given nor follows from the shapes; or the tensors differ from
      the model's. The last error lists missing (-) and unused (+) tensors.
  """
  module = models.module(model)
  value, stored, translate = _read(path)
  slots: dict[str, Any] = {}
  if stored:
    value, slots = split_slots(value)
  try:
    if stored.get('name', model) != model:
      raise UserError(f'holds {stored["name"]}, not {model}')
    if key is not None:
      if translate is not to_flax:
        raise UserError(f'key={key!r:.40}: files of this format have no parts')
      value = part(value, key)
    weights = translate(value, module)
    if content is not None:
      value, _, translate = _read(content)
      weights = merged([weights, translate(value, module)])
    weights = without_ignored(weights, module.TORCH_IGNORED)
    recognised = _recognise(weights, module, stored)
    given = _given(module, variant, scale, options or {})
    return _fit(weights, module, recognised, given)._replace(slots=slots)
  except UserError as error:
    raise UserError(f'{path}: {error}') from None


def import_duals(
  path: str | os.PathLike[str], primal: Imported
) -> dict[str, dict[str, Any]]:
  """Reads the dual networks that were trained with a primal network.

  Args:
    path: A `.pt` file that holds a list of state_dicts, as in DRN's release.
      The first is that of the network from twice the LR size to LR size.
    primal: The imported primal network.

  Returns:
    Parameters by slot: `dual_0`, `dual_1` and so on.

  Raises:
    UserError: The model has no dual networks, or the file does not hold them.
  """
  name, options = primal.config['name'], primal.config['options']
  module = models.module(name)
  if module.Dual is None or module.levels is None:
    raise UserError(f'model {name} has no dual networks: leave dual=FILE out')
  network = module.Dual(
    features=options['features'], channels=options['channels']
  )
  count = module.levels(primal.config['scale'])
  value = read_tensors(path)
  if not isinstance(value, list) or len(value) != count:
    raise UserError(f'{path}: is no list of {count} dual networks')
  slots = {}
  for i, state_dict in enumerate(value):
    try:
      weights = torch_to_flax(state_dict, module.DUAL_TORCH_NAMES)
      _refuse_difference(
        _difference(weights, module.CONSTANTS, expected_shapes(network)),
        f'dual_{i}',
      )
    except UserError as error:
      raise UserError(f'{path}: dual network {i}: {error}') from None
    slots[f'dual_{i}'] = traverse_util.unflatten_dict(weights.arrays, sep='/')
  return slots


def _read(
  path: str | os.PathLike[str],
) -> tuple[Any, dict[str, Any], Callable[[Any, Architecture], Weights]]:
  """Reads a file of any supported format.

  Returns:
    The contents of the file, its config (empty if it has none), and the
    function of `names` that translates the contents of this format.
  """
  if bundle := find_bundle(path):
    return read_bundle(bundle), {}, tf_to_flax
  try:
    with open(path, 'rb') as file:
      start = file.read(9)
  except OSError as error:
    raise UserError(f'{path}: {error.strerror or error}') from None
  if start[8:9] == b'{':  # after the length of a safetensors header
    return *read_safetensors(path), to_flax
  if start.startswith(mat_file.START):
    return mat_file.read_mat(path), {}, mat_to_flax
  if start.startswith(npz_params.START) and npz_params.holds_params(path):
    return npz_params.read_params(path), {}, npz_to_flax
  return read_tensors(path), {}, to_flax


def _recognise(
  weights: Weights, module: Architecture, stored: Mapping[str, Any]
) -> dict[str, Any]:
  """Options that follow from shapes, overridden by those in the file."""
  shapes = {path: array.shape for path, array in weights.arrays.items()}
  try:
    options = module.recognise(shapes)
  except KeyError as error:
    raise UserError(f'lacks the tensor {error.args[0]}') from None
  except (ValueError, LookupError, ArithmeticError) as error:
    raise UserError(
      f'the shapes of its tensors are not those of {module.name}: {error}'
    ) from None
  if 'scale' in stored:
    options = {**options, **stored['options'], 'scale': stored['scale']}
  return options


def _given(
  module: Architecture,
  variant: str | None,
  scale: int | None,
  options: Mapping[str, Any],
) -> dict[str, tuple[str, Any]]:
  """Options that the user sets; single options override the variant's."""
  given: dict[str, tuple[str, Any]] = {}
  if variant is not None:
    for name, value in module.options_of(variant).items():
      if name not in options:
        given[f'variant {variant} with {name}'] = (name, value)
  for name, value in options.items():
    given[f'option {name}'] = (name, value)
  if scale is not None:
    given['scale=S'] = ('scale', scale)
  return given


def _fit(
  weights: Weights,
  module: Architecture,
  recognised: Mapping[str, Any],
  given: Given,
) -> Imported:
  """Fills the parameters of the model that file and user describe."""
  options = {**recognised, **dict(given.values())}
  stacked, statistics = _shapes(module, options)
  expected = unstacked_shapes(stacked)
  weights = _placed(weights, module, options)
  difference = _difference(weights, module.CONSTANTS, expected)
  if difference:
    _refuse_contradiction(weights, module, recognised, given, len(difference))
    _refuse_difference(difference, _text(options))
  constants = [path for path in expected if path not in weights.arrays]
  initial = _initial(module, options, constants)
  filled = stack({**weights.arrays, **initial}, stacked)
  params, batch_stats = (
    {k: v for k, v in filled.items() if (k in statistics) == kept_apart}
    for kept_apart in (False, True)
  )
  notes = [*weights.notes]
  if constants:
    notes.append(f'kept at their initial values: {", ".join(constants)}')
  return Imported(
    config={
      'name': module.name,
      'scale': options.pop('scale'),
      'options': options,
    },
    params=traverse_util.unflatten_dict(params, sep='/'),
    batch_stats=traverse_util.unflatten_dict(batch_stats, sep='/'),
    notes=notes,
  )


def _placed(
  weights: Weights, module: Architecture, options: Mapping[str, Any]
) -> Weights:
  """Moves weights to the paths that they have under the model's options."""
  places = {path: module.place(path, options) for path in weights.arrays}
  kept = {path: new for path, new in places.items() if new}
  notes = [*weights.notes]
  if ignored := [weights.sources[path] for path in places if path not in kept]:
    notes.append(f'ignored, {module.PLACED_NOWHERE}: {", ".join(ignored)}')
  return weights._replace(
    arrays={new: weights.arrays[path] for path, new in kept.items()},
    sources={new: weights.sources[path] for path, new in kept.items()},
    notes=notes,
  )


def refuse_difference(weights: Weights, expected: Shapes, what: str) -> None:
  """Refuses weights whose names or shapes are not the expected ones.

  Raises:
    UserError: The error lists the tensors that do not fit.
  """
  _refuse_difference(_difference(weights, (), expected), what)


def _refuse_difference(difference: list[str], what: str) -> None:
  """Raises an error that lists the tensors that do not fit, if any."""
  if not difference:
    return
  count = f'{counted(len(difference), "tensor")} missing (-) or unused (+)'
  if len(difference) > _LISTED:
    rest = f'... and {len(difference) - _LISTED} more'
    difference = [*difference[:_LISTED], rest]
  raise UserError('\n'.join([f'{count}, as {what}:', *difference]))


def _text(options: Mapping[str, Any]) -> str:
  return ', '.join(f'{name}={value}' for name, value in options.items())


def _refuse_contradiction(
  weights: Weights,
  module: Architecture,
  recognised: Mapping[str, Any],
  given: Given,
  difference: int,
) -> None:
  """Raises an error if an option that the user set causes the difference.

  It is taken as the cause if fewer than `difference` tensors do not fit with
  the value that was recognised from the file.
  """
  asked = dict(given.values())
  for flag, (name, value) in given.items():
    held = recognised.get(name, value)
    if held == value:
      continue
    stacked, _ = _shapes(module, {**recognised, **asked, name: held})
    expected = unstacked_shapes(stacked)
    if len(_difference(weights, module.CONSTANTS, expected)) < difference:
      raise UserError(f'holds {name}={held}, but {flag} sets {value}')


def _build(module: Architecture, options: Mapping[str, Any]) -> Any:
  """Builds the network.

  Raises:
    UserError: An option is neither given nor recognised, or the options do not
      suit the model.
  """
  needed = {'scale'}
  for variant in module.VARIANTS.values():
    needed.update(variant.options)
  for name in sorted(needed - set(options)):
    flag = 'scale=S' if name == 'scale' else f'option {name}=VALUE'
    raise UserError(f'does not determine {name}; give it with {flag}')
  try:
    return models.create({**options, 'name': module.name})
  except UserError as error:
    raise UserError(
      f'the options {_text(options)} make no model: {error}'
    ) from None


def _parameters(network: Network, key: jax.Array) -> dict[str, jax.Array]:
  """Initial parameters of a network by path."""
  side = network.example_side
  image = jnp.zeros((1, side, side, network.channels))
  params = network.init(key, image)['params']
  flat: dict[str, Any] = traverse_util.flatten_dict(params, sep='/')
  return flat


def _shapes(
  module: Architecture, options: Mapping[str, Any]
) -> tuple[Shapes, Shapes]:
  """Shapes of parameters and statistics together, and of statistics alone."""
  network = _build(module, options)
  statistics = expected_shapes(network, 'batch_stats')
  # No parameter of a layer has the name of a statistic.
  return expected_shapes(network) | statistics, statistics


def _initial(
  module: Architecture, options: Mapping[str, Any], paths: Sequence[str]
) -> dict[str, np.ndarray]:
  """Initial values of some parameters; jit leaves out the others."""
  if not paths:
    return {}
  network = _build(module, options)

  @jax.jit
  def values(key: jax.Array) -> dict[str, jax.Array]:
    parameters = _parameters(network, key)
    return {path: parameters[path] for path in paths}

  return jax.device_get(values(jax.random.key(0)))


def _difference(
  weights: Weights, constants: Sequence[str], expected: Shapes
) -> list[str]:
  """Lists `- path (shape)` if missing and `+ name (shape)` if unused."""
  lines = []
  for path, shape in expected.items():
    array = weights.arrays.get(path)
    if array is None and path.split('/')[0] not in constants:
      lines.append(f'- {path} {shape}')
    elif array is not None and array.shape != shape:
      lines += [f'- {path} {shape}', f'+ {weights.sources[path]} {array.shape}']
  for path, array in weights.arrays.items():
    if path not in expected:
      lines.append(f'+ {weights.sources[path]} {array.shape}')
  for name, array in weights.unused.items():
    lines.append(f'+ {name} {array.shape}')
  return lines

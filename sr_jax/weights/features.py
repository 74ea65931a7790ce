"""Weights of the networks whose features losses and metrics compare.

The weights do not come with the package. A SPEC names them:

  PATH          a folder that `sr-jax import WEIGHTS --model vgg` wrote, or
                torchvision's file itself
  random:SEED   random weights, for tests and trials

Truncated files are accepted if they contain every layer that is requested.
"""

from __future__ import annotations

import importlib
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from flax import traverse_util

from sr_jax import checkpoints, models
from sr_jax.errors import UserError
from sr_jax.models.parts.common import up_to
from sr_jax.models.parts.parameters import Shapes, shapes_of
from sr_jax.weights.formats.torch_pickle import read_tensors
from sr_jax.weights.names import torch_to_flax, without_ignored

# Slot of the network's parameters in a checkpoint.
SLOT = 'features'
_RANDOM = 'random:'
_SOURCE = 'https://download.pytorch.org/models/'

Params = dict[str, dict[str, Any]]


def network(model: str, layers: Sequence[str], variant: str) -> Any:
  """Makes the Linen network that returns the features of some layers.

  Args:
    model: One of `models.feature_names()`.
    layers: Names of the layers, such as conv5_4; see the model's file.
    variant: One of the model's `VARIANTS`.
  """
  return _module(model).Model(layers=layers, variant=variant)


def load(
  spec: str | os.PathLike[str],
  *,
  model: str,
  layers: Sequence[str],
  variant: str,
) -> Params:
  """Loads the parameters of `network`, up to the deepest requested layer.

  Args:
    spec: Where the weights are; see the top of this file.
    model: One of `models.feature_names()`.
    layers: Names of the requested layers.
    variant: The variant of the model that the weights must belong to.

  Raises:
    UserError: A layer is unknown, or the weights are missing, belong to another
      network, or do not reach the deepest layer.
  """
  shapes = _module(model).convolutions(variant)
  needed = up_to(layers, shapes)
  if str(spec).startswith(_RANDOM):
    held = _random({name: shapes[name] for name in needed}, str(spec))
  else:
    held = _read(pathlib.Path(spec), model, variant)
    last = _last(shapes_of(held), shapes, variant, spec)
    if needed[-1] not in held:
      raise UserError(
        f'{spec}: ends at layer {last}, but {needed[-1]} is needed: give '
        f'{_whole(model, variant)}'
      )
  return {name: held[name] for name in needed}


def _random(shapes: Mapping[str, tuple[int, ...]], spec: str) -> Params:
  """He's normal initial values; a layer's do not depend on deeper layers."""
  seed = spec.removeprefix(_RANDOM)
  if not seed.isdecimal():
    raise UserError(f'{spec}: give a whole number after {_RANDOM}')
  rng = np.random.default_rng(int(seed))
  params: Params = {}
  for name, shape in shapes.items():
    kernel = rng.standard_normal(shape, np.float32)
    kernel *= np.float32(math.sqrt(2 / math.prod(shape[:-1])))
    params[name] = {'kernel': kernel, 'bias': np.zeros(shape[-1], np.float32)}
  return params


def _module(model: str) -> ModuleType:
  if model not in models.feature_names():
    raise UserError(
      f'{model!r} is no network of features; choose from '
      f'{models.feature_names()}'
    )
  return importlib.import_module(f'sr_jax.models.features.{model}')


def _whole(model: str, variant: str) -> str:
  """Names the file that has all weights, with the start of its SHA-256."""
  file = _module(model).RELEASED[variant]
  digest = pathlib.Path(file).stem.rpartition('-')[2]
  return f'{file} of {_SOURCE} (SHA-256 {digest}...)'


def _read(path: pathlib.Path, model: str, variant: str) -> Params:
  """Reads the layers of a checkpoint or a file, which start at the image."""
  if not path.is_dir():
    return read_file(path, model, variant)[0]
  loaded = checkpoints.load_params(path)
  held = loaded.config.get('model', {}).get('name')
  if held != model or SLOT not in loaded.params:
    raise UserError(f'{path}: holds {held}, not the features of {model}')
  return loaded.params[SLOT]


def read_file(
  path: str | os.PathLike[str], model: str, variant: str | None = None
) -> tuple[Params, list[str]]:
  """Reads a PyTorch file of a network of features, such as torchvision's.

  Args:
    path: The file.
    model: One of `models.feature_names()`.
    variant: The variant whose file is named in an error if `path` does not
      exist; None means the first variant of the model.

  Returns:
    The parameters of the convolutions, starting at the image, and notes on what
    was ignored.

  Raises:
    UserError: The file does not exist or holds no weights of the model.
  """
  module = _module(model)
  if not os.path.exists(path):
    raise UserError(
      f'{path}: no such weights: put '
      f'{_whole(model, variant or next(iter(module.VARIANTS)))} there, or the '
      f'folder that `sr-jax import` made of it with --model {model}'
    )
  value = read_tensors(path)
  try:
    weights = torch_to_flax(value, module.TORCH_NAMES)
    weights = without_ignored(weights, module.TORCH_IGNORED)
    if weights.unused:
      raise UserError(f'holds {next(iter(weights.unused))}, unknown to {model}')
  except UserError as error:
    raise UserError(f'{path}: {error}') from None
  held = {name: array.shape for name, array in weights.arrays.items()}
  notes = [*weights.notes, f'up to {_last_of_any(held, module, path)}']
  return traverse_util.unflatten_dict(weights.arrays, sep='/'), notes


def _last_of_any(
  held: Shapes, module: ModuleType, path: str | os.PathLike[str]
) -> str:
  """Name of the last layer of weights that fit any variant of a model."""
  reasons = []
  for variant in module.VARIANTS:
    try:
      return _last(held, module.convolutions(variant), variant, path)
    except UserError as error:
      reasons.append(error)
  raise reasons[0]


def _last(
  held: Shapes,
  kernels: Mapping[str, tuple[int, ...]],
  variant: str,
  path: str | os.PathLike[str],
) -> str:
  """Name of the last layer of weights of one variant.

  Args:
    held: Shapes of the weights, which may end before the variant's last layer.
    kernels: Shapes of the kernels of all layers of the variant.
    variant: Name of the variant, for error messages.
    path: The file, for error messages.

  Raises:
    UserError: The weights are not the first layers of the variant.
  """
  names = {parameter.partition('/')[0] for parameter in held}
  first = list(kernels)[: len(names)]
  if unlike := sorted(names ^ set(first)):
    raise UserError(
      f'{path}: is no {variant}: its layers differ in {", ".join(unlike)}'
    )
  wanted = {}
  for name in first:
    shape = kernels[name]
    wanted |= {f'{name}/kernel': shape, f'{name}/bias': shape[-1:]}
  for parameter in sorted({*held, *wanted}):
    shapes = [x.get(parameter, 'missing') for x in (held, wanted)]
    if shapes[0] != shapes[1]:
      raise UserError(
        f'{path}: is no {variant}: {parameter} is {shapes[0]}, not {shapes[1]}'
      )
  return first[-1]

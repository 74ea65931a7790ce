"""Weights of the networks whose features losses and metrics compare.

They do not come with the package. A SPEC says where they are:

  PATH          a folder that `sr-jax import WEIGHTS --model vgg` wrote, or the
                torchvision file itself
  random:SEED   random weights, for trying things out

Files that end early serve as long as no later layer is asked for.
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

from sr_jax import checkpoints
from sr_jax.errors import UserError
from sr_jax.importers.names import torch_to_flax, without_ignored
from sr_jax.importers.torch_pickle import read_tensors
from sr_jax.models import FEATURES
from sr_jax.models.common import up_to

# Slot of the parameters in a checkpoint.
SLOT = 'features'
_RANDOM = 'random:'
_SOURCE = 'https://download.pytorch.org/models/'

Params = dict[str, dict[str, Any]]


def network(model: str, layers: Sequence[str], variant: str) -> Any:
  """The Linen network that gives some layers.

  Args:
    model: One of `models.FEATURES`.
    layers: Such as conv5_4, see the model's file.
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
  """Parameters of `network`, no deeper than its layers.

  Args:
    spec: See the head of this file.
    model: As for `network`, and so the others.
    layers: Of them the deepest counts.
    variant: Whose weights they must be.

  Raises:
    UserError: an unknown layer; no weights at `spec`, others than asked for, or
      too few.
  """
  shapes = _module(model).convolutions(variant)
  needed = up_to(layers, shapes)
  if str(spec).startswith(_RANDOM):
    held = _random({name: shapes[name] for name in needed}, str(spec))
  else:
    held = _read(pathlib.Path(spec), model, variant)
    last = _last(held, shapes, variant, spec)
    if needed[-1] not in held:
      raise UserError(
        f'{spec}: ends at {last}, but {needed[-1]} is asked for: give '
        f'{_whole(model, variant)}'
      )
  return {name: held[name] for name in needed}


def _random(shapes: Mapping[str, tuple[int, ...]], spec: str) -> Params:
  """He's normal initial values, the same for a layer however deep others go."""
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
  if model not in FEATURES:
    raise UserError(f'{model!r} gives no features; choose from {FEATURES}')
  return importlib.import_module(f'sr_jax.models.{model}')


def _whole(model: str, variant: str) -> str:
  """Which file has all weights, and how to tell that it is whole."""
  file = _module(model).RELEASED[variant]
  digest = pathlib.Path(file).stem.rpartition('-')[2]
  return f'{file} of {_SOURCE} (SHA-256 {digest}...)'


def _read(path: pathlib.Path, model: str, variant: str) -> Params:
  """All layers that a checkpoint or a file has, from the image on."""
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
  """Reads a PyTorch file of one of `models.FEATURES`.

  Args:
    path: Such as torchvision's.
    model: Whose features.
    variant: Which file to tell of if there is none; the model's first.

  Returns:
    Its convolutions, from the image on, and what was ignored.

  Raises:
    UserError: it is no such file.
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
  held = traverse_util.unflatten_dict(weights.arrays, sep='/')
  return held, [*weights.notes, f'up to {_last_of_any(held, module, path)}']


def _last_of_any(
  held: Mapping[str, Any], module: ModuleType, path: str | os.PathLike[str]
) -> str:
  """The last layer of weights that fit some variant."""
  reasons = []
  for variant in module.VARIANTS:
    try:
      return _last(held, module.convolutions(variant), variant, path)
    except UserError as error:
      reasons.append(error)
  raise reasons[0]


def _last(
  held: Mapping[str, Any],
  shapes: Mapping[str, tuple[int, ...]],
  variant: str,
  path: str | os.PathLike[str],
) -> str:
  """The last of what must be the first convolutions of a variant."""
  first = list(shapes)[: len(held)]
  if unlike := sorted(set(held) ^ set(first)):
    raise UserError(
      f'{path}: is no {variant}: its layers differ in {", ".join(unlike)}'
    )
  for name in first:
    layer = {k: np.shape(v) for k, v in held[name].items()}
    wanted = {'bias': shapes[name][-1:], 'kernel': shapes[name]}
    if layer != wanted:
      raise UserError(
        f'{path}: is no {variant}: {name} is {layer}, not {wanted}'
      )
  return first[-1]

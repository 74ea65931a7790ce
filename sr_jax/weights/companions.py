"""Imports the networks that are trained with another one, such as IKC's.

IKC enlarges with SFTMD, whose kernel codes come from two further networks. The
codes are those of a basis, which has to be kept with the weights.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import traverse_util

from sr_jax import models
from sr_jax.errors import UserError
from sr_jax.models.parts.parameters import shapes_of
from sr_jax.ops.kernel_codes import gaussian_basis, side_of
from sr_jax.weights.formats.torch_pickle import read_tensors
from sr_jax.weights.names import torch_to_flax
from sr_jax.weights.published import Imported, refuse_difference

PathLike = str | os.PathLike[str]

# Taps per axis of the kernels of the released code, and its smallest standard
# deviation. The largest one is the scale.
_SIZE, _LEAST = 21, 0.2

# Sections for SFTMD, and for all of IKC's networks.
_SFTMD = {'degradation': {'name': 'blur-bicubic'}}
_ALL = {**_SFTMD, 'method': {'name': 'kernel_correction'}}


class Companions(NamedTuple):
  """What goes into a checkpoint beside the network that enlarges.

  Attributes:
    slots: Parameters by slot.
    sections: Changes of sections of the config.
    notes: One line on each choice that was made and each part that was ignored.
  """

  slots: dict[str, Any]
  sections: dict[str, dict[str, Any]]
  notes: list[str]


def import_companions(
  imported: Imported,
  files: Mapping[str, PathLike | None],
  basis: PathLike | None = None,
) -> Companions:
  """Reads the companions of an imported network, and the basis of its codes.

  Args:
    imported: The network that enlarges.
    files: A file for each slot of `Architecture.COMPANIONS`, or None for each.
    basis: File of the basis, as IKC's `pca_matrix.pth`; None computes it.

  Raises:
    UserError: The model has no companions, only some are given, or a file does
      not hold them.
  """
  name = imported.config['name']
  known = models.module(name).COMPANIONS
  given = {slot: path for slot, path in files.items() if path is not None}
  if not known:
    for option in [*given, *(['pca'] if basis is not None else [])]:
      raise UserError(
        f'model {name} has no use for {option}=FILE: leave it out'
      )
    return Companions({}, {}, [])
  if given and (missing := sorted(set(known) - set(given))):
    raise UserError(
      f'model {name} needs its {missing[0]} too: give {missing[0]}=FILE'
    )
  slots, notes = {}, []
  if not given and 'codes' in imported.slots:
    if basis is not None:
      raise UserError('the file holds its own basis: leave pca=FILE out')
    whole = set(known) <= set(imported.slots)
    return Companions(dict(imported.slots), _ALL if whole else _SFTMD, [])
  for slot, path in given.items():
    slots[slot], more = import_companion(path, name, slot)
    notes += more
  count, scale = imported.config['options']['codes'], imported.config['scale']
  if basis is not None:
    matrix = _read_basis(basis, count)
  else:
    matrix = gaussian_basis(_LEAST, scale, size=_SIZE, codes=count)
    notes.append(
      f'basis of the codes: Gaussians of {_LEAST:g} to {scale:g} HR pixels on'
      f' {_SIZE}x{_SIZE} taps'
    )
  slots['codes'] = {'basis': matrix.astype(np.float32)}
  return Companions(slots, _ALL if given else _SFTMD, notes)


def import_companion(
  path: PathLike, model: str, slot: str
) -> tuple[dict[str, Any], list[str]]:
  """Reads one network that is trained with the network of a model.

  Args:
    path: A `.pth` or `.pt` file.
    model: Name of the architecture, such as `ikc`.
    slot: Which of its `COMPANIONS`, such as `predictor`.

  Returns:
    Parameters, and notes as in `Companions`.

  Raises:
    UserError: The file cannot be read, or does not hold the network.
  """
  companion = models.module(model).COMPANIONS[slot]
  try:
    weights = torch_to_flax(read_tensors(path), companion.TORCH_NAMES)
    shapes = {name: array.shape for name, array in weights.arrays.items()}
    try:
      network = companion.Model(**companion.recognise(shapes))
    except KeyError as error:
      raise UserError(f'lacks the tensor {error.args[0]}') from None
    except (LookupError, ValueError) as error:
      raise UserError(
        f'its shapes are not those of a {slot}: {error}'
      ) from None
    fresh = jax.eval_shape(
      network.init, jax.random.key(0), *network.example_inputs
    )
    refuse_difference(weights, shapes_of(fresh['params']), slot)
  except UserError as error:
    told = str(error)
    raise UserError(
      told if told.startswith(str(path)) else f'{path}: {told}'
    ) from None
  tree = traverse_util.unflatten_dict(weights.arrays, sep='/')
  return tree, weights.notes


def _read_basis(path: PathLike, codes: int) -> np.ndarray:
  """Reads a matrix `[K * K, codes]`, the only tensor of a file."""
  value = read_tensors(path)
  if isinstance(value, dict) and len(value) == 1:
    (value,) = value.values()
  if not isinstance(value, np.ndarray) or value.ndim != 2:
    raise UserError(f'{path}: holds no matrix')
  side = side_of(value)
  fits = value.shape == (side**2, codes) and side % 2 == 1
  if not fits or value.dtype.kind != 'f' or not np.isfinite(value).all():
    raise UserError(
      f'{path}: must hold finite numbers, (K * K, {codes}) with an odd K, not'
      f' {value.dtype} of shape {value.shape}'
    )
  return value

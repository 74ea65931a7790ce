"""Reads weights from MATLAB files, in the three layouts that SR papers use.

MatConvNet   struct `net` with `params` of `name` and `value` (LapSRN)
cells        struct `model` with cells `weight` and `bias` (Caffe's VDSR)
matrices     `weights_conv1`, `biases_conv1`, ... (SRCNN)
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from sr_jax.array_files import mat5
from sr_jax.errors import UserError

START = b'MATLAB '


def read_mat(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
  """Reads the kernels and biases of a MATLAB file.

  Returns:
    Kernels `[K, K, in, out]` (`[K, K, out, in]` for transposed convolutions)
    under names NAME_f, and biases `[out]` under names NAME_b. NAME is that of
    the file; cells have no names and are called layer1, layer2 and so on.

  Raises:
    UserError: The file is missing, damaged or of another layout.
  """
  try:
    with open(path, 'rb') as file:
      data = file.read()
  except OSError as error:
    raise UserError(f'{path}: {error.strerror or error}') from None
  try:
    if not data.startswith(mat5.START):
      raise UserError('is in the format of MATLAB 7.3: save it again with -v7')
    return _tensors(mat5.read_variables(data))
  except UserError as error:
    raise UserError(f'{path}: {_one_line(error)}') from None
  except (ValueError, LookupError, zlib.error, StopIteration) as error:
    raise UserError(f'{path}: damaged: {_one_line(error)}') from None


def _tensors(variables: dict[str, Any]) -> dict[str, np.ndarray]:
  """Kernels and biases, by names that end in `_f` or `_b`."""
  tensors: dict[str, np.ndarray] = {}
  for name, value in _named(variables):
    if not isinstance(name, str) or not isinstance(value, np.ndarray):
      raise UserError(f'holds no numbers under the name {name!r:.80}')
    if name in tensors:
      raise UserError(f'has the tensor {name[:80]!r} twice')
    # MATLAB drops trailing axes of size 1.
    kernel = value.shape + (1,) * (4 - value.ndim)
    tensors[name] = value.reshape(-1 if name.endswith('_b') else kernel)
  if not tensors:
    raise UserError('holds no weights')
  return tensors


def _named(variables: dict[str, Any]) -> Iterable[tuple[Any, Any]]:
  """Pairs of names and arrays, in any of the three layouts."""
  # MatConvNet saves the fields of a deployed network as variables.
  net = [variables] if 'params' in variables else variables.get('net')
  if net is not None:
    params = _structs(_structs(net, 'net')[0].get('params'), 'net.params')
    if len(params) == 1 and isinstance(params[0].get('name'), list):
      return zip(params[0]['name'], params[0].get('value', []), strict=True)
    return [(param.get('name'), param.get('value')) for param in params]
  if 'model' in variables:
    (cells,) = _structs(variables['model'], 'model')
    return [
      (f'layer{i}{ending}', value)
      for field, ending in (('weight', '_f'), ('bias', '_b'))
      for i, value in enumerate(_cells(cells.get(field), field), 1)
    ]
  if 'weights_conv1' in variables:
    return _matrices(variables).items()
  raise UserError(
    f'holds {", ".join(variables)[:200] or "nothing"}, and neither net, model'
    ' nor weights_conv1: the layout is unknown'
  )


def _structs(value: Any, name: str) -> list[dict[str, Any]]:
  parts = value if isinstance(value, list) else []
  if not parts or not all(isinstance(part, dict) for part in parts):
    raise UserError(f'holds no struct {name}: the layout is unknown')
  return parts


def _cells(value: Any, name: str) -> list[Any]:
  if not isinstance(value, list):
    raise UserError(f'holds no cells model.{name}: the layout is unknown')
  return value


def _one_line(error: Exception) -> str:
  return ' '.join(str(error).split())[:300]


def _matrices(variables: dict[str, Any]) -> dict[str, np.ndarray]:
  """Kernels and biases of SRCNN, from the matrices of its three layers.

  The shapes of the matrices are `[K*K, out]`, `[in, K*K, out]` and `[in, K*K]`.
  """
  tensors = {}
  for i in (1, 2, 3):
    weights, biases = (
      variables.get(f'{kind}_conv{i}') for kind in ('weights', 'biases')
    )
    if not isinstance(weights, np.ndarray) or not isinstance(
      biases, np.ndarray
    ):
      raise UserError(f'lacks the numbers of layer {i} of SRCNN')
    if i == 1:
      taps = weights[:, None]
    elif i == 2:
      taps = np.atleast_3d(weights).transpose(1, 0, 2)
    else:
      taps = weights.T[..., None]
    side = round(len(taps) ** 0.5)
    # MATLAB stores matrices column by column.
    kernel = taps.reshape(side, side, *taps.shape[1:], order='F')
    tensors[f'conv{i}_f'] = kernel
    tensors[f'conv{i}_b'] = biases
  return tensors

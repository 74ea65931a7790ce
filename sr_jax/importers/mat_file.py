"""Weights out of MATLAB files, in the three layouts that SR papers left.

MatConvNet   struct `net` with `params` of `name` and `value` (LapSRN)
cells        struct `model` with cells `weight` and `bias` (Caffe's VDSR)
matrices     `weights_conv1`, `biases_conv1`, ... (SRCNN)
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from typing import Any

import numpy as np

from sr_jax.errors import UserError

START = b'MATLAB '
_VERSION = b'MATLAB 5.0 '
_HEADER = 128
_COMPRESSED = 15
# Weights hardly compress: more than this, times the file, is made to do harm.
_LARGEST_RATIO = 50


def read_mat(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
  """Kernels `NAME_f` `[K, K, in, out]` and biases `NAME_b` `[out]`.

  Kernels of transposed convolutions are `[K, K, out, in]`. Names are the file's
  own, or `layer1`, `layer2`, ... of cells.

  Raises:
    UserError: the file is missing, damaged or of another layout.
  """
  try:
    with open(path, 'rb') as file:
      data = file.read()
  except OSError as error:
    raise UserError(f'{path}: {error.strerror or error}') from None
  try:
    tensors = _tensors(_variables(data))
    if not tensors:
      raise UserError('holds no weights')
  except UserError as error:
    raise UserError(f'{path}: {error}') from None
  # scipy raises whatever a damaged file leads it to.
  except Exception as error:
    reason = ' '.join(str(error).split())[:200]
    raise UserError(f'{path}: damaged: {reason}') from None
  return {
    name: value.reshape(-1)
    if name.endswith('_b')
    # MATLAB drops trailing ones.
    else value.reshape(*value.shape, *(1,) * (4 - value.ndim))
    for name, value in tensors.items()
  }


def _variables(data: bytes) -> dict[str, Any]:
  import scipy.io

  if not data.startswith(_VERSION):
    raise UserError('is in the format of MATLAB 7.3: save it again with -v7')
  _check_size(data)
  return scipy.io.loadmat(io.BytesIO(data))


def _check_size(data: bytes) -> None:
  """Refuses compressed variables that would fill the memory."""
  order = '<' if data[126:128] == b'IM' else '>'
  position, left = _HEADER, _LARGEST_RATIO * len(data)
  while position + 8 <= len(data):
    kind, length = struct.unpack_from(f'{order}II', data, position)
    position += 8
    if kind == _COMPRESSED:
      machine = zlib.decompressobj()
      part = data[position : position + length]
      while part and left >= 0:
        left -= len(machine.decompress(part, 1 << 20))
        part = machine.unconsumed_tail
    if left < 0:
      raise UserError('has variables of impossible size')
    position += length


def _tensors(variables: dict[str, Any]) -> dict[str, np.ndarray]:
  """By names that end in `_f` or `_b`."""
  if 'net' in variables:
    params = variables['net']['params'][0, 0].reshape(-1)
    return {str(p['name'].item()): np.asarray(p['value']) for p in params}
  if 'model' in variables:
    cells = variables['model'][0, 0]
    return {
      f'layer{i}{ending}': np.asarray(value)
      for field, ending in (('weight', '_f'), ('bias', '_b'))
      for i, value in enumerate(cells[field].reshape(-1), 1)
    }
  if 'weights_conv1' in variables:
    return _matrices(variables)
  names = ', '.join(k for k in variables if not k.startswith('__'))
  raise UserError(
    f'holds {names[:200] or "nothing"}, and neither net, model nor'
    ' weights_conv1: no layout that is known'
  )


def _matrices(variables: dict[str, Any]) -> dict[str, np.ndarray]:
  """SRCNN's: taps `[K*K, out]`, `[in, K*K, out]` and `[in, K*K]`."""
  tensors = {}
  for i in (1, 2, 3):
    weights = np.asarray(variables[f'weights_conv{i}'])
    if i == 1:
      taps = weights[:, None]
    elif i == 2:
      taps = np.atleast_3d(weights).transpose(1, 0, 2)
    else:
      taps = weights.T[..., None]
    side = round(len(taps) ** 0.5)
    # MATLAB counts rows first.
    kernel = taps.reshape(side, side, *taps.shape[1:], order='F')
    tensors[f'conv{i}_f'] = kernel
    tensors[f'conv{i}_b'] = np.asarray(variables[f'biases_conv{i}'])
  return tensors

"""Kernel files, and the specs by which commands and configs name a kernel.

A kernel file that cannot be used is refused, never replaced: a silent fall-back
to bicubic is the commonest way to a wrong blind-SR number.
"""

from __future__ import annotations

import logging
import os
import pathlib

import numpy as np

from sr_jax.errors import UserError
from sr_jax.files import open_atomically
from sr_jax.ops.blur_kernels import bd_kernel, gaussian_kernel

_log = logging.getLogger(__name__)

_KEYS = ('kernel', 'Kernel')
# Beyond sigma 10 a blur is no longer a super-resolution kernel.
_MAX_VARIANCE = 100.0


def _read_mat(path: pathlib.Path) -> dict[str, np.ndarray]:
  """Variables of a .mat file, version 5 or 7.3 (HDF5)."""
  import h5py
  import scipy.io

  if h5py.is_hdf5(path):
    with h5py.File(path) as file:
      # MATLAB stores columns first.
      return {
        name: np.asarray(item).T
        for name, item in file.items()
        if isinstance(item, h5py.Dataset)
      }
  variables = scipy.io.loadmat(path)
  return {k: v for k, v in variables.items() if not k.startswith('__')}


def _select(variables: dict[str, np.ndarray], path: pathlib.Path) -> np.ndarray:
  for key in _KEYS:
    if key in variables:
      return variables[key]
  if 'kernels' in variables:
    raise UserError(
      f'{path}: holds {variables["kernels"].size} kernels under the key '
      "'kernels'; save the one you want under the key 'kernel'"
    )
  found = ', '.join(variables) or 'nothing'
  raise UserError(
    f"{path}: no variable 'kernel' or 'Kernel' (found: {found}); save the "
    "kernel under the key 'kernel'"
  )


def _checked(kernel: np.ndarray, name: str) -> np.ndarray:
  """`kernel` as float64 with sum 1, or the reason why it is none."""
  if kernel.dtype.kind not in 'fiu':
    raise UserError(
      f'{name}: a kernel must be real numbers, not {kernel.dtype}'
    )
  if kernel.ndim != 2 or kernel.size == 0:
    raise UserError(
      f'{name}: a kernel must be a two-dimensional array, not of shape '
      f'{kernel.shape}'
    )
  kernel = kernel.astype(np.float64)
  if not np.isfinite(kernel).all():
    raise UserError(f'{name}: the kernel has NaN or infinite taps')
  total = kernel.sum()
  if total <= 1e-6 * np.abs(kernel).sum():
    raise UserError(
      f'{name}: the kernel sums to {total:g}; it must have a positive sum'
    )
  negative = int((kernel < 0).sum())
  if abs(total - 1) > 1e-3:
    _log.warning('%s: the taps sum to %g; divided by it', name, total)
  if negative:
    _log.warning('%s: %d taps are negative; kept', name, negative)
  return kernel / total


def load_kernel(path: str | os.PathLike[str]) -> np.ndarray:
  """Reads a `[K1, K2]` float64 kernel, normalised to sum 1.

  Reads `.npy` and `.mat` (version 5 or 7.3, key `kernel` or `Kernel`). Negative
  taps and an off-centre mass are kept: estimated kernels have both.

  Raises:
    UserError: a file that is missing, unreadable, empty, not two-dimensional,
      not finite or without a positive sum.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise UserError(f'{path}: no such kernel file')
  if path.suffix not in ('.mat', '.npy'):
    raise UserError(f'{path}: a kernel file must be .mat or .npy')
  try:
    if path.suffix == '.npy':
      variables = {'kernel': np.load(path, allow_pickle=False)}
    else:
      variables = _read_mat(path)
  # The readers raise whatever a damaged file leads them to.
  except Exception as error:
    reason = str(error).splitlines() or [type(error).__name__]
    raise UserError(f'{path}: not a readable kernel: {reason[0]}') from error
  return _checked(_select(variables, path), str(path))


def save_kernel(path: str | os.PathLike[str], kernel: np.ndarray) -> None:
  """Writes a kernel as `.npy` or `.mat` (version 5, key `kernel`), atomically.

  Raises:
    UserError: another suffix, an array that `load_kernel` would refuse, or a
      place that cannot be written.
  """
  import scipy.io

  path = pathlib.Path(path)
  if path.suffix not in ('.mat', '.npy'):
    raise UserError(f'{path}: a kernel file must be .mat or .npy')
  kernel = _checked(np.asarray(kernel), str(path))
  with open_atomically(path) as file:
    if path.suffix == '.npy':
      np.save(file, kernel)
    else:
      scipy.io.savemat(file, {'kernel': kernel})


def _parse_gaussian(spec: str) -> np.ndarray:
  try:
    numbers = [float(n) for n in spec.removeprefix('gaussian:').split(',')]
  except ValueError:
    numbers = []
  if len(numbers) not in (1, 3) or not np.isfinite(numbers).all():
    raise UserError(
      f'kernel {spec!r}: write gaussian:VAR or gaussian:VAR1,VAR2,THETA'
    )
  if not all(1e-6 <= v <= _MAX_VARIANCE for v in numbers[:2]):
    raise UserError(
      f'kernel {spec!r}: variances must be above 0 and at most '
      f'{_MAX_VARIANCE:g} HR pixels squared'
    )
  return np.asarray(gaussian_kernel(*numbers, size=None))


def parse_kernel_spec(spec: str) -> np.ndarray | None:
  """The kernel a SPEC names; None for `bicubic`, which is no blur at all.

  SPEC is `bicubic`, `gaussian:VAR`, `gaussian:VAR1,VAR2,THETA` (variances in HR
  pixels squared, radians), `bd` (`bd_kernel`) or a `.mat` / `.npy` file.

  Raises:
    UserError: none of these, or a file that `load_kernel` refuses.
  """
  if spec == 'bicubic':
    return None
  if spec == 'bd':
    return bd_kernel()
  if spec.startswith('gaussian:'):
    return _parse_gaussian(spec)
  if not spec.endswith(('.mat', '.npy')):
    raise UserError(
      f'kernel {spec!r}: write bicubic, gaussian:VAR, gaussian:VAR1,VAR2,THETA,'
      ' bd or the path of a .mat or .npy file'
    )
  return load_kernel(spec)

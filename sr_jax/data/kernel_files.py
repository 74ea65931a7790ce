"""Kernel files, and the specs by which commands and configs name a kernel.

A kernel file that cannot be used is an error. If bicubic were silently used in
its place, the scores of blind super-resolution would be wrong.
"""

from __future__ import annotations

import functools
import logging
import math
import os
import pathlib
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from sr_jax.array_files import hdf5, mat5, npy
from sr_jax.data.kernel_names import KERNELS, KERNELS_OR_AUTO, unknown_kernel
from sr_jax.errors import UserError, counted
from sr_jax.files import open_atomically
from sr_jax.ops.blur_kernels import (
  DEFAULT_SIZE,
  Kernel,
  bd_kernel,
  gaussian_kernel,
  normalized_kernel,
)

_log = logging.getLogger(__name__)

_SUFFIXES = ('.mat', '.npy')
_KEYS = ('kernel', 'Kernel')
_STACK = 'kernels'
# Largest kernel in bytes: 1024 x 1024 float64 taps. Published kernels have less
# than 100 x 100 taps.
_MOST_BYTES = 1 << 23
# Largest file in bytes, which may hold other variables beside the kernel.
_LARGEST_FILE = 1 << 28
# Beyond sigma 10 a blur is no longer a super-resolution kernel.
_MAX_VARIANCE = 100.0
# Exceptions that the readers raise for damaged files.
_DAMAGE = (
  ValueError,
  LookupError,
  TypeError,
  ArithmeticError,
  RuntimeError,
  NotImplementedError,
  MemoryError,
  OSError,
  StopIteration,
  zlib.error,
)


def load_kernel(path: str | os.PathLike[str]) -> np.ndarray:
  """Reads a `[K1, K2]` float64 kernel, normalised to sum 1.

  Files are `.npy` or `.mat` (versions 5 to 7.3, key `kernel` or `Kernel`, also
  sparse arrays). Negative taps and a centre of mass off the middle are kept,
  because estimated kernels have both. As long as a file does not change, it is
  read only once, and warnings are given only once.

  Raises:
    UserError: The file is missing, unreadable or empty, or the array in it is
      not two-dimensional, not finite or has no positive sum.
  """
  path = pathlib.Path(path)
  _check_suffix(path)
  try:
    if not path.is_file():
      raise UserError(f'{path}: no such kernel file')
    facts = path.stat()
    return _load(path.absolute(), str(path), facts.st_mtime_ns, facts.st_size)
  except OSError as error:
    raise UserError(f'{path}: {error.strerror or error}') from None


@functools.lru_cache(maxsize=64)
def _load(path: pathlib.Path, name: str, changed: int, size: int) -> np.ndarray:
  """Reads the kernel of a file; the array is read-only because it is shared."""
  del changed
  try:
    if size > _LARGEST_FILE and not _is_hdf5(path):
      raise UserError(f'has {size:,} bytes; save the kernel alone')
    if path.suffix.lower() == '.npy':
      with path.open('rb') as file:
        kernel = npy.read_npy(file, _MOST_BYTES)
    elif _is_hdf5(path):
      with hdf5.Arrays(path) as arrays:
        kernel = _of_hdf5(arrays)
    else:
      kernel = _of_mat5(mat5.read_variables(path.read_bytes()))
  except UserError as error:
    raise UserError(f'{name}: {error}') from None
  except _DAMAGE as error:
    reason = ' '.join(str(error).split())[:200] or type(error).__name__
    raise UserError(f'{name}: not a readable kernel: {reason}') from None
  kernel = _checked(kernel, name)
  kernel.setflags(write=False)
  return kernel


def _is_hdf5(path: pathlib.Path) -> bool:
  """Whether the file has HDF5's signature, after MATLAB's header or at once."""
  with path.open('rb') as file:
    start = file.read(512 + len(hdf5.SIGNATURE))
  return any(start[i:].startswith(hdf5.SIGNATURE) for i in (0, 512))


def _of_hdf5(arrays: hdf5.Arrays) -> np.ndarray:
  names = arrays.names()
  for key in _KEYS:
    if key in names:
      return arrays.read(key, _MOST_BYTES)
  if _STACK in names:
    shape = arrays.shape(_STACK)
    # An array of numbers holds the taps. A cell array holds one reference to
    # each kernel.
    numbers = arrays.holds_numbers(_STACK)
    raise _several(math.prod(shape[2:]) if numbers else math.prod(shape))
  raise _no_kernel(names)


def _of_mat5(variables: dict[str, Any]) -> np.ndarray:
  for key in _KEYS:
    if isinstance(variables.get(key), np.ndarray):
      return variables[key]
  stack = variables.get(_STACK)
  if isinstance(stack, np.ndarray):
    raise _several(math.prod(stack.shape[2:]))
  if isinstance(stack, list):
    raise _several(len(stack))
  raise _no_kernel(variables)


def _several(count: int) -> UserError:
  return UserError(
    f"holds {counted(count, 'kernel')} under the key 'kernels'; save the one"
    " you want under the key 'kernel'"
  )


def _no_kernel(names: Iterable[str]) -> UserError:
  found = ', '.join(names)[:200] or 'nothing'
  return UserError(
    f"no variable 'kernel' or 'Kernel' (found: {found}); save the kernel under"
    " the key 'kernel'"
  )


def _checked(kernel: Any, name: str) -> Any:
  """Normalises a kernel to sum 1, and warns if it looks like a mistake."""
  normalized = normalized_kernel(kernel, name)
  array = kernel.array if isinstance(kernel, Kernel) else kernel
  taps = np.asarray(array, np.float64)
  total, negative = taps.sum(), int((taps < 0).sum())
  if abs(total - 1) > 1e-3:
    _log.warning('%s: the taps sum to %g; divided by it', name, total)
  if negative:
    _log.warning('%s: %s below zero; kept', name, counted(negative, 'tap'))
  return normalized


def save_kernel(path: str | os.PathLike[str], kernel: np.ndarray) -> None:
  """Writes a kernel as `.npy` or `.mat` (version 5, key `kernel`), atomically.

  Raises:
    UserError: The suffix is another one, `load_kernel` would refuse the array,
      or the file cannot be written.
  """
  path = pathlib.Path(path)
  _check_suffix(path)
  kernel = _checked(np.asarray(kernel), str(path))
  with open_atomically(path) as file:
    if path.suffix.lower() == '.npy':
      np.save(file, kernel)
    else:
      file.write(mat5.written({'kernel': kernel}))


def _check_suffix(path: pathlib.Path) -> None:
  if path.suffix.lower() not in _SUFFIXES:
    raise UserError(f'{path}: a kernel file must be .mat or .npy')


def _parse_sigma(spec: str) -> np.ndarray:
  """An isotropic Gaussian on 21x21 taps, by its standard deviation."""
  try:
    sigma = float(spec.removeprefix('sigma:'))
  except ValueError:
    sigma = math.nan
  if not 1e-3 <= sigma <= math.sqrt(_MAX_VARIANCE):
    raise UserError(
      f'kernel {spec!r}: write sigma:S, a standard deviation of 0.001 to'
      f' {math.sqrt(_MAX_VARIANCE):g} HR pixels'
    )
  return np.asarray(gaussian_kernel(sigma**2, size=DEFAULT_SIZE))


def _parse_gaussian(spec: str) -> np.ndarray:
  try:
    numbers = [float(n) for n in spec.removeprefix('gaussian:').split(',')]
  except ValueError:
    numbers = []
  if len(numbers) not in (1, 3) or not np.isfinite(numbers).all():
    raise UserError(
      f'kernel {spec!r}: write gaussian:VAR or gaussian:V1,V2,THETA'
    )
  if not all(1e-6 <= v <= _MAX_VARIANCE for v in numbers[:2]):
    raise UserError(
      f'kernel {spec!r}: variances must be above 0 and at most '
      f'{_MAX_VARIANCE:g} HR pixels squared'
    )
  return np.asarray(gaussian_kernel(*numbers, size=None))


def parse_kernel_spec(spec: str, *, known: str = KERNELS) -> np.ndarray | None:
  """Returns the kernel that a SPEC names; None for `bicubic`, which is no blur.

  Args:
    spec: `bicubic`, `gaussian:VAR`, `gaussian:V1,V2,THETA` (variances in HR
      pixels squared, radians), `sigma:S` (a standard deviation in HR pixels,
      on 21x21 taps as in IKC), `bd` (see `bd_kernel`), or the path of a
      `.mat` or `.npy` file.
    known: The names that the error for an unknown name lists.

  Raises:
    UserError: No kernel has this name, or `load_kernel` refuses the file.
  """
  if spec == 'bicubic':
    return None
  if spec == 'bd':
    return bd_kernel()
  if spec.startswith('gaussian:'):
    return _parse_gaussian(spec)
  if spec.startswith('sigma:'):
    return _parse_sigma(spec)
  if not spec.lower().endswith(_SUFFIXES):
    raise unknown_kernel(spec, known)
  return load_kernel(spec)


def as_kernel(kernel: Any, *, known: str = KERNELS_OR_AUTO) -> Any:
  """Returns a kernel with sum 1, or None if there is no blur.

  Args:
    kernel: A SPEC of `parse_kernel_spec`, an array `[K1, K2]`, a `Kernel`, or
      None.
    known: The names that the error for an unknown SPEC lists.

  Raises:
    UserError: No kernel has this name, or the array is no kernel, see
      `load_kernel`.
  """
  if isinstance(kernel, str | os.PathLike):
    return parse_kernel_spec(os.fspath(kernel), known=known)
  return None if kernel is None else _checked(kernel, 'kernel')

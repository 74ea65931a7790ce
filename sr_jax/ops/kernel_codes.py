"""Codes of blur kernels: a few numbers in place of all taps (PCA).

The basis is that of isotropic Gaussians, whose standard deviations are uniform
in a range. Kernels are encoded without removing their mean, as in IKC.

A network understands only codes in the basis with which it was trained, so the
basis has to be kept with its weights.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from sr_jax.errors import UserError
from sr_jax.ops.blur_kernels import gaussian_kernel
from sr_jax.ops.namespace import Array
from sr_jax.ops.precision import einsum

# Number of kernels from which a basis is computed.
_SAMPLES = 2000


def gaussian_basis(
  min_sigma: float, max_sigma: float, *, size: int, codes: int
) -> np.ndarray:
  """The first principal components of a family of isotropic Gaussians.

  Args:
    min_sigma: Smallest standard deviation in HR pixels.
    max_sigma: Largest standard deviation.
    size: Number of taps per axis.
    codes: Number of components.

  Returns:
    `[size * size, codes]` float64. The columns are orthonormal. Their signs
    make the codes of wide kernels positive, as in IKC's published basis.

  Raises:
    UserError: There are more codes than taps.
  """
  if codes > size * size:
    raise UserError(
      f'codes of {codes} numbers are longer than {size}x{size} taps: make them'
      ' shorter, or the kernels larger'
    )
  # Midpoints of equal intervals instead of random draws: the same basis on
  # every machine.
  shares = (np.arange(_SAMPLES) + 0.5) / _SAMPLES
  sigmas = min_sigma + (max_sigma - min_sigma) * shares
  rows = np.stack([gaussian_kernel(s**2, size=size).ravel() for s in sigmas])
  _, _, components = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
  basis = components[:codes].T
  widest = rows[-1] @ basis
  return basis * np.where(widest < 0, -1.0, 1.0)


def encode(kernels: Array, basis: Array) -> Any:
  """Codes `[..., codes]` of kernels `[..., size, size]`.

  Args:
    kernels: Taps with sum 1 and tap size // 2 at the centre.
    basis: `[size * size, codes]`.
  """
  taps = kernels.reshape(*kernels.shape[:-2], -1)
  return einsum('...i,ij->...j', taps, basis)


def side_of(basis: Array) -> int:
  """Number of taps per axis of the kernels that a basis encodes."""
  return math.isqrt(basis.shape[0])


def fitted(kernel: np.ndarray, size: int) -> np.ndarray:
  """A kernel `[K1, K2]` on `size` x `size` taps, with sum 1.

  Outer taps are cut off, or zeros added, so that tap K // 2 becomes tap
  size // 2.

  Raises:
    UserError: Less than half of the kernel lies within these taps.
  """
  result = np.zeros((size, size))
  to, frm = [], []
  for n in kernel.shape:
    start = size // 2 - n // 2
    first, last = max(start, 0), min(start + n, size)
    to.append(slice(first, last))
    frm.append(slice(first - start, last - start))
  result[tuple(to)] = kernel[tuple(frm)]
  if not result.sum() > 0.5 * kernel.sum():
    raise UserError(
      f'the kernel has {kernel.shape[0]}x{kernel.shape[1]} taps, most of it'
      f' outside the inner {size}x{size}, which the network knows'
    )
  return result / result.sum()

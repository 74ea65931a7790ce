"""Blur kernels of several families, one per image, from arrays of parameters.

All families are centred and have the sum 1. With the squared distance q from
the centre, measured in standard deviations along the kernel's axes:

  generalised  exp(-q^beta / 2), a Gaussian if beta is 1 (Liu et al., 2020)
  plateau      1 / (1 + q^beta)
  sinc         the ideal circular low-pass filter, which rings as sharpening and
               compression do

Real-ESRGAN (Wang et al., ICCVW 2021) draws its kernels from these families.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from sr_jax.ops.namespace import Array, array_namespace

# Families by index. 'none' does not blur.
FAMILIES = (
  'isotropic',
  'anisotropic',
  'generalised_isotropic',
  'generalised_anisotropic',
  'plateau_isotropic',
  'plateau_anisotropic',
  'sinc',
  'none',
)
SINC, NONE = FAMILIES.index('sinc'), FAMILIES.index('none')
_PLATEAU = FAMILIES.index('plateau_isotropic')

# A Gaussian as narrow as this leaves an image unchanged.
_LEAST_SIGMA = 0.05
# Intervals of the integral of a Bessel function; its error is below 1e-7 for
# arguments up to 60.
_INTERVALS = 48


class Blur(NamedTuple):
  """Parameters of a blur, `[B]` each.

  Attributes:
    family: Index into `FAMILIES`.
    taps: Number of taps per axis, odd.
    sigma_x: Standard deviation along the first axis, in pixels.
    sigma_y: Standard deviation along the second axis.
    angle: Angle of the first axis in radians, x to the right and y down.
    beta: Exponent of generalised and plateau kernels, 1 for Gaussians.
    cutoff: Cut-off frequency of sinc kernels, where 1 is Nyquist's frequency.
  """

  family: Array
  taps: Array
  sigma_x: Array
  sigma_y: Array
  angle: Array
  beta: Array
  cutoff: Array


def kernels(blur: Blur, size: int) -> Any:
  """Makes the kernels `[B, size, size]` to correlate with; size is odd."""
  xp = array_namespace(blur.family)
  blur = Blur(*(xp.asarray(values)[:, None, None] for values in blur))
  offsets = np.arange(size) - size // 2
  y, x = np.meshgrid(offsets, offsets, indexing='ij')
  y, x = y[None], x[None]
  along = x * xp.cos(blur.angle) + y * xp.sin(blur.angle)
  across = y * xp.cos(blur.angle) - x * xp.sin(blur.angle)
  sigma_x = xp.maximum(blur.sigma_x, _LEAST_SIGMA)
  sigma_y = xp.maximum(blur.sigma_y, _LEAST_SIGMA)
  # The lower limit keeps powers finite at the centre.
  q = xp.maximum((along / sigma_x) ** 2 + (across / sigma_y) ** 2, 1e-12)
  q = xp.minimum(q, 1e6) ** blur.beta
  plateau = (blur.family >= _PLATEAU) & (blur.family < SINC)
  taps = xp.where(plateau, 1 / (1 + q), xp.exp(-q / 2))
  taps = xp.where(blur.family == SINC, _sinc(blur.cutoff, x, y), taps)
  farthest = np.maximum(abs(x), abs(y))
  taps = xp.where(farthest <= blur.taps // 2, taps, 0.0)
  taps = xp.where(blur.family == NONE, 1.0 * (farthest == 0), taps)
  return taps / taps.sum((-2, -1), keepdims=True)


def _sinc(cutoff: Array, x: np.ndarray, y: np.ndarray) -> Any:
  """Impulse response of the ideal circular low-pass filter."""
  xp = array_namespace(cutoff)
  # Taps at the same distance have the same value.
  squares, index = np.unique(x**2 + y**2, return_inverse=True)
  radii = np.sqrt(squares)[None]
  omega = np.pi * cutoff[:, 0]
  safe = np.maximum(radii, 1e-9)
  ring = omega / (2 * np.pi * safe) * _bessel_j1(omega * radii)
  values = xp.where(radii == 0, omega**2 / (4 * np.pi), ring)
  return values[:, index.reshape(x.shape[1:])]


def _bessel_j1(x: Array) -> Any:
  """Bessel function of the first kind and order 1, by its integral."""
  xp = array_namespace(x)
  tau, weights = _quadrature()
  waves = xp.cos(tau - x[..., None] * np.sin(tau))
  return (waves * weights).sum(-1)


@functools.cache
def _quadrature() -> tuple[np.ndarray, np.ndarray]:
  """Nodes and weights of the trapezoidal rule, which is exact for Bessel's."""
  tau = np.linspace(0, np.pi, _INTERVALS + 1)
  weights = np.full(_INTERVALS + 1, 1 / _INTERVALS)
  weights[[0, -1]] /= 2
  return tau[None, None], weights[None, None]

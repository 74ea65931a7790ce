"""Blur kernels: Gaussians, conventions, and alignment to the pixel grid.

Tap [i, j] of a `[K1, K2]` kernel is applied to the pixel at offset
(i - K1 // 2, j - K2 // 2) under correlation and at the negated offset under
convolution. A kernel's centre of mass therefore decides where on the HR grid an
LR pixel sits. Published kernels belong to one of three families:

  mzsr  correlation, LR pixel i at HR position s * i (a centred kernel)
  zssr  correlation, LR pixel i at the middle of its s x s block,
        s * i + (s - 1) / 2, where bicubic upscaling expects it
  kair  convolution, LR pixel i at the middle of its block (KAIR, USRNet)
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sr_jax.errors import UserError
from sr_jax.ops.namespace import Array, array_namespace
from sr_jax.ops.precision import as_float, einsum
from sr_jax.ops.resize import cubic

Convention = Literal['correlation', 'convolution']
Alignment = Literal['corner', 'block']

DEFAULT_SIZE = 21
_LARGEST_TAP = 1e100


class Kernel(NamedTuple):
  """A blur kernel with its convention and its alignment.

  Attributes:
    array: The taps, `[K1, K2]`, with sum 1.
    convention: Whether the taps are applied by 'correlation' or 'convolution'.
    alignment: The HR position of LR pixel i after blur and sampling of every
      s-th pixel: 'corner' is s * i, 'block' is s * i + (s - 1) / 2.
  """

  array: Array
  convention: Convention = 'correlation'
  alignment: Alignment = 'corner'


# family -> (convention, alignment)
FAMILIES: dict[str, tuple[Convention, Alignment]] = {
  'mzsr': ('correlation', 'corner'),
  'zssr': ('correlation', 'block'),
  'kair': ('convolution', 'block'),
}


def gaussian_kernel(
  var1: float | Array,
  var2: float | Array | None = None,
  theta: float | Array = 0.0,
  *,
  size: int | None = DEFAULT_SIZE,
) -> Any:
  """Makes a Gaussian `[size, size]` with sum 1, centred on tap size // 2.

  Args:
    var1: Variance (not sigma) along the first axis, in HR pixels squared.
    var2: Variance along the second axis; None means `var1`.
    theta: Angle of the first axis in radians, x to the right and y down.
    size: Number of taps per axis; None covers five standard deviations, with at
      least 21 taps.

  Returns:
    A float64 NumPy array; a JAX array if any argument is one, in which case
    `size` must be given.
  """
  var2 = var1 if var2 is None else var2
  traced = any(isinstance(v, jax.Array) for v in (var1, var2, theta))
  xp = jnp if traced else np
  if size is None:
    deviation = math.sqrt(max(float(var1), float(var2)))
    size = max(DEFAULT_SIZE, 2 * math.ceil(5 * deviation) + 1)
  offsets = np.arange(size) - size // 2
  y, x = np.meshgrid(offsets, offsets, indexing='ij')
  along = x * xp.cos(theta) + y * xp.sin(theta)
  across = y * xp.cos(theta) - x * xp.sin(theta)
  weights = xp.exp(-0.5 * (along**2 / var1 + across**2 / var2))
  return weights / weights.sum()


def bd_kernel() -> np.ndarray:
  """Blur kernel `[9, 9]` of the BD degradation, for direct sampling at x3.

  The kernel is a 7x7 Gaussian of sigma 1.6, moved one tap down and right of the
  centre. Sampling rows 0, 3, 6, ... then reads the blurred image at the middle
  of each 3x3 block, as MATLAB's nearest-neighbour reduction does.
  """
  return np.pad(gaussian_kernel(1.6**2, size=7), ((2, 0), (2, 0)))


def random_gaussian(
  key: jax.Array,
  *,
  scale: float | jax.Array,
  size: int,
  min_variance: float,
  max_variance: float,
) -> jax.Array:
  """Draws a random anisotropic Gaussian `[size, size]` on the device.

  The distribution is that of MZSR's tasks: the angle is uniform in [0, pi), the
  larger variance uniform in [min_variance, max_variance * scale], and the
  smaller variance uniform in [min_variance, larger variance].

  Args:
    key: PRNG key.
    scale: SR factor s; may be traced.
    size: Number of taps per axis.
    min_variance: Smallest variance in HR pixels squared; 1 in MZSR.
    max_variance: Largest variance per unit of scale, in HR pixels squared; 2.5
      in MZSR.
  """
  keys = jax.random.split(key, 3)
  theta = jax.random.uniform(keys[0], maxval=math.pi)
  larger = jax.random.uniform(
    keys[1], minval=min_variance, maxval=max_variance * scale
  )
  smaller = jax.random.uniform(keys[2], minval=min_variance, maxval=larger)
  return gaussian_kernel(larger, smaller, theta, size=size)


def centre_of_mass(kernel: Array) -> Any:
  """Centre of mass (row, column) `[2]` in taps; taps may be negative."""
  kernel = as_float(kernel)
  xp = array_namespace(kernel)
  rows, columns = (np.arange(n) for n in kernel.shape)
  moments = [(kernel.sum(1) * rows).sum(), (kernel.sum(0) * columns).sum()]
  return xp.stack(moments) / kernel.sum()


def covariance(kernel: np.ndarray) -> np.ndarray:
  """Covariance `[2, 2]` of the taps around their centre, first x, then y."""
  rows, columns = np.indices(kernel.shape)
  y, x = centre_of_mass(kernel)
  offsets = np.stack([columns - x, rows - y]).reshape(2, -1)
  return (offsets * kernel.ravel()) @ offsets.T / kernel.sum()


def flip(kernel: Array) -> Any:
  """Mirrors a kernel, which exchanges correlation and convolution.

  An axis with an even number of taps gains one zero tap, which keeps its centre
  on tap K // 2.
  """
  xp = array_namespace(kernel)
  pad = [(1 - n % 2, 0) for n in kernel.shape]
  return xp.pad(kernel[::-1, ::-1], pad)


def shift_kernel(kernel: Array, shift: tuple[float, float]) -> Any:
  """Moves a kernel by (rows, columns) taps, which may be fractions.

  Keys' cubic interpolation reproduces quadratics. The sum and the covariance
  are therefore kept exactly, and the centre of mass moves by exactly `shift`; a
  spline or linear shift would change them. Every side of the kernel grows by
  `ceil(|shift|) + 1` taps to hold the result.
  """
  kernel = as_float(kernel)
  matrices = []
  for size, distance in zip(kernel.shape, shift, strict=True):
    pad = math.ceil(abs(distance)) + 1
    target = np.arange(size + 2 * pad)[:, None] - pad
    matrices.append(cubic(target - np.arange(size) - distance))
  return einsum('ai,bj,ij->ab', *matrices, kernel)


def align(kernel: np.ndarray, *, to: str, frm: str, scale: float) -> Kernel:
  """Converts a kernel of family `frm` to the same blur in family `to`.

  The taps are flipped if the conventions of the two families differ. The centre
  of mass is then moved to where family `to` expects it: K // 2 for mzsr,
  K // 2 + (s - 1) / 2 for zssr, K // 2 - (s - 1) / 2 for kair. Kernels of even
  size and estimated kernels, which may be off the centre of their family `frm`,
  are centred as well.

  Args:
    kernel: `[K1, K2]` on the host.
    to: Target family: 'mzsr', 'zssr' or 'kair'.
    frm: Family of `kernel`: 'mzsr', 'zssr' or 'kair'.
    scale: SR factor s.

  Returns:
    The kernel with its new convention and alignment.
  """
  convention, alignment = FAMILIES[to]
  if FAMILIES[frm][0] != convention:
    kernel = np.asarray(flip(kernel))
  offset = (scale - 1) / 2 if alignment == 'block' else 0.0
  sign = 1 if convention == 'correlation' else -1
  centre = np.array(kernel.shape) // 2 + sign * offset
  rows, columns = (centre - centre_of_mass(kernel)).tolist()
  # A shift as small as rounding errors would only add zero taps.
  if max(abs(rows), abs(columns)) > 1e-6:
    kernel = np.asarray(shift_kernel(kernel, (rows, columns)))
  return Kernel(kernel, convention, alignment)


def normalized_kernel(kernel: Any, name: str = 'the kernel') -> Any:
  """Validates a kernel and divides it by its sum.

  Negative taps, even sizes and an off-centre mass are accepted, because
  estimated kernels have them.

  Args:
    kernel: A `Kernel`, or anything that NumPy converts to a `[K1, K2]` array. A
      traced array is returned unchanged, because its values are not yet known.
    name: Name of the kernel in error messages, such as the path of its file.

  Returns:
    A `Kernel`, a JAX array or a float64 array, according to the argument.

  Raises:
    UserError: The kernel is not a two-dimensional array of finite real numbers
      with a positive sum.
  """
  if isinstance(kernel, Kernel):
    return kernel._replace(array=normalized_kernel(kernel.array, name))
  if isinstance(kernel, jax.core.Tracer):
    return kernel
  try:
    taps = np.asarray(kernel)
  except ValueError:  # rows of unequal length
    raise UserError(
      f'{name}: a kernel must be a two-dimensional array, not rows of unequal'
      ' length'
    ) from None
  if taps.dtype.kind not in 'fiu':
    raise UserError(f'{name}: a kernel must be real numbers, not {taps.dtype}')
  if taps.ndim != 2 or taps.size == 0:
    raise UserError(
      f'{name}: a kernel must be a two-dimensional array, not of shape '
      f'{taps.shape}'
    )
  taps = taps.astype(np.float64)
  if not np.isfinite(taps).all():
    raise UserError(f'{name}: the kernel has NaN or infinite taps')
  if np.abs(taps).max() > _LARGEST_TAP:
    raise UserError(f'{name}: the kernel has taps above {_LARGEST_TAP:g}')
  total = taps.sum()
  if not total > 1e-6 * np.abs(taps).sum():
    raise UserError(
      f'{name}: the kernel sums to {total:g}; it must have a positive sum'
    )
  if isinstance(kernel, jax.Array):
    return kernel / float(total)
  return taps / total


def correlation_taps(kernel: Array | Kernel) -> Array:
  """The taps to correlate with; a plain array already holds such taps."""
  if not isinstance(kernel, Kernel):
    return kernel
  if kernel.convention == 'convolution':
    return flip(kernel.array)
  return kernel.array

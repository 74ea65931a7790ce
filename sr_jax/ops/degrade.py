"""Degradations: how low-resolution images are made from high-resolution ones.

bicubic       MATLAB's antialiased cubic resize
direct        correlate with a kernel, then take every s-th pixel from (0, 0)
blur-bicubic  correlate with a kernel, then the cubic resize

Gaussian noise and JPEG may follow. All borders are symmetric (the edge pixel is
repeated), as in MZSR and ZSSR.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sr_jax.errors import UserError
from sr_jax.ops.blur_kernels import (
  Kernel,
  centre_of_mass,
  correlation_taps,
  normalized_kernel,
)
from sr_jax.ops.jpeg import jpeg
from sr_jax.ops.levels import peak
from sr_jax.ops.namespace import Array, array_namespace
from sr_jax.ops.precision import as_float
from sr_jax.ops.resize import imresize, resize_matrix, resized_size

# The cubic resize reads HR pixels up to this many LR pixels from an LR pixel.
RESIZE_REACH = 2
DEGRADATIONS = ('bicubic', 'direct', 'blur-bicubic')


def correlate(image: Array, kernel: Array) -> Any:
  """Correlates every channel of `[..., H, W, C]`, with symmetric borders.

  Tap K // 2 of the kernel is its centre, as in `scipy.ndimage.correlate`.
  """
  from scipy import ndimage  # slow to import

  image = as_float(image)
  if array_namespace(image, kernel) is np:
    taps = np.asarray(kernel, np.float64)
    taps = taps.reshape(*(1,) * (image.ndim - 3), *taps.shape, 1)
    return ndimage.correlate(image, taps, mode='reflect')
  image = jnp.asarray(image)
  pad = [(0, 0)] * image.ndim
  for axis, n in zip((-3, -2), kernel.shape, strict=True):
    pad[axis] = (n // 2, n - 1 - n // 2)
  padded = jnp.moveaxis(jnp.pad(image, pad, mode='symmetric'), -1, -3)
  blurred = jax.lax.conv_general_dilated(
    padded.reshape(-1, *padded.shape[-2:], 1),
    jnp.asarray(kernel, image.dtype)[:, :, None, None],
    window_strides=(1, 1),
    padding='VALID',
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    precision=jax.lax.Precision.HIGHEST,
  )
  channels_first = (*padded.shape[:-2], *blurred.shape[1:3])
  return jnp.moveaxis(blurred.reshape(channels_first), -3, -1)


def sample_indices(
  size: int, scale: float, count: int | None = None
) -> np.ndarray:
  """Indices of the rows (or columns) that direct sampling keeps.

  If s divides `size`, these are 0, s, 2s and so on. Otherwise they are
  ceil(size / s) evenly spread positions, rounded half to even, as in the data
  of MZSR and ZSSR. Their spacing is then uneven; crop HR images to avoid this.

  Args:
    size: Number of HR rows.
    scale: Reduction factor s.
    count: Number of LR rows from which the HR rows were enlarged, if known. The
      indices are then s * i, rounded half to even.
  """
  if count is not None:
    return np.minimum(np.rint(scale * np.arange(count)), size - 1).astype(int)
  count = resized_size(size, 1 / scale)
  return np.rint(np.linspace(0, size - scale, count)).astype(int)


def lr_offset(
  scale: float, degradation: str, kernel: Array | Kernel | None
) -> tuple[float, float]:
  """Position of LR pixel (0, 0) on the HR grid: (row, column) in HR pixels.

  Direct sampling puts the pixel at the kernel's centre of mass, measured from
  tap K // 2. The cubic resize puts it at the middle of its s x s block, plus
  the kernel's centre of mass. When `imresize` enlarges an LR image with this
  offset, the image does not move, whatever the kernel's size and centre.
  """
  start = 0.0 if degradation == 'direct' else (scale - 1) / 2
  if kernel is None:
    return start, start
  taps = np.asarray(correlation_taps(kernel))
  centre = centre_of_mass(taps) - np.array(taps.shape) // 2
  # Without rounding noise, which differs from kernel to kernel: networks with
  # equal offsets share a compiled program.
  row, column = np.round(centre, 9).tolist()
  return start + row, start + column


def reduction_tables(
  size: int, scales: Sequence[float], degradation: str
) -> tuple[np.ndarray, np.ndarray]:
  """Matrices that reduce and enlarge one axis, for several scales.

  `down[i] @ x` reduces a signal x of `size` pixels by scale i, and
  `up[i] @ down[i] @ x` enlarges the result again. The matrices of all scales
  are zero-padded to one shape, so that a compiled program can choose a scale by
  index.

  Args:
    size: Number of pixels of the axis.
    scales: Reduction factors.
    degradation: 'direct' samples pixels; the other degradations use the cubic
      resize. The enlargement is always cubic.

  Returns:
    `down` `[scales, L, size]` and `up` `[scales, size, L]`, float64, where L is
    the LR size at the smallest scale.
  """
  counts = [resized_size(size, 1 / scale) for scale in scales]
  down = np.zeros((len(counts), max(counts), size))
  up = np.zeros((len(counts), size, max(counts)))
  for i, (scale, count) in enumerate(zip(scales, counts, strict=True)):
    if degradation == 'direct':
      down[i, :count] = np.eye(size)[sample_indices(size, scale)]
    else:
      down[i, :count] = resize_matrix(size, count, 1 / scale)
    up[i, :, :count] = resize_matrix(count, size, scale)
  return down, up


def add_noise(key: Any, image: Array, sigma: float | Array) -> Any:
  """Adds Gaussian noise of `sigma` grey levels and clips to [0, 1]."""
  if key is None:
    raise ValueError('noise needs a key or an integer seed')
  is_seed = isinstance(key, int | np.integer)
  if array_namespace(image) is np:
    seed = key if is_seed else np.asarray(jax.random.key_data(key))
    noise = np.random.default_rng(seed).standard_normal(image.shape)
    return np.clip(image + noise * (sigma / 255.0), 0.0, 1.0)
  key = jax.random.key(key) if is_seed else key
  noise = jax.random.normal(key, image.shape, image.dtype)
  return jnp.clip(image + noise * (sigma / 255.0), 0.0, 1.0)


def _check(
  scale: float,
  degradation: str,
  kernel: Array | Kernel | None,
  noise_sigma: float | Array,
) -> None:
  if degradation not in DEGRADATIONS:
    raise UserError(
      f'unknown degradation {degradation!r}: choose one of '
      f'{", ".join(DEGRADATIONS)}'
    )
  if kernel is None and degradation != 'bicubic':
    raise UserError(
      f"degradation '{degradation}' needs a blur kernel, such as gaussian:2.0"
    )
  if kernel is not None and degradation == 'bicubic':
    raise UserError(
      "degradation 'bicubic' takes no kernel: choose direct or blur-bicubic"
    )
  if not 1 <= scale < math.inf:
    raise UserError(f'scale must be 1 or more, not {scale}')
  known = not isinstance(noise_sigma, jax.Array)
  if known and not 0 <= noise_sigma < math.inf:
    raise UserError(f'noise sigma must be 0 or more, not {noise_sigma}')


def degrade(
  key: Any,
  hr: Array,
  *,
  scale: float,
  degradation: str = 'bicubic',
  kernel: Array | Kernel | None = None,
  noise_sigma: float | Array = 0.0,
  jpeg_quality: int | None = None,
  shape: tuple[int, int] | None = None,
) -> Any:
  """Makes the LR image of an HR image.

  NumPy images are degraded on the host in float64 with NumPy's random
  generator, JAX arrays on the device in float32 with JAX's. The same seed
  therefore gives different noise in the two cases, of the same distribution.

  Args:
    key: PRNG key or integer seed of the noise; None if there is no noise.
    hr: `[B, H, W, C]` or `[H, W, C]` in [0, 1].
    scale: Reduction factor s.
    degradation: 'bicubic', 'direct' or 'blur-bicubic'.
    kernel: Taps `[K1, K2]` to correlate with, or a `Kernel`. 'direct' and
      'blur-bicubic' need a kernel, 'bicubic' takes none. The taps are divided
      by their sum, unless they are traced.
    noise_sigma: Standard deviation of the noise in grey levels (of 255); may be
      traced. With noise the result is clipped to [0, 1].
    jpeg_quality: 1..100 to compress the result, see `ops.jpeg`; the result then
      has 8-bit levels. None does not compress.
    shape: LR (height, width), if it differs from ceil(H / s), ceil(W / s). This
      is so for an HR image that was enlarged from an LR image by a scale that
      is not whole.

  Returns:
    LR image `[..., ceil(H / s), ceil(W / s), C]`, float. Without noise and JPEG
    it is neither rounded nor clipped.

  Raises:
    UserError: The degradation is unknown, the kernel does not suit it, or a
      number is out of range.
  """
  _check(scale, degradation, kernel, noise_sigma)
  lr = as_float(hr)
  if kernel is not None:
    lr = correlate(lr, correlation_taps(normalized_kernel(kernel)))
  if degradation == 'direct':
    rows, columns = (
      sample_indices(n, scale, count)
      for n, count in zip(lr.shape[-3:-1], shape or (None, None), strict=True)
    )
    lr = lr[..., rows, :, :][..., columns, :]
  else:
    lr = imresize(lr, scale=1 / scale, shape=shape)
  if isinstance(noise_sigma, jax.Array) or noise_sigma > 0:
    lr = add_noise(key, lr, noise_sigma)
  return lr if jpeg_quality is None else jpeg(lr, jpeg_quality)


def quantize(image: Array, dtype: Any = np.uint8) -> Any:
  """Clips to [0, 1] and rounds to the levels of a type; the result is float.

  Args:
    image: An image in [0, 1], of any shape.
    dtype: The type, uint8 or uint16; a float type does not round.
  """
  xp = array_namespace(image)
  image = xp.clip(as_float(image), 0.0, 1.0)
  largest = peak(dtype)
  return image if largest == 1 else xp.round(image * largest) / largest

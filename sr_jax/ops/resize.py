"""Image resizing exactly as in MATLAB's `imresize`.

All published benchmark scores depend on this function. It uses Keys' cubic
kernel (a = -0.5), widened by 1/scale when the image shrinks, and symmetric
borders. The bicubic resizes of other libraries differ in the kernel or the
border. PyTorch's is included for networks that were trained with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import sparse

from sr_jax.errors import UserError
from sr_jax.ops.namespace import Array, array_namespace
from sr_jax.ops.precision import as_float, einsum

# Variance, in LR pixels squared, of the Gaussian whose spectrum is most like
# that of a cubic reduction. The second moment of the cubic kernel itself is 0.
CUBIC_VARIANCE = 0.14


def cubic(x: Array) -> Any:
  """Keys' cubic convolution kernel with a = -0.5 (IEEE ASSP 29, 1981)."""
  xp = array_namespace(x)
  x = xp.abs(x)
  inner = (1.5 * x - 2.5) * x**2 + 1.0
  outer = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
  return xp.where(x <= 1, inner, xp.where(x <= 2, outer, 0.0))


def linear(x: np.ndarray) -> np.ndarray:
  """Triangle kernel."""
  return np.maximum(1.0 - np.abs(x), 0.0)


# name of a method -> (kernel, width of its support)
METHODS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], float]] = {
  'cubic': (cubic, 4.0),
  'linear': (linear, 2.0),
}


def resized_size(size: int, scale: float) -> int:
  """MATLAB's output size ceil(size * scale), robust to rounding errors."""
  return math.ceil(size * scale - 1e-9)


def _sparse_matrix(
  in_size: int,
  out_size: int,
  scale: float,
  method: str,
  antialias: bool,
  offset: float | None,
) -> sparse.csr_array:
  kernel, width = METHODS[method]
  # When the image shrinks, the kernel is widened to act as a low-pass filter.
  stretch = min(scale, 1.0) if antialias else 1.0
  width /= stretch
  offset = (scale - 1) / 2 if offset is None else offset
  centres = (np.arange(out_size) - offset) / scale
  first = np.floor(centres - width / 2).astype(int)
  taps = first[:, None] + np.arange(math.ceil(width) + 2)
  weights = kernel((centres[:, None] - taps) * stretch)
  weights /= weights.sum(axis=1, keepdims=True)
  mirrored = taps % (2 * in_size)
  columns = np.where(mirrored < in_size, mirrored, 2 * in_size - 1 - mirrored)
  rows = np.broadcast_to(np.arange(out_size)[:, None], taps.shape)
  # Taps that the border mirrors onto the same pixel are summed.
  return sparse.csr_array(
    (weights.ravel(), (rows.ravel(), columns.ravel())),
    shape=(out_size, in_size),
  )


def resize_matrix(
  in_size: int,
  out_size: int,
  scale: float,
  *,
  method: str = 'cubic',
  antialias: bool = True,
  offset: float | None = None,
) -> np.ndarray:
  """Matrix `[out_size, in_size]`, float64, that resizes along one axis."""
  matrix = _sparse_matrix(in_size, out_size, scale, method, antialias, offset)
  return matrix.toarray()


def _geometry(
  size: tuple[int, int],
  scale: float | tuple[float, float] | None,
  shape: tuple[int, int] | None,
) -> tuple[tuple[float, float], tuple[int, int]]:
  """Scale and output size of both axes."""
  if scale is None:
    if shape is None:
      raise ValueError('imresize needs scale, shape or both')
    scale = (shape[0] / size[0], shape[1] / size[1])
  elif not isinstance(scale, tuple):
    scale = (scale, scale)
  if not all(0 < s < math.inf for s in scale):
    raise UserError(f'resize scale must be positive and finite, not {scale}')
  if shape is None:
    shape = resized_size(size[0], scale[0]), resized_size(size[1], scale[1])
  if min(shape) < 1:
    raise UserError(f'resized image would be empty: {shape[0]}x{shape[1]}')
  return scale, shape


def _resize_axis(image: Any, matrix: sparse.csr_array, axis: int) -> np.ndarray:
  moved = np.moveaxis(image, axis, 0)
  flat = matrix @ moved.reshape(moved.shape[0], -1)
  return np.moveaxis(flat.reshape(-1, *moved.shape[1:]), 0, axis)


def imresize(
  image: Array,
  *,
  scale: float | tuple[float, float] | None = None,
  shape: tuple[int, int] | None = None,
  method: str = 'cubic',
  antialias: bool = True,
  offset: tuple[float, float] | None = None,
) -> Any:
  """Resizes an image as MATLAB does; the result is not rounded or clipped.

  Args:
    image: `[..., H, W, C]` of any range and number of channels.
    scale: Factor of both axes, or (vertical, horizontal) factors.
    shape: Output (height, width). Without `scale` the factors follow from it.
      With `scale` it sets the output size only, which is needed if H * scale is
      not whole.
    method: 'cubic' or 'linear'.
    antialias: Whether a low-pass filter is applied if the image shrinks.
    offset: Position (vertical, horizontal) of input pixel (0, 0) in the output,
      in output pixels. The default is MATLAB's (scale - 1) / 2, at which both
      images cover the same area; 0 puts the pixel's centre on the centre of
      output pixel (0, 0).

  Returns:
    `[..., H', W', C]` of size `shape`, by default ceil(scale * size).

  Raises:
    UserError: The image or the result is empty, or a scale is not positive.
  """
  if image.ndim < 3 or 0 in image.shape:
    raise UserError(
      f'cannot resize an array of shape {image.shape}; give [..., H, W, C]'
    )
  xp = array_namespace(image)
  image = as_float(image)
  height, width = image.shape[-3:-1]
  scales, sizes = _geometry((height, width), scale, shape)
  starts = offset or (None, None)
  rows, columns = (
    _sparse_matrix(n, sizes[i], scales[i], method, antialias, starts[i])
    for i, n in enumerate((height, width))
  )
  if xp is np:
    return _resize_axis(_resize_axis(image, rows, -3), columns, -2)
  return apply_matrices(rows.toarray(), columns.toarray(), image)


def apply_matrices(rows: Array, columns: Array, image: Array) -> Any:
  """Applies `[H', H]` to the rows and `[W', W]` to the columns of an image."""
  image = einsum('oh,...hwc->...owc', rows, image)
  return einsum('ow,...hwc->...hoc', columns, image)


def torch_bicubic(
  image: Array, scale: int, *, align_corners: bool = False
) -> Any:
  """Enlarges `[..., H, W, C]` as PyTorch's bicubic interpolation does.

  PyTorch uses Keys' kernel with a = -0.75, repeats the outermost pixel and does
  not antialias.

  Args:
    image: `[..., H, W, C]` of any range and number of channels.
    scale: Enlargement factor.
    align_corners: Whether the centres of the corner pixels of both images
      coincide. Otherwise the edges of both images coincide.

  Returns:
    `[..., scale * H, scale * W, C]`, neither rounded nor clipped.
  """
  rows, columns = (
    _torch_matrix(n, scale, align_corners) for n in image.shape[-3:-1]
  )
  return apply_matrices(rows, columns, image)


def _torch_matrix(size: int, scale: int, align_corners: bool) -> np.ndarray:
  """Matrix `[scale * size, size]`, float64, of `torch_bicubic` on one axis."""
  centres = (np.arange(scale * size) + 0.5) / scale - 0.5
  if align_corners:
    centres = np.linspace(0, size - 1, scale * size)
  taps = np.floor(centres).astype(int)[:, None] + np.arange(-1, 3)
  x = np.abs(centres[:, None] - taps)
  inner = (1.25 * x - 2.25) * x**2 + 1
  outer = -0.75 * (((x - 5) * x + 8) * x - 4)
  matrix = np.zeros((scale * size, size))
  rows = np.arange(scale * size)[:, None]
  columns = taps.clip(0, size - 1)
  np.add.at(matrix, (rows, columns), np.where(x <= 1, inner, outer))
  return matrix

"""Blur and resizing with parameters of their own for every image of a batch.

Images are planes `[B, C, S1, S2]` of one fixed shape. An image of B may be
smaller: its `sizes` `[B, 2]` give the height and width of its content, which
lies at the upper left. `[B, 1]` is for square contents, whose rows and columns
then share their matrices. What lies beyond the content is arbitrary, and no
result within the content depends on it. A compiled program can therefore draw
the size of each image.

On a CPU a blur by one kernel per image is much faster through the Fourier
transform than as a grouped convolution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import sparse
from scipy.fft import next_fast_len

from sr_jax.ops.namespace import Array, array_namespace
from sr_jax.ops.precision import einsum
from sr_jax.ops.resize import cubic

# Methods of `resize` by index: pixel area; linear and cubic interpolation as in
# PyTorch and OpenCV, without a low-pass filter; MATLAB's cubic, which has one;
# and a Gaussian blur that is sampled at the centres of the output's pixels.
METHODS = ('area', 'linear', 'cubic', 'antialiased', 'gaussian')
GAUSSIAN = METHODS.index('gaussian')
# The Gaussian has 25 taps per axis, as in BSRGAN.
_REACH = 12
# Output pixels whose rows of a matrix are made at once on the host.
_ROWS = 256


def correlate(
  planes: Array,
  sizes: Array,
  taps: Sequence[Array],
  active: Sequence[Array] | None = None,
) -> Any:
  """Correlates each image with kernels of its own; borders are symmetric.

  Args:
    planes: `[B, C, S1, S2]`.
    sizes: Heights and widths of the contents, `[B, 2]`.
    taps: Kernels `[B, K, K]` of odd size K, applied one after the other. The
      image is extended once, beyond the reach of all of them.
    active: Whether each kernel is applied, `[B]` for each; None applies all.
  """
  xp = array_namespace(planes)
  radius = sum(t.shape[-1] // 2 for t in taps)
  padded = planes
  for axis in (0, 1):
    steps = np.arange(planes.shape[2 + axis] + 2 * radius) - radius
    index = _mirrored(steps[None], _side(sizes, axis)[:, None])
    shape = [len(planes), 1, 1, 1]
    shape[2 + axis] = len(steps)
    padded = xp.take_along_axis(padded, index.reshape(shape), axis=2 + axis)
  shape = [next_fast_len(n, real=True) for n in padded.shape[2:]]
  spectrum = xp.fft.rfft2(padded, s=shape)
  for i, kernel in enumerate(taps):
    response = xp.fft.rfft2(kernel.astype(planes.dtype), s=shape)
    if active is not None:
      middle = np.zeros((1, *kernel.shape[1:]))
      middle[0, kernel.shape[1] // 2, kernel.shape[2] // 2] = 1
      unchanged = np.fft.rfft2(middle, s=shape).astype(response.dtype)
      on = active[i][:, None, None]
      response = xp.where(on, response, unchanged)
    spectrum = spectrum * xp.conj(response)[:, None]
  blurred = xp.fft.irfft2(spectrum, s=shape)
  return blurred[..., : planes.shape[2], : planes.shape[3]]


def _side(sizes: Array, axis: int) -> Array:
  """The heights (axis 0) or widths (axis 1) `[B]`."""
  return sizes[:, min(axis, sizes.shape[1] - 1)]


def _mirrored(index: Array, size: Array) -> Any:
  """Indices beyond a signal, reflected into it; edges are repeated."""
  xp = array_namespace(size)
  index = index % (2 * size)
  return xp.where(index < size, index, 2 * size - 1 - index)


def resize(
  planes: Array,
  sizes: Array,
  targets: Array,
  methods: Array,
  sigmas: Array,
  shape: tuple[int, int],
  used: Sequence[int] = range(len(METHODS)),
) -> Any:
  """Resizes the content of each image to a size of its own.

  Args:
    planes: `[B, C, S1, S2]`.
    sizes: Heights and widths of the contents, `[B, 2]`.
    targets: Heights and widths of the results, `[B, 2]`.
    methods: Indices into `METHODS`, `[B]`.
    sigmas: Standard deviations of the Gaussian method in input pixels, `[B]`.
    shape: Height and width of the result's planes. What lies beyond the content
      repeats its edge.
    used: The indices that `methods` may have.

  Returns:
    `[B, C, *shape]`.
  """
  if isinstance(planes, np.ndarray):
    for axis in (0, 1):
      sides = _side(sizes, axis), _side(targets, axis)
      planes = _resize_axis(
        planes, axis, (*sides, methods, sigmas), shape[axis]
      )
    return planes
  rows, columns = (
    resize_matrices(
      *(_side(sizes, axis), _side(targets, axis), methods, sigmas),
      rows=np.arange(shape[axis]),
      count=planes.shape[2 + axis],
      used=used,
    ).astype(planes.dtype)
    for axis in (0, 1)
  )
  planes = einsum('boh,bchw->bcow', rows, planes)
  return einsum('bpw,bcow->bcop', columns, planes)


def _resize_axis(
  planes: np.ndarray, axis: int, each: tuple[Any, ...], count: int
) -> np.ndarray:
  """Resizes an axis to `count` pixels on the host, where matrices are sparse.

  The matrices of large photographs would not fit the memory at once.
  """
  results = []
  for i, image in enumerate(planes):
    one = tuple(np.asarray(values)[i : i + 1] for values in each)
    parts = [
      sparse.csr_array(
        resize_matrices(
          *one,
          rows=np.arange(start, min(start + _ROWS, count)),
          count=image.shape[1 + axis],
          used=(int(one[2][0]),),
        )[0]
      )
      for start in range(0, count, _ROWS)
    ]
    moved = np.moveaxis(image, 1 + axis, 0)
    flat = sparse.vstack(parts) @ moved.reshape(len(moved), -1)
    resized = flat.reshape(count, *moved.shape[1:])
    results.append(np.moveaxis(resized, 0, 1 + axis))
  return np.stack(results)


def resize_matrices(
  sizes: Array,
  targets: Array,
  methods: Array,
  sigmas: Array,
  *,
  rows: np.ndarray,
  count: int,
  used: Sequence[int] = range(len(METHODS)),
) -> Any:
  """Matrices `[B, len(rows), count]` that resize one axis, see `resize`.

  `rows` are the indices of the output pixels, `count` is the number of input
  pixels. Rows beyond the target repeat the last one. Borders are as in PyTorch
  and OpenCV: the edge pixel is repeated.
  """
  xp = array_namespace(sizes, targets)
  size, target = (xp.asarray(n)[:, None, None] for n in (sizes, targets))
  method, sigma = (xp.asarray(v)[:, None, None] for v in (methods, sigmas))
  pixels = np.arange(count)[None, None]
  i = xp.minimum(rows[None, :, None], target - 1)
  ratio = size / target
  centre = (i + 0.5) * ratio - 0.5
  matrices: tuple[Callable[[], Any], ...] = (
    lambda: _area(i * ratio, ratio, pixels),
    lambda: xp.maximum(1 - abs(xp.clip(centre, 0, size - 1) - pixels), 0),
    lambda: _cubic(centre, size, pixels),
    lambda: _antialiased(centre, ratio, size, pixels),
    lambda: _gaussian(centre, sigma, size, pixels),
  )
  result = matrices[used[0]]()
  for index in used[1:]:
    result = xp.where(method == index, matrices[index](), result)
  return result


def _area(start: Array, ratio: Array, pixels: np.ndarray) -> Any:
  """Shares of the interval [start, start + ratio] in each pixel."""
  xp = array_namespace(start)
  overlap = xp.minimum(start + ratio, pixels + 1) - xp.maximum(start, pixels)
  return xp.maximum(overlap, 0) / ratio


def _cubic(centre: Array, size: Array, pixels: np.ndarray) -> Any:
  """Keys' cubic with a = -0.75; beyond the border the edge is repeated."""
  xp = array_namespace(centre)
  first = xp.floor(centre)
  total = xp.asarray(0.0)
  for step in (-1, 0, 1, 2):
    x = abs(centre - first - step)
    inner = (1.25 * x - 2.25) * x**2 + 1
    outer = -0.75 * (((x - 5) * x + 8) * x - 4)
    tap = xp.clip(first + step, 0, size - 1)
    total = total + xp.where(x <= 1, inner, outer) * (tap == pixels)
  return total


def _antialiased(
  centre: Array, ratio: Array, size: Array, pixels: np.ndarray
) -> Any:
  """Keys' cubic with a = -0.5, widened where the image shrinks."""
  xp = array_namespace(centre)
  weights = cubic((centre - pixels) / xp.maximum(ratio, 1.0))
  weights = xp.where(pixels < size, weights, 0)
  return weights / weights.sum(-1, keepdims=True)


def _gaussian(
  centre: Array, sigma: Array, size: Array, pixels: np.ndarray
) -> Any:
  """A normalised Gaussian around each centre."""
  xp = array_namespace(centre)
  distance = abs(centre - pixels)
  near = (distance <= _REACH + 0.5) & (pixels < size)
  # The distance to the nearest pixel is subtracted, so that no row vanishes.
  nearest = abs(centre - xp.clip(xp.rint(centre), 0, size - 1))
  exponent = (distance**2 - nearest**2) / (2 * xp.maximum(sigma, 0.01) ** 2)
  weights = xp.where(near, xp.exp(-xp.minimum(exponent, 80.0)), 0)
  return weights / weights.sum(-1, keepdims=True)

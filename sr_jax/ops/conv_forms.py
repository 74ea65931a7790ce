"""How each platform computes a convolution and its two gradients.

A convolution y of an image x with a kernel k is one trilinear form, the sum of
x[p * stride + d * dilation - padding] * k[d] * y[p], seen from three sides:
`value` gives y, `image` the gradient of x, and `kernel` the gradient of k. Each
is linear in its two operands, and any derivative of one is another of them.

`PLAIN` is what JAX itself would run. `CPU` writes everything as forward
convolutions of stride 1 in the layout that XLA:CPU is fast at: those run 20-40
times faster inside `lax.scan` than JAX's own gradients (jax-ml/jax#12868).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from sr_jax.ops.pixel_shuffle import pixel_shuffle, pixel_unshuffle

_LAYOUT = ('NHWC', 'HWIO', 'NHWC')
# Bytes of the images that a weight gradient looks at at once, which should fit
# a core's second cache.
_AT_ONCE = 1_500_000
# Convolutions that a weight gradient is written as, at most.
_MOST_PARTS = 8

Shapes = tuple[tuple[int, ...], ...]
Padding = tuple[tuple[int, int], ...]


class Geometry(NamedTuple):
  """How a kernel moves over an image.

  Attributes:
    padding: Zeros before and after the rows, and the columns, of the image.
    stride: Step of the kernel; only without dilation.
    dilation: Step between the pixels that the taps see.
    precision: As `jax.default_matmul_precision` takes it.
  """

  padding: Padding
  stride: int = 1
  dilation: int = 1
  precision: str | None = None


# `(operands, result shapes, geometry) -> results`. The operands of `value` are
# the parts of the image, which are joined along their channels, and the kernel;
# of `image` the kernel and y; of `kernel` the parts and y.
Form = Callable[[Sequence[jax.Array], Shapes, Geometry], list[jax.Array]]


def split_rows(kernel: jax.Array, channels: Sequence[int]) -> list[jax.Array]:
  """The rows of a kernel that belong to each part of the image."""
  ends = list(itertools.accumulate(channels))
  return [
    kernel[..., end - n : end, :] for n, end in zip(channels, ends, strict=True)
  ]


def _joined(parts: Sequence[jax.Array]) -> jax.Array:
  return parts[0] if len(parts) == 1 else jnp.concatenate(parts, -1)


def _plain_value(
  operands: Sequence[jax.Array], shapes: Shapes, geometry: Geometry
) -> list[jax.Array]:
  del shapes
  *parts, kernel = operands
  padding, stride, dilation, precision = geometry
  return [
    jax.lax.conv_general_dilated(
      _joined(parts),
      kernel,
      (stride, stride),
      padding,
      rhs_dilation=(dilation, dilation),
      dimension_numbers=_LAYOUT,
      precision=precision,
    )
  ]


def _plain_image(
  operands: Sequence[jax.Array], shapes: Shapes, geometry: Geometry
) -> list[jax.Array]:
  kernel, y = operands
  _, stride, dilation, precision = geometry
  margins = []
  for axis, (before, _) in enumerate(geometry.padding):
    reach = dilation * (kernel.shape[axis] - 1)
    steps = stride * (y.shape[1 + axis] - 1)
    # Together the padding makes the image's size.
    margins.append((reach - before, shapes[0][1 + axis] - 1 - steps + before))
  x = jax.lax.conv_general_dilated(
    y,
    jnp.flip(kernel, (0, 1)),
    (1, 1),
    margins,
    lhs_dilation=(stride, stride),
    rhs_dilation=(dilation, dilation),
    dimension_numbers=('NHWC', 'HWOI', 'NHWC'),
    precision=precision,
  )
  ends = list(itertools.accumulate(shape[-1] for shape in shapes))
  return jnp.split(x, ends[:-1], -1)


def _plain_kernel(
  operands: Sequence[jax.Array], shapes: Shapes, geometry: Geometry
) -> list[jax.Array]:
  *parts, y = operands
  x = _joined(parts)
  _, stride, dilation, precision = geometry
  margins = []
  for axis, (before, _) in enumerate(geometry.padding):
    reach = dilation * (shapes[0][axis] - 1)
    steps = stride * (y.shape[1 + axis] - 1)
    margins.append((before, steps + reach + 1 - x.shape[1 + axis] - before))
  return [
    jax.lax.conv_general_dilated(
      x,
      y,
      (dilation, dilation),
      margins,
      rhs_dilation=(stride, stride),
      dimension_numbers=('CHWN', 'IHWO', 'HWNC'),
      precision=precision,
    )
  ]


PLAIN: Mapping[str, Form] = {
  'value': _plain_value,
  'image': _plain_image,
  'kernel': _plain_kernel,
}


def _correlate(
  x: jax.Array, kernel: jax.Array, geometry: Geometry
) -> jax.Array:
  """A convolution of stride 1."""
  return _plain_value((x, kernel), (), geometry)[0]


def _transposed(kernel: jax.Array, geometry: Geometry) -> Geometry:
  """Geometry of the convolution of y whose result is the image."""
  reach = [geometry.dilation * (n - 1) for n in kernel.shape[:2]]
  padding = tuple(
    (far - before, far - after)
    for far, (before, after) in zip(reach, geometry.padding, strict=True)
  )
  return geometry._replace(padding=padding)


def _cpu_value(
  operands: Sequence[jax.Array], shapes: Shapes, geometry: Geometry
) -> list[jax.Array]:
  *parts, kernel = operands
  if geometry.stride > 1:
    coarse = _Coarse(kernel.shape, geometry)
    x = coarse.image(_joined(parts), shapes[0])
    return [_correlate(x, coarse.kernel(kernel), coarse.geometry)]
  # A sum of one convolution for each part: joined, the parts would be written
  # once more, and kept for the gradient.
  kernels = split_rows(kernel, [x.shape[-1] for x in parts])
  each = [
    _correlate(x, k, geometry) for x, k in zip(parts, kernels, strict=True)
  ]
  return [functools.reduce(jnp.add, each)]


def _cpu_image(
  operands: Sequence[jax.Array], shapes: Shapes, geometry: Geometry
) -> list[jax.Array]:
  kernel, y = operands
  # Without it what computes y is computed again for each use.
  y = jax.lax.optimization_barrier(y)
  if geometry.stride > 1:
    coarse = _Coarse(kernel.shape, geometry)
    fine = coarse.kernel(kernel)
    x = _image_gradient(y, fine, coarse.geometry)
    (shape,) = shapes
    return [coarse.fine_image(x, shape)]
  kernels = split_rows(kernel, [shape[-1] for shape in shapes])
  return [_image_gradient(y, k, geometry) for k in kernels]


def _image_gradient(
  y: jax.Array, kernel: jax.Array, geometry: Geometry
) -> jax.Array:
  """Correlates y with the kernel flipped in space, channels swapped."""
  flipped = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
  return _correlate(y, flipped, _transposed(kernel, geometry))


def _cpu_kernel(
  operands: Sequence[jax.Array], shapes: Shapes, geometry: Geometry
) -> list[jax.Array]:
  # Without it what computes these is computed again for each use.
  *parts, y = jax.lax.optimization_barrier(tuple(operands))
  (shape,) = shapes
  if geometry.stride > 1:
    coarse = _Coarse(shape, geometry)
    x = coarse.image(_joined(parts), y.shape)
    gradient = _kernel_gradient(x, y, coarse.taps, coarse.geometry)
    return [coarse.fine_kernel(gradient, shape)]
  each = [_kernel_gradient(x, y, shape[:2], geometry) for x in parts]
  return [jnp.concatenate(each, 2)]


def _kernel_gradient(
  x: jax.Array, y: jax.Array, size: tuple[int, ...], geometry: Geometry
) -> jax.Array:
  """Correlates x with y over images, rows and columns.

  A few images at a time: all of a batch, turned as below, fall out of the cache
  and take up to twice as long.
  """
  image_bytes = max(x[0].size, y[0].size) * x.dtype.itemsize
  n = max(1, _AT_ONCE // image_bytes, -(-x.shape[0] // _MOST_PARTS))
  parts = [
    _part_of_kernel_gradient(x[i : i + n], y[i : i + n], size, geometry)
    for i in range(0, x.shape[0], n)
  ]
  return functools.reduce(jnp.add, parts)


def _part_of_kernel_gradient(
  x: jax.Array, y: jax.Array, size: tuple[int, ...], geometry: Geometry
) -> jax.Array:
  """`_kernel_gradient` of all the images at once.

  Computed as a convolution with batch and channel axes exchanged. The operand
  with fewer channels is the one whose channels become images, because that
  transpose is the expensive part. It is padded beforehand: XLA's own padding
  makes this up to three times slower. Both are mirrored, because XLA leaves
  convolutions with a mirrored kernel to Eigen, which is a quarter quicker than
  oneDNN at kernels as large as images.
  """
  narrow_x = x.shape[-1] < y.shape[-1]
  (top, bottom), (left, right) = geometry.padding
  down, across = (geometry.dilation * (n - 1) for n in size)
  if narrow_x:
    pad = ((0, 0), (top, bottom), (left, right), (0, 0))
    images, window = jnp.pad(x, pad), y
  else:
    rows, columns = (down - top, down - bottom), (across - left, across - right)
    images, window = jnp.pad(y, ((0, 0), rows, columns, (0, 0))), x
  gradient = jax.lax.conv_general_dilated(
    jnp.flip(images.transpose(3, 1, 2, 0), (1, 2)),
    jnp.flip(window.transpose(1, 2, 0, 3), (0, 1)),
    (geometry.dilation, geometry.dilation),
    'VALID',
    dimension_numbers=_LAYOUT,
    precision=geometry.precision,
  )
  if narrow_x:
    return jnp.flip(gradient, (1, 2)).transpose(1, 2, 0, 3)
  # Shifts of y against x are those of x against y, mirrored as well.
  return gradient.transpose(1, 2, 3, 0)


class _Coarse:
  """A convolution of stride s as one of stride 1 on a grid s times as coarse.

  There XLA:CPU is several times faster forward and backward. The s x s pixels
  of a cell become channels, and the kernel, with zeros after it, likewise.

  Attributes:
    taps: Size of the kernel on the coarse grid.
    geometry: Geometry there: no padding, which `image` adds.
  """

  def __init__(self, shape: Sequence[int], geometry: Geometry):
    """For a kernel of this shape."""
    self._stride, self._padding = geometry.stride, geometry.padding
    self.taps = tuple(-(-n // self._stride) for n in shape[:2])
    self.geometry = Geometry(((0, 0), (0, 0)), precision=geometry.precision)

  def image(self, x: jax.Array, result: Sequence[int]) -> jax.Array:
    """`x` on the coarse grid, for a result `[B, H, W, C]`."""
    pad = [(0, 0), *self._margins(x.shape, result), (0, 0)]
    return pixel_unshuffle(_padded(x, pad), self._stride)

  def fine_image(self, x: jax.Array, shape: Sequence[int]) -> jax.Array:
    """The transpose of `image`, of this shape."""
    x = pixel_shuffle(x, self._stride)
    cut = [
      (-before, before - fine + n)
      for (before, _), n, fine in zip(
        self._padding, shape[1:3], x.shape[1:3], strict=True
      )
    ]
    return _padded(x, [(0, 0), *cut, (0, 0)])

  def _margins(
    self, image: Sequence[int], result: Sequence[int]
  ) -> list[tuple[int, int]]:
    """Zeros around the image, negative where the kernel never reaches."""
    return [
      (before, self._stride * (m + taps - 1) - before - n)
      for (before, _), n, m, taps in zip(
        self._padding, image[1:3], result[1:3], self.taps, strict=True
      )
    ]

  def kernel(self, kernel: jax.Array) -> jax.Array:
    """`[K, K, C_in, C_out]` -> `[A, A, C_in * s * s, C_out]`."""
    (down, across), s = self.taps, self._stride
    height, width, *channels = kernel.shape
    more = ((0, down * s - height), (0, across * s - width), (0, 0), (0, 0))
    phases = jnp.pad(kernel, more).reshape(down, s, across, s, *channels)
    phases = phases.transpose(0, 2, 4, 1, 3, 5)
    return phases.reshape(down, across, -1, channels[1])

  def fine_kernel(self, kernel: jax.Array, shape: Sequence[int]) -> jax.Array:
    """The transpose of `kernel`, of this shape."""
    (down, across), s = self.taps, self._stride
    height, width, *channels = shape
    phases = kernel.reshape(down, across, channels[0], s, s, channels[1])
    phases = phases.transpose(0, 3, 1, 4, 2, 5)
    return phases.reshape(down * s, across * s, *channels)[:height, :width]


def _padded(x: jax.Array, margins: Sequence[tuple[int, int]]) -> jax.Array:
  """`jnp.pad` by zeros, where negative margins cut."""
  return jax.lax.pad(x, jnp.zeros((), x.dtype), [(*m, 0) for m in margins])


CPU: Mapping[str, Form] = {
  'value': _cpu_value,
  'image': _cpu_image,
  'kernel': _cpu_kernel,
}

"""How each platform computes a convolution and its two gradients.

A convolution of an image x with a kernel k, multiplied by a cotangent y, is the
sum of x[p * stride + d * dilation - padding] * k[d] * y[p], which is linear in
x, k and y. Three functions, called roles, follow from it: `value` computes the
convolution, `image` the gradient of x, and `kernel` the gradient of k. Each
role is linear in its two operands, and its derivatives are roles again.

`PLAIN` computes the roles as JAX does. `CPU` writes them as forward
convolutions of stride 1 in the memory layout that XLA:CPU is fast at, which run
20-40 times faster inside `lax.scan` than JAX's own gradients
(jax-ml/jax#12868).
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
# Bytes of images per convolution of a weight gradient; they should fit the
# second-level cache of a core.
_AT_ONCE = 1_500_000
# Largest number of convolutions into which a weight gradient is divided.
_MOST_PARTS = 8

Shapes = tuple[tuple[int, ...], ...]
Padding = tuple[tuple[int, int], ...]


class Geometry(NamedTuple):
  """How a kernel moves over an image.

  Attributes:
    padding: Number of zeros (before, after) for the rows, then the columns.
    stride: Distance in pixels between neighbouring results. A stride above 1
      requires dilation 1.
    dilation: Distance in pixels between neighbouring taps.
    precision: A value that `jax.default_matmul_precision` accepts.
  """

  padding: Padding
  stride: int = 1
  dilation: int = 1
  precision: str | None = None


# A function that computes one role: `(operands, result shapes, geometry) ->
# results`. `value` takes the parts of the image, whose channels together are
# the image's channels, and the kernel; `image` takes the kernel and y; `kernel`
# takes the parts of the image and y.
Form = Callable[[Sequence[jax.Array], Shapes, Geometry], list[jax.Array]]


def split_rows(kernel: jax.Array, channels: Sequence[int]) -> list[jax.Array]:
  """Splits a kernel's input channels among the parts of the image."""
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
    # The margins are such that the result has the size of the image.
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
  """Convolution of stride 1 in the layout that XLA:CPU is fast at."""
  return _plain_value((x, kernel), (), geometry)[0]


def _transposed(kernel: jax.Array, geometry: Geometry) -> Geometry:
  """Geometry of the convolution that computes the image gradient from y."""
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
  # The sum of one convolution per part: a concatenated copy of the parts would
  # have to be written, and kept for the gradient.
  kernels = split_rows(kernel, [x.shape[-1] for x in parts])
  each = [
    _correlate(x, k, geometry) for x, k in zip(parts, kernels, strict=True)
  ]
  return [functools.reduce(jnp.add, each)]


def _cpu_image(
  operands: Sequence[jax.Array], shapes: Shapes, geometry: Geometry
) -> list[jax.Array]:
  kernel, y = operands
  # Without the barrier XLA computes y anew for each of its uses.
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
  """Correlates y with the spatially flipped kernel, its channels exchanged."""
  flipped = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
  return _correlate(y, flipped, _transposed(kernel, geometry))


def _cpu_kernel(
  operands: Sequence[jax.Array], shapes: Shapes, geometry: Geometry
) -> list[jax.Array]:
  # Without the barrier XLA computes the operands anew for each of their uses.
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

  The batch is divided into groups of a few images, because the transposed copy
  of a whole batch does not fit the cache and takes up to twice as long.
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
  """`_kernel_gradient` of one group of images.

  The gradient is computed as a convolution with batch and channel axes
  exchanged. The channels of the narrower operand become images, because that
  transpose is the expensive part. This operand is padded beforehand: with XLA's
  own padding the convolution is up to three times slower. Both operands are
  mirrored, because XLA hands convolutions with a mirrored kernel to Eigen,
  which is a quarter faster than oneDNN for kernels as large as images.
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
  # No flip: shifting y over x, not x over y, mirrors the result once more.
  return gradient.transpose(1, 2, 3, 0)


class _Coarse:
  """A convolution of stride s as one of stride 1 on a grid s times as coarse.

  XLA:CPU runs the convolution of stride 1 several times faster, forward and
  backward. The pixels of each s x s cell become channels. The kernel is filled
  with zeros up to a multiple of s and rearranged in the same way.

  Attributes:
    taps: Size of the kernel on the coarse grid.
    geometry: Geometry on the coarse grid, without padding: `image` pads.
  """

  def __init__(self, shape: Sequence[int], geometry: Geometry):
    """Derives the coarse convolution from the fine kernel's shape."""
    self._stride, self._padding = geometry.stride, geometry.padding
    self.taps = tuple(-(-n // self._stride) for n in shape[:2])
    self.geometry = Geometry(((0, 0), (0, 0)), precision=geometry.precision)

  def image(self, x: jax.Array, result: Sequence[int]) -> jax.Array:
    """Rearranges image `x` onto the coarse grid.

    Args:
      x: `[B, H, W, C]`.
      result: Shape of the convolution's result.
    """
    pad = [(0, 0), *self._margins(x.shape, result), (0, 0)]
    return pixel_unshuffle(_padded(x, pad), self._stride)

  def fine_image(self, x: jax.Array, shape: Sequence[int]) -> jax.Array:
    """The transpose of `image`; `shape` is that of the fine image."""
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
    """Padding of the image; negative where the kernel does not reach."""
    return [
      (before, self._stride * (m + taps - 1) - before - n)
      for (before, _), n, m, taps in zip(
        self._padding, image[1:3], result[1:3], self.taps, strict=True
      )
    ]

  def kernel(self, kernel: jax.Array) -> jax.Array:
    """Rearranges `[K, K, C_in, C_out]` to `[A, A, C_in * s * s, C_out]`."""
    (down, across), s = self.taps, self._stride
    height, width, *channels = kernel.shape
    more = ((0, down * s - height), (0, across * s - width), (0, 0), (0, 0))
    phases = jnp.pad(kernel, more).reshape(down, s, across, s, *channels)
    phases = phases.transpose(0, 2, 4, 1, 3, 5)
    return phases.reshape(down, across, -1, channels[1])

  def fine_kernel(self, kernel: jax.Array, shape: Sequence[int]) -> jax.Array:
    """The transpose of `kernel`; `shape` is that of the fine kernel."""
    (down, across), s = self.taps, self._stride
    height, width, *channels = shape
    phases = kernel.reshape(down, across, channels[0], s, s, channels[1])
    phases = phases.transpose(0, 3, 1, 4, 2, 5)
    return phases.reshape(down * s, across * s, *channels)[:height, :width]


def _padded(x: jax.Array, margins: Sequence[tuple[int, int]]) -> jax.Array:
  """Pads with zeros; negative margins crop."""
  return jax.lax.pad(x, jnp.zeros((), x.dtype), [(*m, 0) for m in margins])


CPU: Mapping[str, Form] = {
  'value': _cpu_value,
  'image': _cpu_image,
  'kernel': _cpu_kernel,
}

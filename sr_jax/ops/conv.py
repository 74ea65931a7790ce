"""Convolution whose gradients are fast on CPU, also inside loops."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

_LAYOUT = ('NHWC', 'HWIO', 'NHWC')
_Parts = tuple[jax.Array, ...]
# Bytes of the images that a weight gradient looks at at once, which should fit
# a core's second cache.
_AT_ONCE = 1_500_000


def _padding(kernel: jax.Array, dilation: int) -> list[tuple[int, int]]:
  return [(dilation * (n // 2),) * 2 for n in kernel.shape[:2]]


def _same(x: jax.Array, kernel: jax.Array, dilation: int) -> jax.Array:
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    (1, 1),
    _padding(kernel, dilation),
    rhs_dilation=(dilation, dilation),
    dimension_numbers=_LAYOUT,
  )


def conv2d(
  x: jax.Array, kernel: jax.Array, bias: jax.Array | None, dilation: int = 1
) -> jax.Array:
  """Stride-1 convolution of odd kernel size, zero padded to the same size.

  On CPU the gradients are written as plain forward convolutions, which XLA
  runs 20-40 times faster inside `lax.scan` than its own (jax-ml/jax#12868),
  and the bias gradient as a matrix product, 15 times faster than its
  reduction. Other backends keep XLA's, which their libraries know.

  Args:
    x: `[B, H, W, C_in]`.
    kernel: `[K1, K2, C_in, C_out]`, K1 and K2 odd.
    bias: `[C_out]`, or None for none.
    dilation: Step between the pixels that the taps see.

  Returns:
    `[B, H, W, C_out]`.
  """
  return joint_conv2d([x], kernel, bias, dilation)


def joint_conv2d(
  parts: Sequence[jax.Array],
  kernel: jax.Array,
  bias: jax.Array | None,
  dilation: int = 1,
) -> jax.Array:
  """`conv2d` of the channels of several arrays.

  On CPU the sum of one convolution for each: joined, they would be written once
  more, and kept for the gradient.

  Args:
    parts: Of `[B, H, W, C]` each.
    kernel: `[K1, K2, sum of C, C_out]`, K1 and K2 odd.
    bias: `[C_out]`, or None for none.
    dilation: Step between the pixels that the taps see.

  Returns:
    `[B, H, W, C_out]`.
  """
  if jax.default_backend() == 'cpu':
    return _cpu_conv2d(tuple(parts), kernel, bias, dilation)
  x = parts[0] if len(parts) == 1 else jnp.concatenate(parts, -1)
  return _conv2d((x,), kernel, bias, dilation)


def _conv2d(
  parts: _Parts, kernel: jax.Array, bias: jax.Array | None, dilation: int
) -> jax.Array:
  kernels = _split(kernel, parts)
  y = functools.reduce(
    jnp.add,
    [_same(x, k, dilation) for x, k in zip(parts, kernels, strict=True)],
  )
  return y if bias is None else y + bias.reshape(1, 1, 1, -1)


def _split(kernel: jax.Array, parts: _Parts) -> list[jax.Array]:
  """The rows of a kernel for each part's channels."""
  ends = itertools.accumulate(x.shape[-1] for x in parts)
  return jnp.split(kernel, list(ends)[:-1], 2)


_cpu_conv2d = jax.custom_vjp(_conv2d, nondiff_argnums=(3,))


def _forward(
  parts: _Parts, kernel: jax.Array, bias: jax.Array | None, dilation: int
) -> tuple[jax.Array, tuple[_Parts, jax.Array, jax.Array | None]]:
  return _conv2d(parts, kernel, bias, dilation), (parts, kernel, bias)


def _backward(
  dilation: int,
  residuals: tuple[_Parts, jax.Array, jax.Array | None],
  dy: jax.Array,
) -> tuple[_Parts, jax.Array, jax.Array | None]:
  parts, kernel, bias = residuals
  # Else the producers of these are computed again for each use below.
  parts, dy = jax.lax.optimization_barrier((parts, dy))
  # dx: correlate dy with the kernel flipped in space, channels swapped.
  dx = tuple(
    _same(dy, jnp.flip(k, (0, 1)).swapaxes(2, 3), dilation)
    for k in _split(kernel, parts)
  )
  padding = _padding(kernel, dilation)
  dw = [_kernel_gradient(x, dy, padding, dilation) for x in parts]
  dw = jnp.concatenate(dw, 2)
  if bias is None:
    return dx, dw, None
  flat = dy.reshape(-1, dy.shape[-1])
  return dx, dw, (jnp.ones((1, flat.shape[0]), dy.dtype) @ flat)[0]


def _kernel_gradient(
  x: jax.Array, dy: jax.Array, padding: list[tuple[int, int]], dilation: int
) -> jax.Array:
  """Correlates x with dy over images, rows and columns.

  A few images at a time: all of a batch, turned as below, fall out of the cache
  and take up to twice as long.
  """
  image_bytes = max(x[0].size, dy[0].size) * x.dtype.itemsize
  n = max(1, _AT_ONCE // image_bytes)
  parts = [
    _part_of_kernel_gradient(x[i : i + n], dy[i : i + n], padding, dilation)
    for i in range(0, x.shape[0], n)
  ]
  return functools.reduce(jnp.add, parts)


def _part_of_kernel_gradient(
  x: jax.Array, dy: jax.Array, padding: list[tuple[int, int]], dilation: int
) -> jax.Array:
  """`_kernel_gradient` of all the images at once.

  As a convolution: the channels of one stand as its images, the images of
  both as channels. The narrower one is turned so, which is the dearer part. It
  is padded beforehand: XLA's own padding makes this up to three times slower.
  Both are mirrored, because XLA leaves convolutions with a mirrored kernel to
  Eigen, which is a quarter quicker than oneDNN at kernels as large as images.
  """
  pad = ((0, 0), *padding, (0, 0))
  if x.shape[-1] < dy.shape[-1]:
    images, window = jnp.pad(x, pad), dy
  else:
    images, window = jnp.pad(dy, pad), x
  dw = jax.lax.conv_general_dilated(
    jnp.flip(images.transpose(3, 1, 2, 0), (1, 2)),
    jnp.flip(window.transpose(1, 2, 0, 3), (0, 1)),
    (dilation, dilation),
    'VALID',
    dimension_numbers=_LAYOUT,
  )
  if window is dy:
    return jnp.flip(dw, (1, 2)).transpose(1, 2, 0, 3)
  # Shifts of dy against x are those of x against dy, mirrored as well.
  return dw.transpose(1, 2, 3, 0)


_cpu_conv2d.defvjp(_forward, _backward)


def split_groups(x: jax.Array, groups: int) -> list[jax.Array]:
  """`[B, H, W, C]` as `grouped_conv2d` takes it: in equal parts, or in one.

  On CPU the parts run one by one: XLA's grouped convolution is about five times
  slower there, its gradients a hundred times. They stay apart between
  convolutions, for taking them out of one array and putting them back costs as
  much as half the convolution.
  """
  if jax.default_backend() == 'cpu':
    return jnp.split(x, groups, -1)
  return [x]


def grouped_conv2d(
  parts: Sequence[jax.Array],
  kernel: jax.Array,
  bias: jax.Array | None,
  groups: int,
) -> list[jax.Array]:
  """`conv2d` in which equal parts of the channels do not see each other.

  Args:
    parts: Of `[B, H, W, C_in]`, from `split_groups`.
    kernel: `[K, K, C_in / groups, C_out]`, K odd.
    bias: `[C_out]`, or None for none.
    groups: Number of parts of the input channels; each makes one part of the
      output channels.

  Returns:
    As many parts of `[B, H, W, C_out]`.
  """
  if len(parts) == groups:
    kernels = jnp.split(kernel, groups, -1)
    biases = [None] * groups if bias is None else jnp.split(bias, groups)
    return [conv2d(*part) for part in zip(parts, kernels, biases, strict=True)]
  (x,) = parts
  padding = kernel.shape[0] // 2
  y = jax.lax.conv_general_dilated(
    x,
    kernel,
    (1, 1),
    ((padding, padding), (padding, padding)),
    dimension_numbers=_LAYOUT,
    feature_group_count=groups,
  )
  return [y if bias is None else y + bias.reshape(1, 1, 1, -1)]

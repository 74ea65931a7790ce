"""Convolutions whose gradients are fast on CPU, inside loops too."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from sr_jax.errors import UserError
from sr_jax.ops.bias import add_bias
from sr_jax.ops.conv_forms import Geometry
from sr_jax.ops.conv_primitive import convolve

_LAYOUT = ('NHWC', 'HWIO', 'NHWC')


def conv2d(
  x: jax.Array, kernel: jax.Array, bias: jax.Array | None, dilation: int = 1
) -> jax.Array:
  """Convolution of stride 1, zero padded so that the image keeps its size.

  On CPU the gradients of image and kernel are written as plain forward
  convolutions, which run 20-40 times faster inside `lax.scan` than JAX's own
  gradients (jax-ml/jax#12868). The bias gradient is a matrix product there, 15
  times faster than XLA's sum. Other backends compute JAX's own gradients, for
  which they have optimized libraries.

  Args:
    x: `[B, H, W, C_in]`.
    kernel: `[K1, K2, C_in, C_out]`, K1 and K2 odd.
    bias: `[C_out]`, or None for no bias.
    dilation: Distance in pixels between neighbouring taps.

  Returns:
    `[B, H, W, C_out]`.

  Raises:
    UserError: A side of the kernel is even, so that it has no middle tap.

  Example:
    >>> conv2d(jnp.ones((1, 2, 3, 1)), jnp.ones((3, 3, 1, 1)), None)[0, ..., 0]
    Array([[4., 6., 4.],
           [4., 6., 4.]], dtype=float32)
  """
  return joint_conv2d([x], kernel, bias, dilation)


def joint_conv2d(
  parts: Sequence[jax.Array],
  kernel: jax.Array,
  bias: jax.Array | None,
  dilation: int = 1,
) -> jax.Array:
  """`conv2d` of several arrays, as if their channels were concatenated.

  On CPU the result is the sum of one convolution per array. A concatenated copy
  would have to be written, and kept in memory for the gradient.

  Args:
    parts: Arrays `[B, H, W, C]`; C may differ.
    kernel: `[K1, K2, sum of C, C_out]`, K1 and K2 odd.
    bias: `[C_out]`, or None for no bias.
    dilation: Distance in pixels between neighbouring taps.

  Returns:
    `[B, H, W, C_out]`.
  """
  height, width = kernel.shape[:2]
  if height % 2 == 0 or width % 2 == 0:
    raise UserError(
      f'a convolution that keeps the size needs a kernel with odd sides, not '
      f'{height}x{width}'
    )
  padding = tuple((dilation * (n // 2),) * 2 for n in kernel.shape[:2])
  geometry = Geometry(padding, dilation=dilation)
  return add_bias(convolve(parts, kernel, geometry), bias)


def grouped_conv2d(
  parts: Sequence[jax.Array], kernel: jax.Array, bias: jax.Array | None
) -> list[jax.Array]:
  """Grouped convolution: each group of channels is convolved by itself.

  The groups stay separate arrays between convolutions. On CPU they are
  convolved one by one, because XLA's grouped convolution is about five times
  slower there, and its gradients a hundred times; splitting and joining the
  channels each time would cost half as much as the convolution. Other platforms
  convolve all groups at once. The platform is chosen when the program is
  lowered: a program for a TPU can be made on a machine that has none.

  Args:
    parts: One array `[B, H, W, C_in / groups]` per group.
    kernel: `[K, K, C_in / groups, C_out]`, K odd.
    bias: `[C_out]`, or None for no bias.

  Returns:
    The result, one array `[B, H, W, C_out / groups]` per group.
  """
  if len(parts) == 1:
    return [conv2d(parts[0], kernel, bias)]
  return jax.lax.platform_dependent(
    list(parts), kernel, bias, cpu=_one_by_one, default=_at_once
  )


def _one_by_one(
  parts: Sequence[jax.Array], kernel: jax.Array, bias: jax.Array | None
) -> list[jax.Array]:
  """`grouped_conv2d` by one convolution per group."""
  groups = len(parts)
  kernels = jnp.split(kernel, groups, -1)
  biases = [None] * groups if bias is None else jnp.split(bias, groups)
  return [conv2d(*part) for part in zip(parts, kernels, biases, strict=True)]


def _at_once(
  parts: Sequence[jax.Array], kernel: jax.Array, bias: jax.Array | None
) -> list[jax.Array]:
  """`grouped_conv2d` by one grouped convolution."""
  padding = kernel.shape[0] // 2
  y = jax.lax.conv_general_dilated(
    jnp.concatenate(parts, -1),
    kernel,
    (1, 1),
    ((padding, padding), (padding, padding)),
    dimension_numbers=_LAYOUT,
    feature_group_count=len(parts),
  )
  y = y if bias is None else y + bias.reshape(1, 1, 1, -1)
  return jnp.split(y, len(parts), -1)

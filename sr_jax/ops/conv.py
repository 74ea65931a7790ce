"""Convolution whose gradients are fast on CPU, also inside loops."""

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

  Raises:
    UserError: the kernel has an even side, which has no middle.

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
  height, width = kernel.shape[:2]
  if height % 2 == 0 or width % 2 == 0:
    raise UserError(
      f'a convolution that keeps the size needs a kernel of odd sides, not '
      f'{height}x{width}'
    )
  padding = tuple((dilation * (n // 2),) * 2 for n in kernel.shape[:2])
  geometry = Geometry(padding, dilation=dilation)
  return add_bias(convolve(parts, kernel, geometry), bias)


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

"""Enlarges padded images with the same result as without the padding.

Images of many sizes can so share a few compiled shapes. A convolution pads with
zeros. If the input of every spatial convolution is set to zero outside the
image, the result inside the image is that of the image without padding. For a
convolution whose attribute `padding` is 'edge', the pixels of the border are
repeated outside instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from sr_jax.typing import Network


def masked_apply(
  network: Network,
  params: Mapping[str, Any],
  lr: jax.Array,
  mask: jax.Array | None,
  stats: Mapping[str, Any] | None = None,
  *inputs: jax.Array,
) -> jax.Array:
  """Enlarges `lr`; outside the mask the result has no meaning.

  The result is right for networks whose only spatial operations are these:

  - stride-1 and transposed convolutions, padded with zeros or the edge. Each is
    a Linen module with a `kernel_size`, at LR resolution or a multiple of it;
  - a cubic or bilinear enlargement of the image, if the padding continues the
    image by two or more mirrored pixels.

  Args:
    network: Linen module that returns `(sr, aux)`.
    params: Its parameters.
    lr: `[B, H, W, C]` in [0, 1].
    mask: `[B, H, W, 1]`, 1 inside the image and 0 outside. None means that `lr`
      has no padding. With edge padding the image must begin at (0, 0).
    stats: Running statistics of a network with normalisation.
    *inputs: Further inputs of the network, such as kernel codes.

  Returns:
    `[B, sH, sW, C]`, unclipped.
  """
  variables = {'params': params} | ({'batch_stats': stats} if stats else {})
  if mask is None:
    return network.apply(variables, lr, *inputs)[0]

  def intercept(call, args, kwargs, context):
    if context.method_name != '__call__' or not _is_spatial(context.module):
      return call(*args, **kwargs)
    edge = getattr(context.module, 'padding', 'zero') == 'edge'

    def masked(x: jax.Array) -> jax.Array:
      inside = _at_size_of(mask, x)
      return _with_edge(x, inside) if edge else x * inside

    # An argument is an array, or a list of the parts of one.
    return call(*jax.tree.map(masked, args), **kwargs)

  with nn.intercept_methods(intercept):
    return network.apply(variables, lr, *inputs)[0]


def _with_edge(x: jax.Array, inside: jax.Array) -> jax.Array:
  """Repeats the last row and column of the image in `x` outside it."""
  for axis in (1, 2):
    count = (inside > 0).any(3 - axis, keepdims=True).sum(axis, keepdims=True)
    index = jax.lax.broadcasted_iota(jnp.int32, inside.shape, axis)
    index = jnp.minimum(index, count - 1)
    x = jnp.take_along_axis(x, jnp.broadcast_to(index, x.shape), axis)
  return x


def _is_spatial(module: nn.Module) -> bool:
  size = getattr(module, 'kernel_size', 1)
  return max(size) > 1 if isinstance(size, tuple | list) else size > 1


def _at_size_of(mask: jax.Array, x: jax.Array) -> jax.Array:
  """Repeats `mask` up to the resolution of `x` `[B, H, W, C]`."""
  factor, rest = divmod(x.shape[1], mask.shape[1])
  if rest or x.shape[2] != factor * mask.shape[2]:
    raise ValueError(
      f'a layer of {x.shape[1]}x{x.shape[2]} is not a multiple of the mask of'
      f' {mask.shape[1]}x{mask.shape[2]}: this network cannot be masked'
    )
  return mask.repeat(factor, 1).repeat(factor, 2).astype(x.dtype)

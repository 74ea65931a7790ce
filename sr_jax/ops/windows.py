"""Convolutions as matrix products over windows, and products of convolutions.

On CPU the gradients of XLA's convolutions are slow inside a loop, and those of
matrix products are not. This pays for the small images and few channels of
networks that are trained on one image.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from sr_jax.ops.precision import einsum


def windows(image: jax.Array, size: int, stride: int = 1) -> jax.Array:
  """All windows of an image that lie inside it.

  Args:
    image: `[..., H, W, C]`.
    size: Height and width of a window.
    stride: Distance of neighbouring windows.

  Returns:
    `[..., H', W', size, size, C]` with H' = (H - size) // stride + 1.

  Example:
    >>> windows(jnp.arange(6.0).reshape(2, 3, 1), 2)[0, 1, ..., 0]
    Array([[1., 2.],
           [4., 5.]], dtype=float32)
  """
  rows, columns = (
    (n - size) // stride * stride + 1 for n in image.shape[-3:-1]
  )
  image = jnp.stack(
    [image[..., i : i + rows : stride, :, :] for i in range(size)], -2
  )
  return jnp.stack(
    [image[..., i : i + columns : stride, :, :] for i in range(size)], -2
  )


def composed(first: jax.Array, then: jax.Array) -> jax.Array:
  """The kernel of two correlations one after the other, without padding.

  Args:
    first: `[A, A, I, O]`.
    then: `[B, B, O]`, whose result has one channel.

  Returns:
    `[A + B - 1, A + B - 1, I]`, the kernel that has the same result.
  """
  pairs = einsum('pqo,abio->paqbi', then, first)
  rows = _diagonal_sums(pairs)
  return _diagonal_sums(rows.transpose(1, 2, 0, 3)).transpose(1, 0, 2)


def _diagonal_sums(pairs: jax.Array) -> jax.Array:
  """Sums of `[P, Q, ...]` over p + q = n, `[P + Q - 1, ...]`."""
  p, q = pairs.shape[:2]
  padding = [(0, 0), (0, p)] + [(0, 0)] * (pairs.ndim - 2)
  # Cutting one number off every row moves row p to the right by p.
  flat = jnp.pad(pairs, padding).reshape(p * (q + p), *pairs.shape[2:])
  return flat[: p * (p + q - 1)].reshape(p, p + q - 1, *pairs.shape[2:]).sum(0)

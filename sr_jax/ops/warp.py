"""Sampling images at arbitrary points."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from sr_jax.ops.resize import cubic


def sample_cubic(image: jax.Array, points: jax.Array) -> jax.Array:
  """Values between pixels by Keys' cubic interpolation; exact on pixels.

  Args:
    image: `[H, W, C]`.
    points: `[..., 2]` (row, column) in pixels; the centre of the first pixel is
      (0, 0). Beyond the border the image goes on mirrored, edge repeated.

  Returns:
    `[..., C]`, not clipped.
  """
  base = jnp.floor(points)
  taps = jnp.arange(-1, 3).reshape((1,) * points.ndim + (4,))
  weights = cubic((points - base)[..., None] - taps)
  index = base[..., None].astype(jnp.int32) + taps
  rows, columns = (
    _mirrored(index[..., i, :], n) for i, n in enumerate(image.shape[:2])
  )
  values = image[rows[..., :, None], columns[..., None, :]]
  return jnp.einsum(
    '...i,...j,...ijc->...c',
    *(weights[..., 0, :], weights[..., 1, :], values),
    precision=jax.lax.Precision.HIGHEST,
  )


def _mirrored(index: jax.Array, size: int) -> jax.Array:
  index = index % (2 * size)
  return jnp.where(index < size, index, 2 * size - 1 - index)

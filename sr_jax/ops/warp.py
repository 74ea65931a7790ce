"""Samples images at arbitrary points, and warps them by an optical flow."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from sr_jax.ops.resize import cubic


def sample_cubic(image: jax.Array, points: jax.Array) -> jax.Array:
  """Interpolates an image at points by Keys' cubic kernel (a = -0.5).

  Args:
    image: `[H, W, C]`.
    points: `[..., 2]` (row, column) in pixels; (0, 0) is the centre of the
      first pixel. Beyond the border the image is continued by its mirror image,
      with the edge pixel repeated.

  Returns:
    Values `[..., C]`, not clipped.
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


def warp(images: jax.Array, flow: jax.Array) -> jax.Array:
  """Backward warping: each pixel is read from where the flow points.

  Values between pixels are interpolated bilinearly. Points beyond the border
  are moved onto it; the flow gets no gradient there.

  Args:
    images: `[B, H, W, C]`.
    flow: `[B, H, W, 2]`, displacements (x, y) in pixels: columns before rows,
      as is usual for optical flow.

  Returns:
    Warped images `[B, H, W, C]`, of the type of `images`.
  """
  batch, height, width, channels = images.shape
  y, x = jnp.mgrid[:height, :width].astype(jnp.float32)
  columns = jnp.clip(x[None] + flow[..., 0].astype(jnp.float32), 0, width - 1)
  rows = jnp.clip(y[None] + flow[..., 1].astype(jnp.float32), 0, height - 1)
  left, top = jnp.floor(columns), jnp.floor(rows)
  right, low = columns - left, rows - top  # weights of the second neighbours
  pixels = images.reshape(batch, height * width, channels)

  def fetch(row: jax.Array, column: jax.Array) -> jax.Array:
    row = jnp.minimum(row.astype(jnp.int32), height - 1)
    column = jnp.minimum(column.astype(jnp.int32), width - 1)
    index = (row * width + column).reshape(batch, -1, 1)
    return jnp.take_along_axis(pixels, index, 1).reshape(images.shape)

  corners = (
    (fetch(top, left), (1 - low) * (1 - right)),
    (fetch(top, left + 1), (1 - low) * right),
    (fetch(top + 1, left), low * (1 - right)),
    (fetch(top + 1, left + 1), low * right),
  )
  warped = sum(values * share[..., None] for values, share in corners)
  return jnp.asarray(warped).astype(images.dtype)

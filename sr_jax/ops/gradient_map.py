"""Gradient maps of images (Ma et al., SPSR, CVPR 2020)."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def gradient_map(image: jax.Array, padding: int = 1) -> jax.Array:
  """Length of the gradient in each channel, from differences of two pixels.

  The image is padded with zeros, so that its border appears as an edge.

  Args:
    image: `[B, H, W, C]`.
    padding: 1 keeps the size, as for the maps that SPSR's network takes and
      predicts; 2 adds a pixel on every side, as for the maps in SPSR's losses
      and its discriminator.

  Returns:
    `[B, H + 2 * padding - 2, W + 2 * padding - 2, C]`.
  """
  pad = (padding, padding)
  x = jnp.pad(image, ((0, 0), pad, pad, (0, 0)))
  across = x[:, 1:-1, 2:] - x[:, 1:-1, :-2]
  down = x[:, 2:, 1:-1] - x[:, :-2, 1:-1]
  # The constant keeps the derivative of the root finite in flat areas.
  return jnp.sqrt(across**2 + down**2 + 1e-6)

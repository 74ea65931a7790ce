"""Pixel shuffle with PyTorch's channel order, so that its weights fit.

Channel c * r^2 + i * r + j holds sub-pixel (row i, column j) of output channel
c (Shi et al., CVPR 2016). TensorFlow's depth_to_space orders them differently.
"""

from __future__ import annotations

from typing import Any

from sr_jax.ops.namespace import Array


def pixel_shuffle(x: Array, scale: int) -> Any:
  """Turns `[..., H, W, C * scale^2]` into `[..., H * scale, W * scale, C]`."""
  *batch, height, width, channels = x.shape
  if channels % scale**2:
    raise ValueError(f'{channels} channels are not divisible by {scale}^2')
  x = x.reshape(*batch, height, width, channels // scale**2, scale, scale)
  n = len(batch)
  x = x.transpose(*range(n), n, n + 3, n + 1, n + 4, n + 2)
  return x.reshape(*batch, height * scale, width * scale, -1)


def pixel_unshuffle(x: Array, scale: int) -> Any:
  """Turns `[..., H, W, C]` into `[..., H / scale, W / scale, C * scale^2]`."""
  *batch, height, width, channels = x.shape
  if height % scale or width % scale:
    raise ValueError(f'{height}x{width} pixels are not divisible by {scale}')
  x = x.reshape(*batch, height // scale, scale, width // scale, scale, channels)
  n = len(batch)
  x = x.transpose(*range(n), n, n + 2, n + 4, n + 1, n + 3)
  return x.reshape(*batch, height // scale, width // scale, -1)

"""The JPEG round trip as an array function.

Baseline JPEG (ITU-T T.81, JFIF) at 4:2:0, as image libraries write and read it
by default: full-range BT.601 colour, 2x2 chroma averages, 8x8 DCT, the standard
quantisation tables scaled by quality, and triangle-filter chroma upsampling.
Only the lossless entropy coding is left out.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sr_jax.errors import UserError
from sr_jax.ops.namespace import Array, array_namespace
from sr_jax.ops.precision import as_float, einsum

# ITU-T T.81, annex K.1, tables K.1 and K.2.
_LUMA_TABLE = np.array(
  [
    [16, 11, 10, 16, 24, 40, 51, 61],
    [12, 12, 14, 19, 26, 58, 60, 55],
    [14, 13, 16, 24, 40, 57, 69, 56],
    [14, 17, 22, 29, 51, 87, 80, 62],
    [18, 22, 37, 56, 68, 109, 103, 77],
    [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101],
    [72, 92, 95, 98, 112, 100, 103, 99],
  ]
)
_CHROMA_TABLE = np.full((8, 8), 99)
_CHROMA_TABLE[:4, :4] = [
  [17, 18, 24, 47],
  [18, 21, 26, 66],
  [24, 26, 56, 99],
  [47, 66, 99, 99],
]

# Orthonormal DCT-II: row u holds frequency u.
_DCT = np.cos(np.outer(np.arange(8), 2 * np.arange(8) + 1) * np.pi / 16) / 2
_DCT[0] /= np.sqrt(2)

# Averages of whole levels are often exact halves. The added thousandth rounds
# them as integer arithmetic does, despite rounding errors of the float values.
_HALF = 0.5 + 1e-3


def quantisation_table(table: np.ndarray, quality: int | Array) -> Any:
  """Scales a base table for quality 1..100 as libjpeg does.

  Qualities `[B]` give tables `[B, 8, 8]`.
  """
  xp = jnp if isinstance(quality, jax.Array) else np
  quality = xp.asarray(quality)[..., None, None]
  percent = xp.where(quality < 50, 5000 // quality, 200 - 2 * quality)
  table = table.reshape(*(1,) * (percent.ndim - 2), 8, 8)
  return xp.clip((table * percent + 50) // 100, 1, 255)


def _code_plane(plane: Array, table: Array) -> Any:
  """DCT, quantisation and inverse of `[..., H, W]`; 8 divides H and W."""
  xp = array_namespace(plane)
  *batch, height, width = plane.shape
  blocks = plane.reshape(*batch, height // 8, 8, width // 8, 8) - 128.0
  blocks = einsum('ui,...aibj->...aubj', _DCT, blocks)
  blocks = einsum('vj,...aubj->...aubv', _DCT, blocks)
  # One table for all images, or one for each.
  own = len(batch) if table.ndim > 2 else 0
  steps = table.reshape(
    *table.shape[:-2], *(1,) * (len(batch) - own + 1), 8, 1, 8
  ).astype(blocks.dtype)
  magnitude = xp.floor(xp.abs(blocks) / steps + _HALF) * steps
  blocks = xp.sign(blocks) * magnitude
  blocks = einsum('ui,...aubv->...aibv', _DCT, blocks)
  blocks = einsum('vj,...aibv->...aibj', _DCT, blocks)
  plane = blocks.reshape(*batch, height, width) + 128.0
  return xp.clip(xp.floor(plane + _HALF), 0.0, 255.0)


def _halve(plane: Array) -> Any:
  """Averages 2x2 pixels; halves round down in even columns, up in odd ones."""
  xp = array_namespace(plane)
  *batch, height, width = plane.shape
  total = plane.reshape(*batch, height // 2, 2, width // 2, 2).sum((-3, -1))
  bias = 1.0 + np.arange(width // 2) % 2
  bias = bias.reshape(*(1,) * (total.ndim - 1), -1).astype(total.dtype)
  return xp.floor((total + bias) / 4.0)


def _double(plane: Array) -> Any:
  """Triangle-filter upsampling of `[..., h, w]` to `[..., 2h, 2w]`."""
  xp = array_namespace(plane)
  pad = [(0, 0)] * (plane.ndim - 2) + [(1, 1), (1, 1)]
  plane = xp.pad(plane, pad, mode='edge')
  here = 3.0 * plane[..., 1:-1, :]
  above, below = here + plane[..., :-2, :], here + plane[..., 2:, :]
  rows = xp.stack([above, below], axis=-2)
  here = 3.0 * rows[..., 1:-1]
  left = xp.floor((here + rows[..., :-2] + 8.0) / 16.0)
  right = xp.floor((here + rows[..., 2:] + 7.0) / 16.0)
  doubled = xp.stack([left, right], axis=-1)
  *batch, height, _, width, _ = doubled.shape
  return doubled.reshape(*batch, 2 * height, 2 * width)


def _code_chroma(
  plane: Array, shape: tuple[int, int], quality: int | Array
) -> Any:
  """Codes a padded chroma plane at half resolution; returns `shape` pixels."""
  height, width = shape
  table = quantisation_table(_CHROMA_TABLE, quality)
  half = _code_plane(_halve(plane), table)
  # The decoder upsamples the image without the padding.
  half = half[..., : (height + 1) // 2, : (width + 1) // 2]
  return _double(half)[..., :height, :width]


def jpeg(image: Array, quality: int | Array) -> Any:
  """Passes an image through JPEG compression.

  Args:
    image: `[..., H, W, C]` in [0, 1] with 1 or 3 channels, of any size. It is
      clipped and rounded to 8 bits first.
    quality: 1..100, on libjpeg's scale; for images `[B, H, W, C]` it may be an
      array `[B]`, which is not checked and may be traced.

  Returns:
    The decoded image `[..., H, W, C]` in [0, 1], on 8-bit levels.

  Raises:
    UserError: The number of channels is not 1 or 3, or the quality is out of
      range.
  """
  if isinstance(quality, int | np.integer) and not 1 <= quality <= 100:
    raise UserError(f'JPEG quality must be 1 to 100, not {quality}')
  xp = array_namespace(image)
  decoded = jpeg_planes(xp.moveaxis(as_float(image), -1, -3), quality)
  return xp.moveaxis(decoded, -3, -1)


def jpeg_planes(planes: Array, quality: int | Array) -> Any:
  """`jpeg` of an image as planes `[..., C, H, W]`."""
  *_, channels, height, width = planes.shape
  if channels not in (1, 3):
    raise UserError(f'JPEG needs 1 or 3 channels, the image has {channels}')
  xp = array_namespace(planes)
  levels = xp.round(xp.clip(as_float(planes), 0.0, 1.0) * 255.0)
  pad = [(0, 0)] * (levels.ndim - 2) + [(0, -height % 16), (0, -width % 16)]
  levels = xp.pad(levels, pad, mode='edge')
  luma_table = quantisation_table(_LUMA_TABLE, quality)
  if channels == 1:
    luma = _code_plane(levels[..., 0, :, :], luma_table)
    return luma[..., None, :height, :width] / 255.0
  r, g, b = (levels[..., i, :, :] for i in range(3))
  luma = xp.floor(0.299 * r + 0.587 * g + 0.114 * b + _HALF)
  # Chroma of exactly one half rounds down: pure blue and red stay within 255.
  cb = xp.ceil(128 - _HALF - 0.168735892 * r - 0.331264108 * g + 0.5 * b)
  cr = xp.ceil(128 - _HALF + 0.5 * r - 0.418687589 * g - 0.081312411 * b)
  luma = _code_plane(luma, luma_table)[..., :height, :width]
  cb = _code_chroma(cb, (height, width), quality) - 128.0
  cr = _code_chroma(cr, (height, width), quality) - 128.0
  rgb = [
    luma + xp.round(1.402 * cr),
    luma + xp.round(-0.344136286 * cb - 0.714136286 * cr),
    luma + xp.round(1.772 * cb),
  ]
  return xp.clip(xp.stack(rgb, axis=-3), 0.0, 255.0) / 255.0

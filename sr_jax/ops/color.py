"""BT.601 colour conversion as in MATLAB's rgb2ycbcr, for images in [0, 1]."""

from __future__ import annotations

from typing import Any

import numpy as np

from sr_jax.ops.namespace import Array, array_namespace
from sr_jax.ops.precision import as_float

# Rows are Y, Cb, Cr; columns are R, G, B; values are in 8-bit levels.
_RGB_TO_YCBCR = (
  np.array(
    [
      [65.481, 128.553, 24.966],
      [-37.797, -74.203, 112.0],
      [112.0, -93.786, -18.214],
    ]
  )
  / 255
)
_OFFSET = np.array([16.0, 128.0, 128.0]) / 255
# Weights of MATLAB's rgb2gray: the first row of the inverse of NTSC's YIQ.
_GREY = np.array([[0.298936021293775, 0.587043074451121, 0.114020904255103]])
_YCBCR_TO_RGB = np.linalg.inv(_RGB_TO_YCBCR)


def _affine(image: Array, matrix: np.ndarray, offset: np.ndarray) -> Any:
  # Channels are scaled and added one by one, because accelerators round the
  # inputs of a matrix product.
  xp = array_namespace(image)
  channels = [
    sum(float(w) * image[..., i] for i, w in enumerate(row)) + float(o)
    for row, o in zip(matrix, offset, strict=True)
  ]
  return xp.stack(channels, axis=-1)


def rgb_to_ycbcr(image: Array) -> Any:
  """RGB `[..., 3]` in [0, 1] to Y in [16, 235]/255, Cb, Cr in [16, 240]/255."""
  return _affine(as_float(image), _RGB_TO_YCBCR, _OFFSET)


def ycbcr_to_rgb(image: Array) -> Any:
  """YCbCr `[..., 3]` to RGB: the inverse of `rgb_to_ycbcr`, not clipped."""
  return _affine(as_float(image), _YCBCR_TO_RGB, -_YCBCR_TO_RGB @ _OFFSET)


def rgb_to_y(image: Array) -> Any:
  """RGB `[..., 3]` in [0, 1] to luma `[..., 1]` in [16, 235]/255."""
  return _affine(as_float(image), _RGB_TO_YCBCR[:1], _OFFSET[:1])


def rgb_to_grey(image: Array) -> Any:
  """RGB `[..., 3]` in [0, 1] to grey `[..., 1]` in [0, 1], as rgb2gray."""
  return _affine(as_float(image), _GREY, np.zeros(1))

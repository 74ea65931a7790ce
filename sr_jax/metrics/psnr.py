"""Peak signal-to-noise ratio."""

from __future__ import annotations

from typing import Any

import numpy as np

from sr_jax.metrics.pairs import check_pair
from sr_jax.ops.namespace import Array, array_namespace
from sr_jax.ops.precision import as_float


def psnr(a: Array, b: Array, peak: float | None = None) -> Any:
  """PSNR in dB of each image of `[..., H, W, C]`; inf where they are equal.

  Args:
    a: images in [0, peak], already in the colour and rounding of a protocol.
    b: images of the same shape.
    peak: largest possible value; by default that of uint8 and uint16, and 255
      of floats.

  Returns:
    `[...]`: `[B]` for a batch, a scalar for one image; NaN if a pixel is.

  Raises:
    UserError: shapes or types differ, or are not those of images.

  Example:
    >>> import numpy as np
    >>> black = np.zeros((4, 4, 3), np.uint8)
    >>> round(float(psnr(black, black + 1)), 2)
    48.13
  """
  peak = check_pair('PSNR', a, b, peak)
  xp = array_namespace(a, b)
  error = ((as_float(a) - as_float(b)) ** 2).mean(axis=(-3, -2, -1))
  with np.errstate(divide='ignore'):
    return -10.0 * xp.log10(error / peak**2)

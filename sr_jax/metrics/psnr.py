"""Peak signal-to-noise ratio."""

from __future__ import annotations

from typing import Any

import numpy as np

from sr_jax.metrics.pairs import check_pair
from sr_jax.ops.namespace import Array, array_namespace
from sr_jax.ops.precision import as_float


def psnr(a: Array, b: Array, peak: float | None = None) -> Any:
  """PSNR in dB of each pair of images; inf if both images are equal.

  Args:
    a: Images `[..., H, W, C]` in [0, peak]. A protocol's conversion of colour
      and rounding has to be done before.
    b: Images of the same shape and type.
    peak: Largest possible value; by default that of uint8 or uint16, or 255 for
      floats.

  Returns:
    `[...]`: `[B]` for a batch, a scalar for one image. NaN if a pixel is NaN.

  Raises:
    UserError: Shapes or types differ, or are not those of images.

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

"""Peak signal-to-noise ratio."""

from __future__ import annotations

from typing import Any

import numpy as np

from sr_jax.ops.namespace import Array, array_namespace
from sr_jax.ops.precision import as_float


def psnr(a: Array, b: Array, peak: float = 255.0) -> Any:
  """PSNR in dB of each image of `[..., H, W, C]`; inf where they are equal.

  Args:
    a: images in [0, peak], already in the colour and rounding of a protocol.
    b: images of the same shape.
    peak: largest possible value.

  Returns:
    `[...]`: `[B]` for a batch, a scalar for one image.
  """
  if a.shape != b.shape:
    raise ValueError(f'shapes differ: {a.shape} and {b.shape}')
  xp = array_namespace(a, b)
  error = ((as_float(a) - as_float(b)) ** 2).mean(axis=(-3, -2, -1))
  with np.errstate(divide='ignore'):
    return -10.0 * xp.log10(error / peak**2)

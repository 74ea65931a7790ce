"""Structural similarity (Wang, Bovik, Sheikh and Simoncelli, TIP 2004)."""

from __future__ import annotations

from typing import Any

import numpy as np

from sr_jax.errors import UserError
from sr_jax.metrics.pairs import check_pair
from sr_jax.ops.namespace import Array
from sr_jax.ops.precision import as_float

WINDOW = 11
_SIGMA = 1.5
_K1, _K2 = 0.01, 0.03


def _taps() -> list[float]:
  taps = np.exp(-0.5 * ((np.arange(WINDOW) - WINDOW // 2) / _SIGMA) ** 2)
  return (taps / taps.sum()).tolist()


def _filter_rows(x: Any) -> Any:
  """Gaussian mean along axis H of `[..., H, W, C]`."""
  height = x.shape[-3] - WINDOW + 1
  return sum(w * x[..., i : i + height, :, :] for i, w in enumerate(_taps()))


def _window_mean(x: Any) -> Any:
  """Gaussian mean of every window that lies inside the image.

  The filter is a sum of shifted slices instead of a convolution. The same code
  then runs on host and device, in full precision, and it is fast because the
  window is separable.
  """
  return _filter_rows(_filter_rows(x).swapaxes(-3, -2)).swapaxes(-3, -2)


def ssim(a: Array, b: Array, peak: float | None = None) -> Any:
  """Mean SSIM of each pair of images, averaged over channels.

  The window is an 11x11 Gaussian of sigma 1.5, K = (0.01, 0.03), and only
  windows inside the image count, as in the authors' `ssim_index`.

  Args:
    a: Images `[..., H, W, C]` in [0, peak]. A protocol's conversion of colour
      and rounding has to be done before.
    b: Images of the same shape and type.
    peak: Largest possible value; by default that of uint8 or uint16, or 255 for
      floats.

  Returns:
    `[...]`: `[B]` for a batch, a scalar for one image. NaN if a pixel is NaN.

  Raises:
    UserError: The images are smaller than the window, or their shapes or types
      differ or are not those of images.

  Example:
    >>> image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    >>> float(ssim(image, image))
    1.0
  """
  peak = check_pair('SSIM', a, b, peak)
  if min(a.shape[-3:-1]) < WINDOW:
    height, width = a.shape[-3:-1]
    raise UserError(
      f'SSIM needs {WINDOW}x{WINDOW} pixels, the image (after the border crop) '
      f'has {height}x{width}: use a larger image'
    )
  # Subtracting a constant leaves variances unchanged and loses fewer digits in
  # float32.
  shift = peak / 2
  a, b = as_float(a) - shift, as_float(b) - shift
  mean_a, mean_b = _window_mean(a), _window_mean(b)
  var_a = _window_mean(a * a) - mean_a**2
  var_b = _window_mean(b * b) - mean_b**2
  covariance = _window_mean(a * b) - mean_a * mean_b
  mean_a, mean_b = mean_a + shift, mean_b + shift
  c1, c2 = (_K1 * peak) ** 2, (_K2 * peak) ** 2
  similarity = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
  similarity /= (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
  return similarity.mean(axis=(-3, -2, -1))

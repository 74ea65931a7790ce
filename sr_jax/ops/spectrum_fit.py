"""The Gaussian blur of an image, fitted to its power spectrum.

The model of the spectrum has six parameters and needs no training: power that
falls as a power of the frequency, times that of a Gaussian blur, folded by
sampling, on a floor of noise. What the original itself lacked in detail counts
as blur, so narrow kernels are taken for wider ones: a variance of 0.2 for one
of about 0.7 HR pixels squared at x2.
"""

from __future__ import annotations

import numpy as np
from scipy import optimize

from sr_jax.ops import power_spectrum

# Frequencies that are fitted: below, the window smears; above lie corners.
_BAND = (0.05, 0.5)
# Starting widths in LR pixels.
_STARTS = (0.25, 0.6, 1.0)
# (least, most) of level, slope, root xx, xy, yy in LR pixels, and floor.
_BOUNDS = np.array(
  [(-20, 30), (1, 4), (0.03, 2), (-1, 1), (0.03, 2), (-8, 4)], float
).T


def _modelled(
  values: np.ndarray, vertical: np.ndarray, horizontal: np.ndarray
) -> np.ndarray:
  """Log power at some frequencies, for the six parameters."""
  level, slope, xx, xy, yy, floor = values
  root = np.array([[xx, xy], [xy, yy]])
  covariance = (2 * np.pi) ** 2 * root @ root
  total = np.zeros_like(vertical)
  for i in (-1, 0, 1):  # sampling folds these neighbours in
    for j in (-1, 0, 1):
      x, y = horizontal + j, vertical + i
      blur = covariance[0, 0] * x * x + covariance[1, 1] * y * y
      blur = blur + 2 * covariance[0, 1] * x * y
      total += np.exp(-slope * np.log(np.hypot(x, y)) - blur)
  return np.log(np.exp(level) * total + np.exp(floor))


def fit_gaussian(luma: np.ndarray) -> np.ndarray:
  """Covariance of the Gaussian blur of an image, in its own pixels squared.

  Args:
    luma: `[H, W]` in grey levels of 0 to 255, H and W at least
      `power_spectrum.LEAST_SIDE`.

  Returns:
    `[2, 2]`, x to the right before y down.
  """
  vertical, horizontal = power_spectrum.frequencies()
  radius = np.hypot(vertical, horizontal)
  inside = (radius > _BAND[0]) & (radius < _BAND[1])
  spectrum = power_spectrum.patch_spectra(luma).mean(0)[inside]
  logs, weights = np.log(spectrum + 1e-3), np.sqrt(radius[inside])
  places = vertical[inside], horizontal[inside]

  def residual(values: np.ndarray) -> np.ndarray:
    return (_modelled(values, *places) - logs) * weights

  fits = [
    optimize.least_squares(
      residual,
      [logs.max() - 6, 2.2, width, 0, width, np.log(0.05)],
      bounds=_BOUNDS,
      max_nfev=60,
    )
    for width in _STARTS
  ]
  xx, xy, yy = min(fits, key=lambda fit: fit.cost).x[2:5]
  root = np.array([[xx, xy], [xy, yy]])
  return root @ root

"""Fits a Gaussian blur to the power spectrum of an image.

The model of the spectrum has six parameters and needs no training: a power of
the frequency, times the spectrum of a Gaussian blur, folded by sampling, plus a
constant for noise. Detail that the original image lacked counts as blur, so
that narrow kernels are overestimated: at x2 a variance of 0.2 HR pixels squared
is estimated as about 0.7.
"""

from __future__ import annotations

import numpy as np

from sr_jax.ops import power_spectrum

# Range of the fitted frequencies: lower ones are smeared by the window, higher
# ones exist only in the corners of the spectrum.
_BAND = (0.05, 0.5)
# Widths of the blur, in LR pixels, from which the fit starts.
_STARTS = (0.25, 0.6, 1.0)
# (smallest, largest) level, slope, elements xx, xy, yy of the square root of
# the blur's covariance in LR pixels, and floor.
_BOUNDS = np.array(
  [(-20, 30), (1, 4), (0.03, 2), (-1, 1), (0.03, 2), (-8, 4)], float
).T


def _modelled(
  values: np.ndarray, vertical: np.ndarray, horizontal: np.ndarray
) -> np.ndarray:
  """Log power at given frequencies, from the six parameters `values`."""
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
  """Estimates the covariance of the Gaussian blur of an LR image.

  Args:
    luma: `[H, W]` in grey levels from 0 to 255; H and W are at least
      `power_spectrum.LEAST_SIDE`.

  Returns:
    Covariance `[2, 2]` in LR pixels squared, in the order x (to the right),
    y (down).
  """
  from scipy import optimize  # slow to import

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

"""The colour of transparent pixels.

The colour of pictures is not multiplied by alpha, so a half transparent pixel
is not darkened. The colour of a fully transparent pixel may be anything. It
must not reach the visible pixels when a picture is enlarged.
"""

from __future__ import annotations

import numpy as np

__all__ = ['bleed', 'straighten']

# Smallest opacity at which the colour of a pixel counts as known.
_KNOWN = np.float32(0.1)


def bleed(color: np.ndarray, alpha: np.ndarray) -> np.ndarray:
  """Replaces the colour of transparent pixels by that of visible neighbours.

  When the result is enlarged, no hidden colour gets into the visible part, and
  the colour at its edges does not change. Pixels of at least 10 % opacity keep
  their colour; the others are blended with their neighbours.

  Args:
    color: Straight colour, float32 `[H, W, C]`.
    alpha: float32 `[H, W, 1]` in [0, 1].

  Returns:
    float32 `[H, W, C]`; `color` itself if nothing has to be replaced. A fully
    transparent picture becomes black.
  """
  if alpha.min() >= _KNOWN:
    return color
  if max(alpha.shape[:2]) == 1:
    return np.where(alpha > 0, color, 0)
  # Means of the neighbours' colours, weighted by their alpha.
  weighted, weights = _smoothed(color * alpha), _smoothed(alpha)
  near = straighten(weighted, weights)
  # Pixels without visible neighbours get colour from an image of half the size.
  far = bleed(near[::2, ::2], weights[::2, ::2])
  far = far.repeat(2, axis=0)[: alpha.shape[0]]
  far = far.repeat(2, axis=1)[:, : alpha.shape[1]]
  return _mixed(color, _mixed(near, far, weights), alpha)


def _smoothed(x: np.ndarray) -> np.ndarray:
  """Means over 3x3 pixels."""
  from scipy import ndimage  # slow to import

  return ndimage.uniform_filter(x, size=(3, 3, 1), mode='nearest')


def _mixed(x: np.ndarray, other: np.ndarray, alpha: np.ndarray) -> np.ndarray:
  """`x` where its colour is known, and `other` where it is not."""
  known = np.clip(alpha / _KNOWN, 0, 1)
  return known * x + (1 - known) * other


def straighten(color: np.ndarray, alpha: np.ndarray) -> np.ndarray:
  """Divides colour `[H, W, C]` by alpha `[H, W, 1]`; the result is in [0, 1].

  Where alpha is 0, the result is black.
  """
  quotient = np.divide(color, alpha, out=np.zeros_like(color), where=alpha > 0)
  return np.clip(quotient, 0, 1, out=quotient)

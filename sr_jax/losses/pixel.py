"""Pixel losses, computed in float32 whatever the type of the model is.

Losses are means over all elements, except `euclidean` and `charbonnier_sum`.
These are sums over an image, because the learning rates and clipping norms of
the older papers that use them are set for sums.
"""

from __future__ import annotations

import math
from typing import Any

from sr_jax.ops.namespace import Array, array_namespace
from sr_jax.ops.precision import as_float, check_floats


def _difference(sr: Array, hr: Array) -> Any:
  if sr.shape != hr.shape:
    raise ValueError(f'shapes differ: sr {sr.shape}, hr {hr.shape}')
  check_floats(sr, hr)
  return as_float(sr) - as_float(hr)


def l1(sr: Array, hr: Array) -> Any:
  """Mean absolute difference; its gradient is zero where the images agree."""
  difference = _difference(sr, hr)
  # jax.grad of abs is 1 at zero. Here it is 0, as in PyTorch.
  return (difference * array_namespace(difference).sign(difference)).mean()


def l2(sr: Array, hr: Array) -> Any:
  """Mean squared difference."""
  return (_difference(sr, hr) ** 2).mean()


def charbonnier(sr: Array, hr: Array, epsilon: float = 1e-3) -> Any:
  """Mean of sqrt(d^2 + epsilon^2) (Lai et al., CVPR 2017, equation 1)."""
  difference = _difference(sr, hr)
  xp = array_namespace(difference)
  return xp.sqrt(difference**2 + epsilon**2).mean()


def euclidean(sr: Array, hr: Array) -> Any:
  """Half the summed squared difference of an image, averaged over images.

  This is Caffe's Euclidean loss, with which SRCNN, VDSR and DRRN were trained.
  """
  return (_difference(sr, hr) ** 2).sum() / (2 * sr.shape[0])


def charbonnier_sum(sr: Array, hr: Array, epsilon: float = 1e-3) -> Any:
  """Charbonnier loss summed over an image, averaged over images (LapSRN)."""
  return charbonnier(sr, hr, epsilon) * math.prod(sr.shape[1:])

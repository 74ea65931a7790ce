"""Pixel losses: means over every element, in float32 whatever the model's."""

from __future__ import annotations

from typing import Any

from sr_jax.ops.namespace import Array, array_namespace
from sr_jax.ops.precision import as_float


def _difference(sr: Array, hr: Array) -> Any:
  if sr.shape != hr.shape:
    raise ValueError(f'shapes differ: sr {sr.shape}, hr {hr.shape}')
  return as_float(sr) - as_float(hr)


def l1(sr: Array, hr: Array) -> Any:
  """Mean absolute difference; its gradient at zero difference is zero."""
  difference = _difference(sr, hr)
  # jax.grad of abs is 1 at zero; PyTorch's, and any symmetric choice, is 0.
  return (difference * array_namespace(difference).sign(difference)).mean()


def l2(sr: Array, hr: Array) -> Any:
  """Mean squared difference."""
  return (_difference(sr, hr) ** 2).mean()


def charbonnier(sr: Array, hr: Array, epsilon: float = 1e-3) -> Any:
  """Mean of sqrt(d^2 + epsilon^2) (Lai et al., CVPR 2017, equation 1)."""
  difference = _difference(sr, hr)
  xp = array_namespace(difference)
  return xp.sqrt(difference**2 + epsilon**2).mean()

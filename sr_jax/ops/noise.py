"""Noise with parameters of its own for every image of a batch.

One uniform number is drawn per pixel and channel, and is transformed into the
noise that the image asks for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from sr_jax.ops.namespace import Array, array_namespace

# Kinds and colours of noise by index.
KINDS = ('gaussian', 'poisson', 'none')
COLOURS = ('channels', 'grey', 'covariance')
GAUSSIAN, POISSON, NONE = range(3)
_GREY, _COVARIANCE = 1, 2
_LUMA = (0.299, 0.587, 0.114)

# Number of photons that a white pixel stands for: about one per 8-bit level.
_WHITE = 256.0
# Poisson numbers of smaller means are drawn by inversion of the distribution
# with this number of terms, others by the Cornish-Fisher expansion.
_SMALL_MEAN, _TERMS = 1.0, 6


class Noise(NamedTuple):
  """Parameters of the noise of a batch.

  Attributes:
    kind: Index into `KINDS`, `[B]`.
    level: Standard deviation of Gaussian noise in grey levels of 255; factor of
      Poisson noise, where 1 is that of 256 photons at white. `[B]`.
    colour: Index into `COLOURS`, `[B]`: independent noise of each channel, the
      same in all channels, or with the covariance `mixing @ mixing.T`.
      Covariance is for Gaussian noise of three channels; otherwise the channels
      are independent.
    mixing: `[B, 3, 3]`.
  """

  kind: Array
  level: Array
  colour: Array
  mixing: Array


def add(planes: Array, u: Array, noise: Noise) -> Any:
  """Adds noise to planes `[B, C, S1, S2]` in [0, 1], and clips noisy images.

  Args:
    planes: Images.
    u: Random numbers of the shape of the planes, see `uniform`.
    noise: Parameters of each image.
  """
  xp = array_namespace(planes)
  kind, level, colour = (xp.asarray(v)[:, None, None, None] for v in noise[:3])
  grey = (colour == _GREY) & (planes.shape[1] > 1)
  u = xp.where(grey, u[:, :1], u)
  z = _normal(u)
  mixed = z
  if planes.shape[1] == 3:
    parts = noise.mixing[:, :, :, None, None]
    mixed = sum(parts[:, :, i] * z[:, i : i + 1] for i in range(3))
    mixed = xp.where(colour == _COVARIANCE, mixed, z)
  gaussian = mixed * (level / 255)
  clean = xp.clip(planes, 0, 1)
  if planes.shape[1] == 3:
    luma = sum(clean[:, i : i + 1] * w for i, w in enumerate(_LUMA))
    clean = xp.where(grey, luma, clean)
  counts = poisson_numbers(u, z, clean * _WHITE)
  poisson = (counts / _WHITE - clean) * level
  added = xp.where(kind == GAUSSIAN, gaussian, poisson)
  # Interpolation may leave [0, 1]. An image without noise is not clipped.
  return xp.where(kind == NONE, planes, xp.clip(planes + added, 0, 1))


def poisson_numbers(u: Array, z: Array, mean: Array) -> Any:
  """Transforms uniform numbers into Poisson numbers.

  Args:
    u: Uniform in (0, 1).
    z: The normal quantiles of u.
    mean: Means of the result, 0 or more.
  """
  xp = array_namespace(u)
  root = xp.sqrt(xp.maximum(mean, 1.0))
  skewed = mean + root * z + (z**2 - 1) / 6 + (z - z**3) / (72 * root)
  large = xp.maximum(xp.floor(skewed + 0.5), 0)
  # The result is the number of values of the distribution function below u.
  term = xp.exp(-xp.minimum(mean, _SMALL_MEAN))
  below, small = term, xp.zeros_like(u)
  for k in range(1, _TERMS + 1):
    small = small + (u > below)
    term = term * xp.minimum(mean, _SMALL_MEAN) / k
    below = below + term
  return xp.where(mean < _SMALL_MEAN, small, large)


def uniform(key: Any, shape: Sequence[int]) -> Any:
  """Draws uniform numbers in (0, 1), exclusive.

  Args:
    key: PRNG key; NumPy's generator for NumPy numbers.
    shape: Shape of the result.
  """
  if isinstance(key, np.random.Generator):
    return np.clip(key.random(shape), 1e-9, 1 - 1e-9)
  # Random bits take the most time. A number needs only 16 of them, so that a
  # word of 32 bits yields two numbers.
  *batch, width = shape
  words = jax.random.bits(key, (*batch, (width + 1) // 2))
  halves = jax.lax.bitcast_convert_type(words, jnp.uint16)
  levels = halves.reshape(*batch, -1)[..., :width]
  return (levels.astype(jnp.float32) + 0.5) / 2**16


def _normal(u: Array) -> Any:
  """The quantile function of the normal distribution."""
  if array_namespace(u) is np:
    return special.ndtri(u)
  return np.sqrt(2).astype(np.float32) * jax.scipy.special.erfinv(2 * u - 1)

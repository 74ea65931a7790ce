"""NIQE: how natural an image looks, told without a reference.

Mittal, Soundararajan and Bovik (IEEE Signal Processing Letters 2013), number
for number as their release 1.0 computes it: the statistics of normalised pixels
in blocks of 96x96, at two scales, beside those of pristine photographs. Lower
is better. Scores under different parameters are not comparable.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.resources
import os
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from sr_jax.errors import UserError
from sr_jax.ops.resize import imresize

BLOCK = 96
FEATURES = 36
# Of the sharpest block of its image: blurred blocks tell nothing of photographs.
_SHARPNESS = 0.75
_RADIUS = 3
# Blocks of one compiled call; images of every size share the program.
_CHUNK = 16
_SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))
# What is left of flat areas by rounding would count as signs.
_SNAP = 1e-9
# Digest of the authors' parameters.
_OFFICIAL = 'LIVE'
_OWN = 'niqe_pristine.npz'
_KEYS = (
  ('mu_pris_param', 'cov_pris_param'),  # BasicSR's, and ours
  ('mu_prisparam', 'cov_prisparam'),  # the authors'
)


class Pristine(NamedTuple):
  """Statistics of pristine photographs.

  Attributes:
    mean: float64 `[36]`.
    covariance: float64 `[36, 36]`.
  """

  mean: np.ndarray
  covariance: np.ndarray


class _Table(NamedTuple):
  """Functions of the shape alpha on its grid 0.2, 0.201, ... 10."""

  alpha: np.ndarray
  ratio: np.ndarray  # G(2/a)^2 / (G(1/a) G(3/a)), which rises with alpha
  scale: np.ndarray  # sqrt(G(1/a) / G(3/a))
  mean: np.ndarray  # G(2/a) / G(1/a)


@functools.cache
def _table() -> _Table:
  alpha = np.arange(200, 10_001) / 1000
  one, two, three = (special.gamma(k / alpha) for k in (1, 2, 3))
  return _Table(alpha, two**2 / (one * three), np.sqrt(one / three), two / one)


def niqe(levels: np.ndarray, pristine: Pristine) -> np.ndarray:
  """NIQE of each image of `[..., H, W]`, in float64.

  Args:
    levels: grey levels 0..255, whole numbers as files have them; what is beyond
      the last whole block of 96x96 is not looked at.
    pristine: parameters, see `read_pristine`.

  Returns:
    `[...]`.

  Raises:
    UserError: fewer than two blocks, or fewer than two that are not flat.
  """
  found, _ = features(levels.reshape(-1, *levels.shape[-2:]))
  scores = [_distance(blocks, pristine) for blocks in found]
  return np.array(scores).reshape(levels.shape[:-2])


def _distance(blocks: np.ndarray, pristine: Pristine) -> float:
  """Between the statistics of one image's `[N, 36]` and those of photographs."""
  mean, covariance = _statistics(blocks)
  difference = mean - pristine.mean
  pooled = (covariance + pristine.covariance) / 2
  return float(np.sqrt(difference @ np.linalg.pinv(pooled) @ difference))


def _statistics(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Mean over all numbers, covariance over the rows without NaN."""
  whole = blocks[~np.isnan(blocks).any(axis=1)]
  if len(whole) < 2:
    raise UserError(
      f'NIQE needs 2 blocks of {BLOCK}x{BLOCK} pixels with detail; '
      f'{len(blocks) - len(whole)} of {len(blocks)} here are flat: use another '
      'image'
    )
  return np.nanmean(blocks, axis=0), np.cov(whole, rowvar=False)


def features(levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """The numbers that NIQE compares, and the sharpness, of each block.

  Args:
    levels: `[B, H, W]` grey levels 0..255.

  Returns:
    float64 `[B, N, 36]`, with NaN where a block is flat, and `[B, N]`.

  Raises:
    UserError: fewer than two blocks.
  """
  rows, columns = (n // BLOCK for n in levels.shape[1:])
  if rows * columns < 2:
    raise UserError(
      f'NIQE needs 2 blocks of {BLOCK}x{BLOCK} pixels, the image (after the '
      f'border crop) has {levels.shape[1]}x{levels.shape[2]}: use a larger one'
    )
  levels = levels[:, : rows * BLOCK, : columns * BLOCK].astype(np.float64)
  half = imresize(levels[..., None], scale=0.5)[..., 0]
  windows = [_windows(levels, BLOCK), _windows(half, BLOCK // 2)]
  parts = []
  with jax.enable_x64(True):
    for start in range(0, len(windows[0]), _CHUNK):
      part = [w[start : start + _CHUNK] for w in windows]
      # Filled up with zeros, so that all calls have one shape.
      full = [np.resize(w, (_CHUNK, *w.shape[1:])) for w in part]
      found = jax.device_get(_block_features(*full))
      parts.append([x[: len(part[0])] for x in found])
  shape = (len(levels), rows * columns)
  numbers, sharpness = (np.concatenate(x) for x in zip(*parts, strict=True))
  return numbers.reshape(*shape, FEATURES), sharpness.reshape(shape)


def _windows(images: np.ndarray, size: int) -> np.ndarray:
  """Blocks with the pixels around them that the Gaussian sees.

  Returns:
    `[B * N, size + 6, size + 6]`; the image's last pixels are repeated.
  """
  margin = (_RADIUS, _RADIUS)
  padded = np.pad(images, ((0, 0), margin, margin), 'edge')
  side = size + 2 * _RADIUS
  views = np.lib.stride_tricks.sliding_window_view(padded, (side, side), (1, 2))
  return views[:, ::size, ::size].reshape(-1, side, side)


@jax.jit
def _block_features(
  full: jax.Array, half: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """`[N, 36]` and sharpness `[N]` of the windows of both scales."""
  parts, sharpness = [], []
  for window in (full, half):
    pixels, deviation = _normalised(window)
    parts += _scale_features(pixels)
    sharpness.append(deviation.mean((1, 2)))
  return jnp.stack(parts, -1), sharpness[0]


def _normalised(window: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Pixels less their local mean over local deviation; and the deviation."""
  inner = window[:, _RADIUS:-_RADIUS, _RADIUS:-_RADIUS]
  mean = _smooth(window)
  deviation = jnp.sqrt(jnp.abs(_smooth(window**2) - mean**2))
  difference = inner - mean
  difference = jnp.where(jnp.abs(difference) < _SNAP, 0, difference)
  return difference / (deviation + 1), deviation


def _smooth(x: jax.Array) -> jax.Array:
  """Gaussian mean of sigma 7/6 over every 7x7 window inside `[N, H, W]`."""
  taps = np.exp(-0.5 * (np.arange(-_RADIUS, _RADIUS + 1) / (7 / 6)) ** 2)
  taps /= taps.sum()
  height, width = (n - 2 * _RADIUS for n in x.shape[1:])
  x = sum(float(t) * x[:, i : i + height] for i, t in enumerate(taps))
  return sum(float(t) * x[:, :, i : i + width] for i, t in enumerate(taps))


def _scale_features(pixels: jax.Array) -> list[jax.Array]:
  """18 numbers `[N]` of the blocks at one scale."""
  fit = _fit_aggd(pixels)
  found = [fit.alpha, (fit.left + fit.right) / 2]
  for shift in _SHIFTS:
    # Neighbours across the block's border are those of the other side.
    found += _fit_aggd(pixels * jnp.roll(pixels, shift, (1, 2)))
  return found


class _Aggd(NamedTuple):
  """Asymmetric generalised Gaussian distributions, each `[N]`."""

  alpha: jax.Array
  mean: jax.Array
  left: jax.Array
  right: jax.Array


def _fit_aggd(x: jax.Array) -> _Aggd:
  """Fits each of `[N, H, W]` by its moments."""
  square = x**2
  left, right = (
    jnp.sqrt(
      jnp.where(side, square, 0).sum((1, 2)) / jnp.count_nonzero(side, (1, 2))
    )
    for side in (x < 0, x > 0)
  )
  g = left / right
  ratio = jnp.abs(x).mean((1, 2)) ** 2 / square.mean((1, 2))
  ratio *= (g**3 + 1) * (g + 1) / (g**2 + 1) ** 2
  table = _Table(*map(jnp.asarray, _table()))
  index = _nearest(table.ratio, ratio)
  left, right = left * table.scale[index], right * table.scale[index]
  return _Aggd(
    table.alpha[index], (right - left) * table.mean[index], left, right
  )


def _nearest(rising: jax.Array, x: jax.Array) -> jax.Array:
  """Index of the nearest number of `rising` `[M]`, 0 for NaN."""
  after = jnp.clip(jnp.searchsorted(rising, x), 1, len(rising) - 1)
  lower = x - rising[after - 1] <= rising[after] - x
  return jnp.where(jnp.isnan(x), 0, after - lower)


def fit_pristine(images: Iterable[np.ndarray]) -> Pristine:
  """Statistics of photographs `[H, W]`, grey levels as `niqe` takes them.

  Of each image only blocks of more than 0.75 of its sharpest one's sharpness
  count.

  Raises:
    UserError: an image that `features` refuses, or nothing to learn from.
  """
  kept = []
  for levels in images:
    found, sharpness = features(levels[None])
    kept.append(found[0, sharpness[0] > _SHARPNESS * sharpness[0].max()])
  if not kept:
    raise UserError('NIQE cannot be fitted to no image: give photographs')
  return Pristine(*_statistics(np.concatenate(kept)))

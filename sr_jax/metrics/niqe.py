"""NIQE: measures without a reference how natural an image looks.

Mittal, Soundararajan and Bovik (IEEE Signal Processing Letters 2013). The score
is that of their release 1.0: the distance between the statistics of normalised
pixels in blocks of 96x96, at two scales, and the same statistics of pristine
photographs. Lower is better. Scores with different pristine parameters are not
comparable.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.resources
import io
import os
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from sr_jax.array_files import mat5, npy
from sr_jax.errors import UserError
from sr_jax.files import open_atomically
from sr_jax.ops.namespace import Array
from sr_jax.ops.resize import imresize

BLOCK = 96
FEATURES = 36
# Blocks count for the pristine parameters if their sharpness exceeds this share
# of the sharpness of the sharpest block of their image.
_SHARPNESS = 0.75
_RADIUS = 3
# Number of blocks per compiled call; images of all sizes share the program.
_CHUNK = 16
_SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))
# Smaller differences are set to zero: in flat areas they are rounding errors,
# whose signs would be counted.
_SNAP = 1e-9
_OWN = 'niqe_pristine.npz'
_KEYS = ('mu_pris_param', 'cov_pris_param')  # names of BasicSR and sr_jax
_MAT_KEYS = ('mu_prisparam', 'cov_prisparam')  # names of the authors
_LARGEST_FILE = 1 << 20
_MOST_BYTES = 8 * FEATURES**2
# Sources of known parameters, by their digest: the authors' parameters (the
# same in .mat and .npz files), and those that come with sr_jax.
_SOURCES = {'f6284a2b': 'official', '852edf07': 'of sr_jax'}


class Pristine(NamedTuple):
  """Statistics of pristine photographs.

  Attributes:
    mean: float64 `[36]`.
    covariance: float64 `[36, 36]`.
  """

  mean: np.ndarray
  covariance: np.ndarray

  @property
  def source(self) -> str:
    """Where the parameters come from; different parameters have another one."""
    digest = hashlib.sha256()
    for array in self:
      digest.update(np.ascontiguousarray(array, '<f8').tobytes())
    short = digest.hexdigest()[:8]
    return f'{_SOURCES.get(short, "other")} ({short})'


class _Table(NamedTuple):
  """Functions of the shape parameter alpha on the grid 0.2, 0.201, ..., 10."""

  alpha: Array
  ratio: Array  # G(2/a)^2 / (G(1/a) G(3/a)), which rises with alpha
  scale: Array  # sqrt(G(1/a) / G(3/a))
  mean: Array  # G(2/a) / G(1/a)


@functools.cache
def _table() -> _Table:
  alpha = np.arange(200, 10_001) / 1000
  one, two, three = (special.gamma(k / alpha) for k in (1, 2, 3))
  return _Table(alpha, two**2 / (one * three), np.sqrt(one / three), two / one)


def niqe(levels: np.ndarray, pristine: Pristine) -> np.ndarray:
  """NIQE of each image of `[..., H, W]`, in float64.

  Args:
    levels: Grey levels 0..255, whole numbers as in image files. Pixels beyond
      the last whole block of 96x96 are ignored.
    pristine: Parameters, see `read_pristine`.

  Returns:
    Scores `[...]`; lower is better.

  Raises:
    UserError: An image has fewer than two blocks, fewer than two blocks that
      are not flat, or pixels that are not finite.
  """
  if not np.isfinite(levels).all():
    raise UserError('NIQE of an image with pixels that are not finite')
  found, _ = features(levels.reshape(-1, *levels.shape[-2:]))
  scores = [_distance(blocks, pristine) for blocks in found]
  return np.array(scores).reshape(levels.shape[:-2])


def _distance(blocks: np.ndarray, pristine: Pristine) -> float:
  """Distance of one image's blocks `[N, 36]` to pristine photographs."""
  mean, covariance = _statistics(blocks)
  difference = mean - pristine.mean
  pooled = (covariance + pristine.covariance) / 2
  return float(np.sqrt(difference @ np.linalg.pinv(pooled) @ difference))


def _statistics(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Mean of the blocks, NaN left out, and covariance of blocks without NaN."""
  whole = blocks[~np.isnan(blocks).any(axis=1)]
  if len(whole) < 2:
    raise UserError(
      f'NIQE needs 2 blocks of {BLOCK}x{BLOCK} pixels with detail; '
      f'{len(blocks) - len(whole)} of {len(blocks)} here are flat: use another '
      'image'
    )
  return np.nanmean(blocks, axis=0), np.cov(whole, rowvar=False)


def features(levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Features and sharpness of each block of images.

  Args:
    levels: Grey levels 0..255, `[B, H, W]`.

  Returns:
    The features `[B, N, 36]`, with NaN for flat blocks, and the sharpness
    `[B, N]`, both float64.

  Raises:
    UserError: The images have fewer than two blocks.
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
      # The last call is filled up with repeated blocks to have the same shape.
      full = [np.resize(w, (_CHUNK, *w.shape[1:])) for w in part]
      found = jax.device_get(_block_features(*full))
      parts.append([x[: len(part[0])] for x in found])
  shape = (len(levels), rows * columns)
  numbers, sharpness = (np.concatenate(x) for x in zip(*parts, strict=True))
  return numbers.reshape(*shape, FEATURES), sharpness.reshape(shape)


def sharpness(levels: np.ndarray) -> np.ndarray:
  """Mean local standard deviation `[B]` of images of grey levels `[B, H, W]`.

  RankSRGAN chooses patches by this value. In contrast to NIQE, the difference
  at each pixel is taken from the local mean at that pixel.
  """
  margin = ((0, 0), (_RADIUS, _RADIUS), (_RADIUS, _RADIUS))
  levels = levels.astype(np.float64)
  difference = levels - _smooth(np.pad(levels, margin, 'edge'))
  variance = _smooth(np.pad(difference**2, margin, 'edge'))
  return np.sqrt(variance).mean((1, 2))


def _windows(images: np.ndarray, size: int) -> np.ndarray:
  """Cuts images into blocks with the margin that the Gaussian filter needs.

  Returns:
    `[B * N, size + 6, size + 6]`; the image is continued by its edge pixels.
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
  """Features `[N, 36]` and sharpness `[N]` of the blocks at both scales."""
  parts, sharpness = [], []
  for window in (full, half):
    pixels, deviation = _normalised(window)
    parts += _scale_features(pixels)
    sharpness.append(deviation.mean((1, 2)))
  return jnp.stack(parts, -1), sharpness[0]


def _normalised(window: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Normalised pixels, and the local deviation that they are divided by."""
  inner = window[:, _RADIUS:-_RADIUS, _RADIUS:-_RADIUS]
  mean = _smooth(window)
  deviation = jnp.sqrt(jnp.abs(_smooth(window**2) - mean**2))
  difference = inner - mean
  difference = jnp.where(jnp.abs(difference) < _SNAP, 0, difference)
  return difference / (deviation + 1), deviation


def _smooth(x: Any) -> Any:
  """Gaussian mean (sigma 7/6) of every 7x7 window inside `[N, H, W]`."""
  taps = np.exp(-0.5 * (np.arange(-_RADIUS, _RADIUS + 1) / (7 / 6)) ** 2)
  taps = (taps / taps.sum()).tolist()
  height, width = (n - 2 * _RADIUS for n in x.shape[1:])
  rows: Any = sum(t * x[:, i : i + height] for i, t in enumerate(taps))
  return sum(t * rows[:, :, i : i + width] for i, t in enumerate(taps))


def _scale_features(pixels: jax.Array) -> list[jax.Array]:
  """The 18 features of the blocks at one scale, each `[N]`."""
  # The neighbours of a pixel at the border are pixels of the opposite border.
  maps = [
    pixels,
    *(pixels * jnp.roll(pixels, shift, (1, 2)) for shift in _SHIFTS),
  ]
  sums = jnp.stack([_sums(x) for x in maps], 1)
  fit = _fit_aggd(sums, pixels[0].size)
  found = [fit.alpha[0], (fit.left[0] + fit.right[0]) / 2]
  for i in range(1, len(maps)):
    found += [part[i] for part in fit]
  return found


def _sums(x: jax.Array) -> jax.Array:
  """Sums `[5, N]` over each of `[N, H, W]` for `_fit_aggd`, in one pass.

  These are the sum of squares and the count of the negative numbers, the same
  of the positive numbers, and the sum of all absolute values.
  """
  parts = (
    jnp.where(x < 0, x * x, 0),
    (x < 0).astype(x.dtype),
    jnp.where(x > 0, x * x, 0),
    (x > 0).astype(x.dtype),
    jnp.abs(x),
  )
  zeros = (jnp.zeros((), x.dtype),) * len(parts)

  def add(a: tuple[Any, ...], b: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(p + q for p, q in zip(a, b, strict=True))

  return jnp.stack(jax.lax.reduce(parts, zeros, add, (1, 2)))


class _Aggd(NamedTuple):
  """Parameters of asymmetric generalised Gaussian distributions."""

  alpha: jax.Array
  mean: jax.Array
  left: jax.Array
  right: jax.Array


def _fit_aggd(sums: jax.Array, count: int) -> _Aggd:
  """Fits distributions to `_sums` `[5, ...]` of `count` numbers each."""
  below, negatives, above, positives, absolute = sums
  left, right = jnp.sqrt(below / negatives), jnp.sqrt(above / positives)
  g = left / right
  ratio = absolute**2 / (count * (below + above))
  ratio *= (g**3 + 1) * (g + 1) / (g**2 + 1) ** 2
  table = _Table(*map(jnp.asarray, _table()))
  index = _nearest(table.ratio, ratio)
  left, right = left * table.scale[index], right * table.scale[index]
  mean = (right - left) * table.mean[index]
  return _Aggd(table.alpha[index], mean, left, right)


def _nearest(rising: Array, x: jax.Array) -> jax.Array:
  """Index of the number nearest to x in the ascending `rising`; 0 for NaN."""
  after = jnp.clip(jnp.searchsorted(rising, x), 1, len(rising) - 1)
  lower = x - rising[after - 1] <= rising[after] - x
  return jnp.where(jnp.isnan(x), 0, after - lower)


def fit_pristine(images: Iterable[np.ndarray]) -> Pristine:
  """Fits pristine parameters to photographs.

  From each image those blocks are used whose sharpness exceeds 0.75 of the
  sharpness of its sharpest block.

  Args:
    images: Photographs `[H, W]` in grey levels 0..255.

  Raises:
    UserError: An image is too small, or there are too few sharp blocks.
  """
  kept = [np.zeros((0, FEATURES))]
  for levels in images:
    found, sharpness = features(levels[None])
    kept.append(found[0, sharpness[0] > _SHARPNESS * sharpness[0].max()])
  blocks = np.concatenate(kept)
  if len(blocks) <= FEATURES:
    raise UserError(
      f'NIQE is fitted to more than {FEATURES} sharp blocks of {BLOCK}x{BLOCK} '
      f'pixels; these images have {len(blocks)}: give more photographs'
    )
  return Pristine(*_statistics(blocks))


def own_pristine() -> Pristine:
  """Pristine parameters that come with the package.

  They were fitted to 499 photographs of BSDS500 (train and test) and DIV2K
  (0901 to 1000, reduced by 4).
  """
  file = importlib.resources.files('sr_jax') / 'metrics' / _OWN
  with importlib.resources.as_file(file) as path:
    return read_pristine(path)


def read_pristine(path: str | os.PathLike[str]) -> Pristine:
  """Reads pristine parameters from a file.

  Args:
    path: The authors' .mat file, BasicSR's .npz file, or a file that
      `write_pristine` wrote.

  Raises:
    UserError: The file cannot be read or holds no NIQE parameters.
  """
  try:
    with open(path, 'rb') as file:
      data = file.read(_LARGEST_FILE + 1)
  except OSError as error:
    raise UserError(
      f'{path}: {error.strerror}: give the NIQE parameters of the authors '
      '(modelparameters.mat), of BasicSR (niqe_pris_params.npz) or of `sr-jax '
      'fit-niqe`'
    ) from None
  try:
    if len(data) > _LARGEST_FILE:
      raise ValueError('too large')
    mean, covariance = _arrays(data)
    pristine = Pristine(mean.reshape(FEATURES), covariance)
    if covariance.shape != (FEATURES, FEATURES):
      raise ValueError(f'covariance of shape {covariance.shape}')
    if not all(np.isfinite(x).all() for x in pristine):
      raise ValueError('numbers that are not finite')
  # The readers may raise any exception for a damaged file.
  except Exception as error:
    reason = ' '.join(str(error).split())[:100]
    raise UserError(f'{path}: holds no NIQE parameters: {reason}') from None
  return pristine


def _arrays(data: bytes) -> list[np.ndarray]:
  """Mean and covariance, under the names of the program that wrote the file."""
  if data.startswith(b'MATLAB'):
    names, arrays = _MAT_KEYS, mat5.read_variables(data)
  else:
    names, arrays = _KEYS, npy.read_npz(io.BytesIO(data), _KEYS, _MOST_BYTES)
  return [np.asarray(arrays[name], np.float64) for name in names]


def write_pristine(path: str | os.PathLike[str], pristine: Pristine) -> None:
  """Writes pristine parameters as `.npz`; the file appears whole or not at all.

  Raises:
    UserError: The file cannot be written.
  """
  with open_atomically(path) as file:
    np.savez(
      file, mu_pris_param=pristine.mean, cov_pris_param=pristine.covariance
    )

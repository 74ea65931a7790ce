"""NIQE block by block in plain NumPy, written independently of sr_jax.

Mittal, Soundararajan and Bovik (IEEE SPL 2013) as their release 1.0 computes
it. Every step that ports are known to get wrong can be made so, to show that
it matters.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage, special

BLOCK = 96
HALF = [-0.01171875, -0.03515625, 0.11328125, 0.43359375]


def random_image():
  """192x288 grey levels by a linear congruential generator."""
  values, v = [], 12345
  for _ in range(192 * 288):
    v = (1103515245 * v + 12345) % 2**31
    values.append((v >> 16) % 256)
  return np.array(values, np.float64).reshape(192, 288)


def smooth_image():
  """`random_image` after a 5x5 mean, rounded: close to a photograph."""
  mean = ndimage.correlate(
    random_image(), np.full((5, 5), 0.04), mode='nearest'
  )
  return np.floor(mean + 0.5)


def gaussian():
  """The 7x7 window of sigma 7/6."""
  x, y = np.mgrid[-3:4, -3:4]
  window = np.exp(-(x**2 + y**2) / (2 * (7 / 6) ** 2))
  return window / window.sum()


def halved(image, how):
  """Reduces by 2 as MATLAB's imresize, or as ports of NIQE do."""
  rows, columns = (n // 2 for n in image.shape)
  if how == 'decimated':
    return image[::2, ::2]
  if how == 'mean':
    return image.reshape(rows, 2, columns, 2).mean((1, 3))
  if how == 'no antialias':
    taps, start = [-0.0625, 0.5625, 0.5625, -0.0625], 1
  else:
    taps, start = [*HALF, *reversed(HALF)], 3
  for axis in (0, 1):
    n = image.shape[axis]
    padded = np.pad(
      image, [(8, 8) if a == axis else (0, 0) for a in (0, 1)], 'symmetric'
    )
    image = sum(
      tap * np.take(padded, np.arange(n // 2) * 2 - start + i + 8, axis)
      for i, tap in enumerate(taps)
    )
  return np.round(image.clip(0, 255)) if how == 'rounded' else image


def aggd(x):
  """Shape and the two scales of an asymmetric generalised Gaussian."""
  grid = np.arange(9801) / 1000 + 0.2
  ratios = special.gamma(2 / grid) ** 2 / (
    special.gamma(1 / grid) * special.gamma(3 / grid)
  )
  with np.errstate(all='ignore'):
    left = np.sqrt(np.sum(x[x < 0] ** 2) / np.sum(x < 0))
    right = np.sqrt(np.sum(x[x > 0] ** 2) / np.sum(x > 0))
    g = left / right
    rhat = np.mean(np.abs(x)) ** 2 / np.mean(x**2)
    wanted = rhat * (g**3 + 1) * (g + 1) / (g**2 + 1) ** 2
  alpha = grid[np.argmin((ratios - wanted) ** 2)]
  factor = np.sqrt(special.gamma(1 / alpha) / special.gamma(3 / alpha))
  return alpha, left * factor, right * factor


def block_features(block):
  """18 numbers of one block of normalised pixels."""
  alpha, left, right = aggd(block)
  features = [alpha, (left + right) / 2]
  for shift in ((0, 1), (1, 0), (1, 1), (1, -1)):
    alpha, left, right = aggd(block * np.roll(block, shift, (0, 1)))
    mean = (right - left) * special.gamma(2 / alpha) / special.gamma(1 / alpha)
    features += [alpha, mean, left, right]
  return features


def normalised(image, *, border='nearest', snap=1e-9):
  """(I - mu) / (sigma + 1), and sigma."""
  window = gaussian()
  mu = ndimage.correlate(image, window, mode=border)
  square = ndimage.correlate(image**2, window, mode=border)
  sigma = np.sqrt(np.abs(square - mu**2))
  difference = image - mu
  difference[np.abs(difference) < snap] = 0
  return difference / (sigma + 1), sigma


def features(image, *, half='matlab', **options):
  """36 numbers and the sharpness of each block, of grey levels `[H, W]`."""
  rows, columns = (n // BLOCK for n in image.shape)
  image = np.asarray(image[: rows * BLOCK, : columns * BLOCK], np.float64)
  parts, sharpness = [], []
  for scale in (1, 2):
    pixels, sigma = normalised(image, **options)
    size, found = BLOCK // scale, []
    for i in range(rows):
      for j in range(columns):
        part = np.s_[i * size : (i + 1) * size, j * size : (j + 1) * size]
        found.append(block_features(pixels[part]))
        if scale == 1:
          sharpness.append(sigma[part].mean())
    parts.append(found)
    image = halved(image, half)
  return np.concatenate(parts, axis=1), np.array(sharpness)


def niqe(image, mean, covariance, *, ddof=1, **options):
  """The score of grey levels `[H, W]` for a model of photographs."""
  found, _ = features(image, **options)
  whole = found[~np.isnan(found).any(axis=1)]
  difference = np.nanmean(found, axis=0) - mean
  pooled = (np.cov(whole, rowvar=False, ddof=ddof) + covariance) / 2
  return np.sqrt(difference @ np.linalg.pinv(pooled) @ difference)

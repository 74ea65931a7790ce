"""Features of an image's power spectrum that show how the image is blurred.

The spectra of photographs are much alike and fall with the frequency. Blur
makes them fall faster along the directions of the blur, and noise adds a floor.
The features are log power spectra of 32x32 patches of luma, averaged over
radial bands and directions. Flat patches show the noise and textured patches
the blur, so patches are grouped by their energy.
"""

from __future__ import annotations

import functools

import numpy as np
from scipy import fft

# Side of the patches, and the smallest image: a few patches must fit in.
PATCH = 32
LEAST_SIDE = 36
# Number of directions, evenly spread over half a turn.
ANGLES = 8
# Centres of the radial bands in cycles per pixel; the last two lie in corners.
BANDS = np.concatenate([np.linspace(0.045, 0.5, 14), [0.56, 0.62]])
# Width of a band, and of a band in a corner that a direction does not reach.
_BAND_WIDTH, _WIDE_BAND = 0.022, 0.06
# Distance of neighbouring patches in pixels, and the largest number of patches.
_STEP, _MOST = 8, 1500
# (start, end) of each group, as shares of all patches in order of falling
# energy.
_GROUPS = ((0.0, 0.05), (0.15, 0.35), (0.65, 1.0))
# Energy is measured in this band of frequencies.
_ENERGY_BAND = (0.1, 0.3)
# Lower bounds of powers, in squared grey levels.
_FLOOR, _MEAN_FLOOR = 0.05, 1e-3

# Shape of the features of one image: (mean spectrum and groups, bands, angles).
FEATURES = (1 + len(_GROUPS), len(BANDS), ANGLES)


@functools.cache
def _window() -> np.ndarray:
  """Hann window of unit energy, `[PATCH, PATCH]`."""
  row = np.hanning(PATCH + 2)[1:-1]
  window = np.outer(row, row)
  return (window / np.sqrt((window**2).sum())).astype(np.float32)


@functools.cache
def frequencies() -> tuple[np.ndarray, np.ndarray]:
  """(vertical, horizontal) frequency of each bin, `[PATCH, PATCH // 2 + 1]`."""
  vertical, horizontal = np.meshgrid(
    np.fft.fftfreq(PATCH), np.fft.rfftfreq(PATCH), indexing='ij'
  )
  return vertical, horizontal


def _places(length: int) -> np.ndarray:
  return np.arange(0, length - PATCH + 1, _STEP)


def patch_spectra(luma: np.ndarray) -> np.ndarray:
  """Power spectra of windowed patches, evenly spread over an image.

  Args:
    luma: `[H, W]` in grey levels from 0 to 255; H and W are at least `PATCH`.

  Returns:
    `[patches, PATCH, PATCH // 2 + 1]` float32, in squared grey levels. The
    windowed mean of each patch is subtracted.
  """
  windows = np.lib.stride_tricks.sliding_window_view(luma, (PATCH, PATCH))
  rows, columns = (_places(n) for n in luma.shape)
  count = len(rows) * len(columns)
  chosen = np.linspace(0, count - 1, min(count, _MOST)).astype(int)
  top, left = rows[chosen // len(columns)], columns[chosen % len(columns)]
  patches = windows[top, left].astype(np.float32)
  weights = _window() ** 2
  means = (patches * weights).sum((1, 2), keepdims=True) / weights.sum()
  return np.abs(fft.rfft2((patches - means) * _window())) ** 2


def energy(spectra: np.ndarray) -> np.ndarray:
  """Mean power of each patch in a band of middle frequencies, `[patches]`."""
  radius = np.hypot(*frequencies())
  least, most = _ENERGY_BAND
  weights = np.where((radius > least) & (radius < most), 1.0, 0.0)
  # All columns but these two also represent their mirror images.
  weights[:, [0, -1]] *= 0.5
  weights = weights.ravel() / weights.sum()
  return spectra.reshape(len(spectra), -1) @ weights.astype(np.float32)


def _near(
  vertical: np.ndarray,
  horizontal: np.ndarray,
  band: float,
  width: float,
  k: int,
) -> np.ndarray:
  """Weights of all frequencies for a band and direction number k."""
  radius = np.hypot(vertical, horizontal)
  turn = np.arctan2(vertical, horizontal) - k * np.pi / ANGLES
  turn = (turn + np.pi / 2) % np.pi - np.pi / 2
  angular = np.exp(-0.5 * (turn / (0.55 * np.pi / ANGLES)) ** 2)
  return (
    (radius > 0.02) * angular * np.exp(-0.5 * ((radius - band) / width) ** 2)
  )


@functools.cache
def _polar_weights() -> np.ndarray:
  """`[bands * angles, bins]`: soft averages over bands and directions."""
  vertical, horizontal = frequencies()
  # A frequency of half a cycle is the same as its negative, in either axis.
  signs = [
    (
      np.where(vertical == -0.5, v, vertical),
      np.where(horizontal == 0.5, h, horizontal),
    )
    for v in (-0.5, 0.5)
    for h in (-0.5, 0.5)
  ]
  rows = []
  for band in BANDS:
    for k in range(ANGLES):
      for width in (_BAND_WIDTH, _WIDE_BAND):
        near = [_near(v, h, band, width, k) for v, h in signs]
        weights = np.mean(near, axis=0)
        # All columns but these two also represent their mirror images.
        weights[:, [0, -1]] *= 0.5
        if weights.sum() > 1e-3:
          break
      rows.append((weights / weights.sum()).ravel())
  return np.array(rows, np.float32)


def features(luma: np.ndarray) -> np.ndarray:
  """Log power spectra of an image by band and direction.

  Args:
    luma: `[H, W]` in grey levels from 0 to 255; H and W are at least
      `LEAST_SIDE`.

  Returns:
    float32 of shape `FEATURES`: the log power by band and direction, for all
    patches together and for each group of patches. The level of the lowest
    bands of the mean spectrum is subtracted, so that contrast has no influence.
  """
  spectra = patch_spectra(luma)
  order = np.argsort(-energy(spectra))
  count = len(order)
  maps = [np.log(spectra.mean(0) + _MEAN_FLOOR)]
  for first, last in _GROUPS:
    start = min(int(first * count), count - 1)
    group = order[start : max(start + 1, int(last * count))]
    maps.append(np.log(spectra[group] + _FLOOR).mean(0))
  flat = np.stack(maps).reshape(len(maps), -1)
  polar = (flat @ _polar_weights().T).reshape(FEATURES)
  return polar - polar[0, :3].mean()


# The order of the directions after the image is flipped or transposed.
_FLIPPED = (-np.arange(ANGLES)) % ANGLES
_TRANSPOSED = (ANGLES // 2 - np.arange(ANGLES)) % ANGLES


def flipped(values: np.ndarray) -> np.ndarray:
  """Features `[..., ANGLES]` of the image flipped left to right."""
  return values[..., _FLIPPED]


def transposed(values: np.ndarray) -> np.ndarray:
  """Features `[..., ANGLES]` of the image with rows and columns exchanged."""
  return values[..., _TRANSPOSED]

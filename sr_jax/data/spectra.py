"""Spectra and edges of reduced photographs, with the blur that reduced them.

`methods.kernel_estimation` learns from these examples. A photograph is blurred
by a random Gaussian, by motion or by defocus, and sampled; or it is reduced by
plain bicubic; or it is left as it is. Then it is rounded, and perhaps made
noisy and compressed, like files of unknown origin. Only the features of its
spectrum and of its edges are kept, so that a whole data set fits into memory.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import io
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from sr_jax.data import draws
from sr_jax.data.draws import Arrays, Draw
from sr_jax.data.sources import ImageSource
from sr_jax.ops import edge_profile, power_spectrum
from sr_jax.ops.blur_kernels import gaussian_kernel
from sr_jax.ops.color import rgb_to_y
from sr_jax.ops.resize import CUBIC_VARIANCE, imresize

# Shares of the ways in which examples are made, and the index of each way into
# `ORIGINS` of `models.estimators.spectrum_mlp`.
_SHARES = {
  'direct': 0.4,
  'as-wide-as-cubic': 0.12,
  'blur-bicubic': 0.08,
  'bicubic': 0.2,
  'none': 0.1,
  'motion': 0.05,
  'defocus': 0.05,
}
_ORIGIN = {
  'direct': 0,
  'as-wide-as-cubic': 0,
  'blur-bicubic': 0,
  'bicubic': 1,
  'none': 2,
  'motion': 3,
  'defocus': 3,
}
# (smallest, largest) length of a motion and radius of a lens out of focus, in
# LR pixels. Smaller ones differ too little from a Gaussian.
_MOTION, _DEFOCUS = (2.5, 6.0), (1.2, 3.0)
# Smallest standard deviation of the Gaussians, in HR pixels.
_NARROWEST = 0.15
# Gaussians of about the variance of the cubic reduction are hardest to tell
# from it, so some examples have them: range of the larger standard deviation,
# relative to that of the cubic kernel, and of the smaller, relative to the
# larger.
_AS_WIDE, _ROUND = (0.75, 1.25), (0.7, 1.0)
# A blur before a bicubic reduction is none if its variance is a smaller part of
# the reduction's own.
_LEAST_BLUR = 0.25


def widest(scale: float) -> float:
  """Largest standard deviation of the Gaussians at a scale, in HR pixels."""
  return 0.8 + 0.8 * scale


class Example(NamedTuple):
  """One reduced photograph.

  Attributes:
    features: `power_spectrum.FEATURES` float16.
    edges: `edge_profile.PROFILES` float16.
    root: `[3]`, symmetric square root (xx, xy, yy) of the kernel's covariance
      in LR pixels; 0 where there was no kernel.
    known: Whether the network learns `root` from this example; it does so only
      for a Gaussian blur and direct sampling.
    origin: Index into `models.estimators.spectrum_mlp.ORIGINS`.
    scale: Number of HR pixels per LR pixel.
  """

  features: np.ndarray
  edges: np.ndarray
  root: np.ndarray
  known: np.ndarray
  origin: np.ndarray
  scale: np.ndarray


def root_of(covariance: np.ndarray) -> np.ndarray:
  """Symmetric square root (xx, xy, yy) of a covariance `[2, 2]`."""
  values, vectors = np.linalg.eigh(covariance)
  root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
  return np.array([root[0, 0], root[0, 1], root[1, 1]])


def covariance(var1: float, var2: float, theta: float) -> np.ndarray:
  """Covariance `[2, 2]`, x before y, of `gaussian:V1,V2,THETA`."""
  cos, sin = math.cos(theta), math.sin(theta)
  turn = np.array([[cos, -sin], [sin, cos]])
  return turn @ np.diag([var1, var2]) @ turn.T


def _blurred(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
  """Correlates `[H, W]` with a kernel; borders are mirrored."""
  beside = [(n // 2, n - 1 - n // 2) for n in kernel.shape]
  # float32 takes half the time, and is exact to 1e-4 grey levels.
  padded = np.pad(image.astype(np.float32), beside, mode='symmetric')
  taps = kernel[::-1, ::-1].astype(np.float32)
  from scipy import signal  # slow to import

  return signal.fftconvolve(padded, taps, mode='valid')


def motion_kernel(length: float, theta: float) -> np.ndarray:
  """Makes the kernel of a blur by straight motion, `[K, K]` with sum 1.

  Args:
    length: Length of the motion in pixels.
    theta: Direction of the motion in radians, from x towards y (down).
  """
  reach = math.ceil(length / 2) + 1
  y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
  along = x * math.cos(theta) + y * math.sin(theta)
  across = y * math.cos(theta) - x * math.sin(theta)
  kernel = (0.5 + length / 2 - abs(along)).clip(0, 1)
  kernel *= (1 - abs(across)).clip(0, 1)
  return kernel / kernel.sum()


def defocus_kernel(radius: float) -> np.ndarray:
  """Makes the kernel of a lens out of focus, a disk: `[K, K]` with sum 1."""
  reach = math.ceil(radius) + 1
  y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
  kernel = (radius + 0.5 - np.hypot(x, y)).clip(0, 1)
  return kernel / kernel.sum()


def _soiled(luma: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Rounds colours as a file does; or adds noise, rounds and may use JPEG."""
  choice = rng.random()
  if choice < 0.4:
    # Luma of three rounded colours lies between the grey levels.
    return luma + rng.normal(0, rng.uniform(0.15, 0.28), luma.shape)
  if choice < 0.75:
    luma = luma + rng.normal(0, 10 ** rng.uniform(-0.5, 1.0), luma.shape)
  luma = np.clip(np.round(luma), 0, 255)
  if choice > 0.6:
    file = io.BytesIO()
    quality = int(rng.uniform(60, 98))
    Image.fromarray(luma.astype(np.uint8)).save(file, 'JPEG', quality=quality)
    luma = np.asarray(Image.open(file)).astype(np.float64)
  return luma


def _part(
  image: np.ndarray, step: int, least: int, rng: np.random.Generator
) -> np.ndarray:
  """Cuts a random rectangle, whose corner and sides are multiples of `step`."""
  height, width = (
    max(int(rng.uniform(0.5, 1) * n) // step * step, min(n, least))
    for n in image.shape
  )
  top, left = (
    int(rng.integers(0, (n - m) // step + 1)) * step
    for n, m in zip(image.shape, (height, width), strict=True)
  )
  return image[top : top + height, left : left + width]


def example(luma: np.ndarray, scale: int, rng: np.random.Generator) -> Example:
  """Makes an example: a random reduction of a photograph.

  Args:
    luma: `[H, W]` in grey levels of 0 to 255, at least
      `scale * power_spectrum.LEAST_SIDE` high and wide.
    scale: Number of HR pixels per LR pixel.
    rng: Random generator.
  """
  kind = str(rng.choice(list(_SHARES), p=list(_SHARES.values())))
  wide = rng.uniform(_NARROWEST, widest(scale))
  narrow = wide
  if rng.random() > 0.3:
    narrow = rng.uniform(max(_NARROWEST, wide / 4), wide)
  cubic = CUBIC_VARIANCE * scale**2
  if kind == 'as-wide-as-cubic':
    wide = math.sqrt(cubic) * rng.uniform(*_AS_WIDE)
    narrow = wide * rng.uniform(*_ROUND)
  theta = rng.uniform(0, math.pi)
  height, width = (n // scale * scale for n in luma.shape)
  hr = luma[:height, :width]
  if rng.random() < 0.5:
    hr = _part(hr, scale, scale * (power_spectrum.LEAST_SIDE + 8), rng)
  gaussian = kind in ('direct', 'as-wide-as-cubic')
  if gaussian or kind == 'blur-bicubic':
    size = 2 * math.ceil(4 * wide) + 1
    kernel = gaussian_kernel(wide**2, narrow**2, theta, size=max(size, 9))
    hr = _blurred(hr, np.asarray(kernel))
  elif kind == 'motion':
    hr = _blurred(hr, motion_kernel(scale * rng.uniform(*_MOTION), theta))
  elif kind == 'defocus':
    hr = _blurred(hr, defocus_kernel(scale * rng.uniform(*_DEFOCUS)))
  if gaussian or kind in ('motion', 'defocus'):
    lr = hr[::scale, ::scale]
  elif kind == 'none':
    lr = hr
  else:
    lr = imresize(hr[..., None], scale=1 / scale)[..., 0]
  if (wide**2 + narrow**2) / 2 < _LEAST_BLUR * cubic and kind == 'blur-bicubic':
    kind = 'bicubic'
  root = np.zeros(3)
  if gaussian:
    root = root_of(covariance(wide**2, narrow**2, theta)) / scale
  lr = _soiled(lr, rng)
  return Example(
    power_spectrum.features(lr).astype(np.float16),
    edge_profile.profiles(lr).astype(np.float16),
    root.astype(np.float32),
    np.array(gaussian),
    np.array(_ORIGIN[kind], np.int32),
    np.array(scale, np.float32),
  )


@dataclasses.dataclass(frozen=True, eq=False)
class SpectraSource:
  """Examples by index, stacked.

  Attributes:
    names: One name per example: photograph, scale and number.
    stacked: All examples, each field along a first axis.
    images: Digest of the photographs.
    skipped: (name, reason) of each photograph that is too small or unreadable.
  """

  names: tuple[str, ...]
  stacked: Example
  images: str
  skipped: tuple[tuple[str, str], ...] = ()

  def __len__(self) -> int:
    return len(self.names)

  def example(self, draw: Draw) -> Arrays:
    """The example that a draw selects, flipped and transposed by coins."""
    rows = range(draw.row, draw.row + 1)
    batch = self.batch(draw.seed, draw.step, rows)
    return {key: values[0] for key, values in batch.items()}

  def batch(self, seed: int, step: int, rows: range) -> Arrays:
    """The examples of several rows of a step, stacked.

    All rows are drawn at once, because a batch has hundreds of small examples.
    """
    words = draws.words_of_rows(seed, draws.EXAMPLES, step, rows)
    chosen = (words[:, 0] % len(self)).astype(int)
    found = Example(*(field[chosen] for field in self.stacked))
    features, root = found.features, found.root
    flips = (words[:, 3] & 1).astype(bool)
    features[flips] = power_spectrum.flipped(features[flips])
    root[flips, 1] *= -1
    turns = (words[:, 3] & 2).astype(bool)
    features[turns] = power_spectrum.transposed(features[turns])
    found.edges[turns] = edge_profile.transposed(found.edges[turns])
    root[turns] = root[turns, ::-1]
    return found._asdict()

  def check_scales(self, scales: tuple[float, ...]) -> None:
    """Accepts all scales, because every example has a scale of its own."""

  def digest(self) -> str:
    """See `batches.Source`."""
    text = '\n'.join((self.images, *self.names))
    return hashlib.sha256(text.encode()).hexdigest()


def make(
  images: ImageSource,
  *,
  scales: Sequence[int],
  per_image: int,
  seed: int,
  workers: int,
) -> SpectraSource:
  """Reduces every photograph several times by every scale.

  Args:
    images: The photographs.
    scales: Whole scales.
    per_image: Number of reductions of a photograph at each scale.
    seed: Seed of all random choices.
    workers: Number of threads, which has no influence on the examples.
  """
  jobs = [
    (i, scale)
    for i in range(len(images))
    for scale in scales
    if min(images[i].shape[:2]) >= scale * power_spectrum.LEAST_SIDE
  ]

  def reductions(job: tuple[int, int]) -> list[Example]:
    index, scale = job
    luma = rgb_to_y(np.asarray(images[index]) / 255.0)[..., 0] * 255
    rng = np.random.default_rng((seed, index, scale))
    return [example(luma, scale, rng) for _ in range(per_image)]

  with concurrent.futures.ThreadPoolExecutor(max(workers, 1)) as pool:
    groups = list(pool.map(reductions, jobs))
  names = tuple(
    f'{images.names[i]} x{scale} {k}'
    for i, scale in jobs
    for k in range(per_image)
  )
  examples = [example for group in groups for example in group]
  stacked = Example(*(np.stack(field) for field in zip(*examples, strict=True)))
  return SpectraSource(names, stacked, images.digest(), images.skipped)

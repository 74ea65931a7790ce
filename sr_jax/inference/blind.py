"""The blur kernel of an image, estimated from the image itself.

estimate = estimate_kernel(image, scale=2)
sr = sr_jax.upscale(model, image, kernel=estimate.spec)

There are two ways to estimate it. A small network was trained on photographs
with known blur. A fit to the image's power spectrum needs no weights, but it
overestimates the width of narrow kernels.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
import math
import pathlib
from typing import Any, Literal

import jax
import numpy as np

from sr_jax import checkpoints, methods
from sr_jax.errors import UserError
from sr_jax.models.estimators.spectrum_mlp import ORIGINS
from sr_jax.ops import edge_profile, power_spectrum
from sr_jax.ops.blur_kernels import gaussian_kernel
from sr_jax.ops.color import rgb_to_y
from sr_jax.ops.spectrum_fit import fit_gaussian

# Scales that the network was trained for.
_SCALES = (2, 4)
# Standard deviations that an estimate may have, in LR pixels.
_NARROWEST, _WIDEST = 0.05, 1.5
# Smallest probability of a blur at which an image counts as blurred. On
# photographs held out of the training the mistakes of both kinds together are
# about as few for any value from 0.6 to 0.8, and either kind costs 3 to 4 dB,
# mostly because blurred images and bicubic reductions are sampled at other
# places. The largest of these was taken because then the mean of no set of
# plain reductions that was tried is below bicubic enlargement, Set5 at x4
# included.
_LEAST_BLURRED = 0.8
# Power in squared grey levels below which even the busiest patches have no
# texture.
_TEXTURE = 1.0
# If an image is flipped, the square root of its kernel's covariance, stored as
# (xx, xy, yy), is multiplied by these signs.
_FLIP = np.array([1, -1, 1])


@dataclasses.dataclass(frozen=True)
class KernelEstimate:
  """The Gaussian blur that an image seems to have.

  Attributes:
    variances: Larger and smaller variance in HR pixels squared.
    theta: Direction of the larger one in radians, from x towards y (down).
    scale: The scale for which the blur was estimated.
    expected_error: Expected error of the standard deviation, in HR pixels;
      None if the estimate is a fit to the spectrum.
    origins: Probabilities of the ways in which the image may have been made:
      'blurred' by a Gaussian and sampled, reduced by plain 'bicubic', an
      untouched 'photograph', or blurred in an 'other' way, by motion or
      defocus. Empty if the estimate is a fit to the spectrum.
  """

  variances: tuple[float, float]
  theta: float
  scale: float
  expected_error: float | None
  origins: dict[str, float]

  @property
  def spec(self) -> str:
    """The kernel as text for the option `--kernel`."""
    wide, narrow = self.variances
    return f'gaussian:{wide:.3f},{narrow:.3f},{self.theta:.3f}'

  @property
  def kernel(self) -> np.ndarray:
    """The kernel as an array `[K, K]` to correlate images with.

    Its size depends on the scale alone, so that all images share one compiled
    program.
    """
    side = 2 * math.ceil(4 * _WIDEST * self.scale) + 1
    return np.asarray(gaussian_kernel(*self.variances, self.theta, size=side))

  @property
  def blurred(self) -> bool:
    """Whether the image seems to have been blurred before it was sampled.

    Otherwise it looks like a clean bicubic reduction or an untouched
    photograph, which models without a kernel enlarge better.
    """
    chance = self.origins.get('blurred', 1.0) + self.origins.get('other', 0.0)
    return chance >= _LEAST_BLURRED

  @property
  def gaussian(self) -> bool:
    """Whether the blur, if there is one, may be a Gaussian.

    Otherwise it looks like the blur of motion or of a lens out of focus.
    """
    return self.origins.get('other', 0.0) < 0.5


def estimate_kernel(
  image: np.ndarray,
  *,
  scale: float,
  by: Literal['auto', 'network', 'spectrum'] = 'auto',
) -> KernelEstimate:
  """Estimates the blur that an image had before it was sampled.

  Args:
    image: `[H, W, C]` or `[H, W]` in [0, 1]. Three channels are RGB; with any
      other number of channels, the mean of the channels is used.
    scale: HR pixels per pixel of the image.
    by: 'network', 'spectrum', or 'auto', which uses the network if its weights
      are installed and it was trained for this scale.

  Raises:
    UserError: The image is too small, holds NaN, or has no texture.
  """
  luma = _luma(image)
  _check(luma)
  if by == 'auto':
    least, most = _SCALES
    known = least <= scale <= most and _weights().is_dir()
    by = 'network' if known else 'spectrum'
  if by == 'spectrum':
    covariance = fit_gaussian(luma)
    values, vectors = np.linalg.eigh(covariance)
    return _estimate(np.sqrt(values), vectors, scale, None, {})
  root, error, logits = _answers(luma, scale)
  values, vectors = np.linalg.eigh(
    np.array([[root[0], root[1]], [root[1], root[2]]])
  )
  chances = np.exp(logits - logits.max())
  chances = chances / chances.sum()
  origins = {k: float(v) for k, v in zip(ORIGINS, chances, strict=True)}
  return _estimate(values, vectors, scale, float(error), origins)


def _luma(image: np.ndarray) -> np.ndarray:
  """Luma `[H, W]` in grey levels."""
  image = np.asarray(image, np.float64)
  if image.ndim == 2:
    image = image[..., None]
  if image.ndim != 3:
    raise UserError(
      f'an image must be [H, W, C] or [H, W], not of shape {image.shape}'
    )
  if image.shape[-1] == 3:
    return rgb_to_y(image)[..., 0] * 255
  # Converts to the range of luma, which has 219 levels above 16.
  return image.mean(-1) * 219 + 16


def _check(luma: np.ndarray) -> None:
  """Refuses images from which no blur can be estimated.

  Raises:
    UserError: The image is too small, holds NaN, or has no texture.
  """
  height, width = luma.shape
  if not np.isfinite(luma).all():
    raise UserError('the image holds NaN or infinite values')
  if min(height, width) < power_spectrum.LEAST_SIDE:
    raise UserError(
      f'{width}x{height} pixels are too few to estimate a blur from: give'
      f' {power_spectrum.LEAST_SIDE} or more a side, or name the kernel'
    )
  busy = np.sort(power_spectrum.energy(power_spectrum.patch_spectra(luma)))
  if busy[-max(len(busy) // 20, 1) :].mean() < _TEXTURE:
    raise UserError(
      'the image has no texture to estimate a blur from: name the kernel'
    )


def _answers(
  luma: np.ndarray, scale: float
) -> tuple[np.ndarray, float, np.ndarray]:
  """Applies the network to the image, flipped and transposed, and averages.

  Returns:
    The square root of the kernel's covariance as (xx, xy, yy), the expected
    error of it, and the logits of the origins.
  """
  seen = power_spectrum.features(luma)
  flipped, turned = power_spectrum.flipped, power_spectrum.transposed
  views = np.stack([seen, flipped(seen), turned(seen), flipped(turned(seen))])
  upright = edge_profile.profiles(luma)  # flips do not change it
  lying = edge_profile.transposed(upright)
  edges = np.stack([upright, upright, lying, lying])
  predict, params = _network()
  roots, errors, logits = (
    np.asarray(answer)
    for answer in predict(
      params, views, edges, np.full(len(views), scale, np.float32)
    )
  )
  roots = roots * np.array([[1], [0], [1], [0]]) + (
    roots * _FLIP * np.array([[0], [1], [0], [1]])
  )
  roots[2:] = roots[2:, ::-1]
  return roots.mean(0), float(errors.mean()), logits.mean(0)


def _estimate(
  widths: np.ndarray,
  vectors: np.ndarray,
  scale: float,
  error: float | None,
  origins: dict[str, float],
) -> KernelEstimate:
  """Makes an estimate from standard deviations and their axes.

  Args:
    widths: The smaller and the larger standard deviation, in LR pixels.
    vectors: The axis of each, as columns.
    scale: HR pixels per LR pixel.
    error: Expected error of the standard deviations in LR pixels, or None.
    origins: See `KernelEstimate`.
  """
  narrow, wide = np.clip(widths, _NARROWEST, _WIDEST) * scale
  x, y = vectors[:, 1]
  theta = math.atan2(y, x)
  theta = (theta + math.pi / 2) % math.pi - math.pi / 2
  return KernelEstimate(
    (float(wide**2), float(narrow**2)),
    theta,
    scale,
    None if error is None else error * scale,
    origins,
  )


def _weights() -> pathlib.Path:
  """The folder of the shipped network's weights."""
  root = pathlib.Path(str(importlib.resources.files('sr_jax') / 'pretrained'))
  return root / '_kernel_estimator'


@functools.cache
def _network() -> tuple[Any, Any]:
  """`predict` and the parameters of the shipped network."""
  loaded = checkpoints.load_params(_weights())
  return jax.jit(methods.inference(loaded.config).predict), loaded.params

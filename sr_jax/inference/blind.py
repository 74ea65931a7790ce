"""The blur kernel of an image, estimated from the image itself.

estimate = estimate_kernel(image, scale=2)
sr = sr_jax.upscale(model, image, kernel=estimate.spec)

It is an estimate. Two ways give it: a small network that was trained on
photographs of known blur, and a fit to the image's power spectrum, which needs
no weights but takes narrow kernels for wider ones.
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
from sr_jax.ops import power_spectrum
from sr_jax.ops.blur_kernels import gaussian_kernel
from sr_jax.ops.color import rgb_to_y
from sr_jax.ops.spectrum_fit import fit_gaussian

# Scales that the network was trained for.
_SCALES = (2, 4)
# Standard deviations that an estimate may have, in LR pixels.
_NARROWEST, _WIDEST = 0.05, 1.5
# Smallest probability of a blur at which an image counts as blurred. It is less
# than a half, because narrow kernels look much like a bicubic reduction and
# users of a model that restores blurs mostly have blurred images. It was chosen
# on Set5, Set14 and BSD100, so figures that are measured on these images are
# optimistic.
_LEAST_BLURRED = 0.3
# Power in squared grey levels below which even the busiest patches have no
# texture.
_TEXTURE = 1.0
# Signs by which a flip of the image changes the root (xx, xy, yy) of its
# kernel.
_FLIP = np.array([1, -1, 1])


@dataclasses.dataclass(frozen=True)
class KernelEstimate:
  """A Gaussian blur, as an image seems to have it.

  Attributes:
    variances: Larger and smaller variance in HR pixels squared.
    theta: Direction of the larger one in radians, from x towards y (down).
    scale: Scale that it was estimated for.
    expected_error: Error of the standard deviation to expect, in HR pixels;
      None where the estimate is a fit to the spectrum.
    origins: How likely the image was made in each way: 'blurred' and sampled,
      a clean 'bicubic' reduction, an untouched 'photograph', or blurred in an
      'other' way, by motion or defocus; empty where the estimate is a fit to
      the spectrum.
  """

  variances: tuple[float, float]
  theta: float
  scale: float
  expected_error: float | None
  origins: dict[str, float]

  @property
  def spec(self) -> str:
    """The kernel as `--kernel` takes it."""
    wide, narrow = self.variances
    return f'gaussian:{wide:.3f},{narrow:.3f},{self.theta:.3f}'

  @property
  def kernel(self) -> np.ndarray:
    """Its taps to correlate with, `[K, K]`.

    They are as many for every estimate of a scale, so that all images share one
    compiled program.
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

    Otherwise it looks like that of motion or of a lens out of focus.
    """
    return self.origins.get('other', 0.0) < 0.5


def estimate_kernel(
  image: np.ndarray,
  *,
  scale: float,
  by: Literal['auto', 'network', 'spectrum'] = 'auto',
) -> KernelEstimate:
  """The blur that an image had before it was sampled.

  Args:
    image: `[H, W, C]` or `[H, W]` in [0, 1], RGB where C is 3; of other numbers
      of channels the mean is looked at.
    scale: HR pixels to a pixel of the image.
    by: 'network', 'spectrum', or 'auto': the network where it is at hand and
      the scale is one that it was trained for.

  Raises:
    UserError: the image is too small, holds NaN, or has no texture.
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
  # On the scale of luma, which has 219 levels above 16.
  return image.mean(-1) * 219 + 16


def _check(luma: np.ndarray) -> None:
  """Refuses images that show no blur.

  Raises:
    UserError: saying what is wrong, and what to give instead.
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
  """Root, expected error and logits, averaged over the image's symmetries."""
  seen = power_spectrum.features(luma)
  flipped, turned = power_spectrum.flipped, power_spectrum.transposed
  views = np.stack([seen, flipped(seen), turned(seen), flipped(turned(seen))])
  predict, params = _network()
  roots, errors, logits = (
    np.asarray(answer)
    for answer in predict(params, views, np.full(4, scale, np.float32))
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
  """Where the weights of the shipped network lie."""
  root = pathlib.Path(str(importlib.resources.files('sr_jax') / 'pretrained'))
  return root / '_kernel_estimator'


@functools.cache
def _network() -> tuple[Any, Any]:
  """`predict` and the parameters of the shipped network."""
  loaded = checkpoints.load_params(_weights())
  return jax.jit(methods.inference(loaded.config).predict), loaded.params

"""Enlarges images of unknown blur, each with a kernel estimated from it.

An image that looks blurred is enlarged with its estimated kernel. An image that
looks like a clean bicubic reduction or an untouched photograph is better
enlarged without a kernel: by the model itself if it needs no kernel, otherwise
by a plain network of that scale. If there is no such network, the model uses
the estimate, and its result is moved to where bicubic enlargement would put it.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from sr_jax.errors import UserError
from sr_jax.inference import kernelgan
from sr_jax.inference.blind import KernelEstimate, estimate_kernel
from sr_jax.inference.loading import load
from sr_jax.inference.model import SRModel, as_array, check_image, check_scale
from sr_jax.inference.options import UpscaleOptions
from sr_jax.inference.shapes import Size
from sr_jax.inference.upscaler import Upscaler, as_unit
from sr_jax.ops.blur_kernels import Kernel, gaussian_kernel
from sr_jax.ops.resize import CUBIC_VARIANCE

if TYPE_CHECKING:
  from PIL import Image

_log = logging.getLogger(__name__)

AUTO, KERNELGAN = 'auto', 'kernelgan'
# Names of kernels that are estimated from each image.
ESTIMATED = (AUTO, KERNELGAN)
# An assumed kernel that is the one by which LR was made.
TRUE = 'true'
# The network for images that were not blurred, by scale.
_PLAIN = {2: 'edsr-small-x2'}
# Smallest variance of a kernel in HR pixels squared.
_LEAST_VARIANCE = 0.01


def needs_kernel(model: SRModel, adapt_steps: int | str | None) -> bool:
  """Whether the model adapts to a blur and therefore needs its kernel."""
  if model.fitting is None or adapt_steps == 0:
    return False
  return model.needs_kernel


def given_kernel(
  model: SRModel, taps: np.ndarray | None, assumed: str | None
) -> str | np.ndarray | None:
  """The kernel that a model is given when it is measured.

  Args:
    model: The model.
    taps: The kernel by which LR was made.
    assumed: SPEC of another kernel, or 'true' for this one; None leaves models
      without a kernel that estimate it themselves.

  Raises:
    UserError: LR was not blurred, so that there is no true kernel.
  """
  if assumed == TRUE and taps is None:
    raise UserError('assume-kernel true: LR was not blurred; give kernel=SPEC')
  if assumed is None and model.iterations is not None:
    return None
  return taps if assumed in (None, TRUE) else assumed


def unused_kernel(model: SRModel, option: str = '') -> UserError:
  """Makes the error for a kernel with a model that uses none.

  Args:
    model: The model.
    option: The option of the command line that gives the kernel.
  """
  adaptive = f'mzsr-x{model.scale:g}' if model.scale in (2, 4) else 'zssr'
  prefix, choice = (f'{option}: ', '--model ') if option else ('', '')
  return UserError(
    f'{prefix}model {model.name} uses a kernel only for back-projection: choose'
    f' a model that adapts to it, such as {choice}{adaptive}, add'
    ' back_project=N, or leave the kernel out'
  )


class Prepared(NamedTuple):
  """How one image is enlarged.

  Attributes:
    upscaler: The upscaler that enlarges it.
    estimate: The blur that it seems to have, with its `spec` and its taps.
    uses_estimate: Whether the upscaler uses the estimated kernel. An image that
      does not look blurred is usually enlarged without it.
    line: A message for the user: the estimate, how the image is enlarged, and
      how to override this.
  """

  upscaler: Upscaler
  estimate: KernelEstimate | kernelgan.KernelGANEstimate
  uses_estimate: bool
  line: str


class AutomaticKernel:
  """Prepares an `Upscaler` for each image, by the blur estimated from it.

  Attributes:
    model: The model that enlarges blurred images.
  """

  def __init__(
    self,
    model: SRModel,
    options: UpscaleOptions,
    *,
    kernel: str = AUTO,
    sizes: Sequence[Size] = (),
  ):
    """Checks model and options before any image is seen.

    Args:
      model: As for an `Upscaler`.
      options: As for an `Upscaler`; the kernel is ignored.
      kernel: How kernels are estimated, one of `ESTIMATED`.
      sizes: As for an `Upscaler`.

    Raises:
      UserError: As for an `Upscaler`, or the model uses no kernel.
    """
    self.model = model
    self._options = options
    self._kernel = kernel
    self._sizes = sizes
    if kernel == KERNELGAN:
      kernelgan.check_scale(model.scale)
      if self._reduces_bicubically:
        raise UserError(
          f'model {model.name} takes the blur before a bicubic reduction, and'
          ' KernelGAN estimates both in one: take kernel=auto'
        )
    trial = self._upscaler(np.asarray(gaussian_kernel(1.0)))
    if not trial.uses_kernel:
      raise unused_kernel(model)

  def check(self, image: np.ndarray) -> None:
    """Refuses arrays that are not images, or not ones that the model takes.

    Raises:
      UserError: As for `Upscaler.check`.
    """
    check_image(image, self.model)

  def prepare(
    self,
    image: np.ndarray,
    *,
    by: Literal['auto', 'network', 'spectrum'] = 'auto',
  ) -> Prepared:
    """Estimates the blur of an image and chooses how to enlarge it.

    Args:
      image: `[H, W, C]`, float in [0, 1] or uint8.
      by: As for `estimate_kernel`; KernelGAN needs none.

    Raises:
      UserError: The array is not an image that the model takes, or the image is
        too small or has too little texture for an estimate.
    """
    self.check(image)
    if self._kernel == KERNELGAN:
      return self._by_kernelgan(as_unit(image))
    scale = self.model.scale
    estimate = estimate_kernel(as_unit(image), scale=scale, by=by)
    if estimate.blurred:
      error = estimate.expected_error
      within = '' if error is None else f', widths within about {error:.2f}'
      if not estimate.gaussian:
        within = (
          ' of a blur that looks like motion or defocus, which no Gaussian fits'
        )
        if not self._reduces_bicubically and kernelgan.takes(image, scale):
          within += ' (kernel=kernelgan assumes no shape)'
      return Prepared(
        self._upscaler(self._taps(estimate)),
        estimate,
        True,
        f'kernel {estimate.spec}, an estimate{within}: override it by'
        ' kernel=SPEC',
      )
    seems = (
      f'looks like a clean reduction or an untouched photograph (as a blur'
      f' {estimate.spec}, an estimate)'
    )
    used = False
    if not needs_kernel(self.model, self._options.adapt_steps):
      upscaler, how = self._upscaler(None), 'enlarged without a kernel'
      if self.model.iterations is not None:
        how = 'its kernel is left to the model itself'
    elif scale in _PLAIN:
      upscaler = self._plain
      how = f'enlarged by {upscaler.model.name}, which needs no kernel'
    elif self._reduces_bicubically:
      upscaler, how = self._upscaler(self._taps(estimate)), 'enlarged with it'
      used = True
    else:
      # The estimated kernel is centred, where a cubic reduction is not.
      upscaler = self._upscaler(self._taps(estimate), block_centred=True)
      used = True
      how = f'result moved by {(scale - 1) / 2:g} pixels, as bicubic lies'
    line = f'{seems}: {how}; override it by kernel=SPEC'
    return Prepared(upscaler, estimate, used, line)

  def _by_kernelgan(self, image: np.ndarray) -> Prepared:
    """Prepares an image with the kernel that KernelGAN estimates."""
    estimate = kernelgan.estimate_kernel(
      image, scale=self.model.scale, seed=self._options.seed
    )
    wide, narrow = estimate.widths
    return Prepared(
      self._upscaler(estimate.kernel),
      estimate,
      True,
      f'{estimate.spec}, deviations {wide:.2f} and {narrow:.2f} HR pixels,'
      ' which hardly depend on the image: compare with kernel=auto',
    )

  @property
  def _reduces_bicubically(self) -> bool:
    """Whether the model's blur comes before a bicubic reduction."""
    named = self.model.config.get('degradation', {}).get('name')
    return (self._options.degradation or named) == 'blur-bicubic'

  @functools.cached_property
  def _plain(self) -> Upscaler:
    """The upscaler of images that were not blurred."""
    model = load(_PLAIN[int(self.model.scale)])
    options = dataclasses.replace(
      self._options, kernel=None, adapt_steps=None, degradation=None
    )
    return Upscaler(model, options, sizes=self._sizes)

  def _taps(self, estimate: KernelEstimate) -> np.ndarray:
    """Returns the estimated kernel without the blur of the reduction itself.

    Models for 'blur-bicubic' images take the kernel of the blur that comes
    before the bicubic reduction.
    """
    if not self._reduces_bicubically:
      return estimate.kernel
    # The estimated variance contains that of the reduction.
    own = CUBIC_VARIANCE * estimate.scale**2
    wide, narrow = (
      max(variance - own, _LEAST_VARIANCE) for variance in estimate.variances
    )
    return dataclasses.replace(estimate, variances=(wide, narrow)).kernel

  def _upscaler(
    self, kernel: np.ndarray | None, *, block_centred: bool = False
  ) -> Upscaler:
    options = dataclasses.replace(
      self._options, kernel=kernel, block_centred=block_centred
    )
    return Upscaler(self.model, options, sizes=self._sizes)


def upscale(
  model: SRModel,
  image: np.ndarray | Image.Image,
  *,
  scale: float | None = None,
  kernel: str | np.ndarray | Kernel | None = None,
  adapt_steps: int | str | None = None,
  self_ensemble: bool = False,
  back_project: int | None = None,
  tile: int | str = 'auto',
  seed: int = 0,
  references: Sequence[np.ndarray | Image.Image] = (),
  iterations: int | str | None = None,
) -> np.ndarray:
  """Enlarges one image.

  Args:
    model: From `load`.
    image: `[H, W, C]` or grey `[H, W]`, float in [0, 1] or uint8, or an image
      of PIL.
    scale: If given, it must be a scale of the model.
    kernel: Blur that produced the image, see `UpscaleOptions`. 'auto' estimates
      it from the image, and so does None if the model needs a kernel. The
      estimate is logged. 'kernelgan' trains KernelGAN on the image.
    adapt_steps: Gradient steps of the adaptation to the image, or 'auto'.
    self_ensemble: Whether to average over the eight flips and rotations.
    back_project: Number of back-projections after the network.
    tile: Side of the tiles in LR pixels, or 'auto', 'off' or 'chop'.
    seed: Seed of the random choices of the adaptation, which also depend on the
      pixels of the image.
    references: As for `Upscaler`.
    iterations: Number of corrections of the estimated kernel, or 'auto', for
      models that estimate it themselves.

  Returns:
    float32 `[ceil(scale * H), ceil(scale * W), C]` in [0, 1], without `C` for a
    grey image.

  Raises:
    UserError: As for `Upscaler`, or the model does not use the kernel.
  """
  check_scale(model, scale)
  array, grey = as_array(image)
  automatic = isinstance(kernel, str) and kernel in ESTIMATED
  options = UpscaleOptions(
    self_ensemble=self_ensemble,
    back_project=back_project,
    kernel=None if automatic else kernel,
    adapt_steps=adapt_steps,
    tile=tile,
    seed=seed,
    iterations=iterations,
  )
  unknown = kernel is None and needs_kernel(model, adapt_steps)
  if automatic or unknown:
    how = AUTO if kernel is None else str(kernel)
    prepared = AutomaticKernel(model, options, kernel=how).prepare(array)
    level = logging.WARNING if unknown else logging.INFO
    _log.log(level, '%s', prepared.line)
    upscaler = prepared.upscaler
  else:
    others = [as_array(reference)[0] for reference in references]
    upscaler = Upscaler(model, options, references=others)
    if kernel is not None and not upscaler.uses_kernel:
      raise unused_kernel(model)
  sr = upscaler(array)
  return sr[..., 0] if grey else sr

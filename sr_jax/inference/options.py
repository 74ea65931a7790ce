"""The options of an enlargement, and the transforms that they stand for.

`UpscaleOptions` defines the options for Python, the command line and
evaluation. The functions check them against a model and turn them into
transforms of its predict function.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from sr_jax import methods
from sr_jax.errors import UserError
from sr_jax.inference.memory import least_tile
from sr_jax.inference.model import SRModel
from sr_jax.ops.blur_kernels import Kernel
from sr_jax.ops.degrade import degrade, lr_offset
from sr_jax.ops.resize import imresize
from sr_jax.transforms import back_projection, ensemble

_log = logging.getLogger(__name__)

# Reach of one back-projection in LR pixels: that of the cubic enlargement of
# the error and of the antialiased reduction before it, plus one for odd phases.
_PROJECTION_HALO = 5
# Widest mirrored border in LR pixels, even for networks with a larger receptive
# radius; and the border for networks with an unbounded one.
_WIDEST_BORDER = 32
_GLOBAL_BORDER = 16
_MOST_ITERATIONS = 1000


@dataclasses.dataclass(frozen=True, eq=False)
class UpscaleOptions:
  """How images are enlarged by a model.

  Attributes:
    self_ensemble: Whether to average over the eight flips and rotations.
    back_project: Number of back-projections after the network; None takes the
      model's own number, which is 0 for most models.
    kernel: Blur that produced the LR images, as in `ops.degrade`: an array, a
      `Kernel` or a SPEC of the command line. It is used by back-projection and
      by models that adapt to images.
    degradation: How LR was made, see `ops.degrade`; None means 'direct' with a
      kernel and 'bicubic' without.
    noise_sigma: Standard deviation of the noise of LR in grey levels, for
      models that adapt to images.
    adapt_steps: Number of gradient steps of the adaptation to each image.
      'auto' stops when the image's reconstruction no longer improves, 0 does
      not adapt, and None takes the model's own number. Models that do not adapt
      require 0 or None.
    tile: Side of the tiles in LR pixels, including their overlap. 'auto'
      chooses a size that fits the memory, 'off' does not tile, and 'chop' takes
      the four parts of the EDSR family's test scripts, as in the published
      scores of RCAN and SAN.
    seed: Seed of the random choices of the adaptation.
    mirror_border: Whether the image is continued by its mirror image before it
      enters the network. Otherwise the network pads it with zeros, which
      darkens the outermost pixels, as in published scores.
    block_centred: Whether LR pixels sit at the middle of their s x s blocks, as
      after bicubic reduction, although the given kernel is a centred one for
      direct sampling. The result is then moved by (s - 1) / 2 HR pixels.
    iterations: Number of corrections by models that estimate the kernel of each
      image themselves. 'auto' and None stop when the estimate hardly changes,
      at the latest after the model's own number. Other models require None.

  Raises:
    UserError: A value suits no model.
  """

  self_ensemble: bool = False
  back_project: int | None = None
  kernel: str | np.ndarray | Kernel | None = None
  degradation: str | None = None
  noise_sigma: float = 0.0
  adapt_steps: int | str | None = None
  tile: int | str = 'auto'
  seed: int = 0
  mirror_border: bool = True
  block_centred: bool = False
  iterations: int | str | None = None

  def __post_init__(self) -> None:
    """Refuses values that suit no model."""
    if (self.back_project or 0) < 0:
      raise UserError(
        f'back-projections must be 0 or more, not {self.back_project}'
      )
    steps, tile = self.adapt_steps, self.tile
    if isinstance(steps, int) and steps < 0:
      raise UserError(f'adapt steps must be 0 or more, not {steps}')
    if isinstance(steps, str) and steps != 'auto':
      raise UserError(f"adapt steps must be a number or 'auto', not {steps!r}")
    self._check_iterations()
    if isinstance(tile, str) and tile not in ('auto', 'off', 'chop'):
      raise UserError(f'tile must be auto, off, chop or a number, not {tile!r}')
    if not 0 <= self.noise_sigma < math.inf:
      raise UserError(f'noise must be 0 or more, not {self.noise_sigma:g}')

  def _check_iterations(self) -> None:
    given = self.iterations
    if isinstance(given, str) and given != 'auto':
      raise UserError(f"iterations must be a number or 'auto', not {given!r}")
    if isinstance(given, int) and not 0 <= given <= _MOST_ITERATIONS:
      raise UserError(
        f'iterations must be from 0 to {_MOST_ITERATIONS}, not {given}'
      )


def fitting_of(
  model: SRModel, assumed: methods.Assumed, options: UpscaleOptions
) -> methods.Fitting | None:
  """Makes the adaptation of a model to images; None if it does not adapt.

  Args:
    model: The model.
    assumed: How the images were degraded.
    options: Of which the numbers of steps are used.

  Raises:
    UserError: The model does not take these steps.
  """
  steps = options.adapt_steps
  if model.iterations is not None:
    if steps is not None:
      raise UserError(
        f'model {model.name} takes no gradient steps but corrections: give'
        ' iterations=N in place of adapt_steps=N'
      )
    return _fitting(model, assumed, options.iterations)
  if options.iterations is not None:
    raise UserError(
      f'model {model.name} estimates no kernel that it could correct: leave'
      ' iterations=N out'
    )
  if model.fitting is None:
    if steps:
      raise UserError(
        f'model {model.name} does not adapt to images: leave adapt_steps=N out'
      )
    return None
  if steps == 0 and model.params:
    return None
  if steps == 0:
    raise UserError(f'model {model.name} has no weights without adapt steps')
  return _fitting(model, assumed, steps)


def _fitting(
  model: SRModel, assumed: methods.Assumed, steps: int | str | None
) -> methods.Fitting:
  """Calls `model.fitting`; errors name the model."""
  assert model.fitting is not None
  try:
    return model.fitting(assumed, steps)
  except UserError as error:
    raise UserError(f'model {model.name}: {error}') from None


def projection(
  scale: float,
  iterations: int,
  taps: np.ndarray | None,
  degradation: str | None,
) -> Callable[..., Any]:
  """Makes back-projection, a transform of predict functions, on the host."""
  made_by = degradation or ('bicubic' if taps is None else 'direct')
  if iterations and taps is None and made_by != 'bicubic':
    raise UserError(
      'back-projection needs a known kernel: give kernel=SPEC, or leave'
      ' back_project=N out'
    )

  def transform(predict: Callable[..., Any]) -> Callable[..., Any]:
    def projected(lr: np.ndarray) -> Any:
      made = functools.partial(
        degrade,
        None,
        scale=scale,
        degradation=made_by,
        kernel=taps,
        shape=lr.shape[1:3],
      )
      spread = functools.partial(
        imresize, scale=scale, offset=lr_offset(scale, made_by, taps)
      )
      return back_projection.back_project(
        predict, made, spread, iterations=iterations
      )(lr)

    return projected

  return transform


def moved(sr: np.ndarray, distance: float) -> np.ndarray:
  """Moves an image down and right, by cubic interpolation.

  Args:
    sr: The image, `[H, W, C]` in [0, 1]; it is mirrored at its border.
    distance: Distance in pixels.
  """
  if not distance:
    return sr
  shifted = imresize(sr, scale=1, offset=(distance, distance))
  return shifted.clip(0, 1).astype(sr.dtype)


def versions(
  median: bool, mean: bool, projected: Callable[..., Any]
) -> Callable[..., Any]:
  """Makes the transform that adds ensembles and back-projection to predict.

  The median ensemble (ZSSR) back-projects each of its eight versions. It keeps
  all versions in memory, as float32, because arrays of many channels are large.
  """
  if median:
    return lambda predict: projected(
      ensemble.self_ensemble(_in_float32(projected(predict)), 'median')
    )
  if mean:
    return lambda predict: projected(ensemble.self_ensemble(predict))
  return projected


def _in_float32(predict: Callable[..., Any]) -> Callable[..., Any]:
  return lambda lr: predict(lr).astype(np.float32)


def total_halo(
  local: int | None, iterations: int, taps: np.ndarray | None, scale: float
) -> int | None:
  """Receptive radius in LR pixels of a network and back-projections."""
  if local is None:
    return None
  blur = 0 if taps is None else math.ceil(max(taps.shape) // 2 / scale)
  return local + iterations * (_PROJECTION_HALO + blur)


def border_of(model: SRModel, halo: int | None) -> int:
  """Width in LR pixels of the mirrored border that replaces zero padding.

  The border is as wide as the network's receptive radius, and consists of whole
  cells. At a scale that is not whole, it is widened until it is a whole number
  of SR pixels, or as nearly as possible.

  Args:
    model: The model.
    halo: Receptive radius of its network in LR pixels; None if unbounded.
  """
  if model.on_host:
    return 0  # bicubic resizing already mirrors the image
  if model.referring is not None and not model.referring.turned:
    return 0  # the reference covers the image only, without a border
  least = min(_GLOBAL_BORDER if halo is None else halo, _WIDEST_BORDER)
  least += -least % model.cell

  def error(border: int) -> float:
    exact = model.scale * border
    return round(abs(exact - round(exact)), 3)

  return min(range(least, least + 100, model.cell), key=error)


def checked_tile(
  tile: int | str, model: SRModel, halo: int | None
) -> int | str:
  """Checks the tile of the options, and returns it.

  Raises:
    UserError: The tile does not suit the model.
  """
  if tile in ('auto', 'off'):
    return tile
  if model.scale != int(model.scale):
    raise UserError(f'scale {model.scale:g} cannot be tiled: leave tile=N out')
  if isinstance(tile, str):
    return tile
  if tile <= least_tile(model, halo):
    raise UserError(
      f'tile {tile} is too small for model {model.name}: give more than'
      f' {least_tile(model, halo)}'
    )
  if halo is None:
    _log.warning('model %s is not local: its tiles may show seams', model.name)
  return tile

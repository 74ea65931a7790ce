"""What the options of `inference` make of a model: checks and transforms."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from sr_jax import methods
from sr_jax.errors import UserError
from sr_jax.inference.model import SRModel
from sr_jax.ops.degrade import degrade, lr_offset
from sr_jax.ops.resize import imresize
from sr_jax.transforms.back_projection import back_project as project
from sr_jax.transforms.ensemble import self_ensemble as ensemble

_log = logging.getLogger(__name__)

# Reach of one back-projection in LR pixels: to the error's cubic enlargement
# and the antialiased reduction before it, and one for odd phases.
_PROJECTION_HALO = 5
# Widest mirrored border in LR pixels, also for networks that reach further; and
# the border for networks whose reach has no bound.
_WIDEST_BORDER = 32
_GLOBAL_BORDER = 16


def fitting_of(
  model: SRModel, assumed: methods.Assumed, steps: int | str | None
) -> methods.Fitting | None:
  """How the model fits itself to the images; None if it does not.

  Raises:
    UserError: steps that are none, or that the model does not take.
  """
  if isinstance(steps, int) and steps < 0:
    raise UserError(f'adapt steps must be 0 or more, not {steps}')
  if isinstance(steps, str) and steps != 'auto':
    raise UserError(f"adapt steps must be a number or 'auto', not {steps!r}")
  if model.fitting is None:
    if steps:
      raise UserError(
        f'model {model.name} does not fit itself to images: leave adapt_steps'
        ' (--adapt-steps) out'
      )
    return None
  if steps == 0 and model.params:
    return None
  if steps == 0:
    raise UserError(f'model {model.name} has no weights without adapt steps')
  if not 0 <= assumed.noise_sigma < math.inf:
    raise UserError(f'noise must be 0 or more, not {assumed.noise_sigma:g}')
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
  """Back-projection as a transform of predict functions, on the host."""
  made_by = degradation or ('bicubic' if taps is None else 'direct')

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
      return project(predict, made, spread, iterations=iterations)(lr)

    return projected

  return transform


def versions(
  median: bool, mean: bool, projected: Callable[..., Any]
) -> Callable[..., Any]:
  """Predict -> predict with ensemble and back-projection.

  The median ensemble back-projects its versions too (ZSSR), and keeps all
  eight: in float32, because an array of many channels may be large.
  """
  if median:
    return lambda predict: projected(
      ensemble(_in_float32(projected(predict)), 'median')
    )
  if mean:
    return lambda predict: projected(ensemble(predict))
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
  """The mirrored border, in LR pixels, that keeps zero padding off the image.

  It is as wide as the network reaches, and consists of whole cells. At a scale
  that is not whole it is widened until it is a whole number of SR pixels too,
  or as nearly as possible.

  Args:
    model: The model.
    halo: Receptive radius of its network in LR pixels, None without a bound.
  """
  if model.on_host:
    return 0  # bicubic resizing mirrors the image by itself
  if model.referring is not None and not model.referring.turned:
    return 0  # the reference lies on the image and has no border
  least = min(_GLOBAL_BORDER if halo is None else halo, _WIDEST_BORDER)
  least += -least % model.cell

  def error(border: int) -> float:
    exact = model.scale * border
    return round(abs(exact - round(exact)), 3)

  return min(range(least, least + 100, model.cell), key=error)


def least_tile(model: SRModel, halo: int | None) -> int:
  """The side above which tiles have an inside."""
  return 2 * (halo or 0) + 2 * (model.cell - 1)


def checked_tile(
  tile: int | str, model: SRModel, halo: int | None
) -> int | str:
  """The tile that was asked for.

  Raises:
    UserError: it is none, or none that suits the model.
  """
  if isinstance(tile, str) and tile not in ('auto', 'off', 'chop'):
    raise UserError(f'tile must be auto, off, chop or a number, not {tile!r}')
  if tile in ('auto', 'off'):
    return tile
  if model.scale != int(model.scale):
    raise UserError(
      f'scale {model.scale:g} cannot be tiled: leave tile (--tile) out'
    )
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

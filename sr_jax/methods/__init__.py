"""Training procedures made of transforms, found by module name."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, NamedTuple

import jax
import numpy as np

from sr_jax.errors import UserError
from sr_jax.state import TrainState


class Method(NamedTuple):
  """A training procedure as pure functions.

  Attributes:
    init: `(key, batch, pretrained, scale) -> TrainState`; runs inside jit.
      `pretrained` holds parameters by slot to start from, {} for none.
    train_step: `(state, batch, scale) -> (state, metrics)`; scale is static.
    predict: `(params, lr, mask=None) -> sr`, clipped to [0, 1]; `params` are
      slots as in `TrainState.params`, lr `[B, H, W, C]` in [0, 1], mask
      `[B, H, W, 1]` marks the pixels that exist in a padded image.
    degrade: `(key, hr, scale) -> lr`, the degradation it trains on.
    averaged: `state -> params` for inference (the moving average if kept).
    frozen: `() -> parameters by slot` that no step changes, read from where the
      config says; they join `pretrained` at the start of a run.
    margin: `scale -> LR pixels` by which the method wants the HR crops of a
      batch wider on every side; it cuts them off.
    advice: Means of the metrics -> what to do about them, None for nothing.
  """

  init: Callable[..., TrainState]
  train_step: Callable[..., tuple[TrainState, dict[str, jax.Array]]]
  predict: Callable[..., jax.Array]
  degrade: Callable[..., jax.Array]
  averaged: Callable[[TrainState], dict[str, Any]]
  frozen: Callable[[], dict[str, Any]] = dict
  margin: Callable[[float], int] = lambda scale: 0
  advice: Callable[[Mapping[str, float]], str | None] = lambda metrics: None


class Assumed(NamedTuple):
  """How the LR images were made, as far as it is known.

  Attributes:
    degradation: Name, see `ops.degrade`; None where it is not said.
    kernel: `[K1, K2]` taps to correlate with; None for no blur.
    noise_sigma: Of Gaussian noise in grey levels of 255.
  """

  degradation: str | None = None
  kernel: np.ndarray | None = None
  noise_sigma: float = 0.0


class Fitting(NamedTuple):
  """How a model fits itself to images, for one assumption of their making.

  Attributes:
    fit: `(params, lr, keys) -> (params, report)` for images `[N, H, W, C]` of
      one size with a PRNG key each; the results are stacked along a first axis.
      report holds `steps` `[N]`, gradient steps taken.
    predict: As `Method.predict`, with the fitted parameters of one image.
    halo: Receptive radius of predict in LR pixels, None where it has no bound.
    side: Largest height and width in LR pixels that are fitted at once.
    ensemble: Whether this method by itself takes the median of the eight flips
      and rotations, each back-projected.
    back_project: Back-projections that this method does by itself.
    degradation: What it takes the images to be made by.
    kernel: Its kernel, None for no blur.
  """

  fit: Callable[..., tuple[dict[str, Any], dict[str, jax.Array]]]
  predict: Callable[..., jax.Array]
  halo: int | None
  side: int
  ensemble: bool
  back_project: int
  degradation: str
  kernel: np.ndarray | None


class Referring(NamedTuple):
  """How a model is given references, for one batch of LR images.

  Attributes:
    look: `(params, references) -> params` that hold them; references are a list
      of `[B, H, W, 3]` in [0, 1], of any sizes from `least` on.
    itself: `(params, lr) -> params`, for LR as its own reference.
    similarity: `(params, lr) -> [B, h, w]`, how well LR matches the references
      that the parameters hold.
    halo: What matching adds to the network's receptive radius in LR pixels.
    least: Least height and width of a reference.
    turned: Whether references serve images that are turned against them.
  """

  look: Callable[..., dict[str, Any]]
  itself: Callable[..., dict[str, Any]]
  similarity: Callable[..., jax.Array]
  halo: int
  least: int
  turned: bool


def names() -> list[str]:
  """Names of all methods, one per file without a leading underscore."""
  return sorted(
    module.name
    for module in pkgutil.iter_modules(__path__)
    if not module.name.startswith('_')
  )


def module(config: Mapping[str, Any]) -> ModuleType:
  """The file of the method that `config['method']['name']` names.

  It offers `make(config) -> Method`, and `predictor(config) -> predict` for
  inference, which needs no training sections. A method whose models fit
  themselves to each image also offers `fitting(config, assumed, steps)`, which
  gives a `Fitting`; one whose models take references, `REFERRING`. One that is
  not about enlarging offers `evaluation(config)`, a `periodic_eval.Evaluation`.

  Raises:
    UserError: no method has this name.
  """
  name = config['method']['name']
  if name not in names():
    raise UserError(f'unknown method {name!r}; choose from {names()}')
  return importlib.import_module(f'sr_jax.methods.{name}')

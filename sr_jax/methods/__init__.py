"""Training procedures made of transforms, found by module name.

A file of this folder is one method. It offers two functions of a config:
`make`, which returns a `Method` for training, and `inference`, which returns an
`Inference` for applying the trained parameters. Files with a leading underscore
are shared by several methods.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from sr_jax.errors import TEXT, OneOf, Optional, Rules, UserError
from sr_jax.state import TrainState


class Method(NamedTuple):
  """A training procedure as pure functions.

  Attributes:
    init: `(key, shapes, frozen, scale, pretrained={}) -> TrainState`; runs
      inside jit. `shapes` holds a `jax.ShapeDtypeStruct` for each array of a
      batch. `frozen` holds the result of `Method.frozen`; a missing slot is an
      error. `pretrained` holds initial parameters by slot.
    train_step: `(state, batch, scale) -> (state, metrics)`; scale is static.
    degrade: `(key, hr, scale, dtype=uint8) -> lr`, the degradation of the
      training, rounded to the levels of a type.
    averaged: `state -> params` for inference (the moving average if kept).
    frozen: `() -> parameters by slot` of networks that no step changes, read
      from the files that the config names.
    margin: `scale -> LR pixels`, the margin on every side that the method needs
      around the HR crops of a batch, and removes.
    advice: `means of the metrics -> text` that suggests a remedy, or None if
      training goes well.
    uses: Data besides HR images that the method needs, see `data.opening.USES`.
    judges: Kind of the evaluation: 'images' that the method enlarges, 'pairs'
      of images whose order it predicts, 'spectra' of images whose blur it
      estimates, or 'kernels', which it estimates from images themselves.
  """

  init: Callable[..., TrainState]
  train_step: Callable[..., tuple[TrainState, dict[str, jax.Array]]]
  degrade: Callable[..., jax.Array]
  averaged: Callable[[TrainState], dict[str, Any]]
  frozen: Callable[[], dict[str, Any]] = dict
  margin: Callable[[float], int] = lambda scale: 0
  advice: Callable[[Mapping[str, float]], str | None] = lambda metrics: None
  uses: frozenset[str] = frozenset()
  judges: Literal['images', 'pairs', 'spectra', 'kernels'] = 'images'


class Inference(NamedTuple):
  """How trained parameters are applied to images.

  Attributes:
    predict: `(params, lr, mask=None) -> sr`, clipped to [0, 1]; `params` are
      slots as in `TrainState.params`, lr `[B, H, W, C]` in [0, 1], mask
      `[B, H, W, 1]` marks the pixels that exist in a padded image. For a method
      that judges pairs, `(params, images) -> scores [B]`; higher is worse.
    fitting: `(assumed, steps) -> Fitting`, for models that adapt to each image;
      steps is a number, 'auto', or None for the checkpoint's number.
    referring: How references are given to the model; None if it takes none.
    needs_kernel: Whether `fitting` needs the kernel to be known.
    iterations: For models that estimate the kernel of each image and correct
      their estimate: the largest number of corrections. None for other models.
      The steps of their `fitting` are these corrections.
    check: `params -> None`; refuses slots besides `generator` that are missing
      or do not suit the network.
  """

  predict: Callable[..., Any]
  fitting: Callable[..., Fitting] | None = None
  referring: Referring | None = None
  needs_kernel: bool = False
  iterations: int | None = None
  check: Callable[[Mapping[str, Any]], None] = lambda params: None


class Assumed(NamedTuple):
  """The known facts about how LR images were degraded.

  Attributes:
    degradation: Name of the degradation, see `ops.degrade`; None if unknown.
    kernel: `[K1, K2]` taps to correlate with; None for no blur.
    noise_sigma: Standard deviation of Gaussian noise, in grey levels of 255.
  """

  degradation: str | None = None
  kernel: np.ndarray | None = None
  noise_sigma: float = 0.0


class Fitting(NamedTuple):
  """How a model adapts its weights to images, for one assumed degradation.

  Attributes:
    fit: `(params, lr, keys) -> (params, report)` for images `[N, H, W, C]` of
      one size with a PRNG key each. Only the slots that differ from image to
      image are returned, stacked along a first axis. report holds `steps`
      `[N]`, the steps taken.
    predict: `Inference.predict` for the adapted parameters of one image.
    halo: Receptive radius of predict in LR pixels; None if it is unbounded.
    side: Largest height and width in LR pixels of the part of an image that is
      used for adapting.
    ensemble: Whether the method includes the median of the eight flips and
      rotations, each back-projected.
    back_project: Number of back-projections that the method includes.
    degradation: The degradation it assumes produced the images.
    kernel: The blur kernel of that degradation, None for no blur.
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
    look: `(params, references) -> params` that also hold the references, which
      are a list of `[B, H, W, 3]` in [0, 1] with sides of `least` or more.
    itself: `(params, lr) -> params` that hold LR as its own reference.
    similarity: `(params, lr) -> [B, h, w]`, how well LR matches the references
      that the parameters hold.
    halo: LR pixels by which matching widens the network's receptive radius.
    least: Smallest height and width of a reference.
    turned: Whether a reference is still usable when the image is flipped or
      rotated relative to it.
  """

  look: Callable[..., dict[str, Any]]
  itself: Callable[..., dict[str, Any]]
  similarity: Callable[..., jax.Array]
  halo: int
  least: int
  turned: bool


# Keys that every `config.method` may contain; `defaults.base` sets both.
COMMON_RULES: Rules = {'name': TEXT, 'outputs': Optional(OneOf(('none',)))}
# Former methods, which are now options of other methods; old configs that name
# them can still be read.
_FORMER = {'curriculum': ('supervised', {'outputs': 'curriculum'})}


def names() -> list[str]:
  """Names of all methods: one per file without a leading underscore."""
  return sorted(
    module.name
    for module in pkgutil.iter_modules(__path__)
    if not module.name.startswith('_')
  )


def make(config: Mapping[str, Any]) -> Method:
  """Makes the training procedure that `config['method']` describes.

  Raises:
    UserError: The method is unknown, or it refuses a section of the config.
  """
  config = updated(config)
  return _module(config).make(config)


def inference(config: Mapping[str, Any]) -> Inference:
  """Makes the inference of `config['method']`; needs no training sections.

  Raises:
    UserError: The method is unknown, or it refuses a section of the config.
  """
  config = updated(config)
  return _module(config).inference(config)


def updated(config: Mapping[str, Any]) -> dict[str, Any]:
  """Converts a config of an earlier version to the form of this version.

  Raises:
    UserError: The config names no method.
  """
  section = config.get('method')
  if not isinstance(section, Mapping) or not isinstance(
    section.get('name'), str
  ):
    raise UserError(f'config.method: names no method; choose from {names()}')
  if section['name'] not in _FORMER:
    return dict(config)
  name, options = _FORMER[section['name']]
  return {**config, 'method': {**section, **options, 'name': name}}


def _module(config: Mapping[str, Any]) -> ModuleType:
  """Imports the file of a method, which defines `make` and `inference`."""
  name = config['method']['name']
  if name not in names():
    raise UserError(f'unknown method {name!r}; choose from {names()}')
  return importlib.import_module(f'sr_jax.methods.{name}')

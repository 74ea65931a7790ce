"""Training procedures made of transforms, found by module name."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, NamedTuple

import jax

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
  """

  init: Callable[..., TrainState]
  train_step: Callable[..., tuple[TrainState, dict[str, jax.Array]]]
  predict: Callable[..., jax.Array]
  degrade: Callable[..., jax.Array]
  averaged: Callable[[TrainState], dict[str, Any]]


def names() -> list[str]:
  """Names of all methods, one per file of this package."""
  return sorted(module.name for module in pkgutil.iter_modules(__path__))


def module(config: Mapping[str, Any]) -> ModuleType:
  """The file of the method that `config['method']['name']` names.

  It offers `make(config) -> Method`, and `predictor(config) -> predict` for
  inference, which needs no training sections.

  Raises:
    UserError: no method has this name.
  """
  name = config['method']['name']
  if name not in names():
    raise UserError(f'unknown method {name!r}; choose from {names()}')
  return importlib.import_module(f'sr_jax.methods.{name}')

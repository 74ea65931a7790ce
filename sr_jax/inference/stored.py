"""Checks of a checkpoint's config and parameters before they are used.

Checkpoints pass from hand to hand, so a config may say anything. It is checked
in the order of cost: first that its sections have the right form, then that its
numbers suit the sizes of the parameters, and only then by tracing the network,
which ends early if the network has far more layers than parameters.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn

from sr_jax import models
from sr_jax.checkpoints import Loaded
from sr_jax.errors import UserError, wants_traceback
from sr_jax.models.parts.parameters import (
  check_parameters,
  shapes_of,
  unstacked_shapes,
)

MOST_SCALE = 100
_MOST_DEPTH = 8
_MOST_VALUES = 10_000
_MOST_TEXT = 1_000
_MOST_NUMBER = 2**63
# A whole number of `model` above this must be a size of some parameter.
_FREE_NUMBER = 512
# Calls of layers while a network is traced: so many, and for each parameter.
# Recursive networks have the most for their parameters, some 50.
_FREE_CALLS = 500
_CALLS_PER_PARAMETER = 4


def check_stored(loaded: Loaded, path: str | os.PathLike[str]) -> None:
  """Refuses a checkpoint that holds no model, or another than its config says.

  Raises:
    UserError: naming the checkpoint and the key or parameter at fault.
  """
  try:
    check_declared(loaded.config, loaded.params)
    by_config(_check_network, loaded.config['model'], loaded.params)
  except UserError as error:
    raise UserError(f'{path}: {error}') from error


def check_declared(
  config: Mapping[str, Any], params: Mapping[str, Any]
) -> None:
  """Refuses a config that no model of these parameters can have.

  Nothing is built, so that a config which asks for too much costs nothing.

  Raises:
    UserError: naming the key at fault.
  """
  _check_form(config)
  _check_numbers(config['model'], params)


def by_config(call: Callable[..., Any], *args: Any) -> Any:
  """Calls what raises anything if a stored config is not what it should be.

  Raises:
    UserError: in place of all else, unless SR_JAX_TRACEBACK=1.
  """
  try:
    return call(*args)
  except UserError:
    raise
  except KeyError as error:
    if wants_traceback():
      raise
    raise UserError(f'its config lacks {error.args[0]!r}') from error
  except Exception as error:
    if wants_traceback():
      raise
    reason = ' '.join(str(error).split())[:200] or type(error).__name__
    raise UserError(f'its config is not usable: {reason}') from error


def _check_form(config: Mapping[str, Any]) -> None:
  """Refuses a config that is not made of sections of plain, finite values."""
  for name in ('method', 'model'):
    section = config.get(name)
    if not isinstance(section, dict) or 'name' not in section:
      raise UserError('its config names no method and model')
    if not isinstance(section['name'], str):
      raise UserError(
        f'config.{name}.name={_shown(section["name"])}: give text'
      )
  for name in ('data', 'degradation', 'eval'):
    if not isinstance(config.get(name, {}), dict):
      raise UserError(f'config.{name}={_shown(config[name])}: give a section')
  _check_values(config)
  name = config['model']['name']
  if name in (*models.critic_names(), *models.estimator_names()):
    raise UserError(f'{name} judges images; give a model that enlarges them')
  if name in models.feature_names():  # they have no scale
    raise UserError(f'model {name!r} gives features and does not enlarge')
  _check_scale('config.model.scale', config['model'].get('scale'))
  for name in ('method', 'data'):
    scales = config.get(name, {}).get('scales', ())
    if not isinstance(scales, (list, tuple)):
      raise UserError(f'config.{name}.scales={_shown(scales)}: give a list')
    for scale in scales:
      _check_scale(f'config.{name}.scales', scale)


def _check_scale(key: str, scale: Any) -> None:
  number = isinstance(scale, (int, float)) and not isinstance(scale, bool)
  if not number or not 1 <= scale <= MOST_SCALE:
    raise UserError(
      f'{key}={_shown(scale)}: a scale must be a number from 1 to {MOST_SCALE}'
    )


def _check_values(config: Any) -> None:
  """Refuses values that are too deep, too many, too long or not finite."""
  left, waiting = _MOST_VALUES, [('config', config, 0)]
  while waiting:
    path, value, depth = waiting.pop()
    left -= 1
    if left < 0 or depth > _MOST_DEPTH:
      raise UserError('its config has more values or deeper ones than any run')
    if isinstance(value, dict):
      for key in value:
        if len(key) > _MOST_TEXT or not key.isprintable():
          raise UserError(f'{path} has the key {_shown(key)}')
      waiting += [(f'{path}.{k}', v, depth + 1) for k, v in value.items()]
    elif isinstance(value, (list, tuple)):
      waiting += [(path, item, depth + 1) for item in value]
    elif isinstance(value, str):
      if len(value) > _MOST_TEXT:
        raise UserError(f'{path} holds {len(value):,} letters')
    elif isinstance(value, (int, float)) and not abs(value) < _MOST_NUMBER:
      raise UserError(f'{path}={_shown(value)}: give a finite, smaller number')


def _check_numbers(
  section: Mapping[str, Any], slots: Mapping[str, Any]
) -> None:
  """Refuses counts and widths of which the parameters show nothing."""
  shapes = _shapes(slots)
  largest = max(
    [
      len(unstacked_shapes(shapes)),
      *(max(s, default=0) for s in shapes.values()),
    ],
    default=0,
  )
  for key, value in section.items():
    for number in value if isinstance(value, (list, tuple)) else (value,):
      if isinstance(number, int) and abs(number) > max(_FREE_NUMBER, largest):
        raise UserError(
          f'its parameters are not those of its config: model.{key}='
          f'{_shown(value)}, but no size or number of them is above {largest}'
        )


def _check_network(
  section: Mapping[str, Any], slots: Mapping[str, Any]
) -> None:
  """Compares the parameters with those of the network, which is traced."""
  parameters = len(unstacked_shapes(_shapes(slots)))
  limit = _FREE_CALLS + _CALLS_PER_PARAMETER * parameters
  count = 0

  def counted(
    next_call: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    context: nn.module.InterceptorContext,
  ) -> Any:
    nonlocal count
    del context
    count += 1
    if count > limit:
      raise UserError(
        'its parameters are not those of its config: the network has more than'
        f' {limit:,} layers'
      )
    return next_call(*args, **kwargs)

  network = models.create(section)
  with nn.intercept_methods(counted):
    check_parameters(network, slots)


def _shapes(slots: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
  """Shapes of the parameters and statistics that the config must explain."""
  shapes = shapes_of(slots.get('generator'))
  return shapes | shapes_of(slots.get('batch_stats'))


def _shown(value: Any) -> str:
  """A value of a config as a message shows it: on one line, not too long."""
  if isinstance(value, int) and abs(value) >= _MOST_NUMBER:
    return f'a number of {math.ceil(value.bit_length() * 0.302)} digits'
  text = repr(value)[:200]
  return text if len(text) <= 60 else f'{text[:57]}...'

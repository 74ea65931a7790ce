"""A trained ranker for losses, by where it is.

A SPEC is a checkpoint of `configs/ranker.py`, a folder that `sr-jax import
--model ranker` wrote, or random:SEED to try things out.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from sr_jax import checkpoints
from sr_jax.data.ranked import check_metric
from sr_jax.errors import UserError
from sr_jax.models.parts.parameters import check_parameters
from sr_jax.typing import Network

_RANDOM = 'random:'


def load(spec: str, network: Network, metric: str) -> dict[str, Any]:
  """Parameters and running statistics, as Linen's variables.

  Args:
    spec: See the head of this file.
    network: The Linen module that they must fit.
    metric: Whose order they must have learned.

  Raises:
    UserError: there is none, or one of another metric, orientation or size.
  """
  if spec.startswith(_RANDOM):
    return _random(spec, network)
  loaded = checkpoints.load_params(spec)
  if loaded.config.get('model', {}).get('name') != 'ranker':
    raise UserError(f'{spec}: holds no ranker')
  section = loaded.config['method']
  if 'metric' not in section:
    raise UserError(
      f'{spec}: does not tell the metric that it was trained for; sr-jax import'
      f' --metric {metric} records it'
    )
  if section['metric'] != metric:
    raise UserError(
      f'{spec}: was trained for {section["metric"]}, not for {metric}'
    )
  try:
    check_metric(metric, section['better'])
    check_parameters(network, loaded.params)
  except UserError as error:
    raise UserError(f'{spec}: {error}') from None
  if loaded.config.get('data', {}).get('source') == 'embedded':
    raise UserError(
      f'{spec}: was tried out on embedded photographs; train it on a data set'
      ' of sr-jax rank-data'
    )
  return {
    'params': loaded.params['generator'],
    'batch_stats': loaded.params['batch_stats'],
  }


def _random(spec: str, network: Network) -> dict[str, Any]:
  """As the network initialises them."""
  seed = spec.removeprefix(_RANDOM)
  if not seed.isdecimal():
    raise UserError(f'{spec}: give a whole number after {_RANDOM}')
  side = network.example_side
  image = jnp.zeros((1, side, side, network.channels))
  return jax.device_get(jax.jit(network.init)(jax.random.key(int(seed)), image))

"""Loads a trained ranker, for use in losses.

A SPEC names the ranker: a checkpoint of `configs/ranker.py`, a folder that
`sr-jax import --model ranker` wrote, or random:SEED for tests and trials.
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
  """Loads parameters and running statistics as variables of a Linen module.

  Args:
    spec: Where the ranker is; see the top of this file.
    network: The Linen module that the variables must fit.
    metric: Name of the metric for which the ranker must have been trained.

  Raises:
    UserError: `spec` is no ranker, or one of another metric, orientation or
      size.
  """
  if spec.startswith(_RANDOM):
    return _random(spec, network)
  loaded = checkpoints.load_params(spec)
  if loaded.config.get('model', {}).get('name') != 'ranker':
    raise UserError(f'{spec}: holds no ranker')
  section = loaded.config['method']
  if 'metric' not in section:
    raise UserError(
      f'{spec}: does not name the metric that it was trained for; sr-jax import'
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
      f'{spec}: was trained on the embedded photographs, which is a trial only;'
      ' train it on a data set of sr-jax rank-data'
    )
  return {
    'params': loaded.params['generator'],
    'batch_stats': loaded.params['batch_stats'],
  }


def _random(spec: str, network: Network) -> dict[str, Any]:
  """Initial variables of the network, from the seed in `spec`."""
  seed = spec.removeprefix(_RANDOM)
  if not seed.isdecimal():
    raise UserError(f'{spec}: give a whole number after {_RANDOM}')
  side = network.example_side
  image = jnp.zeros((1, side, side, network.channels))
  return jax.device_get(jax.jit(network.init)(jax.random.key(int(seed)), image))

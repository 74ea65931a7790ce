"""Reads and writes weights in the safetensors format.

A file that sr_jax writes holds the parameters under their Flax paths, with a
name for each block of a chain (`body_0/conv1/kernel`), and running statistics
(`norm/mean`). Parameters of further networks that inference needs are under
`@SLOT/PATH`. Its metadata hold the model's name, scale and options.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors
from flax import traverse_util
from safetensors import numpy as safetensors_numpy

from sr_jax.errors import UserError
from sr_jax.files import open_atomically
from sr_jax.models.parts.parameters import unstack

_FORMAT = 'sr_jax'
_MOST_SCALE = 100
# Start of the names of tensors of further networks, such as /...
_SLOT = '@'


def read_safetensors(
  path: str | os.PathLike[str],
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """Reads a safetensors file.

  Returns:
    The tensors by name, bfloat16 as float32, and the model's config. The config
    is empty if the file was not written by `export_safetensors`.

  Raises:
    UserError: The file is missing or damaged.
  """
  tensors = {}
  try:
    with safetensors.safe_open(path, framework='numpy') as file:
      metadata = file.metadata() or {}
      for name in file.keys():  # noqa: SIM118 (the file is no mapping)
        array = file.get_tensor(name)
        wide = array.dtype == jnp.bfloat16
        tensors[name] = array.astype(np.float32) if wide else array
    ours = metadata.get('format') == _FORMAT
    return tensors, _config(metadata['config']) if ours else {}
  except OSError as error:
    raise UserError(f'{path}: {error.strerror or error}') from None
  except (
    safetensors.SafetensorError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RecursionError,
  ) as error:
    reason = ' '.join(str(error).split())[:200]
    raise UserError(f'{path}: damaged: {reason}') from None


def _config(text: str) -> dict[str, Any]:
  config = json.loads(text)
  kinds = {key: type(value) for key, value in config.items()}
  if not all(isinstance(v, dict) for v in config.get('sections', {}).values()):
    raise ValueError('its sections are not those of a config')
  kinds.pop('sections', None)
  scale = kinds.pop('scale', None)
  # The scale may be a float, because Meta-SR's scales need not be whole.
  if scale not in (int, float) or kinds != {'name': str, 'options': dict}:
    raise ValueError('its metadata is no config of sr_jax')
  if not 1 <= config['scale'] <= _MOST_SCALE:
    raise ValueError(f'a scale must be from 1 to {_MOST_SCALE}')
  return config


def split_slots(
  tensors: Mapping[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """Separates the tensors of further networks from those of the first one.

  Returns:
    The tensors of the first network by name, and nested tensors by slot.
  """
  first, others = {}, {}
  for name, array in tensors.items():
    if name.startswith(_SLOT):
      others[name.removeprefix(_SLOT)] = array
    else:
      first[name] = array
  return first, traverse_util.unflatten_dict(others, sep='/')


def export_safetensors(
  params: Mapping[str, Any],
  path: str | os.PathLike[str],
  *,
  config: Mapping[str, Any],
  batch_stats: Mapping[str, Any] | None = None,
  slots: Mapping[str, Any] | None = None,
) -> None:
  """Writes parameters to a file, which appears whole or not at all.

  Args:
    params: Nested dictionary of arrays, as in `Imported.params`.
    path: The file to write.
    config: `name`, `scale` and `options` of the model; `import_weights` reads
      them back. `sections` holds further sections of the config, if any.
    batch_stats: Running statistics, if the model has any.
    slots: Parameters of further networks by slot, if inference needs them.

  Raises:
    UserError: The file cannot be written.
  """
  flat = unstack(traverse_util.flatten_dict(params, sep='/'))
  flat |= traverse_util.flatten_dict(batch_stats or {}, sep='/')
  further = traverse_util.flatten_dict(dict(slots or {}), sep='/')
  flat |= {f'{_SLOT}{name}': array for name, array in further.items()}
  metadata = {'format': _FORMAT, 'config': json.dumps(dict(config))}
  contiguous = {name: np.asarray(x, order='C') for name, x in flat.items()}
  with open_atomically(path) as file:
    file.write(safetensors_numpy.save(contiguous, metadata))

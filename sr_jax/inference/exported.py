"""Files that `sr-jax export --to safetensors` wrote, as checkpoints."""

from __future__ import annotations

import os

from flax import traverse_util

from sr_jax import models
from sr_jax.checkpoints import Loaded
from sr_jax.errors import UserError
from sr_jax.inference.stored import check_declared
from sr_jax.weights.formats.safetensors_io import (
  read_safetensors,
  split_slots,
)
from sr_jax.weights.published import import_weights

SUFFIX = '.safetensors'


def read_exported(path: str | os.PathLike[str]) -> Loaded:
  """Reads an exported network, with the config that the file carries.

  Raises:
    UserError: The file is damaged, or was not written by `sr-jax export`.
  """
  tensors, section = read_safetensors(path)
  if not section:
    raise UserError(
      f'{path}: does not say which architecture it belongs to; make a'
      ' checkpoint of it with sr-jax import'
    )
  name, options = section['name'], section['options']
  sections = section.get('sections', {})
  tensors, _ = split_slots(tensors)
  model = {**options, 'name': name, 'scale': section['scale']}
  try:
    nested = traverse_util.unflatten_dict(tensors, sep='/')
    check_declared(
      {'method': {'name': ''}, **sections, 'model': model},
      {'generator': nested},
    )
    method = models.module(name).method(options)
  except UserError as error:
    raise UserError(f'{path}: {error}') from error
  except (AttributeError, LookupError, TypeError, ValueError) as error:
    raise UserError(f'{path}: damaged: {error!r:.200}') from error
  imported = import_weights(path, model=name)
  params = {'generator': imported.params, **imported.slots}
  if imported.batch_stats:
    params['batch_stats'] = imported.batch_stats
  config = {'method': method, **sections, 'model': model}
  return Loaded(config, params, None, None, {})

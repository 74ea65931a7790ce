"""Checksums of arrays and of JSON values, to detect damaged files."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sr_jax.errors import UserError

_KEY = 'checksum'


def of_arrays(tree: Any) -> int:
  """CRC-32 of all arrays of a tree with their names, types and shapes.

  The computation takes about half a second per gigabyte.
  """
  total = 0
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      leaf = jax.random.key_data(leaf)
    array = np.ascontiguousarray(jax.device_get(leaf))
    head = f'{name} {array.dtype} {leaf.shape}'.encode()
    data = array.reshape(-1).view(np.uint8).data
    total = zlib.crc32(data, zlib.crc32(head, total))
  return total


def compare_frozen(
  stored: Mapping[str, int], frozen: Mapping[str, Any]
) -> None:
  """Checks that frozen networks are those with which a run was started.

  Args:
    stored: Checksums of the networks at the start, by slot.
    frozen: The networks that the config gives now, by slot.

  Raises:
    UserError: A network has other weights.
  """
  for slot, checksum in stored.items():
    if checksum != of_arrays(frozen[slot]):
      raise UserError(
        f'config.method.{slot}_from: gives other weights than those with which'
        ' this run was started; give the same file, or use a new workdir'
      )


def seal(value: Mapping[str, Any]) -> dict[str, Any]:
  """Adds the checksum of JSON values to them, under a key of its own."""
  return {**value, _KEY: _of_json(value)}


def intact(value: Mapping[str, Any]) -> bool:
  """Whether JSON values match their checksum; true if they have none."""
  return _KEY not in value or value[_KEY] == _of_json(value)


def _of_json(value: Mapping[str, Any]) -> int:
  kept = {key: item for key, item in value.items() if key != _KEY}
  return zlib.crc32(json.dumps(kept, sort_keys=True).encode())

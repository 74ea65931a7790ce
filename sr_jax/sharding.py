"""Data parallelism: one mesh axis, the state replicated, batches split.

And the processes of a run: how they find each other, and agree on what to do.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Generator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from sr_jax.errors import UserError

DATA = 'data'


def start_processes() -> None:
  """Joins the hosts of a run; call before anything touches a device.

  On TPU pods, Slurm and other clusters that JAX knows nothing needs to be
  set. Elsewhere the environment names the run: JAX_COORDINATOR_ADDRESS
  (host:port of process 0), JAX_NUM_PROCESSES, JAX_PROCESS_ID.

  Raises:
    UserError: the environment names the run only in part or wrongly, or the
      hosts do not find each other.
  """
  names = ('JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID')
  values = [os.environ.get(name) for name in names]
  missing = [n for n, v in zip(names, values, strict=True) if not v]
  if missing and any(values):
    raise UserError(f'multi-host start: set {", ".join(missing)} as well')
  address, count, index = values
  try:
    jax.distributed.initialize(
      address or None,
      int(count) if count else None,
      int(index) if index else None,
    )
  except (ValueError, RuntimeError) as error:
    reason = ' '.join(str(error).split())[:200]
    raise UserError(
      f'multi-host start: {reason}; set {", ".join(names)}'
    ) from error


def make_mesh() -> Mesh:
  """All devices of all processes along one data axis."""
  # Explicit axes, the default, refuse the reshape of a pixel shuffle.
  return jax.make_mesh(
    (jax.device_count(),), (DATA,), axis_types=(AxisType.Auto,)
  )


def replicated(mesh: Mesh) -> NamedSharding:
  """Every device holds the whole array."""
  return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
  """The first axis is divided over the devices."""
  return NamedSharding(mesh, PartitionSpec(DATA))


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
  """Checks that a global batch divides over the devices.

  Raises:
    UserError: it does not.
  """
  if batch_size % mesh.size:
    raise UserError(
      f'config.data.batch_size={batch_size} does not divide over'
      f' {mesh.size} devices; use a multiple of {mesh.size}'
    )


def to_global(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, Any]:
  """This process's rows -> global arrays split over the mesh.

  The one transfer to the devices that a step is meant to make.
  """
  sharding = split(mesh)
  with jax.transfer_guard('allow'):
    return {
      name: jax.make_array_from_process_local_data(sharding, rows)
      for name, rows in batch.items()
    }


@contextlib.contextmanager
def together() -> Generator[dict[str, Any]]:
  """Makes the processes of a run start together or not at all.

  The body prepares this process and fills the dictionary with JSON values that
  must be the same in all processes. If one fails, all end with its error.

  Raises:
    UserError: another process failed, or has other values.
  """
  facts: dict[str, Any] = {}
  fault = None
  try:
    yield facts
  except UserError as error:
    if jax.process_count() == 1:
      raise
    fault = error
  if jax.process_count() == 1:
    return
  said = {'fault': fault and str(fault), 'host': socket.gethostname(), **facts}
  everyone = gathered(said)
  if fault:
    raise fault
  _check_alike(everyone)


def gathered(value: Mapping[str, Any]) -> list[dict[str, Any]]:
  """The JSON values of all processes, in their order."""
  from jax.experimental import multihost_utils

  text = np.frombuffer(json.dumps(value).encode(), np.uint8)
  sizes = multihost_utils.process_allgather(np.int32(text.size))
  padded = np.zeros(int(np.max(sizes)), np.uint8)
  padded[: text.size] = text
  rows = np.asarray(multihost_utils.process_allgather(padded))
  return [
    json.loads(row[:size].tobytes())
    for row, size in zip(rows, np.asarray(sizes), strict=True)
  ]


def _check_alike(everyone: list[dict[str, Any]]) -> None:
  """Compares what the processes of a run are about to do with the first's.

  Raises:
    UserError: one failed, or is about to do something else.
  """
  names = [f'process {i} on {x["host"]}' for i, x in enumerate(everyone)]
  for name, values in zip(names, everyone, strict=True):
    if values['fault']:
      raise UserError(f'{name} cannot start: {values["fault"]}')
  first = everyone[0]
  for name, values in zip(names[1:], everyone[1:], strict=True):
    differing = [
      f'{key} is {values.get(key)!r} there, {first.get(key)!r} in {names[0]}'
      for key in sorted((first.keys() | values.keys()) - {'host'})
      if values.get(key) != first.get(key)
    ]
    if differing:
      raise UserError(
        f'{name} was started differently: {"; ".join(differing[:3])}; start all'
        ' processes with the same code, data and flags'
      )

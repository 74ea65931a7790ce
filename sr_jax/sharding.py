"""Data parallelism: one mesh axis, the state replicated, batches split."""

from __future__ import annotations

import os
from collections.abc import Mapping
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
  """This process's rows -> global arrays split over the mesh."""
  sharding = split(mesh)
  return {
    name: jax.make_array_from_process_local_data(sharding, rows)
    for name, rows in batch.items()
  }

"""Finds the devices of this machine, or says in one line why JAX has none."""

from __future__ import annotations

import jax

from sr_jax.errors import UserError


def find_devices() -> list[jax.Device]:
  """Returns all devices of JAX; call it before the first computation.

  Raises:
    UserError: JAX cannot start, for example with JAX_PLATFORMS=cuda on a
      machine without a GPU.
  """
  try:
    return jax.devices()
  except Exception as error:  # a backend's plugin may raise anything
    reason = ' '.join(str(error).split())[:200] or type(error).__name__
    raise UserError(
      f'JAX cannot start: {reason}; check JAX_PLATFORMS and the installed jax'
    ) from error

"""One implementation for host and device arrays."""

from __future__ import annotations

from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array | np.ndarray


def array_namespace(*arrays: Array) -> ModuleType:
  """`jax.numpy` if any array is a JAX array or tracer, else `numpy`.

  NumPy arrays are computed on the host without compilation, so folders of
  images of many sizes cost no compilations.
  """
  return jnp if any(isinstance(x, jax.Array) for x in arrays) else np

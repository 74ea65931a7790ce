"""`jax.jit` with the compiler options that convolutions need on CPU."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax

# XLA:CPU of jax 0.10 hands convolutions to YNNPACK, whose weight gradients
# are five times slower than those of the default it replaces.
_CPU_OPTIONS = {'xla_cpu_experimental_ynn_fusion_type': ''}


@functools.cache
def _options(backend: str) -> dict[str, str]:
  """Compiler options of a backend, none where this XLA knows them not."""
  if backend != 'cpu':
    return {}
  try:
    jax.jit(lambda x: x, compiler_options=_CPU_OPTIONS)(0.0)
  except jax.errors.JaxRuntimeError:
    return {}
  return _CPU_OPTIONS


def jit(fun: Callable[..., Any], **kwargs: Any) -> Any:
  """`jax.jit(fun, **kwargs)`, with CPU convolutions at full speed."""
  options = _options(jax.default_backend())
  return jax.jit(fun, compiler_options=options or None, **kwargs)

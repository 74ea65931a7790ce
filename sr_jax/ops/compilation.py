"""`jax.jit` with the compiler options that convolutions need on CPU."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax

_CPU_OPTIONS = {
  # XLA:CPU of jax 0.10 hands convolutions to YNNPACK, whose weight gradients
  # are five times slower than those of the default it replaces.
  'xla_cpu_experimental_ynn_fusion_type': '',
  # It drops `optimization_barrier` before it fuses, and with it what `ops.conv`
  # and `ops.relu` gain by one.
  'xla_disable_hlo_passes': 'cse_barrier_expander',
  # oneDNN's convolutions take a quarter less time. Wheels of jaxlib 0.11 on for
  # x86 carry it; those of 0.10 know the option and do nothing.
  'xla_cpu_experimental_onednn_custom_call': True,
}
# Of a program that runs once: initial values of a network in a third the time.
_ONCE = {'xla_backend_optimization_level': 0}


@functools.cache
def _options(backend: str) -> dict[str, Any]:
  """Compiler options of a backend, none where this XLA knows them not."""
  if backend != 'cpu':
    return {}
  try:
    jax.jit(jax.lax.optimization_barrier, compiler_options=_CPU_OPTIONS)(0.0)
  except jax.errors.JaxRuntimeError:
    return {}
  return _CPU_OPTIONS


def jit(fun: Callable[..., Any], *, once: bool = False, **kwargs: Any) -> Any:
  """`jax.jit(fun, **kwargs)`, with CPU convolutions at full speed.

  For `once` compiling is quick and running slow instead, on CPU.
  """
  backend = jax.default_backend()
  options = _ONCE if once and backend == 'cpu' else _options(backend)
  return jax.jit(fun, compiler_options=options or None, **kwargs)

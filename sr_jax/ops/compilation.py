"""`jax.jit` with the compiler options that convolutions need on CPU."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax

_CPU_OPTIONS = {
  # Turns off YNNPACK, to which XLA:CPU of jax 0.10 hands convolutions: its
  # weight gradients are five times slower than those of the older default.
  'xla_cpu_experimental_ynn_fusion_type': '',
  # Turns off the pass that removes `optimization_barrier` before fusion:
  # `ops.conv` and `ops.relu` are faster and smaller because of their barriers.
  'xla_disable_hlo_passes': 'cse_barrier_expander',
  # Turns on oneDNN, whose convolutions take a quarter less time. The x86 wheels
  # of jaxlib contain it from 0.11 on; 0.10 accepts the option without effect.
  'xla_cpu_experimental_onednn_custom_call': True,
}
# Options of programs that run once. With them the initial weights of a network
# are made in a third of the time.
_ONCE = {'xla_backend_optimization_level': 0}


@functools.cache
def _options(backend: str) -> dict[str, Any]:
  """Compiler options of a backend; empty if this XLA does not know them."""
  if backend != 'cpu':
    return {}
  try:
    jax.jit(jax.lax.optimization_barrier, compiler_options=_CPU_OPTIONS)(0.0)
  except jax.errors.JaxRuntimeError:
    return {}
  return _CPU_OPTIONS


def jit(fun: Callable[..., Any], *, once: bool = False, **kwargs: Any) -> Any:
  """`jax.jit(fun, **kwargs)` with CPU convolutions at full speed.

  Args:
    fun: The function to compile.
    once: Whether the program runs once only. On CPU it is then compiled fast,
      with little optimization, and runs slowly.
    **kwargs: Further arguments of `jax.jit`.
  """
  # The options are those of this machine's compiler. A program that is lowered
  # for another platform is not affected.
  backend = jax.default_backend()
  options = _ONCE if once and backend == 'cpu' else _options(backend)
  return jax.jit(fun, compiler_options=options or None, **kwargs)

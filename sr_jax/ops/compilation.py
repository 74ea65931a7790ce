"""`jax.jit` with the compiler options that convolutions need on CPU."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Generator
from typing import Any

import jax
from jax.extend.core import Jaxpr, JaxprEqn, Literal, jaxpr_as_fun

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


def jit(fun: Callable[..., Any], **kwargs: Any) -> Any:
  """`jax.jit(fun, **kwargs)` with CPU convolutions at full speed."""
  # The options are those of this machine's compiler. A program that is lowered
  # for another platform is not affected.
  options = _options(jax.default_backend())
  return jax.jit(fun, compiler_options=options or None, **kwargs)


def call_once(fun: Callable[..., Any], *args: Any) -> Any:
  """`fun(*args)` in little time for a function that is called only once.

  The initial weights of a deep network are many random arrays of few shapes.
  One program for all of them takes minutes to compile. Here every operation is
  a program of its own, which serves all operations of the same kind and shape.
  Operations without influence on the result are left out: initialisation
  follows an image through the network only to learn the shapes.

  Args:
    fun: A function that `jax.jit` could compile.
    *args: Its arguments; none of them is static.
  """
  closed, shapes = jax.make_jaxpr(fun, return_shape=True)(*args)
  operations = _with_influence(closed.jaxpr)
  run = jaxpr_as_fun(
    closed.replace(jaxpr=closed.jaxpr.replace(eqns=operations))
  )
  with _little_optimization():
    leaves = run(*jax.tree.leaves(args))
  return jax.tree.unflatten(jax.tree.structure(shapes), leaves)


def _with_influence(jaxpr: Jaxpr) -> list[JaxprEqn]:
  """The operations whose results the function returns or needs."""
  needed = {x for x in jaxpr.outvars if not isinstance(x, Literal)}
  kept = []
  for operation in reversed(jaxpr.eqns):
    if operation.effects or not needed.isdisjoint(operation.outvars):
      kept.append(operation)
      needed |= {x for x in operation.invars if not isinstance(x, Literal)}
  return kept[::-1]


@contextlib.contextmanager
def _little_optimization() -> Generator[None]:
  """Lets JAX compile for CPU in a third of the time, to slow programs."""
  name = 'jax_disable_most_optimizations'
  before = jax.config.read(name)
  jax.config.update(name, before or jax.default_backend() == 'cpu')
  try:
    yield
  finally:
    jax.config.update(name, before)

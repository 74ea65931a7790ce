"""JAX primitives that are computed differently on CPU than elsewhere."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import mlir


def define(
  name: str, plain: Callable[..., Any], cpu: Callable[..., Any]
) -> Primitive:
  """Defines a primitive that computes one of two functions, by platform.

  The platform is chosen when a program is lowered: a program for a TPU can be
  made on a machine that has none. The caller adds the rules for derivatives and
  `jax.vmap`.

  Args:
    name: Name of the primitive in a jaxpr.
    plain: `(*arrays, **params) -> list of arrays`, for all platforms but CPU.
      The params are hashable.
    cpu: The same function, written for CPU.
  """
  primitive = Primitive(name)
  primitive.multiple_results = True

  @functools.cache
  def compiled(**params: Any) -> Callable[..., Any]:
    return jax.jit(functools.partial(primitive.bind, **params))

  @primitive.def_impl
  def run(*operands: jax.Array, **params: Any) -> Any:
    config: Any = jax.config  # its values have no types
    if config.jax_disable_jit:
      return plain(*operands, **params)
    return compiled(**params)(*operands)

  @functools.lru_cache(4096)
  def types(operands: tuple[Any, ...], **params: Any) -> list[Any]:
    jaxpr = jax.make_jaxpr(functools.partial(plain, **params))(*operands)
    return jaxpr.out_avals

  @primitive.def_abstract_eval
  def abstract(*operands: Any, **params: Any) -> list[Any]:
    return types(operands, **params)

  mlir.register_lowering(primitive, mlir.lower_fun(plain, True))
  mlir.register_lowering(primitive, mlir.lower_fun(cpu, True), platform='cpu')
  return primitive

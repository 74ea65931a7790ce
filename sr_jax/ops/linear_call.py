"""A linear function with a custom transpose, differentiable to any order.

In contrast to `jax.custom_derivatives.linear_call` it supports `jax.vmap`, and
derivatives by arguments in which the function is not linear.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir

PyTree = Any
# `(*residuals, *linear) -> list of arrays`
_Flat = Callable[..., Sequence[Any]]

_linear_call = Primitive('differentiable_linear_call')
_linear_call.multiple_results = True


def linear_call(
  function: Callable[[PyTree, PyTree], PyTree],
  transpose: Callable[[PyTree, PyTree], PyTree],
  residuals: PyTree,
  linear: PyTree,
) -> PyTree:
  """Computes `function(residuals, linear)`; reverse mode runs `transpose`.

  Args:
    function: A function that is linear in its second argument.
    transpose: The transpose of `function` by its second argument. It takes
      (residuals, result) and returns a tree like `linear`.
    residuals: Tree of arrays. Derivatives by them are JAX's own derivatives of
      `function`.
    linear: Tree of arrays, in which `function` is linear.

  Returns:
    The result of `function`.
  """
  given, residual_tree = jax.tree.flatten(residuals)
  moved, linear_tree = jax.tree.flatten(linear)
  count = len(given)
  trees = []

  def forward(*arrays: Any) -> Any:
    first = residual_tree.unflatten(arrays[:count])
    leaves, tree = jax.tree.flatten(
      function(first, linear_tree.unflatten(arrays[count:]))
    )
    trees[:] = [tree]
    return leaves

  def backward(*arrays: Any) -> Any:
    first = residual_tree.unflatten(arrays[:count])
    return jax.tree.leaves(transpose(first, trees[0].unflatten(arrays[count:])))

  ahead = jax.make_jaxpr(forward)(*given, *moved)
  back = jax.make_jaxpr(backward)(*given, *ahead.out_avals)
  # Arrays that the functions close over become residuals too.
  constants = [*ahead.consts, *back.consts]
  split = len(ahead.consts)
  results = _linear_call.bind(
    *constants,
    *given,
    *moved,
    function=_without(ahead, 0, split, len(constants)),
    transpose=_without(back, split, len(constants), len(constants)),
    count=len(constants) + count,
    results=tuple(ahead.out_avals),
  )
  return trees[0].unflatten(results)


def _without(jaxpr: ClosedJaxpr, start: int, stop: int, count: int) -> _Flat:
  """The jaxpr as a function of `count` constants, followed by its operands.

  The constants from `start` to `stop` are those of this jaxpr.
  """

  def call(*arrays: Any) -> Sequence[Any]:
    closed = ClosedJaxpr(jaxpr.jaxpr, list(arrays[start:stop]))
    return jaxpr_as_fun(closed)(*arrays[count:])

  return call


@_linear_call.def_impl
def _run(*operands: Any, function: _Flat, **unused: Any) -> Sequence[Any]:
  del unused
  return jax.jit(function)(*operands)


@_linear_call.def_abstract_eval
def _abstract(*operands: Any, results: Sequence[Any], **unused: Any) -> Any:
  del operands, unused
  return list(results)


def _call(*operands: Any, function: _Flat, **unused: Any) -> Sequence[Any]:
  del unused
  return function(*operands)


mlir.register_lowering(_linear_call, mlir.lower_fun(_call, True))


def _jvp(
  primals: Sequence[Any], tangents: Sequence[Any], **params: Any
) -> tuple[Sequence[Any], Sequence[Any]]:
  count, function = params['count'], params['function']
  terms = []
  linear = tangents[count:]
  if not all(type(t) is ad.Zero for t in linear):
    moved = [ad.instantiate_zeros(t) for t in linear]
    terms.append(_linear_call.bind(*primals[:count], *moved, **params))
  which = [i for i, t in enumerate(tangents[:count]) if type(t) is not ad.Zero]

  def of_residuals(*given: Any) -> Sequence[Any]:
    operands = list(primals)
    for i, x in zip(which, given, strict=True):
      operands[i] = x
    return list(function(*operands))

  if which:
    at, along = ([x[i] for i in which] for x in (primals, tangents))
    terms.append(jax.jvp(of_residuals, at, along)[1])
  sums = [functools.reduce(jnp.add, t) for t in zip(*terms, strict=True)]
  return _linear_call.bind(*primals, **params), sums


def _transpose(
  cotangents: Sequence[Any], *operands: Any, **params: Any
) -> Sequence[Any]:
  count = params['count']
  linear = operands[count:]
  undefined = [ad.is_undefined_primal(x) for x in linear]
  types = [
    x.aval if unknown else jax.typeof(x)
    for x, unknown in zip(linear, undefined, strict=True)
  ]
  results = _linear_call.bind(
    *operands[:count],
    *(ad.instantiate_zeros(ct) for ct in cotangents),
    function=params['transpose'],
    transpose=params['function'],
    count=count,
    results=tuple(types),
  )
  back = [
    x if unknown else None
    for x, unknown in zip(results, undefined, strict=True)
  ]
  return [*[None] * count, *back]


def _batch(
  operands: Sequence[Any], dims: Sequence[int | None], **params: Any
) -> tuple[Sequence[Any], Sequence[int]]:
  count = params['count']
  size = next(
    x.shape[d] for x, d in zip(operands, dims, strict=True) if d is not None
  )
  # All linear operands get a batch axis, so that all results of the transpose
  # have one.
  linear = [
    jnp.broadcast_to(x, (size, *x.shape))
    if d is None
    else jnp.moveaxis(x, d, 0)
    for x, d in zip(operands[count:], dims[count:], strict=True)
  ]
  results = params['results']
  function, transpose = (
    jax.vmap(f, (*dims[:count], *[0] * n))
    for f, n in (
      (params['function'], len(linear)),
      (params['transpose'], len(results)),
    )
  )
  batched = jax.make_jaxpr(function)(*operands[:count], *linear).out_avals
  params = params | {
    'function': function,
    'transpose': transpose,
    'results': tuple(batched),
  }
  out = _linear_call.bind(*operands[:count], *linear, **params)
  return out, [0] * len(out)


ad.primitive_jvps[_linear_call] = _jvp
ad.primitive_transposes[_linear_call] = _transpose
batching.primitive_batchers[_linear_call] = _batch

"""A convolution that JAX can differentiate in both modes, to any order.

The convolution is a JAX primitive, because `jax.custom_vjp`, the usual way to
choose how a gradient is computed, gives up forward mode. The primitive has the
three roles of `sr_jax.ops.conv_forms`. Derivatives of a role are roles again,
so that derivatives of any order are computed by the functions given there. The
platform is chosen when a program is lowered: a program for a TPU can be made on
a machine that has none.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.interpreters import ad, batching

from sr_jax.ops import conv_forms
from sr_jax.ops.conv_forms import Geometry, Shapes, split_rows
from sr_jax.ops.manual_axes import vary_alike
from sr_jax.ops.primitive import define

# The kinds of the operands of each role, and of its result: 'x' is an image,
# given in parts, 'k' a kernel, 'y' a result of the convolution.
_OPERANDS = {'value': 'xk', 'image': 'ky', 'kernel': 'xy'}
_RESULT = {'value': 'y', 'image': 'x', 'kernel': 'k'}
# The axis that two kinds share and the third kind lacks: images of the batch,
# channels of the image, channels of the result.
_SHARED = {
  'xy': {'x': 0, 'y': 0},
  'kx': {'x': -1, 'k': -2},
  'ky': {'k': -1, 'y': -1},
}


def convolve(
  parts: Sequence[jax.Array], kernel: jax.Array, geometry: Geometry
) -> jax.Array:
  """Convolves an image that is given in parts.

  Args:
    parts: Arrays `[B, H, W, C]`, whose channels together are the image's.
    kernel: `[K1, K2, sum of C, C_out]`.
    geometry: Padding, stride and dilation.

  Returns:
    `[B, H', W', C_out]`.
  """
  geometry = geometry._replace(precision=_precision())
  form = functools.partial(_results, conv_forms.PLAIN, role='value')
  operands = vary_alike(*parts, kernel)
  (y,) = jax.eval_shape(
    lambda *a: form(*a, shapes=(), geometry=geometry, tasks=False), *operands
  )
  (y,) = _bind('value', operands, (y.shape,), geometry)
  return y


def convolve_transposed(
  y: jax.Array, kernel: jax.Array, shape: Sequence[int], geometry: Geometry
) -> jax.Array:
  """The transpose of `convolve`; its result is an image of shape `shape`."""
  geometry = geometry._replace(precision=_precision())
  operands = vary_alike(kernel, y)
  (x,) = _bind('image', operands, (tuple(shape),), geometry)
  return x


def _precision() -> str | None:
  config: Any = jax.config  # its values have no types
  return config.jax_default_matmul_precision


def _bind(
  role: str,
  operands: Sequence[Any],
  shapes: Shapes,
  geometry: Geometry,
  tasks: bool = False,
) -> list[Any]:
  """Binds the primitive and returns the results of a role.

  Args:
    role: 'value', 'image' or 'kernel'.
    operands: The operands of this role, see `conv_forms.Form`.
    shapes: Shapes of the results.
    geometry: Padding, stride and dilation.
    tasks: Whether all operands and results have one more leading axis, along
      which each entry is a convolution of its own.
  """
  return _convolution.bind(
    *operands, role=role, shapes=tuple(shapes), geometry=geometry, tasks=tasks
  )


def _results(
  forms: Mapping[str, conv_forms.Form],
  *operands: jax.Array,
  role: str,
  shapes: Shapes,
  geometry: Geometry,
  tasks: bool,
  each: Callable[..., Any] | None = None,
) -> list[jax.Array]:
  """Computes a role by one of `forms`; `each` maps over the tasks."""
  if not tasks:
    return forms[role](operands, shapes, geometry)
  shapes = tuple(shape[1:] for shape in shapes)

  def one(operands: Sequence[jax.Array]) -> list[jax.Array]:
    return forms[role](operands, shapes, geometry)

  return (each or jax.vmap)(one)(operands)


def _one_by_one(function: Callable[..., Any]) -> Callable[..., Any]:
  """Maps in a loop, as XLA:CPU is far slower at grouped convolutions."""
  return functools.partial(jax.lax.map, function)


_plain = functools.partial(_results, conv_forms.PLAIN)
_on_cpu = functools.partial(_results, conv_forms.CPU, each=_one_by_one)


_convolution = define('convolution', _plain, _on_cpu)


def _rows(
  kernel: jax.Array, channels: Sequence[int], kept: Sequence[int]
) -> jax.Array:
  """The kernel's input channels that belong to the kept parts."""
  if len(kept) == len(channels):
    return kernel
  rows = split_rows(kernel, channels)
  return jnp.concatenate([rows[i] for i in kept], -2)


def _spread(
  rows: jax.Array, channels: Sequence[int], kept: Sequence[int]
) -> jax.Array:
  """The transpose of `_rows`: fills zeros in for the other parts."""
  if len(kept) == len(channels):
    return rows
  given = iter(split_rows(rows, [channels[i] for i in kept]))
  shape = [*rows.shape[:-2], 0, rows.shape[-1]]
  return jnp.concatenate(
    [
      next(given)
      if i in kept
      else jnp.zeros((*shape[:-2], n, shape[-1]), rows.dtype)
      for i, n in enumerate(channels)
    ],
    -2,
  )


def _linear_in_image(
  role: str,
  parts: Sequence[Any],
  channels: Sequence[int],
  other: Any,
  shapes: Shapes,
  *rest: Any,
) -> list[Any]:
  """Computes a role without the parts of the image that are symbolic zeros.

  Returns:
    The results of the role; an empty list if all parts are zero.
  """
  kept = [i for i, x in enumerate(parts) if type(x) is not ad.Zero]
  if not kept:
    return []
  given = [parts[i] for i in kept]
  if role == 'value':
    rows = _rows(other, channels, kept)
    return _bind(role, (*given, rows), shapes, *rest)
  (shape,) = shapes
  width = sum(channels[i] for i in kept)
  shapes = ((*shape[:-2], width, shape[-1]),)
  (rows,) = _bind(role, (*given, other), shapes, *rest)
  return [_spread(rows, channels, kept)]


def _jvp(
  primals: Sequence[Any],
  tangents: Sequence[Any],
  *,
  role: str,
  shapes: Shapes,
  geometry: Geometry,
  tasks: bool,
) -> tuple[list[Any], list[Any]]:
  rest = (shapes, geometry, tasks)
  terms = []
  if role == 'image':
    (kernel, y), (dk, dy) = primals, tangents
    if type(dk) is not ad.Zero:
      terms.append(_bind(role, (dk, y), *rest))
    if type(dy) is not ad.Zero:
      terms.append(_bind(role, (kernel, dy), *rest))
  else:
    (*parts, other), (*moved, d_other) = primals, tangents
    channels = [x.shape[-1] for x in parts]
    terms.append(_linear_in_image(role, moved, channels, other, *rest))
    if type(d_other) is not ad.Zero:
      terms.append(_bind(role, (*parts, d_other), *rest))
  terms = [term for term in terms if term]
  return _bind(role, primals, *rest), [
    sum(t[1:], t[0]) for t in zip(*terms, strict=True)
  ]


ad.primitive_jvps[_convolution] = _jvp


def _transpose(
  cotangents: Sequence[Any],
  *operands: Any,
  role: str,
  shapes: Shapes,
  geometry: Geometry,
  tasks: bool,
) -> list[Any]:
  """Cotangents of the linear operands, None for the others."""
  rest = (geometry, tasks)
  linear = [ad.is_undefined_primal(x) for x in operands]
  shape: Any = operands[-1].aval.shape if linear[-1] else None
  if all(type(ct) is ad.Zero for ct in cotangents):
    return [None] * len(operands)
  if role == 'image':
    channels = [s[-1] for s in shapes]
    if linear[0]:
      to, other, shape = 'kernel', operands[1], operands[0].aval.shape
    else:
      to, other = 'value', operands[0]
    (result,) = _linear_in_image(
      to, cotangents, channels, other, (shape,), *rest
    )
    return [result, None] if linear[0] else [None, result]
  *parts, other = operands
  (ct,) = cotangents
  if linear[-1]:
    to = 'kernel' if role == 'value' else 'value'
    return [*[None] * len(parts), *_bind(to, (*parts, ct), (shape,), *rest)]
  kept = [i for i, is_linear in enumerate(linear) if is_linear]
  kernel, y = (other, ct) if role == 'value' else (ct, other)
  of = [x.aval.shape if ad.is_undefined_primal(x) else x.shape for x in parts]
  rows = _rows(kernel, [s[-1] for s in of], kept)
  moved = iter(_bind('image', (rows, y), tuple(of[i] for i in kept), *rest))
  return [next(moved) if i in kept else None for i in range(len(operands))]


ad.primitive_transposes[_convolution] = _transpose


def _batch(
  operands: Sequence[Any],
  dims: Sequence[int | None],
  *,
  role: str,
  shapes: Shapes,
  geometry: Geometry,
  tasks: bool,
) -> tuple[list[Any], list[int]]:
  """The `vmap` rule.

  If an operand is shared, the batch axis is merged into an axis of the other
  operand and of the result. Otherwise each entry becomes a task.
  """
  size = next(
    x.shape[d] for x, d in zip(operands, dims, strict=True) if d is not None
  )
  kinds = _OPERANDS[role].replace('x', 'x' * (len(operands) - 1))
  if role == 'image':
    kinds = _OPERANDS[role]
  batched = {k for k, d in zip(kinds, dims, strict=True) if d is not None}
  front = [
    jnp.moveaxis(x, d, 0)
    if d is not None
    else (jnp.broadcast_to(x[None], (size, *x.shape)) if k in batched else x)
    for x, d, k in zip(operands, dims, kinds, strict=True)
  ]
  parts = max(len(shapes), kinds.count('x'))
  pair = ''.join(sorted({*batched, _RESULT[role]}))
  if len(batched) == 2 or (pair == 'kx' and parts > 1):
    return _batch_as_tasks(
      front, kinds, batched, size, role, shapes, geometry, tasks
    )
  (kind,) = batched
  axes = _SHARED[pair]
  offset = int(tasks)

  def axis_of(kind: str) -> int:
    axis = axes[kind]
    return axis + offset if axis >= 0 else axis

  folded = [
    _fold(x, axis_of(kind)) if k == kind else x
    for x, k in zip(front, kinds, strict=True)
  ]
  axis = axis_of(_RESULT[role]) % len(shapes[0])
  widened = tuple((*s[:axis], size * s[axis], *s[axis + 1 :]) for s in shapes)
  results = _bind(role, folded, widened, geometry, tasks)
  return [
    y.reshape(*s[:axis], size, *s[axis:])
    for y, s in zip(results, shapes, strict=True)
  ], [axis] * len(shapes)


def _fold(x: jax.Array, axis: int) -> jax.Array:
  """Merges the first axis into axis number `axis` of the others."""
  axis %= x.ndim - 1
  x = jnp.moveaxis(x, 0, axis)
  return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])


def _batch_as_tasks(
  operands: Sequence[jax.Array],
  kinds: str,
  batched: set[str],
  size: int,
  role: str,
  shapes: Shapes,
  geometry: Geometry,
  tasks: bool,
) -> tuple[list[Any], list[int]]:
  every = [
    x if k in batched else jnp.broadcast_to(x[None], (size, *x.shape))
    for x, k in zip(operands, kinds, strict=True)
  ]
  shapes = tuple((size, *s) for s in shapes)
  flat = shapes
  if tasks:
    every = [x.reshape(-1, *x.shape[2:]) for x in every]
    flat = tuple((s[0] * s[1], *s[2:]) for s in shapes)
  results = _bind(role, every, flat, geometry, True)
  return [y.reshape(s) for y, s in zip(results, shapes, strict=True)], [
    0
  ] * len(shapes)


batching.primitive_batchers[_convolution] = _batch

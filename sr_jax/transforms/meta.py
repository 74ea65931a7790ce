"""Meta-learning as function transforms, for any loss and any pytree.

The inner loop (`adapt`) fits parameters to one task by a few gradient steps.
The outer loss (`meta_loss`) measures how well the fitted parameters do on other
data of the same task. It is differentiated through the inner loop (MAML: Finn
et al., ICML 2017; for SR: Soh et al., CVPR 2020, Algorithm 1).

Exact outer gradients need Hessian-vector products of the inner loss. Computed
in the usual way, in reverse mode over reverse mode, they cost two to three
times as much as in forward mode over reverse mode. As the Hessian is symmetric,
the second way gives the same result. `curvature_grad` is a gradient with this
rule, so everything built on it is cheap to differentiate. (The idea is known as
mixed-mode
differentiation: "MixFlow-MG", 2025.)
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.ad_checkpoint import checkpoint_name
from jax.custom_derivatives import SymbolicZero
from jax.sharding import Mesh, PartitionSpec

from sr_jax.ops.linear_call import linear_call
from sr_jax.typing import LossFn

PyTree = Any
Order = Literal['exact', 'first']
TaskAxis = Literal['map', 'vmap', 'unroll']

_INNER_GRADIENT = 'inner_gradient'
# For the outer gradient an inner step keeps only its parameters and its
# gradient. Everything else, such as the activations of the query loss, is
# computed again.
_LEAN = jax.checkpoint_policies.save_only_these_names(_INNER_GRADIENT)


def curvature_grad(loss_fn: LossFn) -> Callable[..., PyTree]:
  """Returns `jax.grad(loss_fn)`, whose own reverse mode is a forward pass.

  Args:
    loss_fn: `(params, *args) -> scalar`, twice differentiable.

  Returns: `(params, *args) -> gradient` with respect to params. It is
  differentiable, in both modes and to any order, with respect to params, to the
  floating-point leaves of args and to arrays that loss_fn closes over.

  Example:
    >>> def loss(x, scale):
    ...   return (scale * x**3).sum()
    >>> gradient = curvature_grad(loss)
    >>> jax.grad(lambda x: gradient(x, 2.0).sum())(jnp.asarray([1.0, 2.0]))
    Array([12., 24.], dtype=float32)
  """
  return lambda params, *args: _value_and_grad(loss_fn, params, *args)[1]


def _value_and_grad(loss_fn: LossFn, params: PyTree, *args: Any) -> Any:
  """Returns value and gradient as `curvature_grad`; the value is constant."""
  # Arrays that loss_fn closes over become arguments, so that derivatives with
  # respect to them are seen.
  loss_fn, hidden = jax.closure_convert(loss_fn, params, *args)
  return _curvature_value_and_grad(loss_fn)(params, *args, *hidden)


def _curvature_value_and_grad(loss_fn: LossFn) -> Callable[..., Any]:
  """Makes `_value_and_grad` of a loss that closes over no arrays."""

  @jax.custom_jvp
  def value_and_grad(params: PyTree, *args: Any) -> tuple[jax.Array, PyTree]:
    return jax.value_and_grad(loss_fn)(params, *args)

  def jvp(primals: Any, tangents: Any) -> tuple[Any, Any]:
    value, grads = value_and_grad(*primals)
    leaves, treedef = jax.tree.flatten(primals)
    moved = dict(enumerate(treedef.flatten_up_to(tangents)))
    # The tangents of integers, and of values that are not differentiated, are
    # symbolic zeros.
    moved = {i: t for i, t in moved.items() if not isinstance(t, SymbolicZero)}
    weights, grad_tree = jax.tree.flatten(grads)

    def loss(leaves: Sequence[Any]) -> jax.Array:
      return loss_fn(*treedef.unflatten(leaves))

    def gradients(
      by: Sequence[int], of: Sequence[int], leaves: Sequence[Any]
    ) -> Callable[[Sequence[Any]], list[Any]]:
      """Gradient with respect to leaves `by`, as a function of leaves `of`."""

      def function(values: Sequence[Any]) -> list[Any]:
        now = _replaced(leaves, of, values)
        at = [now[i] for i in by]
        return jax.grad(lambda x: loss(_replaced(now, by, x)))(at)

      return function

    params = range(len(weights))  # the first leaves
    which = list(moved)

    def forward(leaves: Sequence[Any], along: Sequence[Any]) -> list[Any]:
      function = gradients(params, which, leaves)
      return jax.jvp(function, ([leaves[i] for i in which],), (along,))[1]

    # Second derivatives are symmetric. The change of the gradients with respect
    # to `moved`, along a cotangent, is therefore the product that reverse mode
    # needs.
    def backward(leaves: Sequence[Any], cotangent: Sequence[Any]) -> list[Any]:
      function = gradients(which, params, leaves)
      return jax.jvp(function, ([leaves[i] for i in params],), (cotangent,))[1]

    change = linear_call(forward, backward, leaves, list(moved.values()))
    return (value, grads), (jnp.zeros_like(value), grad_tree.unflatten(change))

  value_and_grad.defjvp(jvp, symbolic_zeros=True)
  return value_and_grad


def _replaced(
  leaves: Sequence[Any], which: Sequence[int], values: Sequence[Any]
) -> list[Any]:
  """Returns the leaves with new values at some places."""
  leaves = list(leaves)
  for i, value in zip(which, values, strict=True):
    leaves[i] = value
  return leaves


class Adapted(NamedTuple):
  """Result of an inner loop.

  Attributes:
    params: Parameters after the last step.
    losses: Inner loss before each step, `[steps]`; it has no derivative.
    observed: `observe(params)` after each step, stacked; None without
      `observe`.
  """

  params: PyTree
  losses: jax.Array
  observed: PyTree


def adapt(
  loss_fn: LossFn,
  params: PyTree,
  batch: PyTree,
  *,
  steps: int,
  learning_rates: PyTree = 1.0,
  optimizer: optax.GradientTransformation | None = None,
  order: Order = 'exact',
  observe: Callable[[PyTree], PyTree] | None = None,
  unroll: int | bool = 1,
  policy: Callable[..., Any] | None = _LEAN,
) -> Adapted:
  """Fits parameters to a batch by gradient steps (the inner loop).

  theta_{j+1} = theta_j + rate_j * optimizer(gradient of loss_fn at theta_j)

  Args:
    loss_fn: `(params, batch) -> scalar`.
    params: Initial parameters.
    batch: Data of all steps.
    steps: Number of steps; 0 returns `params`.
    learning_rates: Factor of the optimizer's updates: a number, one number per
      step, or a tree like `params` whose leaves have a leading axis of steps (a
      rate per layer and step as in MAML++, or per weight as in Meta-SGD). It
      may be differentiated.
    optimizer: Any optax optimizer. The default is `optax.sgd(1.0)`, with which
      the rates are plain learning rates.
    order: 'exact' differentiates the inner gradients as well, 'first' treats
      them as constants (first-order MAML).
    observe: Function of the parameters, evaluated after every step.
    unroll: Number of steps per iteration of the scan; True unrolls all steps.
    policy: Policy for `jax.checkpoint`: the values that each step keeps for the
      outer gradient. None keeps everything.

  Raises:
    ValueError: The order is unknown, the number of steps is negative, or the
      rates do not fit the parameters.
  """
  if order not in ('exact', 'first'):
    raise ValueError(f"order must be 'exact' or 'first', not {order!r}")
  if steps < 0:
    raise ValueError(f'steps must be 0 or more, not {steps}')
  optimizer = optax.sgd(1.0) if optimizer is None else optimizer
  step = _inner_step(loss_fn, batch, optimizer, order, observe)
  body = step if policy is None else jax.checkpoint(step, policy=policy)
  (params, _), (losses, observed) = jax.lax.scan(
    body,
    (params, optimizer.init(params)),
    _per_step(learning_rates, params, steps),
    length=steps,
    unroll=unroll,
  )
  return Adapted(params, losses, observed)


def _inner_step(
  loss_fn: LossFn,
  batch: PyTree,
  optimizer: optax.GradientTransformation,
  order: Order,
  observe: Callable[[PyTree], PyTree] | None,
) -> Callable[..., tuple[Any, Any]]:
  """Makes one step of `adapt`, for `jax.lax.scan`."""

  def step(carry: tuple[PyTree, PyTree], rates: PyTree) -> tuple[Any, Any]:
    params, opt_state = carry
    loss, grads = _value_and_grad(loss_fn, params, batch)
    grads = checkpoint_name(grads, _INNER_GRADIENT)
    if order == 'first':
      grads = jax.lax.stop_gradient(grads)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    params = jax.tree.map(
      lambda p, u, r: p + (r * u).astype(p.dtype), params, updates, rates
    )
    seen = None if observe is None else observe(params)
    return (params, opt_state), (loss, seen)

  return step


def _per_step(rates: PyTree, params: PyTree, steps: int) -> PyTree:
  """Brings rates into the form of `params`, with leaves `[steps, ...]`."""
  leaves = jax.tree.leaves(rates)
  alike = jax.tree.structure(rates) == jax.tree.structure(params)
  if alike and all(jnp.ndim(leaf) for leaf in leaves):
    for leaf, of in zip(leaves, jax.tree.leaves(params), strict=True):
      if not _fits(jnp.shape(leaf), jnp.shape(of), steps):
        raise ValueError(
          f'learning_rates of shape {jnp.shape(leaf)} do not fit {steps} steps'
          f' of parameters of shape {jnp.shape(of)}'
        )
    return rates
  try:
    flat = jnp.asarray(rates, jnp.result_type(float))
  except TypeError:  # a tree
    flat = None
  if flat is None or flat.shape not in ((), (steps,)):
    raise ValueError(
      f'learning_rates: give one number, {steps} of them, or a tree like params'
      ' whose leaves have a leading axis of steps'
    )
  each = jnp.broadcast_to(flat, (steps,))
  return jax.tree.map(lambda _: each, params)


def _fits(rates: tuple[int, ...], leaf: tuple[int, ...], steps: int) -> bool:
  """Whether there is one rate per step for the leaf, or for parts of it."""
  each = rates[1:] or (1,) * len(leaf)
  alike = len(each) == len(leaf) and rates[0] == steps
  return alike and all(r in (1, n) for r, n in zip(each, leaf, strict=True))


def learned_rates(
  params: PyTree, steps: int, rate: float, *, per: Literal['layer', 'weight']
) -> PyTree:
  """Makes initial inner rates, which are trained with the parameters.

  Args:
    params: The parameters that get rates.
    steps: Number of inner steps; each has its own rates.
    rate: Initial value of all rates.
    per: 'layer' makes one rate per leaf (LSLR: Antoniou et al., "How to train
      your MAML", ICLR 2019), 'weight' one per number (Meta-SGD: Li et al.,
      2017).

  Returns:
    A tree like `params` with leaves `[steps]` or `[steps, ...]`.
  """
  if per not in ('layer', 'weight'):
    raise ValueError(f"per must be 'layer' or 'weight', not {per!r}")

  def rates(leaf: jax.Array) -> jax.Array:
    shape = leaf.shape if per == 'weight' else ()
    return jnp.full((steps, *shape), rate, leaf.dtype)

  return jax.tree.map(rates, params)


def multi_step_weights(
  step: int | jax.Array, steps: int, *, saturate_at: float = 9700 / 3
) -> jax.Array:
  """Returns the weights of the query losses after each inner step.

  At the start of training all weights are 1 / steps. Those of the earlier inner
  steps fall linearly to 3 % of this, and that of the last step grows by as
  much. This is the multi-step loss of MAML++ with the numbers of MZSR: with
  five steps the weights are 0.2 at first, and 0.006 and 0.976 in the end.

  Args:
    step: Number of the outer step, which may be traced.
    steps: Number of inner steps.
    saturate_at: Outer step after which the weights no longer change.

  Returns:
    The weights `[steps]`, whose sum is 1.
  """
  progress = jnp.clip(step / saturate_at, 0.0, 1.0)
  early = (1 - 0.97 * progress) / steps
  last = 1 - (steps - 1) * early
  return jnp.full((steps,), early).at[-1].set(last)


def uniform_weights(steps: int) -> jax.Array:
  """Returns equal weights, with which MZSR's released models were trained."""
  return jnp.full((steps,), 1 / steps)


def meta_loss(
  loss_fn: LossFn,
  params: PyTree,
  support: PyTree,
  query: PyTree,
  weights: jax.Array,
  **options: Any,
) -> tuple[jax.Array, Adapted]:
  """Computes the outer loss of one task.

  It is a weighted sum of the query losses after each inner step: sum_j w_j
  L_query(theta_j), where theta_j are the parameters after j steps on the
  support data (Soh et al., equation 6).

  Args:
    loss_fn: `(params, batch) -> scalar`, the loss of both loops.
    params: Initial parameters of the inner loop; the outer gradient is that
      with respect to them.
    support: Batch of the inner loop.
    query: Batch of the outer loss.
    weights: One weight for each inner step, `[steps]`.
    **options: Options of `adapt`, such as `learning_rates`.

  Returns:
    The outer loss, and the result of the inner loop, whose `observed` are the
    query losses.
  """
  adapted = adapt(
    loss_fn,
    params,
    support,
    steps=weights.shape[0],
    observe=lambda fitted: loss_fn(fitted, query),
    **options,
  )
  return jnp.vdot(weights, adapted.observed), adapted


def mean_over_tasks(
  task_fn: Callable[[PyTree, PyTree], PyTree],
  *,
  axis: TaskAxis,
  mesh: Mesh | None = None,
) -> Callable[[PyTree, PyTree], PyTree]:
  """Makes the mean of `task_fn(shared, task)` over all tasks.

  If `task_fn` returns the gradients of one task, the mean gradient is computed
  in one pass over the tasks, and nothing has to be kept for a second one.

  Args:
    task_fn: `(shared, task) -> tree of arrays`.
    axis: 'map' computes one task after the other in a loop, 'unroll' does so
      without a loop, 'vmap' computes all at once. As fitted weights differ by
      task, 'vmap' makes convolutions grouped, which is slow on CPU and not
      measured elsewhere.
    mesh: The tasks are divided among the devices of its only axis
      (`shard_map`).

  Returns:
    `(shared, tasks) -> tree`, which takes the tasks stacked along their first
    axis.

  Raises:
    ValueError: The axis is unknown. The returned function raises it if the
      tasks cannot be divided evenly among the devices.
  """
  if axis not in ('map', 'vmap', 'unroll'):
    raise ValueError(f"axis must be 'map', 'vmap' or 'unroll', not {axis!r}")

  def mean(shared: PyTree, tasks: PyTree) -> PyTree:
    one = functools.partial(task_fn, shared)
    if axis == 'vmap':
      stacked = jax.vmap(one)(tasks)
    elif axis == 'map':
      stacked = jax.lax.map(one, tasks)
    else:
      count = len(jax.tree.leaves(tasks)[0])
      each = [
        one(jax.tree.map(lambda x, i=i: x[i], tasks)) for i in range(count)
      ]
      stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *each)
    return jax.tree.map(lambda x: x.mean(0), stacked)

  if mesh is None:
    return mean
  (name,) = mesh.axis_names

  def shard(shared: PyTree, tasks: PyTree) -> PyTree:
    return jax.lax.pmean(mean(shared, tasks), name)

  # The values of inner loops are equal on all devices at first and differ
  # later, which JAX's check of replication would refuse.
  return jax.shard_map(
    shard,
    mesh=mesh,
    in_specs=(PartitionSpec(), PartitionSpec(name)),
    out_specs=PartitionSpec(),
    check_vma=False,
  )

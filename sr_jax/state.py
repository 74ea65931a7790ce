"""The one pytree that a training run carries from step to step."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from sr_jax.errors import UserError

_log = logging.getLogger(__name__)

PyTree = Any
EMPTY: Mapping[str, Any] = MappingProxyType({})


class TrainState(flax.struct.PyTreeNode):
  """Everything a step reads and writes; donated to it, saved as it is.

  Attributes:
    step: Updates done so far, int32 scalar.
    key: PRNG key of the run; a step draws from `fold_in(key, step)`.
    params: Parameters by slot; `generator` always holds the SR network, or
      the ranker where that alone is trained.
    opt_state: Optimizer states by the same slots.
    model_state: Non-trainable collections by slot (batch statistics).
    frozen: Parameters that no step changes (VGG, a ranker). They live here,
      not in closures, because a closure copies them into the program.
  """

  step: jax.Array
  key: jax.Array
  params: dict[str, PyTree]
  opt_state: dict[str, PyTree]
  model_state: dict[str, PyTree] = flax.struct.field(default_factory=dict)
  frozen: dict[str, PyTree] = flax.struct.field(default_factory=dict)

  def step_key(self) -> jax.Array:
    """Key of the current step: a resumed step draws the same noise."""
    return jax.random.fold_in(self.key, self.step)

  def with_statistics(self, new: dict[str, PyTree]) -> TrainState:
    """The state with new running statistics, each slot's only where finite.

    An image that overflows the network makes its gradients NaN, and their
    update is skipped; its statistics must not stay either.
    """
    kept = {}
    for slot, tree in new.items():
      if tree:
        finite = all_finite(tree)
        kept[slot] = jax.tree.map(
          lambda after, before, finite=finite: jnp.where(finite, after, before),
          *(tree, self.model_state[slot]),
        )
    return self.replace(model_state=kept)


def start_from(params: PyTree, pretrained: PyTree) -> PyTree:
  """`params` with the pretrained leaves whose path and shape agree.

  The others keep their fresh values, and a warning names the first of them: the
  tail of a x4 model that starts from x2 weights.

  Raises:
    UserError: next to nothing agrees.
  """
  if not pretrained:
    return params
  given = dict(jax.tree_util.tree_leaves_with_path(pretrained))
  fitting, fresh_ones = 0, []

  def pick(path: Any, fresh: jax.Array) -> jax.Array:
    nonlocal fitting
    value = given.get(path)
    if value is not None and value.shape == fresh.shape:
      fitting += fresh.size
      return jnp.asarray(value, fresh.dtype)
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    fresh_ones.append(name)
    return fresh

  started = jax.tree_util.tree_map_with_path(pick, params)
  if fresh_ones:
    count, first = len(fresh_ones), ', '.join(fresh_ones[:3])
    more = f' and {count - 3} more' if count > 3 else ''
    _log.warning('init_from: %s%s keep their fresh values', first, more)
  total = sum(leaf.size for leaf in jax.tree.leaves(params))
  if fitting < total / 100:
    raise UserError(
      f'config.checkpoint.init_from: only {fitting:,} of {total:,} parameters'
      ' fit this model; choose a checkpoint of the same architecture'
    )
  return started


def place_frozen(
  frozen: Mapping[str, PyTree], like: TrainState
) -> dict[str, PyTree]:
  """Frozen networks on the devices, in buffers that a step may be donated.

  Args:
    frozen: By slot.
    like: Abstract state whose shardings they get.
  """

  def place(leaf: Any, abstract: Any) -> jax.Array:
    sharding = getattr(abstract, 'sharding', None)
    return jax.device_put(leaf, sharding, may_alias=False)

  return jax.tree.map(place, dict(frozen), like.frozen)


def check_frozen(frozen: Mapping[str, PyTree], slots: Sequence[str]) -> None:
  """Refuses frozen networks other than those that a method trains against.

  Raises:
    UserError: a slot is missing, or the method has no use for it. Training
      against fresh weights instead would seem to work.
  """
  if unlike := sorted(set(slots) ^ set(frozen)):
    what = 'is missing' if unlike[0] in slots else 'is not used'
    raise UserError(
      f'the frozen network {unlike[0]!r} {what}: pass Method.frozen() to'
      ' Method.init'
    )


def all_finite(tree: PyTree) -> jax.Array:
  """Whether no leaf holds NaN or infinity, as a boolean scalar.

  Leaves of one shape are looked at together. A look at each leaf of a large
  network would make half of the program of a training step, which would take
  twice as long to compile.

  XLA may merge an answer that is cheap to compute into each of its uses. Here
  that would be the flags of all leaves, at the update of each leaf: programs
  that take minutes to compile. A barrier keeps the answer whole.
  """
  finite: dict[tuple[int, ...], jax.Array] = {}
  for leaf in jax.tree.leaves(tree):
    if jnp.issubdtype(leaf.dtype, jnp.inexact):
      here = jnp.isfinite(leaf)
      finite[leaf.shape] = finite.get(leaf.shape, True) & here
  if not finite:
    return jnp.array(True)
  flags = jnp.stack([here.all() for here in finite.values()])
  return jax.lax.optimization_barrier(flags.all())

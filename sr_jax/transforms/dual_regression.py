"""Dual regression: SR closed to a loop (Guo et al., CVPR 2020).

A primal map P takes LR to HR, a dual map D takes HR back to LR. Beside

  primary   distance(P(x), y)        which needs pairs (x, y),

the loop x -> P(x) -> D(P(x)) gives

  dual      distance(D(P(x)), x)     which needs x alone.

It narrows the space of maps P that fit the pairs, and lets P learn from LR
images that have no HR (equation 2 and Algorithm 1 of the paper). Nothing here
knows of networks: P and D are functions, their parameters are in closures.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Array = Any


class Terms(NamedTuple):
  """The parts of the loss, before their weights; zero where turned off.

  Attributes:
    primary: Outputs against the targets of their size.
    dual: What the dual maps make of outputs, against the smaller targets.
    cycle: P(D(y)) against y, the loop that starts from HR.
  """

  primary: jax.Array
  dual: jax.Array
  cycle: jax.Array


def closed_loop(
  primal: Callable[[Array], Sequence[Array]],
  duals: Sequence[Callable[[Array], Array]],
  *,
  distance: Callable[[Array, Array], Array],
  dual_weight: float = 0.1,
  hr_cycle: bool = False,
  compose: bool = False,
) -> Callable[..., tuple[jax.Array, Terms]]:
  """The loss of a primal and its dual maps.

  Images have levels, from LR (0) to HR (the last). All terms are sums over
  levels of means over samples.

  Args:
    primal: LR -> its outputs, small to large and SR last, at the upper levels;
      some networks give SR alone, others an output at LR size as well.
    duals: `duals[i]` maps level i + 1 to level i.
    distance: Of two images of equal shape, one sample each.
    dual_weight: Factor of the dual terms; 0 leaves them out.
    hr_cycle: Whether the loop from HR is added, with the same factor. The
      paper finds little gain in it, for twice the cost.
    compose: Whether outputs are taken down to LR size by all duals below them,
      and compared with LR, instead of with the target one level below. Samples
      without HR have no other target.

  Returns:
    `loss(targets, labelled=None) -> (total, terms)`: targets `[B, ...]`, LR
    first and HR last, one per level; labelled `[B]` booleans, false for samples
    of which only LR exists: what else their targets hold has no effect.
  """
  mean = functools.partial(_mean, distance)

  def dual_term(
    output: Array, level: int, targets: Sequence[Array], known: Array | None
  ) -> jax.Array:
    below = level - 1
    if compose:
      return mean(_to_lr(duals, output, level), targets[0])
    mask = known if below else None
    return mean(duals[below](output), targets[below], mask)

  def loss(
    targets: Sequence[Array], labelled: Array | None = None
  ) -> tuple[jax.Array, Terms]:
    outputs, top = primal(targets[0]), len(targets) - 1
    if dual_weight and len(duals) != top:
      raise ValueError(f'{len(duals)} dual maps for {top} levels above LR')
    primary = dual = cycle = jnp.zeros(())
    for level, output in enumerate(outputs, top + 1 - len(outputs)):
      primary += mean(output, targets[level], labelled)
      if dual_weight and level:
        dual += dual_term(output, level, targets, labelled)
    if dual_weight and hr_cycle:
      hr = targets[-1]
      cycle += mean(primal(_to_lr(duals, hr, top))[-1], hr, labelled)
    total = primary + dual_weight * (dual + cycle)
    return total, Terms(primary, dual, cycle)

  return loss


def _to_lr(
  duals: Sequence[Callable[[Array], Array]], image: Array, level: int
) -> Array:
  """An image of some level, taken down to LR size by all duals below it."""
  for dual in reversed(duals[:level]):
    image = dual(image)
  return image


def _mean(
  distance: Callable[[Array, Array], Array],
  a: Array,
  b: Array,
  mask: Array | None = None,
) -> jax.Array:
  """Mean distance of all samples; those outside the mask count as zero."""
  each = jax.vmap(distance)(a, b)
  return jnp.mean(each if mask is None else jnp.where(mask, each, 0.0))

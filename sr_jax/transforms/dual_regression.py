"""Dual regression: SR and reduction as a cycle (Guo et al., CVPR 2020).

A primal map P takes LR to HR, and a dual map D takes HR back to LR. The loss

  primary   distance(P(x), y)

needs pairs (x, y). The cycle x -> P(x) -> D(P(x)) adds a loss

  dual      distance(D(P(x)), x)

that needs only x. It restricts the maps P that fit the pairs, and lets P learn
from LR images without HR (equation 2 and Algorithm 1 of the paper). The code is
independent of networks: P and D are functions, with their parameters in
closures.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Array = Any


class Terms(NamedTuple):
  """The unweighted terms of the loss; a term that is turned off is zero.

  Attributes:
    primary: Distances of outputs to the targets of their size.
    dual: Distances of the dual maps' results to the smaller targets.
    cycle: Distance of P(D(y)) to y: the cycle that starts from HR.
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
  """Makes the loss of a primal map and its dual maps.

  Images have levels, from LR (0) to HR (the last). All terms are sums over
  levels of means over samples.

  Args:
    primal: Maps LR to outputs of rising size, the last of which is SR. They
      belong to the highest levels: some networks return SR alone, others also
      an output of LR size.
    duals: `duals[i]` maps level i + 1 to level i.
    distance: Distance of two images of equal shape, without a batch axis.
    dual_weight: Factor of the dual terms; 0 leaves them out.
    hr_cycle: Whether the cycle from HR is added, with the same factor. In the
      paper it gains little, at twice the cost.
    compose: Whether all dual maps below an output are applied to it, and the
      result is compared with LR. Otherwise one dual map is applied, and the
      result is compared with the target one level below. Samples without HR
      need `compose`, because they have no other target than LR.

  Returns:
    `loss(targets, labelled=None) -> (total, terms)`. `targets` holds `[B, ...]`
    for each level, from LR to HR. `labelled` holds `[B]` booleans, false for
    samples without HR; only their LR target is used.
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
  """Reduces an image of some level to LR size by all dual maps below it."""
  for dual in reversed(duals[:level]):
    image = dual(image)
  return image


def _mean(
  distance: Callable[[Array, Array], Array],
  a: Array,
  b: Array,
  mask: Array | None = None,
) -> jax.Array:
  """Mean distance over all samples; samples outside the mask count as zero."""
  each = jax.vmap(distance)(a, b)
  return jnp.mean(each if mask is None else jnp.where(mask, each, 0.0))

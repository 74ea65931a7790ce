"""Adversarial training: one step of a generator and its discriminators.

A generator G with parameters theta and discriminators D with parameters phi
play a game (Goodfellow et al., NeurIPS 2014):

  theta <- theta - rate * d/dtheta [content(G) + weight * generator(D(y), D(G))]
  phi   <- phi   - rate * d/dphi   [discriminator(D(y), D(G))]

Both gradients are taken at the old parameters and come from one forward pass of
each network: G makes its outputs once, D judges them once, and each loss is
pulled back along the one path that it may take. The generator's loss goes
through D into the outputs, never into phi; the discriminator's goes into phi,
never into the outputs. Nothing here knows of networks or images: G and D are
functions, and `outputs` is any pytree that G makes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sr_jax.losses.adversarial import Game, accuracy

PyTree = Any
Values = dict[str, jax.Array]


class Critic(NamedTuple):
  """A discriminator with its losses.

  Attributes:
    judge: `(phi, outputs) -> ((real, fake), aux)`: the logits `[B, ...]` of
      real images, which the function holds, and of the generator's outputs.
      aux, such as running statistics, is returned in the report.
    game: The losses of generator and discriminator.
    weight: Weight of the game in the generator's loss.
    penalty: `(phi, outputs) -> value`, added to the discriminator's loss.
  """

  judge: Callable[[PyTree, PyTree], tuple[tuple[jax.Array, jax.Array], PyTree]]
  game: Game
  weight: float
  penalty: Callable[[PyTree, PyTree], jax.Array] | None = None


class Verdict(NamedTuple):
  """The losses and logits of one discriminator, before any weight.

  Attributes:
    generator: The generator's loss with this discriminator.
    discriminator: The discriminator's loss, including the penalty.
    accuracy: Share of pairs in which the real image has the higher logit.
    real: Mean logit of real images.
    fake: Mean logit of generated images.
  """

  generator: jax.Array
  discriminator: jax.Array
  accuracy: jax.Array
  real: jax.Array
  fake: jax.Array


class Report(NamedTuple):
  """Further results of `joint_gradients`.

  Attributes:
    loss: The generator's loss, with all weighted terms.
    terms: The values that `content` reports.
    verdicts: Losses and logits by discriminator.
    outputs: The generator's outputs.
    aux: `aux` of the generator.
    critic_aux: `aux` of the discriminators, by discriminator.
  """

  loss: jax.Array
  terms: Mapping[str, jax.Array]
  verdicts: dict[str, Verdict]
  outputs: PyTree
  aux: PyTree
  critic_aux: dict[str, PyTree]


def joint_gradients(
  generate: Callable[[PyTree], tuple[PyTree, PyTree]],
  content: Callable[[PyTree], tuple[jax.Array, Mapping[str, jax.Array]]],
  critics: Mapping[str, Critic],
) -> Callable[..., tuple[PyTree, dict[str, PyTree], Report]]:
  """Makes the function that computes the gradients of all networks.

  Args:
    generate: The generator, `theta -> (outputs, aux)`.
    content: `outputs -> (value, terms)`: the weighted loss of the generator
      without discriminators, and the values to report.
    critics: Discriminators by name.

  Returns:
    `gradients(theta, phis) -> (gradient of theta, gradients of phis, report)`;
    phis are by name.
  """

  def gradients(
    theta: PyTree, phis: Mapping[str, PyTree]
  ) -> tuple[PyTree, dict[str, PyTree], Report]:
    outputs, to_theta, aux = jax.vjp(generate, theta, has_aux=True)
    (loss, terms), pull = jax.value_and_grad(content, has_aux=True)(outputs)
    grads, verdicts, critic_aux = {}, {}, {}
    for name, critic in critics.items():
      verdict, by_outputs, grads[name], critic_aux[name] = _judged(
        critic, phis[name], outputs
      )
      loss += critic.weight * verdict.generator
      pull = jax.tree.map(
        lambda a, b, w=critic.weight: a + w * b, pull, by_outputs
      )
      verdicts[name] = verdict
    report = Report(loss, terms, verdicts, outputs, aux, critic_aux)
    return to_theta(pull)[0], grads, report

  return gradients


def _judged(
  critic: Critic, phi: PyTree, outputs: PyTree
) -> tuple[Verdict, PyTree, PyTree, PyTree]:
  """Returns a verdict, the gradients by outputs and by phi, and aux."""
  (real, fake), back, aux = jax.vjp(critic.judge, phi, outputs, has_aux=True)
  generator, to_generator = jax.value_and_grad(critic.game.generator, (0, 1))(
    real, fake
  )
  discriminator, to_critic = jax.value_and_grad(
    critic.game.discriminator, (0, 1)
  )(real, fake)
  # One forward and two backward passes. Each backward pass uses one of its two
  # results; XLA removes the computation of the other.
  _, by_outputs = back(to_generator)
  by_phi, _ = back(to_critic)
  if critic.penalty is not None:
    more, by_penalty = jax.value_and_grad(critic.penalty)(phi, outputs)
    discriminator += more
    by_phi = jax.tree.map(jnp.add, by_phi, by_penalty)
  verdict = Verdict(
    generator, discriminator, accuracy(real, fake), real.mean(), fake.mean()
  )
  return verdict, by_outputs, by_phi, aux


def update_in_turn(
  tx: optax.GradientTransformation,
  grads: PyTree,
  opt_state: PyTree,
  params: PyTree,
  turn: jax.Array | bool = True,
) -> tuple[PyTree, PyTree]:
  """Updates parameters and optimizer state if `turn` is true.

  The update is computed in both cases, and `turn` selects the result. It is an
  argument of the compiled program, so that no second program is needed.

  Args:
    tx: The optimizer.
    grads: Gradients of the parameters.
    opt_state: State of the optimizer before the update.
    params: Parameters before the update.
    turn: Whether to update. If it is false, nothing changes, not even the
      optimizer's counts.
  """
  updates, after = tx.update(grads, opt_state, params)
  moved = (optax.apply_updates(params, updates), after)
  if turn is True:
    return moved
  return jax.tree.map(
    lambda new, old: jnp.where(turn, new, old), moved, (params, opt_state)
  )


def generator_turn(
  step: jax.Array, *, every: int = 1, first: int = 0
) -> jax.Array:
  """Whether the generator is updated at a step; discriminators always are.

  Args:
    step: Number of earlier steps.
    every: Number of discriminator updates per generator update.
    first: Number of steps at the start without a generator update.
  """
  return (step >= first) & ((step - first + 1) % every == 0)

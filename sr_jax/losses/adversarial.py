"""Games between a generator and a discriminator, as losses of its logits.

A game has two losses of what the discriminator says of real and of generated
images, `[B, ...]` without a sigmoid. Means are over the batch; the images
themselves, and who may learn from what, are `transforms.adversarial`'s concern.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Game(NamedTuple):
  """What the two players lose.

  Attributes:
    generator: `(real, fake) -> value`, of logits.
    discriminator: The same; it is not scaled by a weight.
  """

  generator: Callable[[jax.Array, jax.Array], jax.Array]
  discriminator: Callable[[jax.Array, jax.Array], jax.Array]


def _is_real(logits: jax.Array) -> jax.Array:
  """Cross-entropy of `sigmoid(logits)` and the label 1."""
  return jax.nn.softplus(-logits).mean()


def _is_fake(logits: jax.Array) -> jax.Array:
  """Cross-entropy of `sigmoid(logits)` and the label 0."""
  return jax.nn.softplus(logits).mean()


# Goodfellow et al., NeurIPS 2014, with the loss that does not saturate.
vanilla = Game(
  generator=lambda real, fake: _is_real(fake),
  discriminator=lambda real, fake: _is_real(real) + _is_fake(fake),
)

# Mao et al., ICCV 2017, with the labels 1 and 0.
least_squares = Game(
  generator=lambda real, fake: ((fake - 1) ** 2).mean(),
  discriminator=lambda real, fake: ((real - 1) ** 2).mean() + (fake**2).mean(),
)

# Arjovsky et al., ICML 2017; it needs a critic kept smooth, see below.
wasserstein = Game(
  generator=lambda real, fake: -fake.mean(),
  discriminator=lambda real, fake: fake.mean() - real.mean(),
)

# Jolicoeur-Martineau, ICLR 2019: the first real image against the first fake.
relativistic = Game(
  generator=lambda real, fake: _is_real(fake - real),
  discriminator=lambda real, fake: _is_real(real - fake),
)


def relativistic_average(*, groups: int = 1, detach_mean: bool = False) -> Game:
  """An image against the mean of the other kind (Jolicoeur-Martineau, 2019).

  With the half of ESRGAN's code, which its paper's equations lack.

  Args:
    groups: Equal parts of the batch with a mean each: 1 for one over the whole
      batch, the number of devices for one on each, as training code has it that
      runs a process for each GPU.
    detach_mean: Whether the discriminator learns nothing through the means, as
      in BasicSR and KAIR; in SPSR's and RankSRGAN's code it does.
  """
  mean = functools.partial(_group_mean, groups=groups)

  def against(
    mean: Callable[[jax.Array], jax.Array], more: jax.Array, less: jax.Array
  ) -> jax.Array:
    """Half the loss of telling that the one kind is more real."""
    return (_is_real(more - mean(less)) + _is_fake(less - mean(more))) / 2

  def learned(logits: jax.Array) -> jax.Array:
    value = mean(logits)
    return jax.lax.stop_gradient(value) if detach_mean else value

  return Game(
    generator=lambda real, fake: against(mean, fake, real),
    discriminator=functools.partial(against, learned),
  )


def _group_mean(logits: jax.Array, groups: int) -> jax.Array:
  """Mean of the group of each sample, `[B, ...]`."""
  parts = logits.reshape(groups, -1, *logits.shape[1:])
  means = parts.mean(1, keepdims=True)
  return jnp.broadcast_to(means, parts.shape).reshape(logits.shape)


def gradient_penalty(
  critic: Callable[[jax.Array], jax.Array],
  real: jax.Array,
  fake: jax.Array,
  key: jax.Array,
  *,
  per_pixel: bool = False,
) -> jax.Array:
  """WGAN-GP's (Gulrajani et al., NeurIPS 2017), without its weight.

  Args:
    critic: Images `[B, ...]` to logits; it must judge each by itself, which
      batch normalisation does not.
    real: `[B, ...]`.
    fake: The same.
    key: For the points between the two.
    per_pixel: Whether norms are over the channels of each pixel, as in SRNTT's
      code, and not over each sample.
  """
  shape = (real.shape[0],) + (1,) * (real.ndim - 1)
  share = jax.random.uniform(key, shape, real.dtype)
  between = share * real + (1 - share) * fake
  slopes = jax.grad(lambda image: critic(image).sum())(between)
  return unit_norm(slopes, [-1] if per_pixel else range(1, slopes.ndim))


def unit_norm(slopes: jax.Array, axes: Sequence[int]) -> jax.Array:
  """Mean of (||slopes|| - 1)^2, with norms over the axes.

  Axes are those of a whole sample for WGAN-GP; SRNTT's code takes the channels
  of each pixel alone.
  """
  squares = (slopes**2).sum(tuple(axes))
  # The root has no derivative at zero, where a dead critic is.
  norms = jnp.sqrt(jnp.maximum(squares, jnp.finfo(slopes.dtype).tiny))
  return ((norms - 1) ** 2).mean()


def accuracy(real: jax.Array, fake: jax.Array) -> jax.Array:
  """How often a real image is judged more real than a generated one.

  Over all pairs of a batch: 1 where the discriminator always wins, 1/2 where it
  guesses. The same for all games, whatever zero means to them.
  """
  above = real.reshape(-1, 1) - fake.reshape(1, -1)
  return (jnp.sign(above).mean() + 1) / 2

"""Adversarial losses, as functions of the discriminator's logits.

A game is a pair of losses, one for the generator and one for the discriminator.
Both take the logits `[B, ...]` of real and of generated images, to which no
sigmoid has been applied, and return a mean over the batch. The images and the
flow of gradients between the networks are handled in `transforms.adversarial`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Game(NamedTuple):
  """The losses of generator and discriminator.

  Attributes:
    generator: `(real logits, fake logits) -> loss of the generator`.
    discriminator: `(real logits, fake logits) -> loss of the discriminator`;
      the weight of the adversarial loss does not apply to it.
  """

  generator: Callable[[jax.Array, jax.Array], jax.Array]
  discriminator: Callable[[jax.Array, jax.Array], jax.Array]


def _is_real(logits: jax.Array) -> jax.Array:
  """Cross-entropy of `sigmoid(logits)` and the label 1."""
  return jax.nn.softplus(-logits).mean()


def _is_fake(logits: jax.Array) -> jax.Array:
  """Cross-entropy of `sigmoid(logits)` and the label 0."""
  return jax.nn.softplus(logits).mean()


# Goodfellow et al., NeurIPS 2014, with the non-saturating generator loss.
vanilla = Game(
  generator=lambda real, fake: _is_real(fake),
  discriminator=lambda real, fake: _is_real(real) + _is_fake(fake),
)

# Mao et al., ICCV 2017, with the labels 1 and 0.
least_squares = Game(
  generator=lambda real, fake: ((fake - 1) ** 2).mean(),
  discriminator=lambda real, fake: ((real - 1) ** 2).mean() + (fake**2).mean(),
)

# Arjovsky et al., ICML 2017; the critic needs `gradient_penalty`.
wasserstein = Game(
  generator=lambda real, fake: -fake.mean(),
  discriminator=lambda real, fake: fake.mean() - real.mean(),
)

# Jolicoeur-Martineau, ICLR 2019: each real image is paired with one generated
# image.
relativistic = Game(
  generator=lambda real, fake: _is_real(fake - real),
  discriminator=lambda real, fake: _is_real(real - fake),
)


def relativistic_average(*, groups: int = 1, detach_mean: bool = False) -> Game:
  """Compares each logit with the mean logit of the other kind of images.

  This is the relativistic average game of Jolicoeur-Martineau (ICLR 2019). Both
  losses are halved, as in ESRGAN's code; the paper's equations have no half.

  Args:
    groups: Number of equal parts of the batch, each with its own mean. 1 takes
      the mean over the whole batch. The number of devices takes a mean on each
      device, as in training code that runs one process per GPU.
    detach_mean: Whether the means pass no gradient to the discriminator, as in
      BasicSR and KAIR. In the code of SPSR and RankSRGAN they pass it.
  """
  mean = functools.partial(_group_mean, groups=groups)

  def against(
    mean: Callable[[jax.Array], jax.Array], more: jax.Array, less: jax.Array
  ) -> jax.Array:
    """Half the loss for logits `more` above and `less` below the other mean."""
    return (_is_real(more - mean(less)) + _is_fake(less - mean(more))) / 2

  def learned(logits: jax.Array) -> jax.Array:
    value = mean(logits)
    return jax.lax.stop_gradient(value) if detach_mean else value

  return Game(
    generator=lambda real, fake: against(mean, fake, real),
    discriminator=functools.partial(against, learned),
  )


def _group_mean(logits: jax.Array, groups: int) -> jax.Array:
  """Mean logit of each sample's group, `[B, ...]`."""
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
  """Gradient penalty of WGAN-GP (Gulrajani et al., NeurIPS 2017), unweighted.

  Args:
    critic: Maps images `[B, ...]` to logits. The logits of an image must not
      depend on the other images, as they would with batch normalisation.
    real: Real images, `[B, ...]`.
    fake: Generated images, of the same shape.
    key: PRNG key of the points between real and generated images.
    per_pixel: Whether the norm of the gradient is taken over the channels of
      each pixel, as in SRNTT's code. Otherwise it is taken over each sample.
  """
  shape = (real.shape[0],) + (1,) * (real.ndim - 1)
  share = jax.random.uniform(key, shape, real.dtype)
  between = share * real + (1 - share) * fake
  slopes = jax.grad(lambda image: critic(image).sum())(between)
  return unit_norm(slopes, [-1] if per_pixel else range(1, slopes.ndim))


def unit_norm(slopes: jax.Array, axes: Sequence[int]) -> jax.Array:
  """Mean of (||slopes|| - 1)^2, with norms over the given axes.

  WGAN-GP takes the norm over all axes of a sample; SRNTT's code takes it over
  the channels of each pixel.
  """
  squares = (slopes**2).sum(tuple(axes))
  # The bound avoids the infinite derivative of the root at zero, where the
  # slopes of a constant critic are.
  norms = jnp.sqrt(jnp.maximum(squares, jnp.finfo(slopes.dtype).tiny))
  return ((norms - 1) ** 2).mean()


def accuracy(real: jax.Array, fake: jax.Array) -> jax.Array:
  """Share of (real, generated) pairs in which the real image's logit is higher.

  All pairs of a batch count, ties as half. The value is 1 if the discriminator
  is always right, and 1/2 if it guesses. It means the same in all games,
  because it does not depend on the zero of the logits.
  """
  above = real.reshape(-1, 1) - fake.reshape(1, -1)
  return (jnp.sign(above).mean() + 1) / 2

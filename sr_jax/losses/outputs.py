"""One loss over several outputs of a network.

Each function takes a pixel loss, the images of `aux['outputs']`, of which the
last one is SR (see `sr_jax.models`), HR, and the step of the training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from sr_jax.ops.resize import imresize

Loss = Callable[[jax.Array, jax.Array], jax.Array]


def final(
  loss: Loss, outputs: Sequence[jax.Array], hr: jax.Array, step: jax.Array
) -> jax.Array:
  """The loss of SR `[B, H, W, C]` alone."""
  del step
  return loss(outputs[-1], hr)


def steps(
  loss: Loss, outputs: Sequence[jax.Array], hr: jax.Array, step: jax.Array
) -> jax.Array:
  """Sum over outputs of HR's size (SRFBN's released code; the paper's mean)."""
  del step
  return jnp.stack([loss(x, hr) for x in outputs]).sum()


def pyramid(
  loss: Loss, outputs: Sequence[jax.Array], hr: jax.Array, step: jax.Array
) -> jax.Array:
  """Sum over resolutions (Lai et al., LapSRN, CVPR 2017).

  The target of a smaller output is HR, bicubically reduced to its size.
  """
  del step
  *smaller, sr = outputs
  targets = [imresize(hr, shape=(x.shape[1], x.shape[2])) for x in smaller]
  return loss(sr, hr) + sum(
    loss(x, y) for x, y in zip(smaller, targets, strict=True)
  )


def recursive(
  loss: Loss,
  outputs: Sequence[jax.Array],
  hr: jax.Array,
  step: jax.Array,
  *,
  alpha_steps: int,
) -> jax.Array:
  """Recursive supervision (Kim et al., DRCN, CVPR 2016, equation 8).

  alpha times the mean over the outputs before SR plus 1 - alpha times that of
  SR; alpha falls from 1 to 0 in `alpha_steps` steps.
  """
  *recursions, sr = outputs
  alpha = jnp.maximum(0.0, 1 - step / alpha_steps)
  each = jnp.mean(jnp.stack([loss(x, hr) for x in recursions]))
  return alpha * each + (1 - alpha) * loss(sr, hr)

"""One loss over several outputs of a network.

All but `residual` take a pixel loss, the images of `aux['outputs']`, of which
the last one is SR (see `sr_jax.models`), HR, and the step of the training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from sr_jax.ops.residual import residual_image
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


def curriculum(
  loss: Loss,
  outputs: Sequence[jax.Array],
  hr: jax.Array,
  step: jax.Array,
  *,
  easy: jax.Array,
) -> jax.Array:
  """Sum over the outputs: the first half against `easy`, the others HR.

  The steps of a feedback network (Li et al., SRFBN, CVPR 2019) aim from easy
  to hard. The paper does not give its targets exactly and the released code
  leaves them out. In our reading the first half of the steps aims at
  super-resolution alone: at HR that still has the blur and the noise of LR.

  Args:
    loss: Of two images.
    outputs: Of HR's size.
    hr: Target of the second half.
    step: Of the training.
    easy: Target of the first half.
  """
  del step
  half = len(outputs) // 2
  losses = [loss(sr, easy if i < half else hr) for i, sr in enumerate(outputs)]
  return jnp.stack(losses).sum()


def residual(
  loss: Loss,
  sr: jax.Array,
  predicted: jax.Array,
  hr: jax.Array,
  lr: jax.Array,
  *,
  upsampling: str,
) -> jax.Array:
  """Hybrid loss of SR and of the enhanced residual (SRNet), equally weighted.

  Args:
    loss: Of two images.
    sr: `[B, sH, sW, C]`.
    predicted: The network's residual image, of the same shape.
    hr: Target of `sr`.
    lr: `[B, H, W, C]`, which with `hr` gives the target of `predicted`.
    upsampling: Of LR in that target, see `residual_image`.
  """
  return loss(sr, hr) + loss(predicted, residual_image(hr, lr, upsampling))

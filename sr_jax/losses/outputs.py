"""Combines a pixel loss over several outputs of a network.

All functions but `residual` take a pixel loss, the images `aux['outputs']` of
the network, of which the last is SR (see `sr_jax.models`), the HR image, and
the training step.
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
  """The loss of SR, the last output, alone; images are `[B, H, W, C]`."""
  del step
  return loss(outputs[-1], hr)


def steps(
  loss: Loss, outputs: Sequence[jax.Array], hr: jax.Array, step: jax.Array
) -> jax.Array:
  """Sum of the losses of all outputs, each `[B, H, W, C]` as HR.

  SRFBN's released code takes this sum, its paper the mean.
  """
  del step
  return jnp.stack([loss(x, hr) for x in outputs]).sum()


def pyramid(
  loss: Loss, outputs: Sequence[jax.Array], hr: jax.Array, step: jax.Array
) -> jax.Array:
  """Sum of the losses at all resolutions (Lai et al., LapSRN, CVPR 2017).

  The target of an output that is smaller than HR is HR, reduced bicubically.
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

  The loss is alpha times the mean loss of the outputs before SR, plus
  (1 - alpha) times the loss of SR. alpha falls from 1 to 0 in `alpha_steps`
  training steps.
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
  """Sum of the losses of all outputs, with easier targets for the first half.

  This is the curriculum of SRFBN (Li et al., CVPR 2019), whose outputs get
  targets of growing difficulty. The paper does not define the targets exactly
  and the released code lacks them. In our reading the first half of the outputs
  learns super-resolution alone: its target is HR with the blur and noise of LR.

  Args:
    loss: Pixel loss of two images.
    outputs: Outputs of the network, each of HR's size.
    hr: Target of the second half of the outputs.
    step: Training step; unused.
    easy: Target of the first half of the outputs.
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
  """SRNet's hybrid loss: the equally weighted losses of SR and of its residual.

  Args:
    loss: Pixel loss of two images.
    sr: SR image, `[B, sH, sW, C]`.
    predicted: Enhanced residual that the network predicts, `[B, sH, sW, C]`.
    hr: Target of `sr`.
    lr: LR image `[B, H, W, C]`. The target of `predicted` is the enhanced
      residual of `hr` and `lr`.
    upsampling: How LR is enlarged for that target, see `residual_image`.
  """
  return loss(sr, hr) + loss(predicted, residual_image(hr, lr, upsampling))

"""One loss over several outputs of a network.

All but `residual` take a pixel loss, the final output, the further outputs of
`aux['outputs']`, HR, and the step of the training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from sr_jax.ops.residual import residual_image
from sr_jax.ops.resize import imresize

Loss = Callable[[jax.Array, jax.Array], jax.Array]


def final(
  loss: Loss,
  sr: jax.Array,
  outputs: Sequence[jax.Array],
  hr: jax.Array,
  step: jax.Array,
) -> jax.Array:
  """The loss of the final output `[B, H, W, C]` alone."""
  del outputs, step
  return loss(sr, hr)


def steps(
  loss: Loss,
  sr: jax.Array,
  outputs: Sequence[jax.Array],
  hr: jax.Array,
  step: jax.Array,
) -> jax.Array:
  """Mean over all outputs, the final one included; all are of HR's size."""
  del step
  return jnp.mean(jnp.stack([loss(x, hr) for x in (*outputs, sr)]))


def pyramid(
  loss: Loss,
  sr: jax.Array,
  outputs: Sequence[jax.Array],
  hr: jax.Array,
  step: jax.Array,
) -> jax.Array:
  """Sum over resolutions (Lai et al., LapSRN, CVPR 2017).

  The target of a smaller output is HR, bicubically reduced to its size.
  """
  del step
  targets = [imresize(hr, shape=(x.shape[1], x.shape[2])) for x in outputs]
  smaller = sum(loss(x, y) for x, y in zip(outputs, targets, strict=True))
  return loss(sr, hr) + smaller


def recursive(
  loss: Loss,
  sr: jax.Array,
  outputs: Sequence[jax.Array],
  hr: jax.Array,
  step: jax.Array,
  *,
  alpha_steps: int,
) -> jax.Array:
  """Recursive supervision (Kim et al., DRCN, CVPR 2016, equation 8).

  alpha times the mean over the further outputs plus 1 - alpha times the final
  one; alpha falls from 1 to 0 in `alpha_steps` steps.
  """
  alpha = jnp.maximum(0.0, 1 - step / alpha_steps)
  each = jnp.mean(jnp.stack([loss(x, hr) for x in outputs]))
  return alpha * each + (1 - alpha) * loss(sr, hr)


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

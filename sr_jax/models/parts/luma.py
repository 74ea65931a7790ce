"""Networks that see luma alone, for images in colour.

Such a network has the attribute `luma = True`. It takes and gives Y of BT.601
as MATLAB has it, `[B, H, W, 1]` in [16, 235]/255; Cb and Cr are enlarged by
MATLAB's bicubic, as the papers before 2017 do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from sr_jax.models.parts.masking import masked_apply
from sr_jax.ops.color import rgb_to_y, rgb_to_ycbcr, ycbcr_to_rgb
from sr_jax.ops.resize import imresize
from sr_jax.typing import Network


def as_seen(network: Network, image: jax.Array) -> jax.Array:
  """The network's input from an image `[B, H, W, C]`: Y of RGB, or all."""
  return rgb_to_y(image) if network.luma else image


def apply_to_image(
  network: Network,
  params: Mapping[str, Any],
  lr: jax.Array,
  mask: jax.Array | None,
  stats: Mapping[str, Any] | None = None,
) -> jax.Array:
  """SR `[B, sH, sW, C]` of an image `[B, H, W, C]`, unclipped.

  A network of luma is given an RGB image. The arguments are those of
  `masked_apply`.
  """
  if not network.luma:
    return masked_apply(network, params, lr, mask, stats)
  ycbcr = rgb_to_ycbcr(lr)
  y = masked_apply(network, params, ycbcr[..., :1], mask, stats)
  chroma = imresize(ycbcr[..., 1:], scale=network.scale)
  return ycbcr_to_rgb(jnp.concatenate([y, chroma], axis=-1))

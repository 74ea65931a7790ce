"""Applies networks that enlarge only luma to colour images.

Such a network has the attribute `luma = True`. Its input and output are Y of
BT.601 as in MATLAB, `[B, H, W, 1]` in [16, 235]/255. Cb and Cr are enlarged by
MATLAB's bicubic resizing, as in papers before 2017.
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
  """Returns the input of the network: Y of RGB, or the image itself."""
  return rgb_to_y(image) if network.luma else image


def apply_to_image(
  network: Network,
  params: Mapping[str, Any],
  lr: jax.Array,
  mask: jax.Array | None,
  stats: Mapping[str, Any] | None = None,
) -> jax.Array:
  """Enlarges an image `[B, H, W, C]` to `[B, sH, sW, C]`, unclipped.

  Networks of luma take an RGB image too. The arguments are those of
  `masked_apply`.
  """
  if not network.luma:
    return masked_apply(network, params, lr, mask, stats)
  ycbcr = rgb_to_ycbcr(lr)
  y = masked_apply(network, params, ycbcr[..., :1], mask, stats)
  chroma = imresize(ycbcr[..., 1:], scale=network.scale)
  return ycbcr_to_rgb(jnp.concatenate([y, chroma], axis=-1))

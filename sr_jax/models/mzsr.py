"""MZSR: meta-transfer learning for zero-shot SR (Soh et al., CVPR 2020).

The network is that of ZSSR with biases: 8 convolutions on the bicubically
enlarged image. MZSR differs from ZSSR in training. Its weights are meta-trained
by `methods.meta_transfer`, and then adapted to an image by a few gradient
steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sr_jax.models import zssr
from sr_jax.models.parts import common

VARIANTS = {
  'released': common.Variant(
    {'depth': 8, 'features': 64},
    {2: 225_091, 3: 225_091, 4: 225_091, 8: 225_091},
  ),
}
TINY = {'depth': 3, 'features': 8}
TORCH_NAMES: dict[str, dict[str, str]] = {}
# Variable names of the released TensorFlow checkpoints.
TF_NAMES = {'MZSR': {'MODEL/conv{i}': 'conv{i}'}}
# How the released direct x2 model is adapted to an image.
METHOD = {
  'name': 'meta_transfer',
  'adapt': {'steps': 10, 'rates': (0.02, 0.01, 0.01, 0.01, 0.005)},
}


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
  """Returns the options that follow from shapes; the scale does not."""
  return zssr.recognise(shapes)


def Model(
  *, scale: float, variant: str = 'released', **overrides: Any
) -> zssr.ZSSR:
  """Creates MZSR's network; overrides replace single options."""
  options: dict[str, Any] = {
    'use_bias': True,
    'kernel_init': 'tf1-fan-in',
    **common.select_variant(VARIANTS, variant),
  }
  return zssr.ZSSR(scale=scale, **{**options, **overrides})

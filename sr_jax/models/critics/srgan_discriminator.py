"""The discriminator of SRGAN's paper (Ledig et al., CVPR 2017).

The network has eight 3x3 convolutions and two dense layers. Its images have
96x96 pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from sr_jax.errors import whole
from sr_jax.models.parts import common, critic
from sr_jax.models.parts.options import Channels, Width

VARIANTS = {
  # Normalised convolutions have biases; the paper does not say whether.
  'paper': common.Variant(
    {'features': 64, 'side': 6, 'hidden': 1024}, {1: 23_565_505}
  ),
}
TINY = {'features': 2, 'side': 1, 'hidden': 4}
# Its weights were not released, so there are no names.
TORCH_NAMES: dict[str, dict[str, str]] = {}

_STAGES = 4


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
  """Returns the options that follow from the shapes of parameters."""
  channels, features = shapes['trunk/conv_0_0/kernel'][2:]
  inputs, hidden = shapes['head/dense_1/kernel']
  return {
    'scale': 1,
    'channels': channels,
    'features': features,
    'side': math.isqrt(inputs // (8 * features)),
    'hidden': hidden,
  }


class SRGANDiscriminator(critic.Critic):
  """The network, without the last sigmoid, which is part of the losses.

  Attributes:
    features: Channels of the first pair of convolutions.
    side: Height and width of the map that the dense layers see.
    hidden: Width of the first dense layer.
    channels: Number of image channels.
    dtype: Computation type; parameters stay float32.
  """

  features: Width
  side: Annotated[int, whole(1, 64)]
  hidden: Width
  channels: Channels = 3
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image: jax.Array, *, train: bool = False) -> jax.Array:
    """Returns the logits `[B, 1]` of images `[B, H, W, C]`, sides in `sides`.

    Raises:
      UserError: The images have another size.
    """
    self.check_sides(image.shape)
    trunk = critic.Trunk(
      self.features,
      _STAGES,
      True,
      halving_size=3,
      dtype=self.dtype,
      name='trunk',
    )
    # In the paper images are in [-1, 1].
    x = critic.flat(trunk(2 * image - 1, train=train))
    return critic.Head(self.hidden, name='head')(x)

  @property
  def sides(self) -> range:
    """Heights and widths of images; they are rounded up when halved."""
    most = self.side << _STAGES
    return range(most - (1 << _STAGES) + 1, most + 1)


def Model(
  *, scale: int = 1, variant: str = 'paper', **overrides: Any
) -> SRGANDiscriminator:
  """Creates the discriminator; overrides replace single options."""
  critic.check_scale(scale)
  return SRGANDiscriminator(
    **{**common.select_variant(VARIANTS, variant), **overrides}
  )

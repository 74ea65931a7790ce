"""MSRResNet: SRResNet without batch normalisation (Wang et al., BasicSR 2018).

This is the generator that BasicSR and related code bases train as SRGAN. It has
plain residual blocks and sub-pixel upsampling, and its result is added to the
bilinearly enlarged image. The network of the SRGAN paper (Ledig et al., CVPR
2017) is another one, `srresnet`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from sr_jax.models.parts import base, common
from sr_jax.models.parts.options import Channels, Count, SubPixelScale, Width
from sr_jax.ops.pixel_shuffle import pixel_shuffle

VARIANTS = {
  'basicsr': common.Variant(
    {'blocks': 16, 'features': 64},
    {2: 1_369_859, 3: 1_554_499, 4: 1_517_571},
  ),
}
TINY = {'blocks': 1, 'features': 8}

# Layer names of released state_dicts, and their Flax paths; `{i}` stands for a
# number.
TORCH_NAMES = {
  'BasicSR': {
    'conv_first': 'head',
    'body.{i}.conv{n}': 'body_{i}/conv{n}',
    'upconv{n}': 'upsample_{n}',
    'conv_hr': 'refine',
    'conv_last': 'tail',
  },
  # The networks of mmsr, RankSRGAN's MSRResNet and KAIR's MSRResNet1.
  'mmsr': {
    'conv_first': 'head',
    'recon_trunk.{i}.conv{n}': 'body_{i}/conv{n}',
    'upconv{n}': 'upsample_{n}',
    'HRconv': 'refine',
    'conv_last': 'tail',
  },
}

_SLOPE = 0.1


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
  """Returns the options that follow from the shapes of parameters."""
  channels, features = shapes['head/kernel'][2:]
  return {
    'scale': common.upsampling_scale(shapes, 'upsample_'),
    'channels': channels,
    'features': features,
    'blocks': sum(path.endswith('/conv1/kernel') for path in shapes),
  }


class MSRResNet(base.Network):
  """The network of every variant.

  Attributes:
    scale: Enlargement: 2, 3, 4 or 8.
    blocks: Number of residual blocks.
    features: Width of every layer.
    channels: Number of image channels.
    dtype: Computation type; parameters stay float32.
  """

  scale: SubPixelScale
  blocks: Count
  features: Width
  channels: Channels = 3
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, lr: jax.Array, *, train: bool = False
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Enlarges `lr` `[B, H, W, C]` in [0, 1] to `[B, sH, sW, C]`, unclipped."""
    del train
    width, dtype = self.features, self.dtype
    conv = functools.partial(
      common.Conv,
      kernel_init=common.small_kaiming,
      bias_init=nn.initializers.zeros,
    )
    leaky_relu = functools.partial(nn.leaky_relu, negative_slope=_SLOPE)
    x = leaky_relu(conv(width, dtype=dtype, name='head')(lr))
    block = common.ResBlock(width, conv=conv, dtype=dtype, name='body_*')
    x = common.chain(block, self.blocks, x)
    for i, factor in enumerate(common.upsampling_stages(self.scale), 1):
      x = conv(width * factor**2, dtype=dtype, name=f'upsample_{i}')(x)
      x = leaky_relu(pixel_shuffle(x, factor))
    x = leaky_relu(conv(width, dtype=dtype, name='refine')(x))
    # The last layer computes in float32: bfloat16 would merge grey levels.
    x = conv(self.channels, name='tail')(x)
    return x + jax.image.resize(lr, x.shape, 'bilinear'), {}

  @property
  def halo(self) -> int:
    """Receptive radius in LR pixels."""
    body = 1 + 2 * self.blocks
    tail = common.upsampling_radius(self.scale) + 1 / self.scale
    return math.ceil(body + tail)


def Model(
  *, scale: int, variant: str = 'basicsr', **overrides: Any
) -> MSRResNet:
  """Creates MSRResNet in one variant; overrides replace single options."""
  return MSRResNet(
    scale=scale, **{**common.select_variant(VARIANTS, variant), **overrides}
  )

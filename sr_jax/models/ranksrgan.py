"""The generator of RankSRGAN (Zhang et al., ICCV 2019).

The network has residual blocks without batch normalisation, one long skip
around them, and sub-pixel upsampling. Unlike `msrresnet` it does not add the
enlarged image.
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
from sr_jax.ops.relu import relu

VARIANTS = {
  'paper': common.Variant(
    {'blocks': 16, 'features': 64}, {2: 1_406_787, 3: 1_591_427, 4: 1_554_499}
  ),
}
TINY = {'blocks': 1, 'features': 8}


def _old_names(stages: int) -> dict[str, str]:
  """Names of an older class, which numbers activations like other layers."""
  up = {f'model.{3 * i - 1}': f'upsample_{i}' for i in range(1, stages + 1)}
  return {
    'model.0': 'head',
    'model.1.sub.{i}.res.0': 'body_{i}/conv1',
    'model.1.sub.{i}.res.2': 'body_{i}/conv2',
    'model.1.sub.{end}': 'body_end',
    **up,
    f'model.{3 * stages + 2}': 'refine',
    f'model.{3 * stages + 4}': 'tail',
  }


# Layer names of released state_dicts, and their Flax paths; `{i}` stands for a
# number.
TORCH_NAMES = {
  'RankSRGAN': {
    'conv_first': 'head',
    'recon_trunk.{i}.conv{n}': 'body_{i}/conv{n}',
    'LRconv': 'body_end',
    'upconv{n}': 'upsample_{n}',
    'HRconv': 'refine',
    'conv_last': 'tail',
  },
  **{
    f'RankSRGAN (old), {stages} upsamplings': _old_names(stages)
    for stages in (2, 1, 3)
  },
}


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
  """Returns the options that follow from the shapes of parameters."""
  channels, features = shapes['head/kernel'][2:]
  return {
    'scale': common.upsampling_scale(shapes, 'upsample_'),
    'channels': channels,
    'features': features,
    'blocks': sum(path.endswith('/conv1/kernel') for path in shapes),
  }


class RankSRGANGenerator(base.Network):
  """The network. The released code calls it SRResNet.

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
    x = head = conv(width, dtype=dtype, name='head')(lr)
    block = common.ResBlock(width, conv=conv, dtype=dtype, name='body_*')
    x = common.chain(block, self.blocks, x)
    # In the released code only this layer has PyTorch's default initial values.
    x = head + common.Conv(width, dtype=dtype, name='body_end')(x)
    for i, factor in enumerate(common.upsampling_stages(self.scale), 1):
      x = conv(width * factor**2, dtype=dtype, name=f'upsample_{i}')(x)
      x = relu(pixel_shuffle(x, factor))
    x = relu(conv(width, dtype=dtype, name='refine')(x))
    # The last layer computes in float32: bfloat16 would merge grey levels.
    return conv(self.channels, name='tail')(x), {}

  @property
  def halo(self) -> int:
    """Receptive radius in LR pixels."""
    body = 2 + 2 * self.blocks
    tail = common.upsampling_radius(self.scale) + 1 / self.scale
    return math.ceil(body + tail)


def Model(
  *, scale: int, variant: str = 'paper', **overrides: Any
) -> RankSRGANGenerator:
  """Creates the generator; overrides replace single options."""
  return RankSRGANGenerator(
    scale=scale, **{**common.select_variant(VARIANTS, variant), **overrides}
  )

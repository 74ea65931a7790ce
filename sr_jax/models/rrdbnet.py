"""RRDBNet: the generator of ESRGAN (Wang et al., ECCVW 2018).

The network has residual-in-residual dense blocks and nearest-neighbour
upsampling. At scales 1 and 2 it is the x4 network, which begins with a
pixel-unshuffle that reduces the image, as in BasicSR (Real-ESRGAN).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from sr_jax.errors import UserError
from sr_jax.models.parts import base, common
from sr_jax.models.parts.options import Among, Channels, Count, Width
from sr_jax.ops.pixel_shuffle import pixel_unshuffle

VARIANTS = {
  # At x1 and x2 only the first layer differs: it has more input channels.
  'rrdb23': common.Variant(
    {'blocks': 23, 'features': 64, 'growth': 32},
    {1: 16_723_907, 2: 16_703_171, 4: 16_697_987},
  ),
  'rrdb16': common.Variant(
    {'blocks': 16, 'features': 64, 'growth': 32}, {4: 11_662_019}
  ),
}
TINY = {'blocks': 1, 'features': 8, 'growth': 4}


def _old_names(stages: int) -> dict[str, str]:
  """Names of an older class, which numbers activations like other layers."""
  up = {f'model.{3 * i}': f'upsample_{i}' for i in range(1, stages + 1)}
  return {
    'model.0': 'head',
    'model.1.sub.{i}.RDB{d}.conv{c}.0': 'body_{i}/dense{d}/conv{c}',
    # In KAIR, conv5 is not part of a Sequential.
    'model.1.sub.{i}.RDB{d}.conv{c}': 'body_{i}/dense{d}/conv{c}',
    'model.1.sub.{end}': 'body_end',
    **up,
    f'model.{3 * stages + 2}': 'refine',
    f'model.{3 * stages + 4}': 'tail',
  }


# Layer names of released state_dicts, and their Flax paths; `{i}` stands for a
# number.
TORCH_NAMES = {
  'BasicSR': {
    'conv_first': 'head',
    'body.{i}.rdb{d}.conv{c}': 'body_{i}/dense{d}/conv{c}',
    'conv_body': 'body_end',
    'conv_up{n}': 'upsample_{n}',
    'conv_hr': 'refine',
    'conv_last': 'tail',
  },
  'ESRGAN': {
    'conv_first': 'head',
    'RRDB_trunk.{i}.RDB{d}.conv{c}': 'body_{i}/dense{d}/conv{c}',
    'trunk_conv': 'body_end',
    'upconv{n}': 'upsample_{n}',
    'HRconv': 'refine',
    'conv_last': 'tail',
  },
  **{
    f'ESRGAN (old) or KAIR, {stages} upsamplings': _old_names(stages)
    for stages in (2, 1, 3, 0)
  },
}

_RESIDUAL_SCALE = 0.2
_leaky_relu = functools.partial(nn.leaky_relu, negative_slope=0.2)


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
  """Returns the options that follow from the shapes of parameters.

  If there is a single upsampling, the scale does not follow: it may be 2 or 3.
  """
  inputs, features = shapes['head/kernel'][2:]
  channels = shapes['tail/kernel'][3]
  unshuffle = math.isqrt(inputs // channels)
  stages = sum(
    path.startswith('upsample_') and path.endswith('/kernel') for path in shapes
  )
  options = {
    'channels': channels,
    'features': features,
    'blocks': sum(path.endswith('/dense1/conv1/kernel') for path in shapes),
    'growth': shapes['body_0/dense1/conv1/kernel'][3],
    'unshuffle': unshuffle,
  }
  if stages == 1:
    return options
  return {'scale': 2**stages // unshuffle, **options}


class DenseBlock(nn.Module):
  """Five convolutions, each of which sees the results of all earlier ones.

  The result is scaled and added to the input.

  Attributes:
    features: Number of channels of input and output.
    growth: Number of channels that each convolution except the last adds.
    dtype: Computation type.
  """

  features: int
  growth: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps `[B, H, W, features]` to the same shape."""
    conv = functools.partial(
      common.Conv,
      kernel_init=common.small_kaiming,
      bias_init=nn.initializers.zeros,
      dtype=self.dtype,
    )
    known = x.astype(self.dtype)
    for i in range(1, 5):
      y = _leaky_relu(conv(self.growth, name=f'conv{i}')(known))
      known = jnp.concatenate([known, y], -1)
    return x + _RESIDUAL_SCALE * conv(self.features, name='conv5')(known)


class RRDB(nn.Module):
  """Three dense blocks, whose result is scaled and added to the input.

  Attributes:
    features: Number of channels of input and output.
    growth: Number of channels that each convolution of a dense block adds.
    dtype: Computation type.
  """

  features: int
  growth: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps `[B, H, W, features]` to the same shape."""
    y = x
    for i in range(1, 4):
      y = DenseBlock(self.features, self.growth, self.dtype, name=f'dense{i}')(
        y
      )
    return x + _RESIDUAL_SCALE * y


class RRDBNet(base.Network):
  """The network of every variant.

  Attributes:
    scale: Enlargement: 1, 2, 3, 4 or 8.
    blocks: Number of residual-in-residual dense blocks.
    features: Width of the blocks.
    growth: Number of channels that each convolution of a dense block adds.
    unshuffle: Factor of the pixel-unshuffle that the network begins with.
    channels: Number of image channels.
    dtype: Computation type; parameters stay float32.
  """

  scale: Annotated[int, Among((1, 2, 3, 4, 8))]
  blocks: Count
  features: Width
  growth: Width
  unshuffle: Annotated[int, Among((1, 2, 4))] = 1
  channels: Channels = 3
  dtype: Any = jnp.float32

  def check(self) -> None:
    """Refuses a pixel-unshuffle at scale 3.

    Raises:
      UserError: The scale is 3 and `unshuffle` is not 1.
    """
    if self.scale == 3 and self.unshuffle > 1:
      raise UserError(
        f'config.model.unshuffle={self.unshuffle}: give 1 at scale 3'
      )

  @nn.compact
  def __call__(
    self, lr: jax.Array, *, train: bool = False
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Enlarges `lr` `[B, H, W, C]` in [0, 1] to `[B, sH, sW, C]`, unclipped."""
    del train
    conv = functools.partial(common.Conv, self.features, dtype=self.dtype)
    x = head = conv(name='head')(self._reduced(lr))
    block = RRDB(self.features, self.growth, self.dtype, name='body_*')
    x = common.chain(block, self.blocks, x)
    x = head + conv(name='body_end')(x)
    for i, factor in enumerate(self._stages, 1):
      x = x.repeat(factor, 1).repeat(factor, 2)
      x = _leaky_relu(conv(name=f'upsample_{i}')(x))
    x = _leaky_relu(conv(name='refine')(x))
    # The last layer computes in float32: bfloat16 would merge grey levels.
    x = common.Conv(self.channels, name='tail')(x)
    height, width = (self.scale * n for n in lr.shape[1:3])
    return x[:, :height, :width], {}

  def _reduced(self, lr: jax.Array) -> jax.Array:
    """Applies the pixel-unshuffle; first mirrors `lr` up to whole cells."""
    factor = self.unshuffle
    if factor == 1:
      return lr
    for axis in (1, 2):
      size = lr.shape[axis]
      index = jnp.arange(-(-size // factor) * factor)
      mirrored = jnp.minimum(index, 2 * size - 1 - index)
      lr = jnp.take(lr, mirrored, axis, mode='clip')
    return pixel_unshuffle(lr, factor)

  @property
  def _stages(self) -> list[int]:
    """Factors of the upsamplings."""
    total = self.scale * self.unshuffle
    return common.upsampling_stages(total) if total > 1 else []

  @property
  def cell(self) -> int:
    """Side of the cells that the pixel-unshuffle makes of LR pixels.

    A shift of the image by less than a cell changes more than the position of
    the result.
    """
    return self.unshuffle

  @property
  def halo(self) -> int:
    """Receptive radius in LR pixels."""
    # `body` counts cells, `tail` SR pixels.
    body, tail = 15 * self.blocks + 2, 0
    for factor in self._stages:
      tail = factor * tail + 1
    return (
      self.unshuffle * body
      + math.ceil((tail + 2) / self.scale)
      + self.unshuffle
      - 1
    )


def Model(*, scale: int, variant: str = 'rrdb23', **overrides: Any) -> RRDBNet:
  """Creates RRDBNet in one variant; overrides replace single options.

  Raises:
    UserError: The scale is not supported.
  """
  if scale not in (1, 2, 3, 4, 8):
    raise UserError(f'scale {scale} is not supported; choose 1, 2, 3, 4 or 8')
  options: dict[str, Any] = {'unshuffle': {1: 4, 2: 2}.get(scale, 1)}
  options |= common.select_variant(VARIANTS, variant)
  return RRDBNet(scale=scale, **{**options, **overrides})

"""CARN: fast SR with a cascading residual network (Ahn et al., ECCV 2018).

Blocks, and the units within a block, form cascades: a 1x1 convolution gives
each the results of all earlier ones. CARN-M uses one unit three times in a
block, and groups its convolutions. Multi-scale networks have one head for each
of x2, x3 and x4. Images are in [0, 1], from which DIV2K's mean colour is
subtracted.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from sr_jax.errors import UserError
from sr_jax.models.parts import base, common
from sr_jax.models.parts.options import Channels, Count, SubPixelScale, Width
from sr_jax.ops.conv import grouped_conv2d
from sr_jax.ops.pixel_shuffle import pixel_shuffle
from sr_jax.ops.relu import relu

_CARN = {'features': 64, 'groups': 1, 'efficient': False}
_CARN_M = {'features': 64, 'groups': 4, 'efficient': True}
VARIANTS = {
  'carn': common.Variant(
    {**_CARN, 'multi_scale': True}, dict.fromkeys((2, 3, 4), 1_591_963)
  ),
  'carn-m': common.Variant(
    {**_CARN_M, 'multi_scale': True}, dict.fromkeys((2, 3, 4), 414_811)
  ),
  'carn-single': common.Variant(
    {**_CARN, 'multi_scale': False}, {2: 964_187, 3: 1_148_827, 4: 1_111_899}
  ),
  'carn-m-single': common.Variant(
    {**_CARN_M, 'multi_scale': False}, {2: 257_051, 3: 303_451, 4: 294_171}
  ),
}
TINY = {'features': 8, 'groups': 2, 'efficient': True, 'multi_scale': False}
# Scales of a multi-scale network.
SCALES = (2, 3, 4)

# Layer names of released state_dicts, and their Flax paths; `{i}` stands for a
# number.
TORCH_NAMES = {
  'CARN': {
    'sub_mean.shifter': 'sub_mean',
    'add_mean.shifter': 'add_mean',
    'entry': 'entry',
    'b{i}.b{j}.body.0': 'block_{i}/unit_{j}/conv1',
    'b{i}.b{j}.body.2': 'block_{i}/unit_{j}/conv2',
    'b{i}.b{j}.body.4': 'block_{i}/unit_{j}/conv3',
    'b{i}.c{j}.body.0': 'block_{i}/merge_{j}',
    'c{i}.body.0': 'merge_{i}',
    'upsample.up.body.0': 'upsample/conv_0',
    'upsample.up.body.3': 'upsample/conv_1',
    'upsample.up.body.6': 'upsample/conv_2',
    'upsample.up{s}.body.0': 'upsample_x{s}/conv_0',
    'upsample.up{s}.body.3': 'upsample_x{s}/conv_1',
    'exit': 'exit',
  },
}
# Parameters that a release may lack; they keep their constant initial values.
CONSTANTS = ('sub_mean', 'add_mean')


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
  """Returns the options that follow from the shapes of parameters.

  The scale follows only from a network with a single head.
  """
  channels, features = shapes['entry/kernel'][2:]
  stages = [
    shape[3] // features
    for path, shape in shapes.items()
    if path.startswith('upsample/') and path.endswith('/kernel')
  ]
  options = {
    'channels': channels,
    'features': features,
    'groups': features // shapes['block_1/unit_1/conv1/kernel'][2],
    'efficient': 'block_1/unit_1/conv3/kernel' in shapes,
    'multi_scale': not stages,
  }
  if not stages:
    return options
  return {
    'scale': math.prod(math.isqrt(factor) for factor in stages),
    **options,
  }


# The parameters for which `place` returns ''.
PLACED_NOWHERE = 'of other scales'


def place(path: str, options: Mapping[str, Any]) -> str:
  """Returns where a parameter of a file belongs in a network of these options.

  Returns:
    A Flax path, or '' for the head of another scale.
  """
  head, _, rest = path.partition('/')
  if options.get('multi_scale', True) or not head.startswith('upsample_x'):
    return path
  return f'upsample/{rest}' if head == f'upsample_x{options["scale"]}' else ''


class GroupedConv(nn.Module):
  """Grouped 3x3 convolution on one array per group of channels.

  Attributes:
    features: Number of output channels of all groups together.
    groups: Number of groups.
    dtype: Computation type; parameters stay float32.
  """

  features: int
  groups: int
  dtype: Any = jnp.float32
  kernel_size = 3  # by which `masking` recognises a convolution

  @nn.compact
  def __call__(self, parts: Sequence[jax.Array]) -> list[jax.Array]:
    """Maps the groups of `[B, H, W, C]` to those of `[B, H, W, features]`."""
    channels = sum(x.shape[-1] for x in parts) // self.groups
    shape = (3, 3, channels, self.features)
    kernel = self.param('kernel', common.uniform_kernel, shape)
    init = common.uniform_bias(9 * channels)
    bias = self.param('bias', init, (self.features,)).astype(self.dtype)
    return grouped_conv2d(
      [x.astype(self.dtype) for x in parts],
      kernel.astype(self.dtype),
      bias,
    )


class Unit(nn.Module):
  """Residual convolutions, with a ReLU after the sum.

  Attributes:
    features: Number of channels of input and output.
    groups: Number of groups of the 3x3 convolutions.
    efficient: Whether a 1x1 convolution follows them (CARN-M).
    dtype: Computation type.
  """

  features: int
  groups: int
  efficient: bool
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps `[B, H, W, features]` to the same shape."""
    width, groups, dtype = self.features, self.groups, self.dtype
    parts = jnp.split(x, groups, -1)
    parts = GroupedConv(width, groups, dtype, name='conv1')(parts)
    parts = [relu(y) for y in parts]
    parts = GroupedConv(width, groups, dtype, name='conv2')(parts)
    y = jnp.concatenate(parts, -1)
    if self.efficient:
      y = relu(y)
      y = common.Conv(width, kernel_size=1, dtype=dtype, name='conv3')(y)
    return relu(x + y)


class Block(nn.Module):
  """Three residual units in a cascade.

  Attributes:
    features: Number of channels of input and output.
    groups: Number of groups of the convolutions.
    efficient: Whether one unit is applied three times (CARN-M).
    dtype: Computation type.
  """

  features: int
  groups: int
  efficient: bool
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps `[B, H, W, features]` to the same shape."""
    options = (self.features, self.groups, self.efficient, self.dtype)
    units = [
      Unit(*options, name=f'unit_{i}')
      for i in range(1, 2 if self.efficient else 4)
    ]
    merge = functools.partial(
      common.Conv, self.features, kernel_size=1, dtype=self.dtype
    )
    known = [x]
    for i in range(1, 4):
      known.append(units[0 if self.efficient else i - 1](x))
      x = relu(merge(name=f'merge_{i}')(*known))
    return x


class Head(nn.Module):
  """Sub-pixel upsampling by conv - ReLU - pixel shuffle stages.

  Attributes:
    scale: 2, 3, 4 or 8.
    features: Number of channels of input and output.
    groups: Number of groups of the convolutions.
    dtype: Computation type.
  """

  scale: int
  features: int
  groups: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps `[B, H, W, F]` to `[B, scale * H, scale * W, F]`."""
    parts = jnp.split(x, self.groups, -1)
    for i, factor in enumerate(common.upsampling_stages(self.scale)):
      conv = GroupedConv(
        self.features * factor**2, self.groups, self.dtype, name=f'conv_{i}'
      )
      # The sub-pixels of a channel lie in one group.
      parts = [pixel_shuffle(relu(y), factor) for y in conv(parts)]
    return jnp.concatenate(parts, -1)


class CARN(base.Network):
  """The network of every variant.

  Attributes:
    scale: Enlargement: 2, 3 or 4; also 8 if the network is not multi-scale.
    features: Width of every layer.
    groups: Number of groups of the 3x3 convolutions; the first and the last
      convolution are not grouped.
    efficient: Whether blocks apply one unit three times, which ends in a
      further 1x1 convolution (CARN-M).
    multi_scale: Whether the parameters contain heads for x2, x3 and x4, of
      which `scale` chooses one.
    channels: Number of image channels. If it is 3, the mean colour of DIV2K is
      subtracted, otherwise mid-grey.
    dtype: Computation type; parameters stay float32.
  """

  scale: SubPixelScale
  features: Width
  groups: Count
  efficient: bool
  multi_scale: bool
  channels: Channels = 3
  dtype: Any = jnp.float32

  def check(self) -> None:
    """Refuses groups of unequal width, and scales without a head.

    Raises:
      UserError: An option is refused; the error names it.
    """
    if self.features % self.groups:
      raise UserError(
        f'config.model.groups={self.groups}: give a divisor of'
        f' features={self.features}'
      )
    if self.multi_scale and self.scale not in SCALES:
      raise UserError(
        f'scale {self.scale} is not supported by a multi-scale network;'
        ' choose 2, 3 or 4'
      )

  @nn.compact
  def __call__(
    self, lr: jax.Array, *, train: bool = False
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Enlarges `lr` `[B, H, W, C]` in [0, 1] to `[B, sH, sW, C]`, unclipped."""
    del train
    width, dtype = self.features, self.dtype
    mean = common.default_mean(self.channels)
    x = common.MeanShift(mean, -1, value_range=1.0, name='sub_mean')(lr)
    x = common.Conv(width, dtype=dtype, name='entry')(x)
    merge = functools.partial(common.Conv, width, kernel_size=1, dtype=dtype)
    known = [x]
    for i in range(1, 4):
      options = (width, self.groups, self.efficient, dtype)
      known.append(Block(*options, name=f'block_{i}')(x))
      x = relu(merge(name=f'merge_{i}')(*known))
    x = self._enlarge(x)
    # The last layer computes in float32: bfloat16 would merge grey levels.
    x = common.Conv(self.channels, name='exit')(x)
    return common.MeanShift(mean, 1, value_range=1.0, name='add_mean')(x), {}

  def _enlarge(self, x: jax.Array) -> jax.Array:
    """Applies the head of the scale, and initialises the other heads too."""
    options = (self.features, self.groups, self.dtype)
    if not self.multi_scale:
      return Head(self.scale, *options, name='upsample')(x)
    heads = {s: Head(s, *options, name=f'upsample_x{s}') for s in SCALES}
    if self.is_initializing():
      for head in heads.values():
        head(x)
    return heads[self.scale](x)

  @property
  def scales(self) -> tuple[int, ...]:
    """Scales for which the parameters have heads."""
    return SCALES if self.multi_scale else (self.scale,)

  @property
  def halo(self) -> int:
    """Receptive radius in LR pixels."""
    body = 1 + 3 * 3 * 2
    return math.ceil(body + common.upsampling_radius(self.scale))


def Model(*, scale: int, variant: str = 'carn', **overrides: Any) -> CARN:
  """Creates CARN in one variant; overrides replace single options."""
  return CARN(
    scale=scale, **{**common.select_variant(VARIANTS, variant), **overrides}
  )

"""SRFBN: feedback network for super-resolution (Li et al., CVPR 2019).

A block of up- and down-projections is applied for several steps with the same
weights. Its output is fed back as its second input. Every step produces an SR
image, so the network is faster if it stops after fewer steps.
"""

from __future__ import annotations

import fnmatch
import functools
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from sr_jax.errors import UserError
from sr_jax.models.parts import base, common
from sr_jax.models.parts.options import Among, Channels, Count, Width
from sr_jax.ops.conv import conv2d
from sr_jax.ops.resize import imresize
from sr_jax.ops.scaled_conv import enlarging_conv, reducing_conv

VARIANTS = {
  'srfbn': common.Variant(
    {'features': 64, 'groups': 6, 'steps': 4},
    {2: 2_140_534, 3: 2_832_758, 4: 3_631_478, 8: 7_891_318},
  ),
  'srfbn-s': common.Variant(
    {'features': 32, 'groups': 3, 'steps': 4},
    {2: 282_442, 3: 375_626, 4: 483_146, 8: 1_056_586},
  ),
}
TINY = {'groups': 2, 'steps': 2, 'features': 4}
# Sides of the kernels of the projections, by scale.
_KERNELS = {2: 6, 3: 7, 4: 8, 8: 12}
# Largest number of pairs of projections that are applied one after the other.
_MOST_PAIRS = 512


_LAYERS = {
  'conv_in': 'conv_in',
  'feat_in': 'feat_in',
  'block.compress_in': 'block/compress_in',
  'block.upBlocks.{i}': 'block/up_{i}',
  'block.downBlocks.{i}': 'block/down_{i}',
  'block.uptranBlocks.{i}': 'block/before_up_{i}',
  'block.downtranBlocks.{i}': 'block/before_down_{i}',
  'block.compress_out': 'block/compress_out',
  'out': 'out',
}
# Layer names of released state_dicts, and their Flax paths; `{i}` stands for a
# number.
TORCH_NAMES = {
  'SRFBN': {
    'sub_mean': 'sub_mean',
    'add_mean': 'add_mean',
    'conv_out.0': 'conv_out',
    **{f'{name}.0': path for name, path in _LAYERS.items()},
    **{f'{name}.1.weight': f'{path}/slope' for name, path in _LAYERS.items()},
  },
}
# Parameters without gradient.
CONSTANTS = ('sub_mean', 'add_mean')


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
  """Returns the options that follow from the shapes of parameters.

  Shapes do not depend on the number of steps. It is returned only if width and
  depth are those of a published size.
  """
  size = shapes['out/kernel'][0]
  scales = [scale for scale, side in _KERNELS.items() if side == size]
  if not scales:
    raise ValueError(f'no scale has kernels of {size}x{size}')
  options = {
    'scale': scales[0],
    'channels': shapes['conv_in/kernel'][2],
    'features': shapes['feat_in/kernel'][3],
    'groups': len(fnmatch.filter(shapes, 'block/up_*/kernel')),
  }
  for variant in VARIANTS.values():
    if all(variant.options[k] == options[k] for k in ('features', 'groups')):
      options['steps'] = variant.options['steps']
  return options


# He's initialiser for layers with a rectifier; biases start at zero.
_init = nn.initializers.variance_scaling(2, 'fan_in', 'normal')


class Layer(nn.Module):
  """Convolution and PReLU with one slope for all channels.

  Attributes:
    features: Output channels.
    kernel_size: Side of the kernel.
    conv: Function of input, kernel and bias that computes the convolution.
    dtype: Computation type; parameters stay float32.
  """

  features: int
  kernel_size: int = 1
  conv: Callable[..., jax.Array] = conv2d
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps `[B, H, W, C]` to `[B, H', W', features]`."""
    size, width = self.kernel_size, self.features
    shape = (size, size, x.shape[-1], width)
    kernel = self.param('kernel', _init, shape).astype(self.dtype)
    bias = self.param('bias', nn.initializers.zeros, (width,))
    slope = self.param('slope', nn.initializers.constant(0.2), (1,))
    y = self.conv(x.astype(self.dtype), kernel, bias.astype(self.dtype))
    return jnp.where(y > 0, y, y * slope.astype(self.dtype).reshape(1, 1, 1, 1))


class FeedbackBlock(nn.Module):
  """Densely connected pairs of an up- and a down-projection.

  Attributes:
    scale: Enlargement of the up-projections.
    groups: Number of pairs.
    features: Number of channels of input and output.
    dtype: Computation type.
  """

  scale: int
  groups: int
  features: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, hidden: jax.Array) -> jax.Array:
    """Computes the next hidden state from `x` and the last one.

    All are `[B, H, W, F]`.
    """
    layer = functools.partial(Layer, self.features, dtype=self.dtype)
    projection = functools.partial(layer, _KERNELS[self.scale])
    up = functools.partial(enlarging_conv, scale=self.scale)
    down = functools.partial(reducing_conv, scale=self.scale)
    low = [
      layer(name='compress_in')(jnp.concatenate([x, hidden], axis=-1)),
    ]
    high: list[jax.Array] = []
    for i in range(self.groups):
      x = jnp.concatenate(low, axis=-1)
      if i > 0:
        x = layer(name=f'before_up_{i - 1}')(x)
      high.append(projection(up, name=f'up_{i}')(x))
      x = jnp.concatenate(high, axis=-1)
      if i > 0:
        x = layer(name=f'before_down_{i - 1}')(x)
      low.append(projection(down, name=f'down_{i}')(x))
    return layer(name='compress_out')(jnp.concatenate(low[1:], axis=-1))


class SRFBN(base.Network):
  """The network of every variant.

  Attributes:
    scale: Enlargement: 2, 3, 4 or 8.
    features: Width of every layer.
    groups: Number of pairs of projections in the block.
    steps: Number of times that the block is applied; any number can be used
      with the same weights.
    channels: Number of image channels. If it is 3, the mean colour of DIV2K is
      subtracted, otherwise mid-grey.
    dtype: Computation type; parameters stay float32.
  """

  scale: Annotated[int, Among(tuple(_KERNELS))]
  features: Width
  groups: Count
  steps: Count
  channels: Channels = 3
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, lr: jax.Array, *, train: bool = False
  ) -> tuple[jax.Array, dict[str, tuple[jax.Array, ...]]]:
    """Enlarges `lr` `[B, H, W, C]` in [0, 1], unclipped.

    Returns: SR `[B, sH, sW, C]` of the last step, and a dict whose `outputs`
    holds SR of all steps.
    """
    del train
    width, dtype = self.features, self.dtype
    mean = common.default_mean(self.channels)
    x = common.MeanShift(mean, -1, name='sub_mean')(255 * lr)
    enlarged = imresize(x, scale=self.scale, method='linear')
    x = Layer(4 * width, 3, dtype=dtype, name='conv_in')(x)
    x = Layer(width, dtype=dtype, name='feat_in')(x)
    block = FeedbackBlock(self.scale, self.groups, width, dtype, name='block')
    up = functools.partial(enlarging_conv, scale=self.scale)
    out = Layer(width, _KERNELS[self.scale], up, dtype, name='out')
    # The last layer computes in float32: bfloat16 would merge grey levels.
    last = common.Conv(
      self.channels,
      kernel_init=_init,
      bias_init=nn.initializers.zeros,
      name='conv_out',
    )
    add_mean = common.MeanShift(mean, 1, name='add_mean')
    hidden, outputs = x, []
    for _ in range(self.steps):
      hidden = block(x, hidden)
      outputs.append(add_mean(last(out(hidden)) + enlarged) / 255)
    return outputs[-1], {'outputs': tuple(outputs)}

  def check(self) -> None:
    """Refuses more projections in a row than can be compiled.

    Raises:
      UserError: There are too many projections.
    """
    if self.steps * self.groups > _MOST_PAIRS:
      raise UserError(
        f'config.model.steps={self.steps} of {self.groups} groups: give at most'
        f' {_MOST_PAIRS // self.groups} steps'
      )

  @property
  def halo(self) -> int:
    """Receptive radius in LR pixels."""
    size = _KERNELS[self.scale]
    padding = (size - self.scale) // 2
    # An up-projection spreads an LR pixel to the fine rows from -padding to
    # size - 1 - padding, counted from its own. A down-projection spreads these
    # to all LR pixels that see one of them. The network ends with one more
    # up-projection and a 3x3 layer.
    pair = (size - 1) // self.scale
    end = max(-(-(padding + 1) // self.scale), (size - padding) // self.scale)
    return 1 + self.steps * self.groups * pair + end


def Model(*, scale: int, variant: str = 'srfbn', **overrides: Any) -> SRFBN:
  """Creates SRFBN in one variant; overrides replace single options."""
  return SRFBN(
    scale=scale, **{**common.select_variant(VARIANTS, variant), **overrides}
  )

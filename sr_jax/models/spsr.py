"""SPSR: structure-preserving SR with gradient guidance (Ma et al., CVPR 2020).

The network is an ESRGAN generator with a second branch, which enlarges the
gradient map of LR. The branch takes features of the generator and predicts the
gradient map of SR. Its own features are added to the generator's before the
last layers.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from sr_jax.models.parts import base, common
from sr_jax.models.parts.options import Channels, Count, SubPixelScale, Width
from sr_jax.models.rrdbnet import RRDB
from sr_jax.ops.gradient_map import gradient_map

VARIANTS = {
  'paper': common.Variant(
    {'blocks': 23, 'features': 64, 'growth': 32}, {4: 24_796_230}
  ),
}
TINY = {'blocks': 1, 'features': 4, 'growth': 2, 'look_every': 1}

_DENSE = '.RDB{d}.conv{c}.0'
# Layer names of released state_dicts, and their Flax paths; `{i}` stands for a
# number. Where
# ESRGAN's generator has the same layer, the path is RRDBNet's.
TORCH_NAMES = {
  'SPSR': {
    'model.0': 'head',
    'model.1.sub.{i}' + _DENSE: 'body_{i}/dense{d}/conv{c}',
    'model.1.sub.{end}': 'body_end',
    'model.3': 'upsample_1',
    'model.6': 'upsample_2',
    'model.8': 'refine',
    'HR_conv1_new.0': 'refine_end',
    'b_fea_conv.0': 'branch_head',
    'b_block_{i}' + _DENSE: 'branch_{i}/dense{d}/conv{c}',
    'b_concat_{i}.0': 'branch_merge_{i}',
    'b_LR_conv.0': 'branch_end',
    'b_module.1': 'branch_upsample_1',
    'b_module.4': 'branch_upsample_2',
    'b_module.6': 'branch_refine',
    'b_module.8': 'branch_refine_end',
    'conv_w.0': 'branch_tail',
    'f_block' + _DENSE: 'fuse_block/dense{d}/conv{c}',
    'f_concat.0': 'fuse_merge',
    'f_HR_conv0.0': 'fuse_refine',
    'f_HR_conv1.0': 'fuse_tail',
  },
}
TORCH_IGNORED = {
  'HR_conv0_new.0': 'model.8 again',
  'get_g_nopadding.weight_h': 'fixed kernel of the gradient map',
  'get_g_nopadding.weight_v': 'fixed kernel of the gradient map',
}

# Largest number of places at which the branch takes features of the generator.
_LOOKS = 4
_leaky_relu = functools.partial(nn.leaky_relu, negative_slope=0.2)


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
  """Returns the options that follow from the shapes of parameters."""
  channels, features = shapes['head/kernel'][2:]
  stages = sum(
    path.startswith('upsample_') and path.endswith('/kernel') for path in shapes
  )
  return {
    'scale': 2**stages,
    'channels': channels,
    'features': features,
    'growth': shapes['body_0/dense1/conv1/kernel'][3],
    'blocks': sum(
      path.startswith('body_') and path.endswith('/dense1/conv1/kernel')
      for path in shapes
    ),
  }


class GradientMap(nn.Module):
  """Computes `ops.gradient_map` at the size of the image.

  It is a layer with a kernel size, so that `masking` treats it as a
  convolution.
  """

  kernel_size = 3

  def __call__(self, image: jax.Array) -> jax.Array:
    """Maps `[B, H, W, C]` to the same shape."""
    return gradient_map(image)


class SPSR(base.Network):
  """The network.

  Attributes:
    scale: Enlargement: 2, 3, 4 or 8; 4 in the paper.
    blocks: Number of residual-in-residual dense blocks of the generator.
    features: Width of the layers.
    growth: Number of channels that each convolution of a dense block adds.
    look_every: Number of blocks after which the branch takes features of the
      generator again.
    channels: Number of image channels.
    dtype: Computation type; parameters stay float32.
  """

  scale: SubPixelScale
  blocks: Count
  features: Width
  growth: Width
  look_every: Count = 5
  channels: Channels = 3
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, lr: jax.Array, *, train: bool = False
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Enlarges `lr` `[B, H, W, C]` in [0, 1] to `[B, sH, sW, C]`, unclipped.

    Returns:
      SR, and a dict whose `gradient` holds the gradient map of SR that the
      branch predicts.
    """
    del train
    conv = functools.partial(
      common.Conv,
      features=self.features,
      kernel_init=common.small_kaiming,
      bias_init=nn.initializers.zeros,
      dtype=self.dtype,
    )
    # The last layer computes in float32: bfloat16 would merge grey levels.
    image = functools.partial(conv, features=self.channels, dtype=jnp.float32)

    def both(a: jax.Array, b: jax.Array, name: str, merge: str) -> jax.Array:
      x = jnp.concatenate([a, b], -1)
      x = RRDB(x.shape[-1], self.growth, self.dtype, name=name)(x)
      return conv(name=merge)(x)

    x, looks = self._trunk(lr, conv)
    x = _leaky_relu(conv(name='refine')(self._enlarged(x, conv, '')))
    x = conv(name='refine_end')(x)

    y = start = conv(name='branch_head')(GradientMap(name='gradient')(lr))
    for i, seen in enumerate(looks, 1):
      y = both(y, seen, f'branch_{i}', f'branch_merge_{i}')
    y = start + conv(name='branch_end')(y)
    y = self._enlarged(y, conv, 'branch_')
    y = _leaky_relu(conv(name='branch_refine')(y))
    y = conv(name='branch_refine_end')(y)
    gradient = image(kernel_size=1, name='branch_tail')(y)

    x = both(y, x, 'fuse_block', 'fuse_merge')
    x = _leaky_relu(conv(name='fuse_refine')(x))
    return image(name='fuse_tail')(x), {'gradient': gradient}

  def _trunk(
    self, lr: jax.Array, conv: Callable[..., common.Conv]
  ) -> tuple[jax.Array, list[jax.Array]]:
    """Returns features at LR size, and those that the branch takes."""
    head = conv(name='head')(lr)
    count = min(_LOOKS, self.blocks // self.look_every)

    def step(block: RRDB, carry: Any, i: jax.Array) -> tuple[Any, None]:
      x, looks = carry
      x = block(x)
      # The branch takes the features after every `look_every` blocks. The
      # features of later blocks go to the last place, which is not used.
      place = jnp.minimum(i // self.look_every, count)
      return (x, jax.lax.dynamic_update_index_in_dim(looks, x, place, 0)), None

    # Like `common.chain`, which does not return the features between blocks.
    scanned = nn.scan(
      step,
      variable_axes={'params': 0},
      split_rngs={'params': True},
      length=self.blocks,
    )
    block = RRDB(self.features, self.growth, self.dtype, name='body_*')
    looks = jnp.zeros((count + 1, *head.shape), head.dtype)
    (x, looks), _ = scanned(block, (head, looks), jnp.arange(self.blocks))
    return head + conv(name='body_end')(x), list(looks[:count])

  def _enlarged(
    self, x: jax.Array, conv: Callable[..., common.Conv], prefix: str
  ) -> jax.Array:
    """Applies nearest-neighbour upsampling and a convolution at each stage."""
    for i, factor in enumerate(common.upsampling_stages(self.scale), 1):
      x = x.repeat(factor, 1).repeat(factor, 2)
      x = _leaky_relu(conv(name=f'{prefix}upsample_{i}')(x))
    return x

  @property
  def halo(self) -> int:
    """Receptive radius in LR pixels."""
    rrdb, looks = 15, min(_LOOKS, self.blocks // self.look_every)
    trunk = 1 + rrdb * self.blocks
    # The radius of the branch: all its blocks see the features before them.
    branch = 1 + (rrdb + 1) * looks
    for i in range(1, looks + 1):
      before, after = rrdb * self.look_every * i, (rrdb + 1) * (looks + 1 - i)
      branch = max(branch, before + after)
    tail = 0
    for factor in common.upsampling_stages(self.scale):
      tail = factor * tail + 1
    end = tail + 2 + rrdb + 3
    return 1 + max(trunk, 1 + branch) + math.ceil(end / self.scale)


def Model(*, scale: int, variant: str = 'paper', **overrides: Any) -> SPSR:
  """Creates SPSR; overrides replace single options."""
  return SPSR(
    scale=scale, **{**common.select_variant(VARIANTS, variant), **overrides}
  )

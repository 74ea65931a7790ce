"""SRNet: self-supervised residual-aware network for digital zoom (2019/20).

Two streams take the same LR image. The auxiliary stream predicts the enhanced
residual, which is the detail that HR has and the enlarged LR lacks (the
residual-aware task, RAT). The main stream computes SR. Features of the
auxiliary stream are fused with those of the main stream: the deep ones are
subtracted after its head, the shallow ones are added before its tail. Attention
follows in every block and after both fusions. The layout is that of the
released code; the variant `figure` follows a later figure of the authors, which
differs.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from sr_jax.errors import UserError
from sr_jax.models.parts import base, common
from sr_jax.models.parts.options import (
  Among,
  Channels,
  Count,
  SubPixelScale,
  Width,
)
from sr_jax.models.parts.sizes import larger
from sr_jax.ops.relu import relu

# Options of `SpatialAttention`, by the name of the attention.
_SPATIAL: dict[str, dict[str, Any]] = {
  # Multi-scale pooling and joint rotation.
  'mpr-sa': {'pools': (1, 2, 4)},
  # Attentions of the paper's ablation: at a single scale, and without rotation.
  'ssa': {'pools': (1,)},
  'sa': {'pools': (1,), 'rotations': 1, 'maps': 1},
}
# 'ca' is RCAN's channel attention.
_ATTENTIONS = ('ca', *_SPATIAL)
_Kind = Annotated[str, Among(_ATTENTIONS)]


def _variant(
  attention: Sequence[str],
  rat: bool,
  parameters: Mapping[int, int],
  *,
  blocks: int = 16,
  features: int = 64,
  **others: Any,
) -> common.Variant:
  options = {
    'blocks': blocks,
    'features': features,
    'reduction': 16,
    'block_attention': tuple(attention),
    'fusion_attention': tuple(attention),
    'rat': rat,
  }
  return common.Variant({**options, **others}, parameters)


VARIANTS = {
  'srnet': _variant(('ca', 'mpr-sa'), True, {4: 3_429_726, 8: 3_725_150}),
  'figure': _variant(
    ('ca',),
    True,
    {4: 3_076_958},
    fusion_attention=('ca', 'mpr-sa'),
    head_fusion_sign=1,
    skip_source='head',
  ),
  # The paper's ablation: EDSR-baseline and RCAN^-, without and with RAT.
  # Released files of `edsr-rat` have 23,208 more parameters, see `place`.
  'edsr': _variant((), False, {4: 1_517_595, 8: 1_665_307}),
  'edsr-ssa': _variant(('ssa',), False, {}),
  'edsr-mpr': _variant(('mpr-sa',), False, {}),
  'edsr-rat': _variant((), True, {4: 3_035_190, 8: 3_330_614}),
  'edsr-rat-ssa': _variant(('ssa',), True, {}),
  'edsr-rat-mpr': _variant(('mpr-sa',), True, {}),
  'rcan-minus': _variant(('ca',), False, {4: 1_526_875, 8: 1_674_587}),
  'rcan-minus-ssa': _variant(('ca', 'ssa'), False, {}),
  'rcan-minus-mpr': _variant(('ca', 'mpr-sa'), False, {}),
  'rcan-minus-rat': _variant(('ca',), True, {}),
  'rcan-minus-rat-ssa': _variant(('ca', 'ssa'), True, {}),
  # Our own sizes for two CPU cores: `srnet`, and its main stream alone.
  'small': _variant(('ca', 'mpr-sa'), True, {}, blocks=4, features=32),
  'small-alone': _variant(('ca', 'mpr-sa'), False, {}, blocks=4, features=32),
}
TINY = {'blocks': 1, 'features': 32, 'reduction': 4}


def attention_names(torch: str, path: str) -> dict[str, str]:
  """Returns the rules of names for one or two attentions at one place."""
  rules = {}
  for channel in (torch, f'{torch}attn1.'):
    rules[f'{channel}conv_du.0'] = f'{path}/channel/squeeze'
    rules[f'{channel}conv_du.2'] = f'{path}/channel/expand'
  for spatial in (torch, f'{torch}attn2.'):
    for name, k in (('spatial', '1'), ('spatial{k}', '{k}')):
      rules |= {
        f'{spatial}{name}.conv': f'{path}/spatial/conv_{k}',
        f'{spatial}{name}.bn.weight': f'{path}/spatial/norm_{k}/scale',
        f'{spatial}{name}.bn': f'{path}/spatial/norm_{k}',
      }
  return rules


def _stream_names(torch: str, path: str) -> dict[str, str]:
  """Returns the rules of names for one stream."""
  return {
    f'{torch}sub_mean': f'{path}/sub_mean',
    f'{torch}add_mean': f'{path}/add_mean',
    f'{torch}head.0': f'{path}/head',
    f'{torch}body.{{i}}.body.0': f'{path}/block_{{i}}/conv1',
    f'{torch}body.{{i}}.body.2': f'{path}/block_{{i}}/conv2',
    **attention_names(
      f'{torch}body.{{i}}.body.3.', f'{path}/block_{{i}}/attention'
    ),
    f'{torch}body.{{i}}': f'{path}/body_end',
    f'{torch}tail.0.0': f'{path}/upsample/conv_0',
    f'{torch}tail.0.3': f'{path}/upsample/conv_1',
    f'{torch}tail.0.6': f'{path}/upsample/conv_2',
    f'{torch}tail.1': f'{path}/tail',
  }


# Layer names of released state_dicts, and their Flax paths; `{i}` stands for a
# number.
TORCH_NAMES = {
  'SRNet': {
    **_stream_names('', 'main'),
    **_stream_names('model_ssl.', 'auxiliary'),
    **attention_names('CALayer_head.', 'main/head_attention'),
    **attention_names('CALayer_tail.', 'main/tail_attention'),
  }
}


# The parameters for which `place` returns ''. The released code creates them
# even without attention.
PLACED_NOWHERE = 'attention of the fusions that is never called'


def place(path: str, options: Mapping[str, Any]) -> str:
  """Returns the path, or '' for attention that the options leave out."""
  fusion = path.startswith(('main/head_attention', 'main/tail_attention'))
  return '' if fusion and not options['fusion_attention'] else path


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
  """Returns the options that follow from the shapes of parameters.

  Shapes do not depend on `head_fusion_sign` and `skip_source`, for which the
  values of the released code are returned.
  """
  channels, features = shapes['main/head/kernel'][2:]
  main = {
    path.removeprefix('main/'): shape
    for path, shape in shapes.items()
    if path.startswith('main/')
  }
  attention = _recognise_attention(main, 'block_0/attention')
  squeezed = main.get('block_0/attention/channel/squeeze/kernel')
  rat = any(path.startswith('auxiliary/') for path in shapes)
  fusion = _recognise_attention(main, 'head_attention') if rat else attention
  return {
    'scale': common.upsampling_scale(main),
    'channels': channels,
    'blocks': sum(path.endswith('/conv1/kernel') for path in main),
    'features': features,
    'reduction': features // squeezed[3] if squeezed else 16,
    'block_attention': attention,
    # In the released code one switch turns both fusions' attention on.
    'fusion_attention': fusion if attention else (),
    'rat': rat,
    'head_fusion_sign': -1,
    'skip_source': 'fused',
  }


def _recognise_attention(
  shapes: Mapping[str, tuple[int, ...]], path: str
) -> tuple[str, ...]:
  kinds = []
  if f'{path}/channel/squeeze/kernel' in shapes:
    kinds.append('ca')
  if first := shapes.get(f'{path}/spatial/conv_1/kernel'):
    several = f'{path}/spatial/conv_2/kernel' in shapes
    single = 'sa' if first[3] == 1 else 'ssa'
    kinds.append('mpr-sa' if several else single)
  return tuple(kinds)


def _square(x: jax.Array) -> jax.Array:
  """Reflects `[B, H, W, C]` at its borders until it is a square."""
  side = larger(*x.shape[1:3])  # sizes may be symbols in an export
  for axis in (1, 2):
    size = x.shape[axis]
    if size != side:
      # By index, because a narrow image is reflected several times.
      period = larger(2 * (size - 1), 1)
      index = (jnp.arange(side) - (side - size) // 2) % period
      x = jnp.take(x, jnp.minimum(index, period - index), axis)
  return x


def _middle(x: jax.Array, height: int, width: int) -> jax.Array:
  """Cuts the image out of the square that `_square` made of it."""
  for axis, size in ((1, height), (2, width)):
    start = (x.shape[axis] - size) // 2
    x = jax.lax.dynamic_slice_in_dim(x, start, size, axis)
  return x


class SpatialAttention(nn.Module):
  """Weights positions by the means of groups of channels, in four rotations.

  Branch i averages groups of neighbouring channels to `pools[i]` maps. A 7x7
  convolution takes these maps and their rotations, which are not rotated back.
  As only squares can be rotated, images of other shapes are extended to squares
  by reflection.

  Attributes:
    pools: Number of maps of each branch.
    rotations: Number of rotations: 4, or 1 for the maps alone.
    maps: Number of weights of a position; channel c is multiplied by weight
      c mod `maps`.
    dtype: Computation type.
  """

  pools: Sequence[int]
  rotations: int = 4
  maps: int = 8
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Maps `[B, H, W, C]` to the same shape."""
    *_, height, width, features = x.shape
    logits = 0.0
    for i, pool in enumerate(self.pools, 1):
      groups = x.reshape(*x.shape[:3], pool, features // pool)
      # In float32, because bfloat16 cannot represent the mean of many numbers.
      y = groups.mean(4, jnp.float32)
      y = _square(y) if self.rotations > 1 else y
      turned = [jnp.rot90(y, k, (1, 2)) for k in range(self.rotations)]
      y = common.Conv(
        self.maps, 7, use_bias=False, dtype=self.dtype, name=f'conv_{i}'
      )(jnp.concatenate(turned, -1))
      logits += nn.BatchNorm(
        not train, momentum=0.99, dtype=self.dtype, name=f'norm_{i}'
      )(y)
    weights = _middle(nn.sigmoid(jnp.asarray(logits)), height, width)
    return x * jnp.tile(weights, features // self.maps)


class Attention(nn.Module):
  """One or several attentions, one after the other.

  Attributes:
    kinds: Any of 'ca', 'mpr-sa', 'ssa' and 'sa', of which at most one of the
      last three.
    features: Number of channels of input and output.
    reduction: Factor by which 'ca' narrows its hidden layer.
    dtype: Computation type.
  """

  kinds: Sequence[str]
  features: int
  reduction: int = 16
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Maps `[B, H, W, features]` to the same shape."""
    for kind in self.kinds:
      if kind == 'ca':
        x = common.ChannelAttention(
          self.features, self.reduction, self.dtype, name='channel'
        )(x)
      else:
        x = SpatialAttention(
          **_SPATIAL[kind], dtype=self.dtype, name='spatial'
        )(x, train=train)
    return x


class Block(nn.Module):
  """conv - ReLU - conv - attention, added to the input.

  Attributes:
    features: Number of channels of input and output.
    attention: Kinds of attention.
    reduction: Factor by which the channel attention narrows its hidden layer.
    dtype: Computation type.
  """

  features: int
  attention: Sequence[str]
  reduction: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Maps `[B, H, W, features]` to the same shape."""
    width, dtype = self.features, self.dtype
    y = relu(common.Conv(width, dtype=dtype, name='conv1')(x))
    y = common.Conv(width, dtype=dtype, name='conv2')(y)
    attention = Attention(
      self.attention, width, self.reduction, dtype, name='attention'
    )
    return x + attention(y, train=train)


class Stream(nn.Module):
  """EDSR with attention, which may use the features of another stream.

  The attributes are those of `SRNet`.
  """

  scale: int
  blocks: int
  features: int
  reduction: int
  block_attention: Sequence[str]
  fusion_attention: Sequence[str]
  rat: bool
  head_fusion_sign: int
  skip_source: str
  channels: int
  dtype: Any

  @nn.compact
  def __call__(
    self,
    lr: jax.Array,
    other: tuple[jax.Array, jax.Array] | None = None,
    *,
    train: bool,
  ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Enlarges `lr` and returns features for another stream.

    Args:
      lr: `[B, H, W, C]` in [0, 1].
      other: The features of another stream, as it returns them.
      train: Whether the statistics of the batch are used.

    Returns:
      The image `[B, sH, sW, C]`, and two arrays of features
      `[B, H, W, features]`: the shallow ones after the head and the deep ones
      before the tail.
    """
    width, dtype = self.features, self.dtype
    mean = common.default_mean(self.channels)

    def fuse(x: jax.Array, y: jax.Array, name: str) -> jax.Array:
      # In the released code the reduction of the fusions is always 16.
      kinds = self.fusion_attention
      attention = Attention(kinds, width, dtype=dtype, name=f'{name}_attention')
      return attention(x + y, train=train)

    x = common.MeanShift(mean, -1, name='sub_mean')(255 * lr)
    x = shallow = skip = common.Conv(width, dtype=dtype, name='head')(x)
    if other is not None:
      x = fuse(x, self.head_fusion_sign * other[1], 'head')
      skip = x if self.skip_source == 'fused' else skip
    for i in range(self.blocks):
      block = Block(
        width, self.block_attention, self.reduction, dtype, name=f'block_{i}'
      )
      x = block(x, train=train)
    x = common.Conv(width, dtype=dtype, name='body_end')(x)
    if other is not None:
      x = fuse(x, other[0], 'tail')
    x = deep = skip + x
    # In the released code a network of one stream is EDSR, which has no ReLU
    # there.
    x = common.Upsampler(self.scale, width, dtype, self.rat, name='upsample')(x)
    # The last layer computes in float32: bfloat16 would merge grey levels.
    x = common.Conv(self.channels, name='tail')(x)
    x = common.MeanShift(mean, 1, name='add_mean')(x) / 255
    return x, (shallow, deep)


class SRNet(base.Network):
  """The network of every variant.

  Attributes:
    scale: Enlargement: 2, 3, 4 or 8.
    blocks: Number of residual blocks of each stream.
    features: Width of every layer; a multiple of 8 with spatial attention.
    reduction: Factor by which the channel attention of the blocks narrows its
      hidden layer.
    block_attention: Attention in the blocks, see `Attention`.
    fusion_attention: Attention after each of the two fusions.
    rat: Whether there is an auxiliary stream.
    head_fusion_sign: Factor of the deep features in the fusion after the head:
      -1 in the released code, 1 in the figure.
    skip_source: Where the long skip begins: 'fused' means after the fusion, as
      in the released code, and 'head' before it, as in the figure.
    channels: Number of image channels. If it is 3, the mean colour of DIV2K is
      subtracted, otherwise mid-grey.
    dtype: Computation type; parameters stay float32.
  """

  scale: SubPixelScale
  blocks: Count
  features: Width
  reduction: Width
  block_attention: Sequence[_Kind]
  fusion_attention: Sequence[_Kind]
  rat: bool
  head_fusion_sign: Annotated[int, Among((-1, 1))] = -1
  skip_source: Annotated[str, Among(('fused', 'head'))] = 'fused'
  channels: Channels = 3
  dtype: Any = jnp.float32

  def check(self) -> None:
    """Refuses a width that spatial attention cannot divide.

    Raises:
      UserError: The width is not a multiple of 8.
    """
    kinds = {*self.block_attention, *self.fusion_attention}
    if kinds & set(_SPATIAL) and self.features % 8:
      raise UserError(
        f'config.model.features={self.features}: spatial attention needs a'
        ' multiple of 8'
      )

  @nn.compact
  def __call__(
    self, lr: jax.Array, *, train: bool = False
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Enlarges `lr` `[B, H, W, C]` in [0, 1]; unclipped.

    Returns:
      SR `[B, sH, sW, C]`, and a dict. If there is an auxiliary stream, its
      `residual` holds the enhanced residual, of the same shape.
    """
    options = {
      field.name: getattr(self, field.name)
      for field in dataclasses.fields(Stream)
      if field.name not in ('parent', 'name')
    }
    if not self.rat:
      return Stream(**options, name='main')(lr, train=train)[0], {}
    residual, features = Stream(**options, name='auxiliary')(lr, train=train)
    sr, _ = Stream(**options, name='main')(lr, features, train=train)
    return sr, {'residual': residual}

  @property
  def halo(self) -> int | None:
    """Receptive radius in LR pixels; None if attention sees the whole image."""
    if self.block_attention or (self.rat and self.fusion_attention):
      return None
    stream = 1 + 2 * self.blocks + 1
    # The deep features are fused before the blocks of the main stream.
    body = stream + (stream - 1 if self.rat else 0)
    return math.ceil(body + common.upsampling_radius(self.scale))


def Model(*, scale: int, variant: str = 'srnet', **overrides: Any) -> SRNet:
  """Creates SRNet in one variant; overrides replace single options."""
  return SRNet(
    scale=scale, **{**common.select_variant(VARIANTS, variant), **overrides}
  )

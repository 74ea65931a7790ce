"""SRNTT: super-resolution by neural texture transfer (Zhang et al., CVPR 2019).

The content extractor computes features of LR. The reference gives features of
VGG19, whose patches were put in place of similar ones of LR
(`ops.patch_match`). Both are joined at three resolutions:

  content + relu3_1 -> small -> x2
                  that + relu2_1 -> medium -> x2
                                  that + relu1_1 -> large -> SR

The part `enlarge` computes SR from the content alone. It is the SRGAN in which
the authors trained the content extractor. With `transfer=False` the network has
only these two parts.

There are two networks of this name. That of the authors, in TensorFlow, has
batch normalisation. Another one, in PyTorch (by S-aiueo32), has none; its
result is added to the bilinearly enlarged image, and it may have gates, which
weaken features that match badly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from sr_jax.errors import UserError
from sr_jax.models.parts import base, common
from sr_jax.models.parts.options import Channels, Count, Width
from sr_jax.ops.pixel_shuffle import pixel_shuffle
from sr_jax.ops.relu import relu
from sr_jax.ops.resize import torch_bicubic

# Layers of VGG19 and their numbers of channels. Patches are matched in the
# first.
LAYERS = {'relu3_1': 256, 'relu2_1': 128, 'relu1_1': 64}
# Parts of the network, and the layer of VGG19 that each takes.
_PARTS = dict(zip(('small', 'medium', 'large'), LAYERS, strict=True))
_SCALE = 4
_SLOPE = 0.1

_AUTHORS = {'features': 64, 'blocks': 16, 'norm': True, 'gated': False}
_OTHERS = {
  'features': 64,
  'blocks': 16,
  'transfer': True,
  'transfer_blocks': (16, 16, 16),
  'norm': False,
}
VARIANTS = {
  'released': common.Variant(
    {**_AUTHORS, 'transfer': True, 'transfer_blocks': (16, 8, 4)},
    {4: 4_383_494},
  ),
  # The content extractor and `enlarge`, without texture transfer.
  'content': common.Variant(
    {**_AUTHORS, 'transfer': False, 'transfer_blocks': ()}, {4: 1_518_147}
  ),
  'plain': common.Variant({**_OTHERS, 'gated': False}, {4: 5_746_246}),
  'gated': common.Variant({**_OTHERS, 'gated': True}, {4: 5_746_252}),
}
TINY = {'blocks': 1, 'transfer_blocks': (1, 1, 1), 'features': 8}

# Layer names of released state_dicts, and their Flax paths; `{i}` stands for a
# number.
TORCH_NAMES = {
  'S-aiueo32': {
    'content_extractor.head.0': 'content/head',
    'content_extractor.body.{i}.body.0': 'content/body_{i}/layer1/conv',
    'content_extractor.body.{i}.body.2': 'content/body_{i}/layer2/conv',
    'content_extractor.tail.0': 'enlarge/upsample_1/conv',
    'content_extractor.tail.3': 'enlarge/upsample_2/conv',
    'content_extractor.tail.6': 'enlarge/refine',
    'content_extractor.tail.8': 'enlarge/tail',
    **{
      f'texture_transfer.{layer}': path
      for part in _PARTS
      for layer, path in (
        (f'head_{part}.0', f'{part}/head'),
        (f'body_{part}.{{i}}.body.0', f'{part}/body_{{i}}/layer1/conv'),
        (f'body_{part}.{{i}}.body.2', f'{part}/body_{{i}}/layer2/conv'),
      )
    },
    'texture_transfer.tail_small.0': 'upsample_small/conv',
    'texture_transfer.tail_medium.0': 'upsample_medium/conv',
    'texture_transfer.tail_large.0': 'last/refine',
    'texture_transfer.tail_large.2': 'last/tail',
    'texture_transfer.a': 'gates/slope',
    'texture_transfer.b': 'gates/offset',
  },
}


def npz_arrays(arrays: Sequence[np.ndarray]) -> dict[str, np.ndarray] | None:
  """Returns the arrays of a released `.npz` by Flax path.

  upscale.npz holds `content` and `enlarge`, other files hold the parts of the
  texture transfer. Returns None if the arrays are not those of this network.
  """
  if not arrays or arrays[0].ndim != 4:
    return None
  names = _content_names if arrays[0].shape[2] == 3 else _transfer_names
  paths = names(len(arrays))
  if len(paths) != len(arrays):
    return None
  found = dict(zip(paths, arrays, strict=True))
  return {
    path: _torch_order(array) if 'upsample' in path else array
    for path, array in found.items()
  }


def _torch_order(array: np.ndarray) -> np.ndarray:
  """Reorders the output channels of a sub-pixel layer of TensorFlow."""
  phases = array.reshape(*array.shape[:-1], 4, -1)
  return phases.swapaxes(-1, -2).reshape(array.shape)


def _body_names(part: str, blocks: int) -> list[str]:
  layers = [f'body_{i}/layer{n}' for i in range(blocks) for n in (1, 2)] + [
    'end'
  ]
  paths = common.npz_layer(f'{part}/head', bias=True)
  for layer in layers:
    path = f'{part}/{layer}'
    paths += common.npz_layer(f'{path}/conv', norm=f'{path}/norm')
  return paths


def _content_names(count: int) -> list[str]:
  paths = _body_names('content', (count - 13) // 10)
  for layer in ('upsample_1/conv', 'upsample_2/conv', 'tail'):
    paths += common.npz_layer(f'enlarge/{layer}', bias=True)
  return paths


def _transfer_names(count: int) -> list[str]:
  # The three parts have n, n / 2 and n / 4 blocks.
  total, paths = (count - 29) // 10, []
  most = next(n for n in range(total + 1) if n + n // 2 + n // 4 >= total)
  for i, part in enumerate(_PARTS):
    paths += _body_names(part, most >> i)
    if part != 'large':
      paths += common.npz_layer(f'upsample_{part}/conv', bias=True)
  for layer in ('refine', 'tail'):
    paths += common.npz_layer(f'last/{layer}', bias=True)
  return paths


def METHOD(options: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the section `method` of imported weights."""
  return {'name': 'reference' if options['transfer'] else 'supervised'}


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
  """Returns the options that follow from the shapes of parameters."""
  transfer = 'small/head/kernel' in shapes
  if transfer and 'content/head/kernel' not in shapes:
    raise UserError(
      'holds the texture transfer alone: give upscale.npz, which holds the'
      ' content extractor, as content=FILE'
    )
  channels, features = shapes['content/head/kernel'][2:]

  def blocks(part: str) -> int:
    return sum(
      path.startswith(f'{part}/body_') and path.endswith('/layer1/conv/kernel')
      for path in shapes
    )

  return {
    'scale': _SCALE,
    'channels': channels,
    'features': features,
    'blocks': blocks('content'),
    'transfer': transfer,
    'transfer_blocks': tuple(map(blocks, _PARTS)) if transfer else (),
    'norm': 'content/end/conv/kernel' in shapes,
    'gated': 'gates/slope' in shapes,
  }


class SRNTT(base.Network):
  """The network of every variant.

  Attributes:
    features: Width of every layer except the last ones.
    blocks: Number of residual blocks of the content extractor.
    transfer: Whether the network uses references.
    transfer_blocks: Number of residual blocks at each resolution, the coarsest
      first.
    norm: Whether it is the authors' network, with batch normalisation.
    gated: Whether gates weaken features that match badly.
    channels: Number of image channels.
    dtype: Computation type; parameters stay float32.
  """

  features: Width
  blocks: Count
  transfer: bool
  transfer_blocks: Sequence[Count]
  norm: bool
  gated: bool
  channels: Channels = 3
  dtype: Any = jnp.float32
  scale = _SCALE

  def check(self) -> None:
    """Refuses a wrong number of resolutions.

    Raises:
      UserError: `transfer_blocks` has not one number for each resolution.
    """
    wanted = len(_PARTS) if self.transfer else 0
    if len(self.transfer_blocks) != wanted:
      raise UserError(
        f'config.model.transfer_blocks={tuple(self.transfer_blocks)}: give'
        f' {wanted} numbers with transfer={self.transfer}'
      )

  @nn.compact
  def __call__(
    self,
    lr: jax.Array,
    maps: Mapping[str, jax.Array] | None = None,
    similarity: jax.Array | None = None,
    *,
    train: bool = False,
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Enlarges `lr` with the texture of a reference.

    Args:
      lr: `[B, H, W, C]` in [0, 1].
      maps: Features of the reference by layer, see `LAYERS`; relu3_1 is
        `[B, H, W, 256]`. None means no texture, which is zeros.
      similarity: How well the features match, `[B, H, W]`; None means
        perfectly.
      train: Whether the statistics of the batch are used.

    Returns:
      SR `[B, 4 * H, 4 * W, C]`, unclipped; and a dict whose `enlarged` holds SR
      that is made without a reference.
    """
    style: dict[str, Any] = {
      'features': self.features,
      'norm': self.norm,
      'train': train,
      'dtype': self.dtype,
    }
    # In the authors' code images are in [-1, 1].
    x = 2 * lr - 1 if self.norm else lr
    x = _Body(**style, blocks=self.blocks, name='content')(x)
    enlarge = _Enlarge(**style, channels=self.channels, name='enlarge')
    enlarged = self._image(enlarge(x), lr)
    if not self.transfer:
      return enlarged, {'enlarged': enlarged}
    maps = no_maps(lr.shape) if maps is None else maps
    if self.gated:
      perfect = jnp.ones(lr.shape[:3])
      seen = perfect if similarity is None else similarity
      maps = _Gates(name='gates')(maps, seen)
    for (part, layer), blocks in zip(
      _PARTS.items(), self.transfer_blocks, strict=True
    ):
      x = _Body(**style, blocks=blocks, name=part)(x, maps[layer])
      if part != 'large':
        x = _Upsample(**style, name=f'upsample_{part}')(x)
    x = _Last(**style, channels=self.channels, name='last')(x)
    return self._image(x, lr), {'enlarged': enlarged}

  def _image(self, x: jax.Array, lr: jax.Array) -> jax.Array:
    """Computes SR from the output of the last layer."""
    if self.norm:
      return (jnp.tanh(x) + 1) / 2
    return x + jax.image.resize(lr, x.shape, 'bilinear')

  @property
  def halo(self) -> int | None:
    """Receptive radius in LR pixels, without that of the matching.

    It is None if there are gates, because the positions from which they take
    similarities depend on the size of the image.
    """
    if self.gated:
      return None
    end = int(self.norm)  # the authors' network has one more convolution
    radius = 1.0 + 2 * self.blocks + end
    if not self.transfer:
      return math.ceil(radius + 1 + 1 / 2 + (1 - end) * 2 / 4)
    small, medium, large = (1 + 2 * n + end for n in self.transfer_blocks)
    last = 1 + (1 - end)
    return math.ceil(
      radius + (small + 1) + (medium + 1) / 2 + (large + last) / 4
    )


def no_maps(shape: Sequence[int]) -> dict[str, jax.Array]:
  """Returns features of zeros for LR images `[B, H, W, C]`."""
  batch, height, width = shape[:3]
  return {
    layer: jnp.zeros((batch, height << i, width << i, channels))
    for i, (layer, channels) in enumerate(LAYERS.items())
  }


_normal = nn.initializers.normal(0.02)


def _near_one(key: jax.Array, shape: Sequence[int], dtype: Any) -> jax.Array:
  """Initialiser of the authors' for the scales of a normalisation."""
  return 1 + 0.02 * jax.random.normal(key, shape, dtype)


def _conv(features: int, size: int = 3, **options: Any) -> common.Conv:
  """Returns a convolution with the initial values that both networks have."""
  zeros = nn.initializers.zeros
  return common.Conv(
    features, size, kernel_init=_normal, bias_init=zeros, **options
  )


class _Part(nn.Module):
  """Base class of the parts of the network.

  Attributes:
    features: Width of the part.
    norm: Whether a batch normalisation follows each convolution.
    train: Whether it uses the statistics of the batch.
    dtype: Computation type.
  """

  features: int
  norm: bool
  train: bool
  dtype: Any

  @property
  def style(self) -> dict[str, Any]:
    """The attributes, to be passed to the parts within this one."""
    return {
      'features': self.features,
      'norm': self.norm,
      'train': self.train,
      'dtype': self.dtype,
    }

  def active(self, x: jax.Array) -> jax.Array:
    """Applies the activation that is used outside of the blocks."""
    return relu(x) if self.norm else nn.leaky_relu(x, _SLOPE)


class _Layer(_Part):
  """A convolution, which is either normalised or has a bias."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps `[B, H, W, F]` to the same shape."""
    width, dtype = self.features, self.dtype
    x = _conv(width, use_bias=not self.norm, dtype=dtype, name='conv')(x)
    if not self.norm:
      return x
    return nn.BatchNorm(
      not self.train,
      momentum=0.9,
      scale_init=_near_one,
      dtype=dtype,
      name='norm',
    )(x)


class _Block(_Part):
  """layer - ReLU - layer, added to the input."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps `[B, H, W, F]` to the same shape."""
    y = relu(_Layer(**self.style, name='layer1')(x))
    return x + _Layer(**self.style, name='layer2')(y)


class _Body(_Part):
  """A convolution and residual blocks, at one resolution.

  At the end the input is added, without the features of the reference. If the
  input is an image, the output of the first convolution is added instead.

  Attributes:
    blocks: Number of residual blocks.
  """

  blocks: int = 0

  @nn.compact
  def __call__(self, x: jax.Array, maps: jax.Array | None = None) -> jax.Array:
    """Maps `[B, H, W, C]` to `[B, H, W, F]`."""
    both = x if maps is None else jnp.concatenate([x, maps], -1)
    head = _conv(self.features, dtype=self.dtype, name='head')
    y = first = self.active(head(both))
    y = common.chain(_Block(**self.style, name='body_*'), self.blocks, y)
    if self.norm:
      y = _Layer(**self.style, name='end')(y)
    return y + (first if maps is None else x)


class _Upsample(_Part):
  """Sub-pixel upsampling by 2."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps `[B, H, W, F]` to `[B, 2 * H, 2 * W, F]`."""
    x = _conv(4 * self.features, dtype=self.dtype, name='conv')(x)
    return self.active(pixel_shuffle(x, 2))


class _Enlarge(_Part):
  """Computes SR from the content alone.

  Attributes:
    channels: Number of channels of the image.
  """

  channels: int = 3

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps `[B, H, W, F]` to `[B, 4 * H, 4 * W, C]`."""
    for i in (1, 2):
      x = _Upsample(**self.style, name=f'upsample_{i}')(x)
    if not self.norm:
      refine = _conv(self.features, dtype=self.dtype, name='refine')
      x = self.active(refine(x))
    # The last layer computes in float32: bfloat16 would merge grey levels.
    return _conv(self.channels, 1 if self.norm else 3, name='tail')(x)


class _Last(_Part):
  """Computes SR from the features of the finest resolution.

  Attributes:
    channels: Number of channels of the image.
  """

  channels: int = 3

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps `[B, H, W, F]` to `[B, H, W, C]`."""
    x = _conv(self.features // 2, dtype=self.dtype, name='refine')(x)
    x = x if self.norm else self.active(x)
    return _conv(self.channels, 1 if self.norm else 3, name='tail')(x)


class _Gates(nn.Module):
  """Multiplies features by sigmoid(slope * similarity + offset)."""

  @nn.compact
  def __call__(
    self, maps: Mapping[str, jax.Array], similarity: jax.Array
  ) -> dict[str, jax.Array]:
    """Gates features, the coarsest of which have the size of `similarity`."""
    ones = nn.initializers.ones
    slope, offset = (
      self.param(name, ones, (len(maps),)) for name in ('slope', 'offset')
    )
    gated = {}
    for i, layer in enumerate(LAYERS):
      # The similarities are enlarged so that the centres of corner pixels stay
      # at the corners, as in the released code.
      seen = torch_bicubic(similarity[..., None], 2**i, align_corners=True)
      gate = nn.sigmoid(slope[i] * seen + offset[i])
      gated[layer] = maps[layer] * gate
    return gated


def Model(*, scale: int, variant: str = 'released', **overrides: Any) -> SRNTT:
  """Creates SRNTT in one variant; overrides replace single options.

  Raises:
    UserError: The scale is not 4.
  """
  if scale != _SCALE:
    raise UserError(f'scale {scale} is not supported: srntt enlarges by 4')
  return SRNTT(**{**common.select_variant(VARIANTS, variant), **overrides})

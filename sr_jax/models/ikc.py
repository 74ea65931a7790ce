"""IKC: blind super-resolution with corrected kernels (Gu et al., CVPR 2019).

Three networks share a code of the blur kernel, which is the kernel's PCA (see
`ops.kernel_codes`). SFTMD enlarges an image whose kernel code is given: in
every block the code scales and shifts the features. The predictor estimates
the code from LR. The corrector sees SR, which shows by its blur or its rings
how a code is wrong, and corrects the code.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from sr_jax.models.parts import base, common
from sr_jax.models.parts.architecture import Companion
from sr_jax.models.parts.options import Channels, Count, SubPixelScale, Width
from sr_jax.ops.conv import conv2d
from sr_jax.ops.pixel_shuffle import pixel_shuffle
from sr_jax.ops.resize import imresize
from sr_jax.ops.scaled_conv import reducing_conv

_PAPER = {
  'blocks': 16,
  'features': 64,
  'condition': 32,
  'codes': 10,
  'early': False,
  'bicubic_skip': False,
}
VARIANTS = {
  'sftmd': common.Variant(_PAPER, {2: 4_086_979, 3: 4_271_619, 4: 4_234_691}),
  # A second network of the released code, with the code at the first layer.
  'demo': common.Variant({**_PAPER, 'early': True}, {4: 4_239_872}),
  # Not the paper's: a size for trials on a CPU.
  'small': common.Variant(
    {
      **_PAPER,
      'blocks': 3,
      'features': 24,
      'condition': 12,
      'bicubic_skip': True,
    },
    {2: 162_411},
  ),
}
# `config.method` of checkpoints that are imported from published weights.
METHOD = {'name': 'kernel_conditioned'}
TINY = {'blocks': 2, 'features': 4, 'condition': 4, 'codes': 3}


def _sft_names(torch: str, path: str) -> dict[str, str]:
  """PyTorch names of an SFT layer, to Flax paths."""
  return {
    f'{torch}.{part}_conv{i}': f'{path}/{ours}_{i}'
    for part, ours in (('mul', 'scale'), ('add', 'shift'))
    for i in (1, 2)
  }


def _block_names(torch: str, path: str) -> dict[str, str]:
  """PyTorch names of a residual block, to Flax paths."""
  names = {f'{torch}.conv{i}': f'{path}/conv{i}' for i in (1, 2)}
  for i in (1, 2):
    names |= _sft_names(f'{torch}.sft{i}', f'{path}/sft{i}')
  return names


# The released code counts blocks from 1; `place` moves them to the paths of a
# chain, which counts from 0.
TORCH_NAMES = {
  'IKC': {
    **{f'conv{i}': f'head_{i}' for i in (1, 2, 3)},
    **_block_names('SFT-residual{i}', 'released_{i}'),
    **_sft_names('sft', 'sft'),
    **_sft_names('sft_mid', 'sft'),  # of SFTMD_DEMO
    'conv_mid': 'mid',
    'upscale.0': 'upsample_0',
    'upscale.3': 'upsample_1',
    'upscale.6': 'upsample_2',
    'conv_output': 'tail',
  }
}
TORCH_IGNORED = dict.fromkeys(
  _block_names('sft_branch.{i}', ''), 'blocks that the released code never uses'
)
_RELEASED = re.compile(r'released_([0-9]+)/')


def place(path: str, options: Mapping[str, Any]) -> str:
  """Path of a parameter in the network."""
  del options
  return _RELEASED.sub(lambda match: f'body_{int(match[1]) - 1}/', path)


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
  """Options that follow from parameter shapes, by Flax path."""
  inputs, features = shapes['head_1/kernel'][2:]
  channels = shapes['tail/kernel'][3]
  blocks = {p.split('/')[0] for p in shapes if p.endswith('/conv1/kernel')}
  given, condition = shapes['sft/scale_1/kernel'][2:]
  return {
    'scale': common.upsampling_scale(shapes, 'upsample_'),
    'channels': channels,
    'features': features,
    'blocks': len(blocks),
    'condition': condition,
    'codes': given - features,
    'early': inputs > channels,
    'bicubic_skip': False,
  }


def leaky_relu(x: jax.Array) -> jax.Array:
  """With the slope of all networks here."""
  return nn.leaky_relu(x, 0.2)


class SFT(nn.Module):
  """Scales and shifts features by what a map of the code suggests.

  Attributes:
    condition: Width of the layer between.
    dtype: Computation type.
  """

  condition: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, code: jax.Array) -> jax.Array:
    """Maps features `[B, H, W, F]`, given the code's map `[B, H, W, N]`."""

    def branch(name: str) -> jax.Array:
      between = common.Conv(self.condition, dtype=self.dtype, name=f'{name}_1')(
        x, code
      )
      last = common.Conv(x.shape[-1], dtype=self.dtype, name=f'{name}_2')
      return last(leaky_relu(between))

    return x * nn.sigmoid(branch('scale')) + branch('shift')


class _Block(nn.Module):
  """SFT - ReLU - conv, twice, plus identity.

  Attributes:
    condition: Width within the SFT layers.
    dtype: Computation type.
  """

  condition: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, code: jax.Array) -> jax.Array:
    """Maps `[B, H, W, F]` to the same shape."""
    y = x
    for i in (1, 2):
      y = SFT(self.condition, self.dtype, name=f'sft{i}')(y, code)
      conv = common.Conv(x.shape[-1], dtype=self.dtype, name=f'conv{i}')
      y = conv(nn.relu(y))
    return x + y


class SFTMD(base.Network):
  """The network that enlarges an image whose kernel code is given.

  Attributes:
    scale: Enlargement: 2, 3, 4 or 8.
    blocks: Number of residual blocks.
    features: Width of most layers.
    condition: Width within the SFT layers.
    codes: Length of the kernel code.
    early: Whether the first layer sees the code as well, and layers at the end
      have no biases, as in the released class SFTMD_DEMO.
    bicubic_skip: Whether the result is added to the bicubic enlargement of the
      image; not in the paper.
    channels: Image channels.
    dtype: Computation type; parameters stay float32.
  """

  scale: SubPixelScale
  blocks: Count
  features: Width
  condition: Width
  codes: Width
  early: bool = False
  bicubic_skip: bool = False
  channels: Channels = 3
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self,
    lr: jax.Array,
    code: jax.Array | None = None,
    *,
    train: bool = False,
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Enlarges images.

    Args:
      lr: `[B, H, W, C]` in [0, 1].
      code: Kernel codes `[B, codes]`; None for zeros.
      train: Not used.

    Returns:
      SR `[B, sH, sW, C]`, not clipped, and an empty dict.
    """
    del train
    width, dtype = self.features, self.dtype
    if code is None:
      code = jnp.zeros((lr.shape[0], self.codes))
    code = jnp.broadcast_to(
      code[:, None, None, :], (*lr.shape[:3], self.codes)
    ).astype(dtype)
    x: tuple[jax.Array, ...] = (lr, code) if self.early else (lr,)
    for i in (1, 2):
      x = (leaky_relu(common.Conv(width, dtype=dtype, name=f'head_{i}')(*x)),)
    head = common.Conv(width, dtype=dtype, name='head_3')(*x)
    block = _Block(self.condition, dtype, name='body_*')
    y = common.chain(block, self.blocks, head, code)
    y = self._tail(head, y, code)
    for i, factor in enumerate(common.upsampling_stages(self.scale)):
      conv = common.Conv(
        width * factor**2,
        use_bias=not self.early,
        dtype=dtype,
        name=f'upsample_{i}',
      )
      y = leaky_relu(pixel_shuffle(conv(y), factor))
    # In float32 also under mixed precision: bfloat16 merges grey levels.
    sr = common.Conv(
      self.channels, kernel_size=9, use_bias=not self.early, name='tail'
    )(y)
    if self.bicubic_skip:
      sr += imresize(lr, scale=self.scale).astype(sr.dtype)
    return sr, {}

  def _tail(self, head: jax.Array, y: jax.Array, code: jax.Array) -> jax.Array:
    """The layers at LR size behind the blocks."""
    sft = SFT(self.condition, self.dtype, name='sft')
    mid = common.Conv(
      self.features,
      use_bias=not self.early,
      dtype=self.dtype,
      name='mid',
    )
    if self.early:
      return head + mid(nn.relu(sft(y, code)))
    return mid(sft(head + y, code))

  @property
  def halo(self) -> int:
    """Receptive radius in LR pixels."""
    radius, resolution = 3.0 + 6 * self.blocks + 3, 1
    for factor in common.upsampling_stages(self.scale):
      radius += 1 / resolution
      resolution *= factor
    return math.ceil(radius + 4 / resolution)


class _Conv(nn.Module):
  """5x5 convolution of any stride, zero padded.

  Attributes:
    features: Output channels.
    stride: Step between the outputs: 1 or 2.
  """

  features: int
  stride: int = 1

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps `[B, H, W, C]` to `[B, ceil(H / stride), ..., features]`."""
    channels = x.shape[-1]
    kernel = self.param(
      'kernel', common.uniform_kernel, (5, 5, channels, self.features)
    )
    bias = self.param(
      'bias', common.uniform_bias(25 * channels), (self.features,)
    )
    if self.stride == 1:
      return conv2d(x, kernel, bias)
    # A last row and column of zeros make sides even, and change nothing.
    odd = [(0, n % self.stride) for n in x.shape[1:3]]
    return reducing_conv(
      jnp.pad(x, ((0, 0), *odd, (0, 0))), kernel, bias, self.stride
    )


class Predictor(nn.Module):
  """Estimates the kernel code of LR images.

  Attributes:
    features: Width.
    codes: Length of the code.
    channels: Image channels.
  """

  features: int
  codes: int
  channels: int = 3

  @property
  def example_inputs(self) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Shapes of inputs with which it can be initialised."""
    return (jax.ShapeDtypeStruct((1, 8, 8, self.channels), jnp.float32),)

  @nn.compact
  def __call__(self, lr: jax.Array) -> jax.Array:
    """Codes `[B, codes]` of `[B, H, W, C]` in [0, 1]."""
    x = lr.astype(jnp.float32)
    for i, stride in enumerate((1, 1, 1, 2, 1, 1)):
      width = self.features if i < 5 else self.codes
      # The last layer is activated too: codes below 0 are rare.
      x = leaky_relu(_Conv(width, stride, name=f'conv_{i}')(x))
    return x.mean((1, 2))


class Corrector(nn.Module):
  """Corrects kernel codes by the SR images that they led to.

  Attributes:
    features: Width.
    codes: Length of the code.
    channels: Image channels.
  """

  features: int
  codes: int
  channels: int = 3

  @property
  def example_inputs(self) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Shapes of inputs with which it can be initialised."""
    return (
      jax.ShapeDtypeStruct((1, 8, 8, self.channels), jnp.float32),
      jax.ShapeDtypeStruct((1, self.codes), jnp.float32),
    )

  @nn.compact
  def __call__(self, sr: jax.Array, code: jax.Array) -> jax.Array:
    """Corrected codes `[B, codes]` from SR `[B, H, W, C]` in [0, 1]."""
    x = sr.astype(jnp.float32)
    for i, stride in enumerate((1, 2, 1, 2, 1, 1, 1)):
      x = leaky_relu(_Conv(self.features, stride, name=f'conv_{i}')(x))
    y = code
    for i in range(2):
      y = leaky_relu(self._dense(self.features, y.shape[-1], f'code_{i}')(y))
    y = jnp.broadcast_to(y[:, None, None], (*x.shape[:3], self.features))
    x = jnp.concatenate([x, y], -1)
    for i, width in enumerate((2 * self.features, self.features, self.codes)):
      layer = common.Conv(width, kernel_size=1, name=f'join_{i}')
      x = layer(x) if i == 0 else layer(leaky_relu(x))
    return code + x.mean((1, 2))

  def _dense(self, features: int, fan_in: int, name: str) -> nn.Dense:
    return nn.Dense(
      features,
      kernel_init=common.uniform_kernel,
      bias_init=common.uniform_bias(fan_in),
      name=name,
    )


def _recognise_part(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
  """Options of a predictor or corrector, by the shapes of its parameters."""
  channels, features = shapes['conv_0/kernel'][2:]
  last = 'join_2/kernel' if 'join_2/kernel' in shapes else 'conv_5/kernel'
  return {'features': features, 'codes': shapes[last][3], 'channels': channels}


# The networks that are trained with SFTMD, by the slot of their parameters.
COMPANIONS = {
  'predictor': Companion(
    Predictor,
    {'IKC': {f'ConvNet.{2 * i}': f'conv_{i}' for i in range(6)}},
    _recognise_part,
  ),
  'corrector': Companion(
    Corrector,
    {
      'IKC': {
        **{f'ConvNet.{2 * i}': f'conv_{i}' for i in range(7)},
        **{f'code_dense.{2 * i}': f'code_{i}' for i in range(2)},
        **{f'global_dense.{2 * i}': f'join_{i}' for i in range(3)},
      }
    },
    _recognise_part,
  ),
}


def Model(*, scale: int, variant: str = 'sftmd', **overrides: Any) -> SFTMD:
  """SFTMD of one variant; overrides replace single options of it."""
  options = {**common.select_variant(VARIANTS, variant), **overrides}
  return SFTMD(scale=scale, **options)

"""CrossNet: cross-scale warping of a reference (Zheng et al., ECCV 2018).

The reference is a photograph of the same scene from a nearby place, as large as
SR. SISR is the image that another network makes of LR alone. The network works
in three steps:

  LR enlarged, reference -> optical flow at scales 1, 1/2, 1/4 and 1/8
  SISR, reference        -> features at these scales, by one encoder
  features of SISR, features of the reference warped by the flow -> SR

Images are padded to sides that are multiples of 64, because the network of the
flow halves them six times.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from sr_jax.errors import whole
from sr_jax.models.parts import base, common
from sr_jax.models.parts.options import AnyScale, Channels
from sr_jax.ops.resize import imresize
from sr_jax.ops.scaled_conv import enlarging_conv, reducing_conv
from sr_jax.ops.warp import warp

VARIANTS = {
  # Released files have 102,464 more parameters, see TORCH_IGNORED.
  'crossnet': common.Variant({'features': 64}, {4: 35_081_377, 8: 35_081_377}),
}
TINY = {'features': 4}
# Numbers of channels in the network of the flow, in units of `features`: after
# each halving, and after each doubling.
_DOWN = (1, 2, 4, 8, 8, 16)
_UP = (1, 1, 1, 2, 4, 4)
_KERNELS = (7, 5, 5, 3, 3, 3)
# Scales 1, 1/2, 1/4 and 1/8.
_SCALES = 4
# The sides of padded images are multiples of this.
_CELL = 2 ** len(_DOWN)
_SLOPE = 0.1

# Layer names of released state_dicts, and their Flax paths; `{i}` stands for a
# number.
TORCH_NAMES = {
  'CrossNet': {
    'FlowNet.conv{i}.0': 'flow/down_{i}',
    'FlowNet.conv{i}_1.0': 'flow/after_{i}',
    'FlowNet.flow{i}.0': 'flow/flow_{i}',
    'FlowNet.flow{i}_up': 'flow/flow_up_{i}',
    'FlowNet.deconv{i}.0': 'flow/up_{i}',
    'FlowNet.concat0_conv{i}.0': 'flow/full_{i}',
    'FlowNet.flow_12.0': 'flow/flow_0',
    'Encoder.layer_f.0': 'encoder/head',
    'Encoder.conv{i}.0': 'encoder/conv_{i}',
    'UNet_decoder_2.warp_deconv{i}.0': 'decoder/up_{i}',
    'UNet_decoder_2.post_fusion1.0': 'decoder/fusion',
    'UNet_decoder_2.final.0': 'decoder/tail',
  },
}
# Tensors of released files that have no effect, and what they are.
TORCH_IGNORED = {
  'UNet_decoder_2.post_fusion2.0': (
    'a layer whose result the released network never uses'
  ),
}
# The section `method` of imported weights.
METHOD = {'name': 'warping', 'sisr': {'name': 'bicubic', 'variant': ''}}


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
  """Returns the options that follow from the shapes of parameters.

  The scale does not follow, because every layer works at the size of SR.
  """
  channels, features = shapes['encoder/head/kernel'][2:]
  return {'channels': channels, 'features': features}


class CrossNet(base.Network):
  """The network.

  Attributes:
    scale: Enlargement; the weights do not depend on it.
    features: Width of the encoder, and of the first layer of the flow's
      network.
    channels: Number of image channels.
    dtype: Computation type; parameters and flows stay float32.
  """

  scale: AnyScale
  features: Annotated[int, whole(4, 4096)]
  channels: Channels = 3
  dtype: Any = jnp.float32

  def __call__(
    self,
    lr: jax.Array,
    reference: jax.Array | None = None,
    sisr: jax.Array | None = None,
    *,
    train: bool = False,
  ) -> tuple[jax.Array, dict[str, list[jax.Array]]]:
    """Enlarges `lr` with the help of a reference.

    Args:
      lr: `[B, H, W, C]` in [0, 1].
      reference: `[B, scale * H, scale * W, C]`; None takes the enlarged LR.
      sisr: SR of the same shape by another network; None takes the LR image
        enlarged by bicubic.
      train: Has no effect.

    Returns: SR `[B, scale * H, scale * W, C]`, unclipped; and a dict whose
    `flows` holds the flow at SR size and at 1/2, 1/4 and 1/8 of it, `[B, H',
    W', 2]`: the distance (x, y) from each pixel to the matching one of the
    reference, in pixels of that size.
    """
    del train
    enlarged = imresize(lr, scale=self.scale)
    return self.refine(
      enlarged,
      enlarged if reference is None else reference,
      enlarged if sisr is None else sisr,
    )

  @nn.compact
  def refine(
    self, enlarged: jax.Array, reference: jax.Array, sisr: jax.Array
  ) -> tuple[jax.Array, dict[str, list[jax.Array]]]:
    """Computes `__call__` from images that all have the size of SR."""
    if not enlarged.shape == reference.shape == sisr.shape:
      raise ValueError(
        f'shapes differ: enlarged {enlarged.shape}, reference'
        f' {reference.shape}, sisr {sisr.shape}'
      )
    height, width = enlarged.shape[1:3]
    enlarged, reference, sisr = map(_padded, (enlarged, reference, sisr))
    flows = Flow(self.features, self.dtype, name='flow')(enlarged, reference)
    encode = Encoder(self.features, self.dtype, name='encoder')
    warped = [
      warp(x, flow) for x, flow in zip(encode(reference), flows, strict=True)
    ]
    decode = Decoder(self.features, self.channels, self.dtype, name='decoder')
    sr = decode(encode(sisr), warped)
    flows = [
      flow[:, : -(-height // 2**i), : -(-width // 2**i)]
      for i, flow in enumerate(flows)
    ]
    return sr[:, :height, :width], {'flows': flows}


def _padded(image: jax.Array) -> jax.Array:
  """Repeats the last row and column until sides are multiples of the cell."""
  more = [-n % _CELL for n in image.shape[1:3]]
  return jnp.pad(image, ((0, 0), (0, more[0]), (0, more[1]), (0, 0)), 'edge')


class _Scaled(nn.Module):
  """A convolution that halves or doubles the resolution.

  Attributes:
    features: Output channels.
    kernel_size: Side of the kernel.
    enlarges: Whether it doubles the resolution.
    dtype: Computation type.
  """

  features: int
  kernel_size: int
  enlarges: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps `[B, H, W, C]` to half or twice the height and width."""
    size, channels = self.kernel_size, [x.shape[-1], self.features]
    # PyTorch scales the initial values of a transposed convolution by its
    # outputs, not by its inputs.
    shape = (size, size, *(channels[::-1] if self.enlarges else channels))
    kernel = self.param('kernel', common.uniform_kernel, shape)
    init = common.uniform_bias(size * size * shape[2])
    bias = self.param('bias', init, (self.features,))
    conv = enlarging_conv if self.enlarges else reducing_conv
    x, kernel, bias = (a.astype(self.dtype) for a in (x, kernel, bias))
    return conv(x, kernel, bias, 2)


class Flow(nn.Module):
  """FlowNetS, continued to full resolution.

  Attributes:
    features: Width of the first layer.
    dtype: Computation type; flows stay float32.
  """

  features: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, enlarged: jax.Array, reference: jax.Array
  ) -> list[jax.Array]:
    """Returns the flows `[B, H / 2^i, W / 2^i, 2]`, the finest first.

    Args:
      enlarged: LR enlarged to the size of SR, `[B, H, W, C]`.
      reference: The reference, of the same shape.
    """
    width, dtype = self.features, self.dtype
    active = functools.partial(nn.leaky_relu, negative_slope=_SLOPE)
    conv = functools.partial(common.Conv, dtype=dtype)
    up = functools.partial(_Scaled, kernel_size=4, enlarges=True)
    # Features of each level that the way up takes again, the coarsest last.
    x, skips = jnp.concatenate([enlarged, reference], -1), [reference]
    for i, (times, size) in enumerate(zip(_DOWN, _KERNELS, strict=True), 1):
      down = _Scaled(times * width, size, dtype=dtype, name=f'down_{i}')
      x = active(down(x))
      if i > 2:
        x = active(conv(times * width, name=f'after_{i}')(x))
      skips.append(x)
    flow = common.Conv(2, name=f'flow_{len(_DOWN)}')(skips.pop())
    flows = [flow]
    for i in reversed(range(len(_UP))):
      wide = up(_UP[i] * width, dtype=dtype, name=f'up_{i}')(x)
      finer = up(2, name=f'flow_up_{i + 1}')(flow)
      x = jnp.concatenate([skips.pop(), active(wide), finer], -1)
      if i == 0:
        for n in (1, 2):
          x = nn.selu(conv(width // 4, 7, name=f'full_{n}')(x))
      flow = common.Conv(2, name=f'flow_{i}')(x)
      flows.append(flow)
    return flows[: -_SCALES - 1 : -1]


class Encoder(nn.Module):
  """Computes features of SISR or of the reference.

  Attributes:
    features: Width of every layer.
    dtype: Computation type.
  """

  features: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image: jax.Array) -> list[jax.Array]:
    """Returns features `[B, H / 2^i, W / 2^i, F]`, the finest first."""
    width, dtype = self.features, self.dtype
    x = nn.selu(common.Conv(width, 5, dtype=dtype, name='head')(image))
    x = nn.selu(common.Conv(width, 5, dtype=dtype, name='conv_1')(x))
    found = [x]
    for i in range(2, _SCALES + 1):
      x = nn.selu(_Scaled(width, 5, dtype=dtype, name=f'conv_{i}')(x))
      found.append(x)
    return found


class Decoder(nn.Module):
  """Fuses features from the coarsest scale to the finest.

  Attributes:
    features: Width of every layer.
    channels: Channels of the image.
    dtype: Computation type.
  """

  features: int
  channels: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, of_sisr: Sequence[jax.Array], warped: Sequence[jax.Array]
  ) -> jax.Array:
    """Makes the image `[B, H, W, C]` of features, the finest first."""
    width, dtype = self.features, self.dtype
    x = jnp.concatenate([of_sisr[-1], warped[-1]], -1)
    for i in reversed(range(1, _SCALES)):
      up = _Scaled(width, 4, enlarges=True, dtype=dtype, name=f'up_{i + 1}')
      x = nn.selu(up(x))
      x = jnp.concatenate([x, of_sisr[i - 1], warped[i - 1]], -1)
    x = nn.selu(common.Conv(width, 5, dtype=dtype, name='fusion')(x))
    # The last layer computes in float32: bfloat16 would merge grey levels.
    return common.Conv(self.channels, 5, name='tail')(x)


def Model(
  *, scale: float, variant: str = 'crossnet', **overrides: Any
) -> CrossNet:
  """Creates CrossNet in one variant; overrides replace single options."""
  return CrossNet(
    scale=scale, **{**common.select_variant(VARIANTS, variant), **overrides}
  )

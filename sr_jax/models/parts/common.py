"""Layers and blocks that several architectures use.

Initial values are PyTorch's defaults, with which the EDSR family was trained:
weights and biases are uniform in +-1/sqrt(fan_in).
"""

from __future__ import annotations

import difflib
import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from sr_jax.errors import UserError
from sr_jax.ops.conv import joint_conv2d
from sr_jax.ops.pixel_shuffle import pixel_shuffle
from sr_jax.ops.relu import relu

# RGB mean of DIV2K's training images in [0, 1], as the EDSR family uses it.
DIV2K_MEAN = (0.4488, 0.4371, 0.4040)
# RGB mean and deviation of ImageNet in [0, 1], for torchvision's networks.
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# A chain of this many blocks or fewer is written out.
_FEW = 4


class Variant(NamedTuple):
  """A published size of an architecture.

  Attributes:
    options: Keyword arguments of the Linen module.
    parameters: Parameter count by scale, mean-shift layers included.
  """

  options: Mapping[str, Any]
  parameters: Mapping[int, int]


def select_variant(
  variants: Mapping[str, Variant], name: str, model: str | None = None
) -> Mapping[str, Any]:
  """Returns the options of one variant.

  Args:
    variants: The variants of an architecture.
    name: The name of the variant.
    model: The name of the architecture, for the error message.

  Raises:
    UserError: The architecture has no variant of this name.
  """
  if not isinstance(name, str) or name not in variants:
    of = '' if model is None else f'model {model!r}: '
    near = difflib.get_close_matches(str(name), variants, n=1)
    hint = f'did you mean {near[0]!r}?' if near else 'choose one of these'
    raise UserError(
      f'{of}no variant {name!r:.80}; {hint} ({", ".join(variants)})'
    )
  return variants[name].options


def uniform_bias(fan_in: int) -> Callable[..., jax.Array]:
  """Makes an initialiser of biases, uniform in +-1/sqrt(fan_in)."""
  bound = 1 / math.sqrt(fan_in)

  def init(
    key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32
  ) -> jax.Array:
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init


# He's initialiser times 0.1, as in the generators of BasicSR.
small_kaiming = nn.initializers.variance_scaling(0.02, 'fan_in', 'normal')


# PyTorch's default initialiser of kernels.
uniform_kernel = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')


class Conv(nn.Module):
  """Stride-1 convolution that keeps height and width (zero padding).

  Attributes:
    features: Output channels.
    kernel_size: Odd side of the square kernel, or its (height, width).
    use_bias: Whether a bias is added.
    kernel_init: Initialiser of the kernel.
    bias_init: Initialiser of the bias; None is PyTorch's default.
    dtype: Computation type; parameters stay float32.
    dilation: Step between the pixels that the taps see.
  """

  features: int
  kernel_size: int | tuple[int, int] = 3
  use_bias: bool = True
  kernel_init: Callable[..., jax.Array] = uniform_kernel
  bias_init: Callable[..., jax.Array] | None = None
  dtype: Any = jnp.float32
  dilation: int = 1

  @nn.compact
  def __call__(self, *parts: jax.Array) -> jax.Array:
    """Maps the channels of one or more `[B, H, W, C]` to `features`."""
    size, channels = self.kernel_size, sum(x.shape[-1] for x in parts)
    height, width = (size, size) if isinstance(size, int) else size
    kernel = self.param(
      'kernel', self.kernel_init, (height, width, channels, self.features)
    )
    bias = None
    if self.use_bias:
      init = self.bias_init or uniform_bias(channels * height * width)
      bias = self.param('bias', init, (self.features,)).astype(self.dtype)
    parts = tuple(x.astype(self.dtype) for x in parts)
    return joint_conv2d(parts, kernel.astype(self.dtype), bias, self.dilation)


class MeanShift(nn.Module):
  """Adds `sign * value_range * mean` by a 1x1 convolution.

  It is a convolution, not a constant, because it is one in released
  checkpoints, some of which have trained its values.

  Attributes:
    mean: Channel means in [0, 1].
    sign: -1 before the body, +1 after it.
    trainable: Whether gradients reach the convolution.
    value_range: The value of white in x.
  """

  mean: Sequence[float]
  sign: int
  trainable: bool = False
  value_range: float = 255.0

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Shifts x `[B, H, W, C]`, in float32."""
    channels = len(self.mean)
    kernel = self.param(
      'kernel', lambda _: jnp.eye(channels, dtype=jnp.float32)[None, None]
    )
    bias = self.param(
      'bias',
      lambda _: (
        self.sign * self.value_range * jnp.asarray(self.mean, jnp.float32)
      ),
    )
    if not self.trainable:
      kernel, bias = jax.lax.stop_gradient((kernel, bias))
    x = x.astype(jnp.float32)
    # In TF32 a product with 255 would be wrong by a tenth of a grey level.
    return jnp.dot(x, kernel[0, 0], precision='highest') + bias.reshape(
      (1,) * (x.ndim - 1) + (channels,)
    )


def imagenet_normalised(image: jax.Array) -> jax.Array:
  """Normalises `[B, H, W, 3]` in [0, 1] for torchvision's networks."""
  mean, deviation = (
    jnp.asarray(x, jnp.float32).reshape(1, 1, 1, 3) for x in _IMAGENET
  )
  return (image - mean) / deviation


def up_to(layers: Iterable[str], convolutions: Iterable[str]) -> list[str]:
  """Returns the convolutions that are needed to compute the given layers.

  Args:
    layers: Names such as `conv3`, or `relu3` for the activation after it.
    convolutions: Names of all convolutions, in their order.

  Raises:
    UserError: The network has no such layer.
  """
  names = list(convolutions)
  last = 0
  for layer in layers:
    name = layer.replace('relu', 'conv')
    if name not in names:
      raise UserError(
        f'unknown layer {layer!r}; choose from {", ".join(names)}, or relu'
        ' instead of conv for after the activation'
      )
    last = max(last, names.index(name))
  return names[: last + 1]


# Arrays of a convolution and of a batch normalisation in a released `.npz`.
_NPZ_CONV = ('kernel', 'bias')
_NPZ_NORM = ('bias', 'scale', 'mean', 'var')


def npz_layer(
  conv: str, *, bias: bool = False, norm: str | None = None
) -> list[str]:
  """Returns the paths of a layer's arrays, in the order of TensorLayer's files.

  Args:
    conv: Path of the convolution.
    bias: Whether the convolution has a bias.
    norm: Path of the batch normalisation after it, or None.
  """
  paths = [f'{conv}/{leaf}' for leaf in _NPZ_CONV[: 1 + bias]]
  return paths + [f'{norm}/{leaf}' for leaf in _NPZ_NORM if norm]


def default_mean(channels: int) -> tuple[float, ...]:
  """Returns DIV2K's mean colour for RGB, otherwise mid-grey."""
  return DIV2K_MEAN if channels == 3 else (0.5,) * channels


class ResBlock(nn.Module):
  """conv - ReLU - conv, scaled and added to the input (EDSR, figure 2c).

  Attributes:
    features: Number of channels of input and output.
    residual_scale: Factor of the residual branch.
    conv: Function that makes the convolutions, for other initial values.
    dtype: Computation type.
  """

  features: int
  residual_scale: float = 1.0
  conv: Callable[..., Any] = Conv
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps `[B, H, W, features]` to the same shape."""
    width = self.features
    y = self.conv(width, dtype=self.dtype, name='conv1')(x)
    y = self.conv(width, dtype=self.dtype, name='conv2')(relu(y))
    return x + self.residual_scale * y


def chain(
  block: nn.Module,
  length: int,
  x: jax.Array,
  *shared: jax.Array,
  unroll: bool = False,
) -> jax.Array:
  """Applies `length` blocks like `block`, each to the result of the last one.

  Many blocks are compiled once, as a loop; a few are written out. Their
  parameters are stacked along a first axis, under a name that has a `*` in
  place of the number of the block, see `sr_jax.models.parts.parameters`. Chains
  should not be nested, because the gradient would copy the values that inner
  chains keep.

  Args:
    block: The first block; its name ends in `*`.
    length: Number of blocks.
    x: Input of the first block, `[B, H, W, C]`.
    *shared: Further inputs, which are the same for all blocks.
    unroll: Whether many blocks are written out as well. A gradient is then
      faster, because nothing is copied, but takes longer to compile.
  """
  return _scan(block, length, x, shared, lambda x: None, unroll)[0]


def chain_outputs(block: nn.Module, length: int, x: jax.Array) -> jax.Array:
  """Like `chain`, but returns the results of all blocks, stacked."""
  return _scan(block, length, x, (), lambda x: x, unroll=False)[1]


def _scan(
  block: nn.Module,
  length: int,
  x: jax.Array,
  shared: Sequence[jax.Array],
  keep: Callable[..., Any],
  unroll: bool,
) -> Any:
  """Returns the last block's result, and `keep(x)` of each result."""

  def apply(block: nn.Module, x: jax.Array, *shared: jax.Array) -> Any:
    x = block(x, *shared)
    return x, keep(x)

  # If blocks are written out, nothing is copied for the gradient, which saves 5
  # to 7 % of RCAN's step and 8 to 10 % of DRN's. Initialisation has no
  # gradient.
  unroll = (unroll or length <= _FEW) and not block.is_initializing()
  scan = nn.scan(
    apply,
    variable_axes={'params': 0, 'batch_stats': 0},
    split_rngs={'params': True},
    in_axes=nn.broadcast,
    length=length,
    unroll=length if unroll else 1,
  )
  return scan(block, x, *shared)


class ChannelAttention(nn.Module):
  """Scales each channel by a factor computed from all channel means (RCAN).

  Attributes:
    features: Number of channels of input and output.
    reduction: Factor by which there are fewer channels between the two 1x1
      convolutions.
    dtype: Computation type.
  """

  features: int
  reduction: int = 16
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps `[B, H, W, features]` to the same shape."""
    conv = functools.partial(Conv, kernel_size=1, dtype=self.dtype)
    # In float32, because bfloat16 cannot represent the mean of many numbers.
    # One axis at a time, because XLA:CPU takes up to four times as long for two
    # axes.
    y = x.mean(2, jnp.float32, keepdims=True).mean(1, keepdims=True)
    narrow = max(1, self.features // self.reduction)
    y = relu(conv(narrow, name='squeeze')(y))
    return x * nn.sigmoid(conv(self.features, name='expand')(y))


class RCAB(nn.Module):
  """conv - ReLU - conv - channel attention, added to the input (RCAN).

  Attributes:
    features: Number of channels of input and output.
    reduction: Factor by which the attention narrows its hidden layer.
    dtype: Computation type.
  """

  features: int
  reduction: int = 16
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps `[B, H, W, features]` to the same shape."""
    width, dtype = self.features, self.dtype
    y = relu(Conv(width, dtype=dtype, name='conv1')(x))
    y = Conv(width, dtype=dtype, name='conv2')(y)
    attention = ChannelAttention(width, self.reduction, dtype, name='attention')
    return x + attention(y)


def upsampling_stages(scale: int) -> list[int]:
  """Returns the factors of the sub-pixel stages: [2] * log2(scale), or [3].

  Raises:
    UserError: The scale is neither 3 nor a power of two above 1.
  """
  if scale == 3:
    return [3]
  if scale < 2 or scale & (scale - 1):
    raise UserError(f'scale {scale} is not supported; choose 2, 3, 4 or 8')
  return [2] * (scale.bit_length() - 1)


class Upsampler(nn.Module):
  """Sub-pixel upsampling by conv - pixel shuffle stages.

  Attributes:
    scale: 2, 3, 4 or 8.
    features: Number of channels of input and output.
    dtype: Computation type.
    relu: Whether a ReLU follows each stage.
  """

  scale: int
  features: int
  dtype: Any = jnp.float32
  relu: bool = False

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps `[B, H, W, F]` to `[B, scale * H, scale * W, F]`."""
    for i, factor in enumerate(upsampling_stages(self.scale)):
      width = self.features * factor**2
      x = Conv(width, dtype=self.dtype, name=f'conv_{i}')(x)
      x = pixel_shuffle(x, factor)
      x = relu(x) if self.relu else x
    return x


def upsampling_scale(
  shapes: Mapping[str, Sequence[int]], prefix: str = 'upsample/'
) -> int:
  """Finds the scale of sub-pixel stages from the shapes of their parameters.

  Args:
    shapes: Shapes of all parameters of the network, by path.
    prefix: Beginning of the paths of the stages. The default is that of an
      `Upsampler` with the name `upsample`.
  """
  stages = [
    shape[3] // shape[2]
    for path, shape in shapes.items()
    if path.startswith(prefix) and path.endswith('/kernel')
  ]
  return math.prod(math.isqrt(factor) for factor in stages)


def upsampling_radius(scale: int) -> float:
  """Receptive radius in LR pixels of `Upsampler` and a 3x3 convolution."""
  radius, resolution = 0.0, 1
  for factor in upsampling_stages(scale):
    radius += 1 / resolution
    resolution *= factor
  return radius + 1 / resolution

"""Layers and base class of the networks that judge images.

Such a network, a critic, takes float32 images `[B, H, W, C]` in [0, 1] and
returns one number for each, `[B, 1]`. Its convolutions halve the image several
times. With `train` it uses the statistics of the batch, otherwise the running
statistics. The initial values are PyTorch's defaults.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from sr_jax.errors import UserError
from sr_jax.models.parts import base, common
from sr_jax.ops.scaled_conv import reducing_conv

_UNIFORM = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')


def leaky_relu(x: jax.Array) -> jax.Array:
  """Applies a leaky ReLU with the slope that all critics here have."""
  return nn.leaky_relu(x, 0.2)


class HalvingConv(nn.Module):
  """Stride-2 convolution, padded with one row or column of zeros on each side.

  Attributes:
    features: Output channels.
    kernel_size: 3 or 4.
    use_bias: Whether a bias is added.
    dtype: Computation type; parameters stay float32.
    zeros_first: Whether zeros are added before the image as well. TensorFlow
      does not if the kernel has 3 pixels and the image an even number.
  """

  features: int
  kernel_size: int
  use_bias: bool
  dtype: Any = jnp.float32
  zeros_first: bool = True

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps `[B, H, W, C]` to `[B, (H + 2 - K) // 2 + 1, ..., features]`."""
    size, channels = self.kernel_size, x.shape[-1]
    kernel = self.param(
      'kernel', _UNIFORM, (size, size, channels, self.features)
    )
    bias = jnp.zeros(self.features, self.dtype)
    if self.use_bias:
      init = common.uniform_bias(channels * size**2)
      bias = self.param('bias', init, (self.features,)).astype(self.dtype)
    x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
    height, width = ((n + 2 - size) // 2 + 1 for n in x.shape[1:3])
    # Sides are made even. For a kernel of 4 a further row of zeros has no
    # effect.
    sides = [(0, n % 2) for n in x.shape[1:3]]
    more = [(0, 4 - size) if self.zeros_first else (4 - size, 0)] * 2
    x = jnp.pad(x, ((0, 0), *sides, (0, 0)))
    kernel = jnp.pad(kernel, (*more, (0, 0), (0, 0)))
    return reducing_conv(x, kernel, bias, 2)[:, :height, :width]


class Trunk(nn.Module):
  """Pairs of a 3x3 convolution and one that halves the image.

  A batch normalisation follows every convolution, the first one only if
  `normalise_first` is set.

  Attributes:
    features: Number of channels of the first pair; each pair doubles it.
    stages: Number of pairs.
    use_bias: Whether the normalised convolutions have biases. They have no
      effect, but some released weights contain them.
    halving_size: Side of the kernels of the convolutions that halve.
    activate_first: Whether an activation follows the first convolution.
    dtype: Computation type.
    normalise_first: Whether the first convolution is normalised.
    most: The number of channels is at most `features` times this number.
    zeros_first: See `HalvingConv`.
  """

  features: int
  stages: int
  use_bias: bool
  halving_size: int = 4
  activate_first: bool = True
  dtype: Any = jnp.float32
  normalise_first: bool = False
  most: int = 8
  zeros_first: bool = True

  @nn.compact
  def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
    """Maps `[B, H, W, C]` to `[B, H >> stages, W >> stages, F]`."""

    def active(x: jax.Array, name: str) -> jax.Array:
      norm = nn.BatchNorm(
        not train, momentum=0.9, dtype=self.dtype, name=f'norm_{name}'
      )
      return leaky_relu(norm(x))

    x = image
    for i in range(self.stages):
      width = self.features * min(2**i, self.most)
      if i == 0 and not self.normalise_first:
        first = 'conv_0_0' if self.activate_first else 'stem'
        x = common.Conv(width, dtype=self.dtype, name=first)(x)
        x = leaky_relu(x) if self.activate_first else x
      else:
        conv = common.Conv(
          width, use_bias=self.use_bias, dtype=self.dtype, name=f'conv_{i}_0'
        )
        x = active(conv(x), f'{i}_0')
      halve = HalvingConv(
        width,
        self.halving_size,
        self.use_bias,
        dtype=self.dtype,
        zeros_first=self.zeros_first,
        name=f'conv_{i}_1',
      )
      x = active(halve(x), f'{i}_1')
    return x


class Head(nn.Module):
  """Two dense layers, which return one number per image, in float32.

  Attributes:
    hidden: Width of the first layer.
  """

  hidden: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps `[B, N]` to `[B, 1]`."""
    x = x.astype(jnp.float32)
    for i, width in enumerate((self.hidden, 1), 1):
      layer = nn.Dense(
        width,
        kernel_init=_UNIFORM,
        bias_init=common.uniform_bias(x.shape[-1]),
        name=f'dense_{i}',
      )
      x = layer(x if i == 1 else leaky_relu(x))
    return x


class Critic(base.Network):
  """Base class of the networks that judge images; they have a field `channels`.

  A subclass gives `sides`: the heights and widths of the images that it takes.
  """

  scale = 1

  @property
  def sides(self) -> range:
    """Heights and widths of the images that it takes."""
    raise NotImplementedError

  @property
  def example_side(self) -> int:
    """Height and width of an image with which the network is initialised."""
    return self.sides[0]

  def check_sides(self, shape: tuple[int, ...]) -> None:
    """Refuses images `[B, H, W, C]` of other sides.

    Raises:
      UserError: The sides are others; the error names them.
    """
    least, most = self.sides[0], self.sides[-1]
    if not all(least <= n <= most for n in shape[1:3]):
      raise UserError(
        f'this discriminator takes images of {least} to {most} pixels a side,'
        f' not {shape[1]}x{shape[2]}'
      )


def check_scale(scale: int) -> None:
  """Refuses all scales except 1, because a critic does not enlarge.

  Raises:
    UserError: The scale is not 1.
  """
  if isinstance(scale, bool) or scale != 1:
    raise UserError(
      f'scale {scale!r:.80}: this network does not enlarge; give 1'
    )


def flat(x: jax.Array) -> jax.Array:
  """Flattens `[B, H, W, C]` to `[B, C * H * W]`, in the order of PyTorch."""
  return x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)


def torch_norm(torch: str, path: str) -> dict[str, str]:
  """Maps PyTorch's names of a normalisation's four tensors to Flax paths."""
  leaves = {
    'weight': 'scale',
    'bias': 'bias',
    'running_mean': 'mean',
    'running_var': 'var',
  }
  return {f'{torch}.{a}': f'{path}/{b}' for a, b in leaves.items()}


def numbered_names(stages: int, *, activate_first: bool) -> dict[str, str]:
  """Names of a trunk in PyTorch, which numbers activations as well."""
  names = {'features.0': 'trunk/conv_0_0' if activate_first else 'trunk/stem'}
  number = 2 if activate_first else 1
  for i in range(stages):
    for j in (0, 1) if i else (1,):
      names[f'features.{number}'] = f'trunk/conv_{i}_{j}'
      norm = torch_norm(f'features.{number + 1}', f'trunk/norm_{i}_{j}')
      names |= norm
      number += 3
  return names


# PyTorch stores the number of batches that its running statistics average.
TORCH_IGNORED = dict.fromkeys(
  ('bn{s}_{n}.num_batches_tracked', 'features.{n}.num_batches_tracked'),
  'count of batches',
)

"""What networks that judge images share: convolutions that halve the image.

A critic takes images `[B, H, W, C]` in [0, 1], float32, and gives a number for
each, `[B, 1]`. `train` chooses the statistics of the batch over the running
ones. Initialisation is PyTorch's default.
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
  """Stride-2 convolution with one row and column of zeros on every side.

  Attributes:
    features: Output channels.
    kernel_size: 3 or 4.
    use_bias: Whether a bias is added.
    dtype: Computation type; parameters stay float32.
    zeros_first: Whether zeros come before the image as well, which TensorFlow
      leaves out for a kernel of 3 on even sides.
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
    # Even sides, and a kernel of 4: a last row of zeros changes nothing.
    sides = [(0, n % 2) for n in x.shape[1:3]]
    more = [(0, 4 - size) if self.zeros_first else (4 - size, 0)] * 2
    x = jnp.pad(x, ((0, 0), *sides, (0, 0)))
    kernel = jnp.pad(kernel, (*more, (0, 0), (0, 0)))
    return reducing_conv(x, kernel, bias, 2)[:, :height, :width]


class Trunk(nn.Module):
  """Pairs of a 3x3 convolution and one that halves, to a map of features.

  Every convolution is normalised by its batch, the first one only if asked to.

  Attributes:
    features: Channels of the first pair; they double.
    stages: Pairs.
    use_bias: Whether the normalised convolutions have biases, which have no
      effect but are in some released weights.
    halving_size: Kernel of the convolutions that halve.
    activate_first: Whether an activation follows the first convolution.
    dtype: Computation type.
    normalise_first: Whether the first convolution is normalised.
    most: Factor of `features` at which channels double no more.
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
  """Two dense layers down to one number, in float32.

  Attributes:
    hidden: Width of the first.
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
    """Height and width of an image on which it can be initialised."""
    return self.sides[0]

  def check_sides(self, shape: tuple[int, ...]) -> None:
    """Refuses images `[B, H, W, C]` of other sides.

    Raises:
      UserError: naming both.
    """
    least, most = self.sides[0], self.sides[-1]
    if not all(least <= n <= most for n in shape[1:3]):
      raise UserError(
        f'this discriminator takes images of {least} to {most} pixels a side,'
        f' not {shape[1]}x{shape[2]}'
      )


def check_scale(scale: int) -> None:
  """Refuses any scale but 1: a critic sees images at their own size.

  Raises:
    UserError: it is another.
  """
  if isinstance(scale, bool) or scale != 1:
    raise UserError(
      f'scale {scale!r:.80}: this network does not enlarge; give 1'
    )


def flat(x: jax.Array) -> jax.Array:
  """`[B, H, W, C]` as `[B, C * H * W]`, the order of PyTorch's weights."""
  return x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)


def torch_norm(torch: str, path: str) -> dict[str, str]:
  """PyTorch names of a normalisation's four tensors, to Flax paths."""
  leaves = {
    'weight': 'scale',
    'bias': 'bias',
    'running_mean': 'mean',
    'running_var': 'var',
  }
  return {f'{torch}.{a}': f'{path}/{b}' for a, b in leaves.items()}


def numbered_names(stages: int, *, activate_first: bool) -> dict[str, str]:
  """Names of a trunk as a PyTorch `Sequential`, which counts activations."""
  names = {'features.0': 'trunk/conv_0_0' if activate_first else 'trunk/stem'}
  number = 2 if activate_first else 1
  for i in range(stages):
    for j in (0, 1) if i else (1,):
      names[f'features.{number}'] = f'trunk/conv_{i}_{j}'
      norm = torch_norm(f'features.{number + 1}', f'trunk/norm_{i}_{j}')
      names |= norm
      number += 3
  return names


# PyTorch counts the batches that its running statistics have seen.
TORCH_IGNORED = dict.fromkeys(
  ('bn{s}_{n}.num_batches_tracked', 'features.{n}.num_batches_tracked'),
  'count of batches',
)

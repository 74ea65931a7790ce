"""KernelGAN (Bell-Kligler, Shocher and Irani, NeurIPS 2019).

The generator is a deep linear network that halves an image. It is trained on
one image until a discriminator cannot tell patches of the halved image from
patches of the image itself. Its layers multiplied out are then the estimate of
the blur kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from sr_jax.models.parts import base, common
from sr_jax.models.parts.options import Width
from sr_jax.ops.precision import einsum
from sr_jax.ops.windows import composed, windows

VARIANTS = {
  'released': common.Variant({'features': 64}, {2: 150_656}),
}
TINY = {'features': 4}
# Its weights are those of one image, and none were released.
TORCH_NAMES: dict[str, dict[str, str]] = {}
METHOD = {'name': 'kernel_game'}
# Sides of the generator's kernels; the last layer has the stride.
_SIDES = (7, 5, 3, 1, 1, 1)
# Side of the kernel that they multiply out to.
KERNEL_SIDE = 1 + sum(side - 1 for side in _SIDES)
# Side of the discriminator's first kernel, and number of its inner layers.
_REACH, _LAYERS = 7, 5
# Torch's constants of batch and spectral normalisation.
_BATCH_EPSILON, _SPECTRAL_EPSILON = 1e-5, 1e-12

_xavier = nn.initializers.variance_scaling(0.01, 'fan_avg', 'normal')


class Generator(base.Network):
  """A deep linear network: six convolutions without bias or activation.

  They are multiplied out to one kernel before they are applied, which is the
  same function with the same gradients.

  Attributes:
    features: Channels of the inner layers.
    scale: Reduction, which is 2.
    dtype: Computation type; parameters stay float32.
  """

  features: Width
  scale: int = 2
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image: jax.Array | None = None) -> jax.Array:
    """Halves an image, or multiplies out the layers.

    Args:
      image: `[..., H, W, C]`; every channel is reduced by the same kernel.

    Returns:
      `[..., (H - 11) // 2, (W - 11) // 2, C]`; without an image the kernel
      `[13, 13]`, to correlate with.
    """
    widths = (1, *[self.features] * (len(_SIDES) - 1), 1)
    weights = [
      self.param(f'layer_{i}', _xavier, (side, side, *widths[i : i + 2]))
      for i, side in enumerate(_SIDES)
    ]
    # The last layer has one output channel, so this is the cheapest order.
    kernel = weights[-1][..., 0]
    for weight in reversed(weights[:-1]):
      kernel = composed(weight, kernel)
    kernel = kernel[..., 0]
    return kernel if image is None else reduce_by(image, kernel)


def reduce_by(image: jax.Array, kernel: jax.Array) -> jax.Array:
  """Correlates `[..., H, W, C]` with `[K, K]`, every second pixel, no padding.

  The first pixel of the result is that of the first window inside the image.
  """
  return einsum('...abc,ab->...c', windows(image, len(kernel), 2), kernel)


class Discriminator(nn.Module):
  """Judges every 7x7 patch of an image.

  Statistics of the normalisations are those of the image itself, whether the
  network is trained or not. Collection `spectral` holds the singular vectors of
  the spectral normalisation, which every call refines.

  Attributes:
    features: Channels of the inner layers.
  """

  features: int = 64

  @nn.compact
  def __call__(self, image: jax.Array) -> jax.Array:
    """Chance of each patch of `[H, W, C]` to be real, `[H - 6, W - 6]`."""
    x = windows(image, _REACH)
    height, width = x.shape[:2]
    x = _SpectralDense(self.features, taps=_REACH**2, name='patches')(
      x.reshape(height * width, -1)
    )
    for i in range(_LAYERS):
      x = _SpectralDense(self.features, name=f'layer_{i}')(x)
      x = nn.relu(_Normalisation(name=f'norm_{i}')(x))
    x = _SpectralDense(1, name='answer')(x)
    return jax.nn.sigmoid(x).reshape(height, width)


class _SpectralDense(nn.Module):
  """Dense layer whose weight is divided by its largest singular value.

  Attributes:
    width: Outputs.
    taps: Taps of the convolution that the layer stands for.
  """

  width: int
  taps: int = 1

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    inputs = x.shape[-1]
    shape = (inputs, self.width)
    weight = self.param('kernel', _flat_xavier(self.taps), shape)
    bias = self.param('bias', nn.initializers.zeros, (self.width,))
    left = self.variable(
      'spectral', 'u', lambda: _unit(self._random((self.width,)))
    )
    right = self.variable(
      'spectral', 'v', lambda: _unit(self._random((inputs,)))
    )
    fixed = jax.lax.stop_gradient(weight)
    v = _unit(einsum('io,o->i', fixed, left.value))
    u = _unit(einsum('io,i->o', fixed, v))
    if not self.is_initializing():
      left.value, right.value = u, v
    largest = einsum('i,io,o->', v, weight, u)
    return einsum('ni,io->no', x, weight / largest) + bias[None]

  def _random(self, shape: Sequence[int]) -> jax.Array:
    return jax.random.normal(self.make_rng('params'), shape)


def _flat_xavier(taps: int) -> Callable[..., jax.Array]:
  """Initialiser of a convolution's kernel `[taps * inputs, outputs]`.

  Its fan-out counts the taps as well.
  """

  def init(
    key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32
  ) -> jax.Array:
    full = (taps, shape[0] // taps, shape[1])
    return _xavier(key, full, dtype).reshape(shape)

  return init


class _Normalisation(nn.Module):
  """Batch normalisation by the statistics of the input itself."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    width = x.shape[-1]
    scale = self.param('scale', _near_one, (width,))
    bias = self.param('bias', nn.initializers.zeros, (width,))
    centred = x - x.mean(0, keepdims=True)
    variance = (centred**2).mean(0)
    factor = scale / jnp.sqrt(variance + _BATCH_EPSILON)
    return centred * factor[None] + bias[None]


def _near_one(
  key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32
) -> jax.Array:
  return 1 + 0.02 * jax.random.normal(key, shape, dtype)


def _unit(x: jax.Array) -> jax.Array:
  return x / jnp.maximum(jnp.linalg.norm(x), _SPECTRAL_EPSILON)


def Model(
  *, scale: int = 2, variant: str = 'released', **overrides: Any
) -> Generator:
  """The generator; overrides replace single options of it."""
  options = {**common.select_variant(VARIANTS, variant), **overrides}
  return Generator(scale=scale, **options)

"""DRRN: deep recursive residual network for SR (Tai et al., CVPR 2017).

The network is one recursive block on the bicubically enlarged luma. Its
residual units share their two convolutions, but not their batch normalisations.
The identity branch of every unit is the output of the first layer. Activations
come before convolutions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from sr_jax.models.parts import base, common
from sr_jax.models.parts.options import Count, Scale, Width
from sr_jax.models.zssr import enlarged_halo
from sr_jax.ops.relu import relu
from sr_jax.ops.resize import imresize

VARIANTS = {
  'B1U9': common.Variant(
    {'units': 9, 'features': 128, 'batch_norm': True, 'use_bias': True},
    dict.fromkeys((2, 3, 4), 302_467),
  ),
  'B1U25': common.Variant(
    {'units': 25, 'features': 128, 'batch_norm': True, 'use_bias': True},
    dict.fromkeys((2, 3, 4), 310_659),
  ),
  # The network of the PyTorch port, without normalisation and biases.
  'port': common.Variant(
    {'units': 25, 'features': 128, 'batch_norm': False, 'use_bias': False},
    dict.fromkeys((2, 3, 4), 297_216),
  ),
}
TINY = {'features': 8, 'units': 2}
TORCH_NAMES = {
  'DRRN-pytorch': {
    'input': 'head',
    'conv{i}': 'unit_conv{i}',
    'output': 'tail',
  },
}

_INIT = nn.initializers.he_normal()


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
  """Returns the options that follow from the shapes of parameters.

  The scale does not follow from them. Without normalisation the number of units
  does not either.
  """
  norms = sum(path.endswith('/scale') for path in shapes)
  options = {
    'features': shapes['head/kernel'][3],
    'batch_norm': norms > 0,
    'use_bias': 'head/bias' in shapes,
  }
  return {**options, 'units': norms // 2 - 1} if norms else options


class DRRN(base.Network):
  """The network of every variant.

  Attributes:
    scale: Enlargement.
    units: Number of residual units.
    features: Width of every layer.
    batch_norm: Whether a batch normalisation precedes every activation. It uses
      the statistics of the batch in training, else the running statistics.
    use_bias: Whether the convolutions have biases.
    dtype: Computation type; parameters stay float32.
  """

  scale: Scale
  units: Count
  features: Width
  batch_norm: bool
  use_bias: bool
  dtype: Any = jnp.float32
  channels = 1
  luma = True

  @nn.compact
  def __call__(
    self, lr: jax.Array, *, train: bool = False
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Enlarges luma `lr` `[B, H, W, 1]` to `[B, sH, sW, 1]`, unclipped."""
    enlarged = imresize(jnp.asarray(lr), scale=self.scale)

    def conv(name: str, features: int, dtype: Any) -> common.Conv:
      return common.Conv(
        features,
        use_bias=self.use_bias,
        kernel_init=_INIT,
        bias_init=nn.initializers.zeros,
        dtype=dtype,
        name=name,
      )

    momentum: Any = self._momentum(train) if self.batch_norm else None

    def active(x: jax.Array, name: str) -> jax.Array:
      if self.batch_norm:
        x = nn.BatchNorm(
          not train, momentum=momentum, dtype=self.dtype, name=f'norm_{name}'
        )(x)
      return relu(x)

    width, dtype = self.features, self.dtype
    conv1, conv2 = (conv(f'unit_conv{i}', width, dtype) for i in (1, 2))
    first = conv('head', width, dtype)(active(enlarged, 'head'))
    x = first
    for i in range(self.units):
      y = conv1(active(x, f'{i}_1'))
      x = first + conv2(active(y, f'{i}_2'))
    # The last layer computes in float32: bfloat16 would merge grey levels.
    tail = conv('tail', 1, jnp.float32)
    return enlarged + tail(active(x, 'tail')), {}

  def _momentum(self, train: bool) -> jax.Array:
    """Momentum of the running statistics, which average all steps, as in Caffe.

    Each step weighs 0.999 times as much as the next one, and the average is
    divided by the sum of the weights. Otherwise the initial values would
    outweigh the first thousand steps.
    """
    weight = self.variable('batch_stats', 'weight', lambda: jnp.zeros(()))
    old = 0.999 * weight.value
    if train and not self.is_initializing():
      weight.value = old + 1
    return old / (old + 1)

  @property
  def halo(self) -> int:
    """Receptive radius in LR pixels."""
    return enlarged_halo(self.scale, 2 * self.units + 2, None)


def Model(*, scale: int, variant: str = 'B1U25', **overrides: Any) -> DRRN:
  """Creates DRRN in one variant; overrides replace single options."""
  return DRRN(
    scale=scale, **{**common.select_variant(VARIANTS, variant), **overrides}
  )

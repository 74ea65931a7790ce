"""VDSR: a very deep network for SR (Kim et al., CVPR 2016).

The network has twenty 3x3 convolutions on the bicubically enlarged luma, to
which their output is added. The same weights are used at all scales.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from sr_jax.errors import whole
from sr_jax.models.parts import base, common
from sr_jax.models.parts.options import Scale, Width
from sr_jax.models.zssr import enlarged_halo
from sr_jax.ops.relu import relu
from sr_jax.ops.resize import imresize

VARIANTS = {
  'paper': common.Variant(
    {'depth': 20, 'features': 64, 'use_bias': True},
    dict.fromkeys((2, 3, 4, 8), 665_921),
  ),
  # The network of the PyTorch port, without biases.
  'port': common.Variant(
    {'depth': 20, 'features': 64, 'use_bias': False},
    dict.fromkeys((2, 3, 4, 8), 664_704),
  ),
}
TINY = {'depth': 4, 'features': 8}
TORCH_NAMES = {
  'pytorch-vdsr': {
    'input': 'head',
    'residual_layer.{i}.conv': 'body_{i}',
    'output': 'tail',
  },
}
# In the MATLAB file of caffe-vdsr, cells hold the 20 layers, numbered from 1.
MAT_NAMES = {
  'caffe-vdsr': {
    'layer1': 'head',
    **{f'layer{i + 2}': f'body_{i}' for i in range(18)},
    'layer20': 'tail',
  },
}

# Variance 2 / fan-out, as in the port. The paper names He's initialiser, but
# not whether it counts inputs or outputs.
_INIT = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
  """Returns the options that follow from shapes; the scale does not."""
  return {
    'depth': sum(path.endswith('/kernel') for path in shapes),
    'features': shapes['head/kernel'][3],
    'use_bias': 'head/bias' in shapes,
  }


class VDSR(base.Network):
  """The network of every variant.

  Attributes:
    scale: Enlargement.
    depth: Number of convolutions.
    features: Channels of the hidden layers.
    use_bias: Whether the convolutions have biases.
    dtype: Computation type; parameters stay float32.
  """

  scale: Scale
  depth: Annotated[int, whole(2, 256)]
  features: Width
  use_bias: bool
  dtype: Any = jnp.float32
  channels = 1
  luma = True

  @nn.compact
  def __call__(
    self, lr: jax.Array, *, train: bool = False
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Enlarges luma `lr` `[B, H, W, 1]` to `[B, sH, sW, 1]`, unclipped."""
    del train
    enlarged = imresize(jnp.asarray(lr), scale=self.scale)
    options = {
      'use_bias': self.use_bias,
      'kernel_init': _INIT,
      'bias_init': nn.initializers.zeros,
    }
    x = enlarged
    for name in ('head', *(f'body_{i}' for i in range(self.depth - 2))):
      conv = common.Conv(self.features, dtype=self.dtype, name=name, **options)
      x = relu(conv(x))
    # The last layer computes in float32: bfloat16 would merge grey levels.
    return enlarged + common.Conv(1, name='tail', **options)(x), {}

  @property
  def halo(self) -> int:
    """Receptive radius in LR pixels."""
    return enlarged_halo(self.scale, self.depth, None)


def Model(*, scale: int, variant: str = 'paper', **overrides: Any) -> VDSR:
  """Creates VDSR in one variant; overrides replace single options."""
  return VDSR(
    scale=scale, **{**common.select_variant(VARIANTS, variant), **overrides}
  )

"""DRCN: deeply-recursive network for SR (Kim et al., CVPR 2016).

One convolution is applied again and again to features of the bicubically
enlarged luma. An image is reconstructed after each of these recursions, with
shared weights. The result is a weighted sum of these images, whose weights are
learned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
  # 1,775,105 parameters of the convolutions and 16 weights of the sum.
  'paper': common.Variant(
    {'features': 256, 'recursions': 16},
    dict.fromkeys((2, 3, 4), 1_775_121),
  ),
}
TINY = {'features': 8, 'recursions': 2}
# No weights were released in a format that this package reads.
TORCH_NAMES: dict[str, dict[str, str]] = {}

_INIT = nn.initializers.he_normal()


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
  """Returns the options that follow from shapes; the scale does not."""
  return {
    'features': shapes['recursion/kernel'][3],
    'recursions': shapes['ensemble'][0],
  }


def _identity(
  key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32
) -> jax.Array:
  """Returns a kernel `[K, K, C, C]` whose output equals its input."""
  del key
  middle = shape[0] // 2
  eye = jnp.eye(shape[2], dtype=dtype)
  return jnp.zeros(shape, dtype).at[middle, middle].set(eye)


class DRCN(base.Network):
  """The network.

  The last layer is linear. In the paper's equations a ReLU follows it, after
  which the network could only make pixels of the enlarged image brighter.

  Attributes:
    scale: Enlargement.
    features: Width of every layer.
    recursions: Number of times that the shared layer is applied.
    dtype: Computation type; parameters stay float32.
  """

  scale: Scale
  features: Width
  recursions: Count
  dtype: Any = jnp.float32
  channels = 1
  luma = True

  @nn.compact
  def __call__(
    self, lr: jax.Array, *, train: bool = False
  ) -> tuple[jax.Array, dict[str, Any]]:
    """Enlarges luma `lr` `[B, H, W, 1]` to `[B, sH, sW, 1]`, unclipped.

    Returns:
      The weighted sum, and a dict whose `outputs` holds the image of each
      recursion, followed by the weighted sum.
    """
    del train
    enlarged = imresize(jnp.asarray(lr), scale=self.scale)

    def conv(
      name: str, init: Callable[..., jax.Array] = _INIT
    ) -> Callable[[jax.Array], jax.Array]:
      layer = common.Conv(
        self.features,
        kernel_init=init,
        bias_init=nn.initializers.zeros,
        dtype=self.dtype,
        name=name,
      )
      return lambda x: relu(layer(x))

    recursion, rebuild = conv('recursion', _identity), conv('rebuild_1')
    # The last layer computes in float32: bfloat16 would merge grey levels.
    last = common.Conv(
      1, kernel_init=_INIT, bias_init=nn.initializers.zeros, name='rebuild_2'
    )
    x = conv('embed_2')(conv('embed_1')(enlarged))
    outputs = []
    for _ in range(self.recursions):
      x = recursion(x)
      outputs.append(enlarged + last(rebuild(x)))
    init = nn.initializers.constant(1 / self.recursions)
    weights = self.param('ensemble', init, (self.recursions,))
    sr = (weights.reshape(-1, 1, 1, 1, 1) * jnp.stack(outputs)).sum(0)
    return sr, {'outputs': (*outputs, sr)}

  @property
  def halo(self) -> int:
    """Receptive radius in LR pixels."""
    return enlarged_halo(self.scale, self.recursions + 4, None)


def Model(*, scale: int, variant: str = 'paper', **overrides: Any) -> DRCN:
  """Creates DRCN; overrides replace single options of the variant."""
  return DRCN(
    scale=scale, **{**common.select_variant(VARIANTS, variant), **overrides}
  )

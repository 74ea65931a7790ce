"""Our own network that estimates the blur of an LR image from its spectrum.

Its input are the polar logarithmic power spectra of `ops.power_spectrum`, the
profiles of edges of `ops.edge_profile`, and the scale. A few small perceptrons
are trained on photographs that were reduced with known kernels. They learn how
sharp photographs are, which a fit to a single spectrum cannot know. Widths are
counted in LR pixels. As spectra of photographs are alike at every scale, one
network is used for all scales.
"""

from __future__ import annotations

from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from sr_jax.errors import Range, whole
from sr_jax.models.parts import base, common
from sr_jax.models.parts.options import Width

VARIANTS = {
  'small': common.Variant({'hidden': 96, 'members': 3}, {1: 228_984}),
}
TINY = {'hidden': 4, 'members': 2}
# The network was not published elsewhere, so there are no names.
TORCH_NAMES: dict[str, dict[str, str]] = {}
METHOD = {'name': 'kernel_estimation'}
# Ways in which an LR image may have been made, in the order of the outputs.
# 'other' is a blur that is not Gaussian, by motion or by a lens out of focus.
ORIGINS = ('blurred', 'bicubic', 'photograph', 'other')


class SpectrumMLP(base.Network):
  """The network.

  Attributes:
    hidden: Number of units of each of the two hidden layers.
    members: Number of perceptrons, whose outputs are averaged.
    dropout: Share of hidden units that are left out in training.
    dtype: Computation type; parameters stay float32.
  """

  hidden: Width
  members: Annotated[int, whole(1, 64)]
  dropout: Annotated[float, Range(0, 1, open='right')] = 0.1
  scale: int = 1
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self,
    features: jax.Array,
    edges: jax.Array,
    scale: jax.Array,
    *,
    train: bool = False,
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Estimates kernels from the features of images.

    Args:
      features: Spectra of the images, `[B, *power_spectrum.FEATURES]`.
      edges: Profiles of their edges, `[B, *edge_profile.PROFILES]`.
      scale: HR pixels per LR pixel, `[B]`.
      train: Whether running statistics are updated and units left out. The
        random numbers come from the stream `dropout`.

    Returns: Three arrays of all perceptrons: the symmetric square root (xx, xy,
    yy) of the kernel's covariance in LR pixels, `[members, B, 3]`; the expected
    error of its entries, `[members, B]`; and the logits of the ways in
    `ORIGINS`, `[members, B, len(ORIGINS)]`.
    """
    count = len(features)
    x = jnp.concatenate(
      [features.reshape(count, -1), edges.reshape(count, -1)], axis=1
    ).astype(jnp.float32)
    x = nn.BatchNorm(
      use_running_average=not train,
      use_scale=False,
      use_bias=False,
      epsilon=1e-3,
      name='standard',
    )(x)
    x = jnp.concatenate([x, scale[:, None].astype(x.dtype) - 3], axis=1)
    answers = jnp.stack(
      [self._member(x, i, train) for i in range(self.members)]
    )
    error = jax.nn.softplus(answers[..., 3]) + 1e-3
    return answers[..., :3], error, answers[..., 4:]

  def _member(self, x: jax.Array, index: int, train: bool) -> jax.Array:
    for layer in range(2):
      x = nn.Dense(
        self.hidden, dtype=self.dtype, name=f'member_{index}_dense_{layer}'
      )(x)
      x = nn.Dropout(self.dropout, deterministic=not train)(nn.gelu(x))
    return nn.Dense(4 + len(ORIGINS), name=f'member_{index}_answer')(x)


def Model(
  *, scale: int = 1, variant: str = 'small', **overrides: Any
) -> SpectrumMLP:
  """Creates the network; overrides replace single options."""
  options = {**common.select_variant(VARIANTS, variant), **overrides}
  return SpectrumMLP(scale=scale, **options)

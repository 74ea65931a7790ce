"""Base classes of the networks of all architectures."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from sr_jax.ops.resize import imresize


class Network(nn.Module):
  """Base class of the networks that enlarge images.

  The class gives each attribute of `sr_jax.typing.Network` the value that most
  networks have. A network overrides the others, and declares its options as
  fields. The package uses three of these fields:

  - `scale`: the SR factor,
  - `channels`: the number of channels, if images need not be RGB,
  - `dtype`: the type of computations; parameters stay float32.
  """

  # Annotations would make options of these class attributes.
  channels = 3
  luma = False
  least_side = 1

  @property
  def halo(self) -> int | None:
    """Receptive radius in LR pixels; None if it is unbounded."""
    return None

  @property
  def cell(self) -> int:
    """Side in LR pixels of the cells into which an image is divided."""
    return 1

  @property
  def scales(self) -> tuple[int, ...]:
    """Scales for which the same parameters have a head each."""
    return ()

  @property
  def example_side(self) -> int:
    """Height and width of an image with which the network is initialised."""
    return 8

  def check(self) -> None:
    """Refuses options that do not go together, before anything is computed.

    Single options are checked by the types of their fields, see
    `sr_jax.models.parts.options`.

    Raises:
      UserError: Options do not fit together; the error names them and a remedy.
    """


class RefiningNetwork(Network):
  """Base class of networks that correct a bicubic enlargement of the image.

  A subclass gives `refine`. Such a network can be trained on pairs of an
  enlarged image and its target, as meta-transfer learning does.
  """

  def __call__(
    self, lr: jax.Array, *, train: bool = False
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Enlarges `lr` `[B, H, W, C]` in [0, 1].

    Returns:
      SR `[B, ceil(sH), ceil(sW), C]`, not clipped, and an empty dict.
    """
    del train
    return self.refine(self.enlarge(jnp.asarray(lr))), {}

  def enlarge(
    self, lr: jax.Array, shape: tuple[int, int] | None = None
  ) -> jax.Array:
    """Cubic enlargement of `lr` `[B, H, W, C]`, from which `refine` starts.

    `shape` is the (height, width) of the result, by default ceil(sH), ceil(sW).
    """
    return imresize(lr, scale=self.scale, shape=shape)

  def refine(self, enlarged: jax.Array) -> jax.Array:
    """Corrects a bicubically enlarged image `[B, H, W, C]`."""
    raise NotImplementedError

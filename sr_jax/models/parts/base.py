"""What the networks of all architectures have in common."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from sr_jax.ops.resize import imresize


class Network(nn.Module):
  """Base class of the networks that enlarge images.

  It gives each attribute of `sr_jax.typing.Network` the value that most
  networks have. A network overrides those that differ, and declares its options
  as fields. Three fields are read of every network:

  - `scale`: the enlargement,
  - `channels`, where images need not be RGB,
  - `dtype`: the type that it computes in; parameters stay float32.
  """

  # Without annotations: these belong to the class and are no options.
  channels = 3
  luma = False
  least_side = 1

  @property
  def halo(self) -> int | None:
    """Receptive radius in LR pixels; None where it has no bound."""
    return None

  @property
  def cell(self) -> int:
    """Side in LR pixels of the cells that an image is divided into."""
    return 1

  @property
  def scales(self) -> tuple[int, ...]:
    """Scales that the same parameters serve by heads of their own."""
    return ()

  @property
  def example_side(self) -> int:
    """Height and width of an image on which it can be initialised."""
    return 8

  def check(self) -> None:
    """Refuses options that do not go together, before anything is computed.

    Single options are checked by the types of their fields, see
    `sr_jax.models.parts.options`.

    Raises:
      UserError: naming the options, and what to give.
    """


class RefiningNetwork(Network):
  """Base class of networks that correct a bicubic enlargement of the image.

  A subclass gives `refine`. Such a network can be trained on pairs of an
  enlarged image and its target, as meta-transfer learning does.
  """

  def __call__(
    self, lr: jax.Array, *, train: bool = False
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Enlarges `lr` `[B, H, W, C]` in [0, 1]; unclipped.

    Returns:
      `[B, ceil(sH), ceil(sW), C]` and an empty dict.
    """
    del train
    return self.refine(self.enlarge(jnp.asarray(lr))), {}

  def enlarge(
    self, lr: jax.Array, shape: tuple[int, int] | None = None
  ) -> jax.Array:
    """Cubic enlargement of `lr` `[B, H, W, C]`, from which `refine` starts.

    `shape` is the (height, width) of the result where they are not ceil(sH) and
    ceil(sW).
    """
    return imresize(lr, scale=self.scale, shape=shape)

  def refine(self, enlarged: jax.Array) -> jax.Array:
    """Corrects a bicubically enlarged image `[B, H, W, C]`."""
    raise NotImplementedError

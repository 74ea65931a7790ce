"""Types that several parts of the package share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, Self

import jax

# A loss function: `(params, *data) -> scalar`.
LossFn = Callable[..., jax.Array]


class Predict(Protocol):
  """Inference with given parameters."""

  def __call__(self, params: Any, lr: Any, mask: Any = None, /) -> Any:
    """SR of `lr` `[B, H, W, C]`, both in [0, 1].

    Args:
      params: Parameters by slot.
      lr: The images, padded to a common size where `mask` is given.
      mask: `[B, H, W, 1]`, 1 inside each image and 0 in its padding.
    """


class Network(Protocol):
  """The attributes of a network that the package reads.

  Attributes:
    scale: SR factor; 1 for a network that judges images.
    channels: Number of channels of the images that it takes.
    halo: Receptive radius in LR pixels; None if it is unbounded.
    cell: Side in LR pixels of the cells that the network divides an image into
      from its upper left corner; 1 for networks without cells.
    scales: Scales for which the same parameters have a head each; empty for
      networks without several heads.
    luma: Whether the network takes and returns luma instead of RGB.
    least_side: Smallest height and width of images for a program that is
      exported for all sizes.
    example_side: Height and width of an image with which the network can be
      initialised.
  """

  @property
  def scale(self) -> float: ...
  @property
  def channels(self) -> int: ...
  @property
  def halo(self) -> int | None: ...
  @property
  def cell(self) -> int: ...
  @property
  def scales(self) -> tuple[int, ...]: ...
  @property
  def luma(self) -> bool: ...
  @property
  def least_side(self) -> int: ...
  @property
  def example_side(self) -> int: ...

  def init(self, rngs: Any, *args: Any, **kwargs: Any) -> Any:
    """Returns initial variables, for images of the shape of the given ones."""

  def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
    """Applies the network; returns SR and a dictionary of further outputs."""

  def clone(self, **updates: Any) -> Self:
    """Returns the same network with other options."""


class Refining(Network, Protocol):
  """A network that corrects a bicubic enlargement of the image.

  `sr_jax.models.parts.base.RefiningNetwork` is the base class of these.
  """

  def enlarge(
    self, lr: jax.Array, shape: tuple[int, int] | None = None
  ) -> jax.Array:
    """Enlarges LR to the scale's size, or to a given (height, width)."""

  def refine(self, enlarged: jax.Array) -> jax.Array:
    """Corrects an enlarged image `[B, H, W, C]`."""


class Judging(Network, Protocol):
  """A network that judges images, of the heights and widths in `sides`."""

  @property
  def sides(self) -> range: ...


class Conditioned(Network, Protocol):
  """A network that is given the code of the blur with an image.

  `apply` takes the codes, `[B, codes]`, as its second argument after LR.
  """

  @property
  def codes(self) -> int: ...

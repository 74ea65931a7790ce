"""A loaded model, and the checks of its inputs."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from sr_jax import methods
from sr_jax.errors import UserError, counted
from sr_jax.typing import Predict

if TYPE_CHECKING:
  from PIL import Image

# Target modes of PIL's modes that are neither grey nor RGB.
_PIL_MODES = {
  '1': 'L',
  **dict.fromkeys(('P', 'CMYK', 'YCbCr', 'LAB', 'HSV', 'RGBX'), 'RGB'),
}


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class SRModel:
  """A network with its weights, or bicubic interpolation.

  Attributes:
    name: The name or path from which the model was loaded.
    scale: SR factor.
    channels: Number of channels that the model takes; None for any number.
    halo: Receptive radius in LR pixels; None if it is unbounded.
    cell: Side in LR pixels of the cells into which the network divides an
      image, from its upper left corner; 1 for most networks.
    config: Config of the training, at least the sections `method` and `model`.
    params: Parameters by slot.
    predict: `(params, lr, mask) -> sr` with lr `[B, H, W, C]` and sr in [0, 1];
      mask `[B, H, W, 1]` marks the image in a padded lr, None without padding.
    fitting: `(assumed, steps) -> Fitting` for a model that adapts to each
      image, see `methods`; None for other models.
    referring: How references are given to the model, see `methods.Referring`;
      None for models that take none.
    on_host: Whether `predict` works on NumPy arrays and is not compiled.
    needs_kernel: Whether `fitting` needs the kernel of the blur to be known.
    iterations: For models that estimate the kernel themselves: the largest
      number of corrections of the estimate; None for other models.
  """

  name: str
  scale: float
  channels: int | None
  halo: int | None
  config: Mapping[str, Any]
  params: Mapping[str, Any]
  predict: Predict
  fitting: Callable[..., methods.Fitting] | None = None
  referring: methods.Referring | None = None
  on_host: bool = False
  cell: int = 1
  needs_kernel: bool = False
  iterations: int | None = None

  def __repr__(self) -> str:
    """One line, without the weights."""
    leaves = jax.tree.leaves(self.params)
    count = sum(leaf.size for leaf in leaves)
    size = counted(count, 'parameter')
    return f'SRModel({self.name!r}, scale={self.scale}, {size})'

  @property
  def whole_scale(self) -> int:
    """The scale as an int, for callers that need a whole scale.

    Raises:
      UserError: The scale is not whole.
    """
    if self.scale != int(self.scale):
      raise UserError(
        f'model {self.name} at scale {self.scale:g}: this works at whole'
        ' scales alone; choose one'
      )
    return int(self.scale)


def check_scale(model: SRModel, scale: float | None) -> None:
  """Refuses another scale than the model's.

  Raises:
    UserError: The scale is given and differs.
  """
  if scale not in (None, model.scale):
    raise UserError(
      f'model {model.name} enlarges by {model.scale:g}, not by {scale:g}; leave'
      ' the scale out or choose another model'
    )


def as_array(image: np.ndarray | Image.Image) -> tuple[np.ndarray, bool]:
  """Converts an image to `[H, W, C]`; also returns whether it was `[H, W]`.

  PIL images are rotated as their EXIF data require; palettes and the colour
  spaces of print become RGB. PIL is not imported for other images.
  """
  pil = sys.modules.get('PIL.Image')
  if pil is not None and isinstance(image, pil.Image):
    from PIL import ImageOps

    image = ImageOps.exif_transpose(image)
    mode = _PIL_MODES.get(image.mode, image.mode)
    if image.mode == 'P' and 'transparency' in image.info:
      mode = 'RGBA'
    image = image.convert(mode)
  array = np.asarray(image)
  return (array[..., None], True) if array.ndim == 2 else (array, False)


def check_image(image: np.ndarray, model: SRModel) -> None:
  """Refuses arrays that are no image, or not one that this model takes.

  Raises:
    UserError: The array is no such image.
  """
  if image.ndim != 3 or 0 in image.shape:
    raise UserError(f'an image must be [H, W, C], not of shape {image.shape}')
  takes, channels = model.channels, image.shape[2]
  if takes not in (None, channels) and not (takes == 3 and channels == 1):
    raise UserError(
      f'model {model.name} takes {takes} channels, the image has {channels};'
      ' convert it or use model bicubic'
    )
  if image.dtype == np.uint8:
    return
  if image.dtype.kind != 'f':
    raise UserError(
      f'an image must be float in [0, 1] or uint8, not {image.dtype}'
    )
  low, high = float(image.min()), float(image.max())
  # Comparisons with NaN are false; a small overshoot of [0, 1] is common.
  if not (low >= -1 and high <= 2):
    raise UserError(
      f'the image has values from {low:g} to {high:g}; make them finite and in'
      ' [0, 1], or give uint8'
    )

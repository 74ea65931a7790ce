"""Applies trained models to images of any size, as the command line does.

    model = sr_jax.load('edsr-small-x2')
    sr = sr_jax.upscale(model, image)
    model = sr_jax.load('mzsr-x2')  # adapts to the image's blur
    sr = sr_jax.upscale(model, image, kernel='gaussian:2.0', adapt_steps=10)

For several images make one `Upscaler` and give it their sizes. It then compiles
only a few shapes, however many sizes there are.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from sr_jax import methods
from sr_jax.data.kernel_files import as_kernel
from sr_jax.errors import UserError, counted
from sr_jax.inference.fitting import (
  Fitted,
  back_projection_error,
  fit_images,
  overshoot,
)
from sr_jax.inference.loading import BICUBIC_HALO
from sr_jax.inference.memory import TileSides
from sr_jax.inference.model import SRModel, check_image
from sr_jax.inference.options import (
  UpscaleOptions,
  border_of,
  checked_tile,
  fitting_of,
  moved,
  projection,
  total_halo,
  versions,
)
from sr_jax.inference.shapes import Size, padded_shapes
from sr_jax.ops.blur_kernels import Kernel, correlation_taps
from sr_jax.ops.color import rgb_to_y
from sr_jax.ops.compilation import jit
from sr_jax.ops.devices import find_devices
from sr_jax.transforms import tiling

# Overshoot of a result, see `fitting.overshoot`, above which its kernel may be
# too wide.
_MOST_OVERSHOOT = 0.07


class Upscaler:
  """One model applied to many images of any size.

  Images that do not fit the memory are tiled, with all options. For local
  models (`halo` is not None) tiles and padding change the result by no more
  than the last digit of float32 (1e-7).

  Attributes:
    model: The model.
    fitting: How the model adapts to images; None if it does not.
    references: The references for all images, float32 in [0, 1].
  """

  def __init__(
    self,
    model: SRModel,
    options: UpscaleOptions | None = None,
    *,
    sizes: Sequence[Size] = (),
    references: Sequence[np.ndarray] = (),
  ):
    """Puts the weights on this process's first device.

    The function is longer than most, because it derives everything that all
    images share.

    Args:
      model: A model from `load`.
      options: How images are enlarged; by default with default options.
      sizes: Sizes (H, W) of the images. If there are more than eight different
        sizes, the images of a local model are padded to eight shapes. Images of
        other sizes are not padded.
      references: Sharp photographs `[H, W, 3]`, float in [0, 1] or uint8, for a
        model that takes references. Without any, each image is its own
        reference.

    Raises:
      UserError: References are too small or the model takes none, an option
        does not suit the model, or the kernel cannot be read.
    """
    find_devices()
    options = options or UpscaleOptions()
    taps = _taps(options.kernel)
    self.model = model
    self.fitting = fitting_of(
      model,
      methods.Assumed(options.degradation, taps, options.noise_sigma),
      options,
    )
    own = self.fitting
    if options.self_ensemble:
      _check_turns(model, own)
    self._seed = options.seed
    device = jax.local_devices()[0]
    # The weights are copied through the host, because they may be distributed
    # over all devices of a training run.
    self._params = jax.device_put(jax.device_get(model.params), device)
    predict = own.predict if own else model.predict
    self._program = predict if model.on_host else _jitted(predict)
    times = options.back_project
    if times is None:
      times = own.back_project if own else 0
    median = own is not None and own.ensemble
    degradation = own.degradation if own else options.degradation
    project = projection(model.scale, times, taps, degradation)
    self._versions = versions(median, options.self_ensemble, project)
    local = own.halo if own else model.halo
    self._halo = total_halo(
      local, times * (2 if median else 1), taps, model.scale
    )
    self._border = border_of(model, local) if options.mirror_border else 0
    self._moved = (model.scale - 1) / 2 if options.block_centred else 0.0
    self._uses_kernel = own is not None or times > 0 or taps is None
    self._chops = options.tile == 'chop'
    self._sides = TileSides(
      model,
      self._program,
      device,
      tile=checked_tile(options.tile, model, self._halo),
      halo=self._halo,
      on_host=model.on_host or times > 0,
    )
    self._sizes = tuple(self._with_border(size) for size in sizes)
    self.references = [as_unit(image) for image in references]
    self._referred = self.refer(references) if references else None

  @property
  def uses_kernel(self) -> bool:
    """Whether the kernel, if there is one, has any effect."""
    return self._uses_kernel

  def tile_for(self, image: np.ndarray) -> int | None:
    """Side of the tiles of an image in LR pixels; None if it is not tiled.

    Args:
      image: An image that has already been enlarged.
    """
    side = self._sides.known(self._channels(image))
    size = self._with_border(image.shape[:2])
    return side if side is not None and max(size) > side else None

  def check(self, image: np.ndarray) -> None:
    """Refuses arrays that are no image, or not one that this model takes.

    Raises:
      UserError: As for `__call__`.
    """
    check_image(image, self.model)

  def fit(self, images: Sequence[np.ndarray]) -> list[Fitted]:
    """Adapts the model to images; images of one size are fitted together.

    A model that takes references gets the references of all images; without
    any, each image is its own reference.

    Args:
      images: Images as for `__call__`.

    Returns:
      The argument `fitted` of `__call__` for each image.

    Raises:
      UserError: As for `__call__`.
    """
    if self.model.referring is not None:
      return [self._referred or self._itself(image) for image in images]
    if self.fitting is None:
      return [Fitted(self._params, 0) for _ in images]
    for image in images:
      self.check(image)
    prepared = [self._as_input(x)[0].astype(np.float32)[0] for x in images]
    try:
      return fit_images(self.fitting, self._params, prepared, self._seed)
    except jax.errors.JaxRuntimeError as error:
      if 'RESOURCE_EXHAUSTED' not in str(error):
        raise
      raise UserError(
        f'out of memory while model {self.model.name} adapts to'
        f' {counted(len(images), "image")} at once; choose smaller ones'
      ) from error

  def refer(self, references: Sequence[np.ndarray]) -> Fitted:
    """Prepares references.

    Args:
      references: Photographs `[H, W, 3]`, float in [0, 1] or uint8.

    Returns:
      The argument `fitted` of `__call__`, for any images.

    Raises:
      UserError: A reference is too small, or the model takes none.
    """
    referring = self.model.referring
    if referring is None:
      raise UserError(
        f'model {self.model.name} takes no references: leave them out'
      )
    for image in references:
      check_image(image, self.model)
      if min(image.shape[:2]) < referring.least:
        raise UserError(
          f'a reference of {image.shape[1]}x{image.shape[0]} pixels is smaller'
          f' than a patch to match: give {referring.least} or more a side'
        )
    images = [self._as_input(x)[0].astype(np.float32) for x in references]
    return Fitted(_jitted(referring.look)(self._params, images), 0)

  def similarity(self, image: np.ndarray, fitted: Fitted) -> np.ndarray:
    """How well each part of an image matches its references.

    Args:
      image: An image that has already been enlarged.
      fitted: The result of `refer` or `fit`.

    Returns:
      float32 `[H, W, 1]`; 1 is a perfect match, 0 means nothing in common.
    """
    referring = self.model.referring
    assert referring is not None
    program = _jitted(referring.similarity)

    def window(part: np.ndarray) -> np.ndarray:
      lr = self._as_input(part)[0].astype(np.float32)
      return np.asarray(program(fitted.params, lr))[0, ..., None]

    side = self._sides.known(self._channels(image)) or max(image.shape[:2])
    halo = side // 4 if self._halo is None else self._halo
    return tiling.tiled(window, scale=1, halo=halo, tile=side)(image)

  def __call__(
    self,
    image: np.ndarray,
    fitted: Fitted | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
  ) -> np.ndarray:
    """Enlarges one image.

    For a model that takes RGB, a one-channel image is repeated, and the luma of
    BT.601 is computed from the result. Its Y-channel scores then equal those of
    the RGB result.

    Args:
      image: `[H, W, C]`, float in [0, 1] or uint8.
      fitted: The result of `fit`. Without it a model that adapts is adapted
        first.
      progress: Function that is called with the number of finished tiles and
        the number of all tiles.

    Returns:
      float32 `[ceil(scale * H), ceil(scale * W), C]` in [0, 1].

    Raises:
      UserError: The array is no image, holds NaN, has channels that the model
        does not take, or more pixels than fit the memory.
    """
    self.check(image)
    if fitted is None:
      (fitted,) = self.fit([image])
    channels = self._channels(image)
    scale = math.ceil(self.model.scale)  # scales that are not whole: no tiles
    cell = self.model.cell
    size = self._with_border(image.shape[:2])
    while True:
      side = self._sides.side(fitted.params, size, channels)
      halo = side // 4 if self._halo is None else self._halo
      shapes = self._planned(fitted.params)
      window = functools.partial(self._window, fitted.params, shapes)
      if progress is not None:
        rows, columns = (tiling.windows(n, side, halo, cell) for n in size)
        window = _counted(window, len(rows) * len(columns), progress)
      run = tiling.tiled(window, scale=scale, halo=halo, tile=side, cell=cell)
      run = tiling.mirrored(run, scale=self.model.scale, border=self._border)
      try:
        return moved(run(image), self._moved)
      except jax.errors.JaxRuntimeError as error:
        if 'RESOURCE_EXHAUSTED' not in str(error):
          raise
        self._sides.shrink(min(side, max(size)), channels)

  def back_projection_error(
    self, lr: np.ndarray, sr: np.ndarray
  ) -> float | None:
    """Difference between an input and its result after blur and reduction.

    Args:
      lr: An input of `__call__`.
      sr: The result of `__call__`.

    Returns:
      Grey levels of 255, see `fitting.back_projection_error`. None if the model
      did not adapt to a kernel, or if `block_centred` moved the result.
    """
    fitting = self.fitting
    if fitting is None or fitting.kernel is None or self._moved:
      return None
    return back_projection_error(fitting, as_unit(lr), sr, self.model.scale)

  def rings(self, lr: np.ndarray, sr: np.ndarray) -> bool:
    """Whether a result overshoots as if its kernel were too wide.

    Args:
      lr: An input of `__call__`.
      sr: The result of `__call__`.

    Returns:
      False if the model did not adapt to a kernel, or if `block_centred` moved
      the result.
    """
    fitting = self.fitting
    if fitting is None or fitting.kernel is None or self._moved:
      return False
    return overshoot(as_unit(lr), sr) > _MOST_OVERSHOOT

  def _channels(self, image: np.ndarray) -> int:
    """Number of channels with which an image enters the network."""
    return self.model.channels or image.shape[2]

  def _with_border(self, size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of an image with its mirrored border."""
    height, width = size
    return height + 2 * self._border, width + 2 * self._border

  def _itself(self, image: np.ndarray) -> Fitted:
    """Prepares the image as its own reference."""
    assert self.model.referring is not None
    self.check(image)
    lr = self._as_input(image)[0].astype(np.float32)
    return Fitted(_jitted(self.model.referring.itself)(self._params, lr), 0)

  def _as_input(self, image: np.ndarray) -> tuple[np.ndarray, bool]:
    """Returns float64 `[1, H, W, C]` for the model, and whether it was grey."""
    lr = np.asarray(image, np.float64)[None]
    if image.dtype == np.uint8:
      lr = lr / 255
    grey = lr.shape[-1] == 1 and self.model.channels == 3
    return (np.repeat(lr, 3, axis=-1) if grey else lr), grey

  def _window(
    self,
    params: Mapping[str, Any],
    shapes: Mapping[Size, Size],
    image: np.ndarray,
  ) -> np.ndarray:
    """Enlarges one window `[h, w, C]`; the result is float32 and clipped."""
    lr, grey = self._as_input(image)
    network = functools.partial(self._program, params)
    run = functools.partial(self._run, network, shapes)
    sr = self._versions(run)(lr)
    if grey:
      # The luma of BT.601 spans 16..235.
      sr = (rgb_to_y(sr) * 255 - 16) / 219
    return np.clip(sr[0], 0, 1).astype(np.float32, copy=False)

  def _run(
    self,
    network: Callable[..., Any],
    shapes: Mapping[Size, Size],
    lr: np.ndarray,
  ) -> np.ndarray:
    """Applies the network to `[1, h, w, C]`, padded to a planned shape."""
    run = functools.partial(self._run_whole, network, shapes)
    if self._chops:
      return tiling.chopped(run, scale=self.model.whole_scale)(lr)
    return run(lr)

  def _run_whole(
    self,
    network: Callable[..., Any],
    shapes: Mapping[Size, Size],
    lr: np.ndarray,
  ) -> np.ndarray:
    """Applies the network to an image that is not divided into parts."""
    if self.model.on_host:
      return network(lr, None)
    lr = lr.astype(np.float32)
    height, width = lr.shape[1:3]
    shape = shapes.get((height, width))
    if shape is None and (width, height) in shapes:  # rotated by the ensemble
      shape = shapes[width, height][::-1]
    if shape is None:
      return np.asarray(network(lr, None))
    more = [
      n - old + BICUBIC_HALO
      for n, old in zip(shape, (height, width), strict=True)
    ]
    pad = ((0, 0), (0, more[0]), (0, more[1]), (0, 0))
    mask = np.pad(np.ones((1, height, width, 1), np.float32), pad)
    # Mirrors the image as far as a cubic enlargement reads beyond its border.
    sr = network(np.pad(lr, pad, 'symmetric'), mask)
    scale = self.model.scale
    return np.asarray(sr)[:, : scale * height, : scale * width]

  def _planned(self, params: Mapping[str, Any]) -> Mapping[Size, Size]:
    """Shapes to which windows are padded, by window size; empty for none.

    Models that adapt are not padded, because each size is compiled for the fit
    anyway. Neither are models with cells or parts, whose borders padding would
    move, nor models with references, which would match the padding.
    """
    model = self.model
    if not self._sizes or self._halo is None or model.on_host:
      return {}
    if self.fitting is not None or model.referring is not None:
      return {}
    if model.cell > 1 or self._chops:
      return {}
    channels = model.channels or 3
    self._sides.side(params, max(self._sizes, key=math.prod), channels)
    side = self._sides.known(channels) or max(map(max, self._sizes))
    return padded_shapes(self._sizes, side)


def _taps(kernel: str | np.ndarray | Kernel | None) -> np.ndarray | None:
  """Returns the taps `[K1, K2]` of a kernel."""
  checked = as_kernel(kernel)
  return None if checked is None else np.asarray(correlation_taps(checked))


def _check_turns(model: SRModel, fitting: methods.Fitting | None) -> None:
  """Refuses a self-ensemble for models that depend on the orientation.

  Raises:
    UserError: The model depends on the orientation of the image.
  """
  if fitting is not None and fitting.kernel is not None:
    raise UserError(
      f'model {model.name} adapts to a kernel, and a self-ensemble would'
      ' rotate the image but not the kernel: leave it out'
    )
  if model.referring is not None and not model.referring.turned:
    raise UserError(
      f'model {model.name} warps its reference, and a self-ensemble would'
      ' rotate the image but not the reference: leave it out'
    )


def _counted(
  window: Callable[[np.ndarray], np.ndarray],
  total: int,
  progress: Callable[[int, int], None],
) -> Callable[[np.ndarray], np.ndarray]:
  """Reports the number of finished windows after each window."""
  done = itertools.count(1)

  def counted(part: np.ndarray) -> np.ndarray:
    result = window(part)
    progress(next(done), total)
    return result

  return counted


def as_unit(image: np.ndarray) -> np.ndarray:
  """Converts an image of uint8 or floats to float32 in [0, 1]."""
  image = image / 255 if image.dtype == np.uint8 else image
  return image.astype(np.float32)


@functools.lru_cache(maxsize=16)
def _jitted(predict: Callable[..., Any]) -> Any:
  """Compiles predict once for all users of a model; weights are arguments."""
  return jit(predict)

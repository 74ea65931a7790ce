"""Applies trained models to images of any size, as the command line does.

    model = sr_jax.load('edsr-small-x2')
    sr = sr_jax.upscale(model, image)
    model = sr_jax.load('mzsr-x2')  # fits itself to the image's blur
    sr = sr_jax.upscale(model, image, kernel='gaussian:2.0', adapt_steps=10)

For several images make one `Upscaler` and announce their sizes: it then
compiles a handful of shapes, however many sizes there are.
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


class Upscaler:
  """One model applied to many images of any size.

  Whatever the transforms, the image is tiled where it does not fit the memory.
  For local models (`halo` not None) neither tiles nor padding change the
  result by more than the last digit of float32 (1e-7).

  Attributes:
    model: The model.
    fitting: How it adapts to images, None if it does not.
    references: The references of all images, float32 in [0, 1].
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

    Longer than most functions: one after the other it derives what all images
    share.

    Args:
      model: From `load`.
      options: How images are enlarged; the defaults if not given.
      sizes: (H, W) of the images to come. With more than eight distinct ones
        the images of a local model are padded to eight shapes; unannounced
        images run in their own shape.
      references: Sharp photographs `[H, W, 3]`, float in [0, 1] or uint8, for
        a model that takes references; without any, each image is its own.

    Raises:
      UserError: references that are too small or of no use, an option that does
        not suit the model, a kernel that cannot be read.
    """
    find_devices()
    options = options or UpscaleOptions()
    taps = _taps(options.kernel)
    self.model = model
    self.fitting = fitting_of(
      model,
      methods.Assumed(options.degradation, taps, options.noise_sigma),
      options.adapt_steps,
    )
    own = self.fitting
    if options.self_ensemble:
      _check_turns(model, own)
    self._seed = options.seed
    device = jax.local_devices()[0]
    # Through the host: the weights may lie on all devices of a training run.
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
    """Side of the tiles of an image in LR pixels; None if it has none.

    Args:
      image: As for a call, which came before this.
    """
    side = self._sides.known(self._channels(image))
    size = self._with_border(image.shape[:2])
    return side if side is not None and max(size) > side else None

  def check(self, image: np.ndarray) -> None:
    """Refuses what is no image, or none for this model.

    Raises:
      UserError: as for a call.
    """
    check_image(image, self.model)

  def fit(self, images: Sequence[np.ndarray]) -> list[Fitted]:
    """Fits the model to images, those of one size together.

    A model that takes references gets those of all images, or each image as its
    own.

    Args:
      images: As for a call.

    Returns:
      What a call takes as `fitted`, for each image.

    Raises:
      UserError: as for a call.
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
        f'out of memory while model {self.model.name} fits itself to'
        f' {counted(len(images), "image")} at once; choose smaller ones'
      ) from error

  def refer(self, references: Sequence[np.ndarray]) -> Fitted:
    """Looks at references for images.

    Args:
      references: `[H, W, 3]`, float in [0, 1] or uint8.

    Returns:
      What a call takes as `fitted`, for any images.

    Raises:
      UserError: one is too small, or the model takes none.
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
          f' than what is matched: give {referring.least} or more a side'
        )
    images = [self._as_input(x)[0].astype(np.float32) for x in references]
    return Fitted(_jitted(referring.look)(self._params, images), 0)

  def similarity(self, image: np.ndarray, fitted: Fitted) -> np.ndarray:
    """How well the parts of an image match its references.

    Args:
      image: As for a call, which came before this.
      fitted: From `refer` or `fit`.

    Returns:
      float32 `[H, W, 1]`; 1 is perfect, 0 for nothing in common.
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

    A one-channel image is repeated for a model that takes RGB, and luma of
    BT.601 is taken of the result: its Y-channel scores are the RGB result's.

    Args:
      image: `[H, W, C]`, float in [0, 1] or uint8.
      fitted: From `fit`; without it the model is fitted now, if it can be.
      progress: Called with the number of finished tiles and of all tiles.

    Returns:
      float32 `[ceil(scale * H), ceil(scale * W), C]` in [0, 1].

    Raises:
      UserError: not such an image, NaN, channels that the model does not take,
        or more pixels than memory can hold.
    """
    self.check(image)
    if fitted is None:
      (fitted,) = self.fit([image])
    channels = self._channels(image)
    scale = math.ceil(self.model.scale)  # one that is not whole has no tiles
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
    """How far a result, blurred and reduced again, is from its input.

    Args:
      lr: As for a call.
      sr: What it returned.

    Returns:
      Grey levels of 255, see `fitting.back_projection_error`; None where no
      kernel was fitted to, or the result was moved from where it puts pixels.
    """
    fitting = self.fitting
    if fitting is None or fitting.kernel is None or self._moved:
      return None
    return back_projection_error(fitting, as_unit(lr), sr, self.model.scale)

  def _channels(self, image: np.ndarray) -> int:
    """Channels of an image as the network gets it."""
    return self.model.channels or image.shape[2]

  def _with_border(self, size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of an image with its mirrored border."""
    height, width = size
    return height + 2 * self._border, width + 2 * self._border

  def _itself(self, image: np.ndarray) -> Fitted:
    """The image as its own reference."""
    assert self.model.referring is not None
    self.check(image)
    lr = self._as_input(image)[0].astype(np.float32)
    return Fitted(_jitted(self.model.referring.itself)(self._params, lr), 0)

  def _as_input(self, image: np.ndarray) -> tuple[np.ndarray, bool]:
    """float64 `[1, H, W, C]` for the model, and whether it was grey."""
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
    """The whole way of one window `[h, w, C]`, float32 and clipped."""
    lr, grey = self._as_input(image)
    network = functools.partial(self._program, params)
    run = functools.partial(self._run, network, shapes)
    sr = self._versions(run)(lr)
    if grey:
      # Y of BT.601 spans 16..235.
      sr = (rgb_to_y(sr) * 255 - 16) / 219
    return np.clip(sr[0], 0, 1).astype(np.float32, copy=False)

  def _run(
    self,
    network: Callable[..., Any],
    shapes: Mapping[Size, Size],
    lr: np.ndarray,
  ) -> np.ndarray:
    """The network on the host's `[1, h, w, C]`, padded to a planned shape."""
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
    """The network on an image that is not divided."""
    if self.model.on_host:
      return network(lr, None)
    lr = lr.astype(np.float32)
    height, width = lr.shape[1:3]
    shape = shapes.get((height, width))
    if shape is None and (width, height) in shapes:  # a turned version
      shape = shapes[width, height][::-1]
    if shape is None:
      return np.asarray(network(lr, None))
    more = [
      n - old + BICUBIC_HALO
      for n, old in zip(shape, (height, width), strict=True)
    ]
    pad = ((0, 0), (0, more[0]), (0, more[1]), (0, 0))
    mask = np.pad(np.ones((1, height, width, 1), np.float32), pad)
    # Mirrored as far as a cubic enlargement looks beyond its border.
    sr = network(np.pad(lr, pad, 'symmetric'), mask)
    scale = self.model.scale
    return np.asarray(sr)[:, : scale * height, : scale * width]

  def _planned(self, params: Mapping[str, Any]) -> Mapping[Size, Size]:
    """Window size -> shape to pad it to; empty where none is padded.

    The weights of a fit are compiled for each size anyhow. Padding would move
    the borders of cells and parts, and would itself be matched by references.
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
  """The kernel's `[K1, K2]` taps."""
  checked = as_kernel(kernel)
  return None if checked is None else np.asarray(correlation_taps(checked))


def _check_turns(model: SRModel, fitting: methods.Fitting | None) -> None:
  """Refuses a self-ensemble for models that know the image's orientation.

  Raises:
    UserError: the model is one.
  """
  if fitting is not None and fitting.kernel is not None:
    raise UserError(
      f'model {model.name} fits itself to the kernel as it lies, and'
      ' a self-ensemble would turn the image: leave it out'
    )
  if model.referring is not None and not model.referring.turned:
    raise UserError(
      f'model {model.name} warps its reference as it lies, and a'
      ' self-ensemble would turn the image alone: leave it out'
    )


def _counted(
  window: Callable[[np.ndarray], np.ndarray],
  total: int,
  progress: Callable[[int, int], None],
) -> Callable[[np.ndarray], np.ndarray]:
  """Reports how many of the windows are done after each of them."""
  done = itertools.count(1)

  def counted(part: np.ndarray) -> np.ndarray:
    result = window(part)
    progress(next(done), total)
    return result

  return counted


def as_unit(image: np.ndarray) -> np.ndarray:
  """An image of uint8 or of floats as float32 in [0, 1]."""
  image = image / 255 if image.dtype == np.uint8 else image
  return image.astype(np.float32)


@functools.lru_cache(maxsize=16)
def _jitted(predict: Callable[..., Any]) -> Any:
  """One program for all users of a model: weights are its arguments."""
  return jit(predict)

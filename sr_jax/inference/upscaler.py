"""Trained models on images of any size: what the command line runs.

    model = sr_jax.load('edsr-small-x2')
    sr = sr_jax.upscale(model, image)
    model = sr_jax.load('mzsr-x2')  # fits itself to the image's blur
    sr = sr_jax.upscale(model, image, kernel='gaussian:2.0', adapt_steps=10)

For several images make one `Upscaler` and tell it their sizes: it then compiles
a handful of shapes, however many sizes there are.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from sr_jax import methods
from sr_jax.data.kernel_files import as_kernel
from sr_jax.errors import UserError
from sr_jax.inference.fitting import Fitted, fit_images
from sr_jax.inference.loading import BICUBIC_HALO
from sr_jax.inference.model import SRModel, check_image, check_scale
from sr_jax.inference.options import (
  border_of,
  checked_tile,
  fitting_of,
  least_tile,
  projection,
  total_halo,
  versions,
)
from sr_jax.ops.blur_kernels import Kernel, correlation_taps
from sr_jax.ops.color import rgb_to_y
from sr_jax.ops.compilation import jit
from sr_jax.transforms import tiling

_log = logging.getLogger(__name__)

# Compiled shapes for images of announced sizes.
_MAX_SHAPES = 8
# Images of so few LR pixels are not worth a look at their memory.
_SMALL = 128**2
# Side in SR pixels of what is computed on the host, in float64, at a time.
_HOST_SIDE = 2048
# Least part of a window that is kept, in LR pixels.
_LEAST_KEPT = 64


def upscale(
  model: SRModel,
  image: np.ndarray,
  *,
  scale: float | None = None,
  kernel: str | np.ndarray | Kernel | None = None,
  adapt_steps: int | str | None = None,
  self_ensemble: bool = False,
  back_project: int | None = None,
  tile: int | str = 'auto',
  seed: int = 0,
  references: Sequence[np.ndarray] = (),
) -> np.ndarray:
  """Enlarges one image.

  Args:
    model: From `load`.
    image: `[H, W, C]`, float in [0, 1] or uint8.
    scale: Checked against the model's if given.
    kernel: Blur that made the image; see `Upscaler`, as for the others.
    adapt_steps: Steps that the model fits itself to the image, or 'auto'.
    self_ensemble: Mean over the eight flips and rotations.
    back_project: Number of back-projections after it.
    tile: Side of the tiles in LR pixels, 'auto', 'off' or 'chop'.
    seed: Of what a fit draws at random, together with the image itself.
    references: See `Upscaler`.

  Returns:
    float32 `[ceil(scale * H), ceil(scale * W), C]` in [0, 1].

  Raises:
    UserError: as `Upscaler`, or a kernel that nothing would use.
  """
  check_scale(model, scale)
  upscaler = Upscaler(
    model,
    self_ensemble=self_ensemble,
    back_project=back_project,
    kernel=kernel,
    adapt_steps=adapt_steps,
    tile=tile,
    seed=seed,
    references=references,
  )
  if kernel is not None and not upscaler.uses_kernel:
    raise UserError(
      f'model {model.name} uses a kernel only for back-projection; add'
      ' back_project=N (--back-project N) or leave the kernel out'
    )
  return upscaler(image)


class Upscaler:
  """One model applied to many images of any size.

  Whatever the transforms, the image is tiled where it does not fit the memory.
  For local models (`halo` not None) neither tiles nor padding change the
  result by more than the last digit of float32 (1e-7).

  Attributes:
    model: The model.
    references: Those of all images, float32 in [0, 1].
  """

  def __init__(
    self,
    model: SRModel,
    *,
    self_ensemble: bool = False,
    back_project: int | None = None,
    kernel: str | np.ndarray | Kernel | None = None,
    degradation: str | None = None,
    noise_sigma: float = 0.0,
    adapt_steps: int | str | None = None,
    tile: int | str = 'auto',
    sizes: Sequence[tuple[int, int]] | None = None,
    seed: int = 0,
    references: Sequence[np.ndarray] = (),
    mirror_border: bool = True,
  ):
    """Puts the weights on this process's first device.

    Args:
      model: From `load`.
      self_ensemble: Mean over the eight flips and rotations.
      back_project: Number of back-projections after it; None for what the
        model does by itself, mostly none.
      kernel: Blur that made the LR images, as in `ops.degrade`: an array, a
        `Kernel` or a SPEC of the command line. Back-projection uses it, and a
        model that fits itself to the images.
      degradation: How LR was made, see `ops.degrade`; 'direct' with a kernel
        and 'bicubic' without one unless given.
      noise_sigma: Noise of the LR images in grey levels, for the fit.
      adapt_steps: Steps of the fit, 'auto' to stop by the reconstruction of
        the image itself, 0 for none; None for the model's own number. Other
        models take none.
      tile: Side of the tiles in LR pixels with their overlap, 'auto' for what
        fits the memory, 'off', or 'chop' for the four parts of the EDSR
        family's test scripts, with which RCAN's and SAN's scores were made.
      sizes: (H, W) of the images to come. With more than eight distinct ones
        the images of a local model are padded to eight shapes; unannounced
        images run in their own shape.
      seed: Of what the fit draws at random.
      references: Sharp photographs `[H, W, 3]`, float in [0, 1] or uint8, for
        a model that takes such; without any, images are their own.
      mirror_border: Whether networks see the image continued by its mirror
        image. Otherwise they pad it with zeros, which darkens the outermost
        pixels, as in published scores.

    Raises:
      UserError: references that are too small or of no use, a tile or a number
        of back-projections that is none, a kernel that cannot be read or does
        not suit the model.
    """
    if (back_project or 0) < 0:
      raise UserError(f'back-projections must be 0 or more, not {back_project}')
    kernel = as_kernel(kernel)
    taps = None if kernel is None else np.asarray(correlation_taps(kernel))
    self.model = model
    self.fitting = fitting_of(
      model, methods.Assumed(degradation, taps, noise_sigma), adapt_steps
    )
    own = self.fitting
    if self_ensemble and own is not None and own.kernel is not None:
      raise UserError(
        f'model {model.name} fits itself to the kernel as it lies, and'
        ' self_ensemble (--self-ensemble) would turn the image: leave it out'
      )
    referring = model.referring
    if self_ensemble and referring is not None and not referring.turned:
      raise UserError(
        f'model {model.name} warps its reference as it lies, and self_ensemble'
        ' (--self-ensemble) would turn the image alone: leave it out'
      )
    degradation = own.degradation if own else degradation
    self._seed = seed
    self._device = jax.local_devices()[0]
    # Through the host: the weights may lie on all devices of a training run.
    self._params = jax.device_put(jax.device_get(model.params), self._device)
    predict = own.predict if own else model.predict
    self._program = predict if model.on_host else _jitted(predict)
    if back_project is None:
      back_project = own.back_project if own else 0
    median = own is not None and own.ensemble
    self._project = projection(model.scale, back_project, taps, degradation)
    self._ensemble = versions(median, self_ensemble, self._project)
    passes = back_project * (2 if median else 1)
    local = own.halo if own else model.halo
    self._halo = total_halo(local, passes, taps, model.scale)
    self._border = border_of(model, local) if mirror_border else 0
    self._on_host = model.on_host or back_project > 0
    self._uses_kernel = own is not None or back_project > 0 or taps is None
    self._tile = checked_tile(tile, model, self._halo)
    # Parameters whose shapes tell how much memory the network needs.
    self._example: Mapping[str, Any] = self._params
    self._channels = model.channels or 3
    # Side of the windows; None while nothing needs to be divided.
    self._side = None if isinstance(tile, str) else int(tile)
    self._sizes = [self._with_border(size) for size in sizes or ()]
    self._shapes = self._plan_shapes()
    self.references = [_unit(image) for image in references]
    self._referred = self.refer(references) if references else None

  @property
  def uses_kernel(self) -> bool:
    """Whether the kernel, if there is one, has any effect."""
    return self._uses_kernel

  @property
  def tile(self) -> int | None:
    """Side of tiles in LR pixels; None while no image needed them."""
    return self._side

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
        f' {len(images)} images at once; choose smaller ones'
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

    side = self._side or max(image.shape[:2])
    halo = side // 4 if self._halo is None else self._halo
    return tiling.tiled(window, scale=1, halo=halo, tile=side)(image)

  def __call__(
    self, image: np.ndarray, fitted: Fitted | None = None
  ) -> np.ndarray:
    """Enlarges one image.

    A one-channel image is repeated for a model that takes RGB, and luma of
    BT.601 is taken of the result: its Y-channel scores are the RGB result's.

    Args:
      image: `[H, W, C]`, float in [0, 1] or uint8.
      fitted: From `fit`; without it the model is fitted now, if it can be.

    Returns:
      float32 `[ceil(scale * H), ceil(scale * W), C]` in [0, 1].

    Raises:
      UserError: not such an image, NaN, channels that the model does not take,
        or more pixels than memory can hold.
    """
    self.check(image)
    if fitted is None:
      (fitted,) = self.fit([image])
    self._example = fitted.params
    self._channels = self.model.channels or image.shape[2]
    window = functools.partial(self._window, fitted.params)
    scale = math.ceil(self.model.scale)  # one that is not whole has no tiles
    size = self._with_border(image.shape[:2])
    while True:
      side = self._side_for(*size)
      halo = side // 4 if self._halo is None else self._halo
      cell = self.model.cell
      run = tiling.tiled(window, scale=scale, halo=halo, tile=side, cell=cell)
      run = tiling.mirrored(run, scale=self.model.scale, border=self._border)
      try:
        return run(image)
      except jax.errors.JaxRuntimeError as error:
        if 'RESOURCE_EXHAUSTED' not in str(error):
          raise
        self._shrink(min(side, max(size)))

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

  def _window(self, params: Mapping[str, Any], image: np.ndarray) -> np.ndarray:
    """The whole way of one window `[h, w, C]`, float32 and clipped."""
    lr, grey = self._as_input(image)
    network = functools.partial(self._program, params)
    sr = self._ensemble(functools.partial(self._run, network))(lr)
    if grey:
      # Y of BT.601 spans 16..235.
      sr = (rgb_to_y(sr) * 255 - 16) / 219
    return np.clip(sr[0], 0, 1).astype(np.float32, copy=False)

  def _run(self, network: Callable[..., Any], lr: np.ndarray) -> np.ndarray:
    """The network on the host's `[1, h, w, C]`, padded to a planned shape."""
    if self._tile == 'chop':
      run = functools.partial(self._run_whole, network)
      return tiling.chopped(run, scale=self.model.whole_scale)(lr)
    return self._run_whole(network, lr)

  def _run_whole(
    self, network: Callable[..., Any], lr: np.ndarray
  ) -> np.ndarray:
    """The same, undivided."""
    if self.model.on_host:
      return network(lr, None)
    lr = lr.astype(np.float32)
    height, width = lr.shape[1:3]
    shape = self._shapes.get((height, width))
    if shape is None and (width, height) in self._shapes:  # a turned version
      shape = self._shapes[width, height][::-1]
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

  def _plan_shapes(self) -> dict[tuple[int, int], tuple[int, int]]:
    """Window size -> shape to pad it to; empty where none is padded."""
    if not self._sizes or self._halo is None or self.model.on_host:
      return {}
    if self.fitting is not None:
      return {}  # the fit is compiled for each size anyhow
    if self.model.cell > 1 or self._tile == 'chop':
      return {}  # padding would move the cells' or the parts' borders
    if self.model.referring is not None:
      return {}  # what is padded would be matched as well
    self._side_for(*max(self._sizes, key=math.prod))
    limit = self._side or max(max(size) for size in self._sizes)
    windows = [(min(h, limit), min(w, limit)) for h, w in self._sizes]
    if len(set(windows)) <= _MAX_SHAPES:
      return {}
    return tiling.shared_shapes(windows, _MAX_SHAPES)

  def _side_for(self, height: int, width: int) -> int:
    """Side of the windows for an image of this size."""
    if self._tile == 'auto' and not self._side and height * width > _SMALL:
      self._side = self._auto_side(height, width)
    return self._side or max(height, width)

  def _auto_side(self, height: int, width: int) -> int | None:
    """Side of the largest windows that fit; None for all of the image."""
    if self._halo is None:
      self._refuse_if_too_large(height, width)
      return None
    least = least_tile(self.model, self._halo) + _LEAST_KEPT
    sides = []
    if self._on_host:
      sides.append(max(int(_HOST_SIDE // self.model.scale), least))
    if not self.model.on_host:
      probe = math.isqrt(_SMALL)
      density = self._bytes(probe, probe) / _SMALL
      sides.append(max(tiling.plan_side(density, self._device), least))
    return min(sides)

  def _bytes(self, height: int, width: int) -> int:
    """Memory that the program needs for one image of this size."""
    shape = (1, height, width, self._channels)
    lr = jax.ShapeDtypeStruct(shape, np.float32)
    return tiling.program_bytes(self._program, self._example, lr, None)

  def _refuse_if_too_large(self, height: int, width: int) -> None:
    if self.model.on_host:
      return
    needed = self._bytes(height, width)
    if needed > tiling.available_bytes(self._device):
      if self.model.scale != int(self.model.scale):
        raise UserError(
          f'{height}x{width} pixels need {needed / 2**30:.1f} GiB at scale'
          f' {self.model.scale:g}, which cannot be tiled; choose a whole scale'
        )
      raise UserError(
        f'{height}x{width} pixels need {needed / 2**30:.1f} GiB with model'
        f' {self.model.name}, which cannot be tiled exactly; give --tile N'
        ' (tile=N) and accept seams'
      )

  def _shrink(self, side: int) -> None:
    """Halves the windows after they did not fit.

    Raises:
      UserError: they may not or cannot be smaller.
    """
    name = self.model.name
    if self._tile in ('off', 'chop'):
      raise UserError(
        f'out of memory with tile {self._tile}; let model {name} tile:'
        ' --tile auto'
      )
    if self._tile == 'auto' and self.model.scale != int(self.model.scale):
      raise UserError(
        f'out of memory at scale {self.model.scale:g}, which cannot be tiled;'
        ' choose a whole scale'
      )
    if self._tile == 'auto' and self._halo is None:
      raise UserError(
        f'out of memory, and model {name} cannot be tiled exactly; give'
        f' --tile N (tile=N) below {side} and accept seams'
      )
    if side // 2 <= least_tile(self.model, self._halo):
      raise UserError(
        f'out of memory with tiles of {side} pixels, the smallest that model'
        f' {name} allows; free some memory or choose a smaller model'
      )
    self._side = side // 2
    _log.warning('out of memory: going on with tiles of %d', self._side)
    self._shapes = self._plan_shapes()


def _unit(image: np.ndarray) -> np.ndarray:
  """float32 in [0, 1]."""
  image = image / 255 if image.dtype == np.uint8 else image
  return image.astype(np.float32)


@functools.lru_cache(maxsize=16)
def _jitted(predict: Callable[..., Any]) -> Any:
  """One program for all users of a model: weights are its arguments."""
  return jit(predict)

"""Trained models on images of any size: what the command line runs.

    model = sr_jax.load('edsr-small-x2')
    sr = sr_jax.upscale(model, image)

For several images make one `Upscaler` and tell it their sizes: it then compiles
a handful of shapes, however many sizes there are.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib.resources
import json
import logging
import math
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from sr_jax import checkpoints, methods, models
from sr_jax.errors import UserError
from sr_jax.models.parameters import check_parameters
from sr_jax.ops.blur_kernels import Kernel, correlation_taps, parse_kernel_spec
from sr_jax.ops.color import rgb_to_y
from sr_jax.ops.compilation import jit
from sr_jax.ops.degrade import degrade
from sr_jax.ops.resize import imresize
from sr_jax.transforms import tiling
from sr_jax.transforms.back_projection import back_project as project
from sr_jax.transforms.ensemble import self_ensemble as ensemble

_log = logging.getLogger(__name__)

# Reach of the cubic kernel in LR pixels when it enlarges.
_BICUBIC_HALO = 2
# Reach of one back-projection in LR pixels: to the error's cubic enlargement
# and the antialiased reduction before it, and one for odd phases.
_PROJECTION_HALO = 5
# Compiled shapes for images of announced sizes.
_MAX_SHAPES = 8
# Images of so few LR pixels are not worth a look at their memory.
_SMALL = 128**2
# Side in SR pixels of what is computed on the host, in float64, at a time.
_HOST_SIDE = 2048
# Least part of a window that is kept, in LR pixels.
_LEAST_KEPT = 64


@dataclasses.dataclass(frozen=True, eq=False)
class SRModel:
  """A network with its weights, or bicubic interpolation.

  Attributes:
    name: What it was loaded by.
    scale: Enlargement.
    channels: Channels it takes, None for any.
    halo: Receptive radius in LR pixels, None where it has no bound.
    config: Config it was trained with; at least `method` and `model`.
    params: Parameters by slot.
    predict: `(params, lr, mask) -> sr` with lr `[B, H, W, C]` and sr in [0, 1];
      mask `[B, H, W, 1]` marks the image in a padded lr, None without padding.
    on_host: Whether `predict` works on NumPy arrays and is not compiled.
  """

  name: str
  scale: int
  channels: int | None
  halo: int | None
  config: Mapping[str, Any]
  params: Mapping[str, Any]
  predict: Callable[..., Any]
  on_host: bool = False


def pretrained() -> dict[str, pathlib.Path]:
  """Folders of the weights that come with the package, by name."""
  root = pathlib.Path(str(importlib.resources.files('sr_jax') / 'pretrained'))
  folders = sorted(root.iterdir()) if root.is_dir() else []
  return {p.name: p for p in folders if p.is_dir() and p.name[0] not in '._'}


def load(name: str | os.PathLike[str], *, scale: int | None = None) -> SRModel:
  """A model by name, or from a checkpoint.

  Args:
    name: 'bicubic', a name in `pretrained()`, or a checkpoint: a workdir, a
      step's folder, or imported weights.
    scale: Needed for bicubic; otherwise checked against the checkpoint's.

  Raises:
    UserError: no such model, a damaged checkpoint, or another scale.
  """
  if name == 'bicubic':
    return _bicubic(scale)
  known = pretrained()
  path = known.get(str(name), pathlib.Path(name))
  if not path.exists() and len(path.parts) == 1:
    names = ['bicubic', *known]
    near = difflib.get_close_matches(str(name), names, n=1)
    hint = f'did you mean {near[0]}?' if near else 'give one of these or a path'
    raise UserError(f'no model {str(name)!r}; {hint} ({", ".join(names)})')
  loaded = checkpoints.load_params(path)
  _check_loaded(loaded, path)
  model = from_params(loaded.config, loaded.params, name=str(name))
  _check_scale(model, scale)
  return model


def from_params(
  config: Mapping[str, Any], params: Mapping[str, Any], *, name: str
) -> SRModel:
  """The model that a config describes, with these parameters by slot."""
  network: Any = models.create(config['model'])
  sections = {name: config[name] for name in ('method', 'model')}
  return SRModel(
    name=name,
    scale=config['model']['scale'],
    channels=network.channels,
    halo=getattr(network, 'halo', None),
    config=config,
    params=params,
    predict=_predictor(json.dumps(sections)),
  )


def _check_loaded(loaded: checkpoints.Loaded, path: pathlib.Path) -> None:
  """Refuses a config without model, or parameters of another model."""
  sections = (loaded.config.get(s) or () for s in ('method', 'model'))
  if not all('name' in section for section in sections):
    raise UserError(f'{path}: its config names no method and model')
  try:
    network = models.create(loaded.config['model'])
    check_parameters(network, loaded.params.get('generator'))
  except UserError as error:
    raise UserError(f'{path}: {error}') from error


@functools.lru_cache(maxsize=16)
def _predictor(config: str) -> Callable[..., Any]:
  """One function per config, so that new weights do not compile it anew."""
  sections = json.loads(config)
  return methods.module(sections).predictor(sections)


def _bicubic(scale: int | None) -> SRModel:
  """MATLAB's cubic interpolation, the baseline of every table."""
  if scale is None:
    raise UserError('model bicubic needs a scale: give --scale S (scale=S)')
  if scale != int(scale) or scale < 1:
    raise UserError(f'scale must be a whole number above 0, not {scale}')
  return SRModel(
    name='bicubic',
    scale=int(scale),
    channels=None,
    halo=_BICUBIC_HALO,
    config={'method': {'name': 'bicubic'}, 'model': {'name': 'bicubic'}},
    params={},
    predict=functools.partial(_enlarge, scale=int(scale)),
    on_host=True,
  )


def _enlarge(params: Any, lr: Any, mask: None = None, *, scale: int) -> Any:
  del params, mask
  return imresize(lr, scale=scale).clip(0, 1)


def _check_scale(model: SRModel, scale: int | None) -> None:
  if scale not in (None, model.scale):
    raise UserError(
      f'model {model.name} enlarges by {model.scale}, not by {scale}; leave the'
      ' scale out or choose another model'
    )


def upscale(
  model: SRModel,
  image: np.ndarray,
  *,
  scale: int | None = None,
  kernel: str | np.ndarray | Kernel | None = None,
  self_ensemble: bool = False,
  back_project: int = 0,
  tile: int | str = 'auto',
) -> np.ndarray:
  """Enlarges one image.

  Args:
    model: From `load`.
    image: `[H, W, C]`, float in [0, 1] or uint8.
    scale: Checked against the model's if given.
    kernel: Blur that made the image; see `Upscaler`, as for the others.
    self_ensemble: Mean over the eight flips and rotations.
    back_project: Number of back-projections after it.
    tile: Side of the tiles in LR pixels, 'auto' or 'off'.

  Returns:
    float32 `[scale * H, scale * W, C]` in [0, 1].

  Raises:
    UserError: as `Upscaler`, or a kernel that nothing would use.
  """
  _check_scale(model, scale)
  kernel = parse_kernel_spec(kernel) if isinstance(kernel, str) else kernel
  if kernel is not None and not back_project:
    raise UserError(
      f'model {model.name} uses a kernel only for back-projection; add'
      ' back_project=N (--back-project N) or leave the kernel out'
    )
  upscaler = Upscaler(
    model,
    self_ensemble=self_ensemble,
    back_project=back_project,
    kernel=kernel,
    tile=tile,
  )
  return upscaler(image)


class Upscaler:
  """One model applied to many images of any size.

  Whatever the transforms, the image is tiled where it does not fit the memory.
  For local models (`halo` not None) neither tiles nor padding change the
  result: on CPU not by a bit, but for images of a few pixels (1e-7).

  Attributes:
    model: The model.
  """

  def __init__(
    self,
    model: SRModel,
    *,
    self_ensemble: bool = False,
    back_project: int = 0,
    kernel: str | np.ndarray | Kernel | None = None,
    degradation: str | None = None,
    tile: int | str = 'auto',
    sizes: Sequence[tuple[int, int]] | None = None,
  ):
    """Puts the weights on this process's first device.

    Args:
      model: From `load`.
      self_ensemble: Mean over the eight flips and rotations.
      back_project: Number of back-projections after it.
      kernel: Blur that made the LR images, as in `ops.degrade`: an array, a
        `Kernel` or a SPEC of the command line. Back-projection uses it.
      degradation: How LR was made, see `ops.degrade`; 'direct' with a kernel
        and 'bicubic' without one unless given.
      tile: Side of the tiles in LR pixels with their overlap, 'auto' for what
        fits the memory, or 'off'.
      sizes: (H, W) of the images to come. With more than eight distinct ones
        the images of a local model are padded to eight shapes; unannounced
        images run in their own shape.

    Raises:
      UserError: a tile or a number of back-projections that is none, a kernel
        that cannot be read.
    """
    if back_project < 0:
      raise UserError(f'back-projections must be 0 or more, not {back_project}')
    kernel = parse_kernel_spec(kernel) if isinstance(kernel, str) else kernel
    self.model = model
    self._project = _projection(model.scale, back_project, kernel, degradation)
    self._halo = _total_halo(model, back_project, kernel)
    self._on_host = model.on_host or back_project > 0
    self._device = jax.local_devices()[0]
    # Through the host: the weights may lie on all devices of a training run.
    self._params = jax.device_put(jax.device_get(model.params), self._device)
    self._program = model.predict if model.on_host else _jitted(model.predict)
    predict = functools.partial(self._program, self._params)
    self._predict = ensemble(predict) if self_ensemble else predict
    self._tile = _checked_tile(tile, model.name, self._halo)
    # Side of the windows; None while nothing needs to be divided.
    self._side = None if isinstance(tile, str) else int(tile)
    self._sizes = list(sizes or ())
    self._shapes = self._plan_shapes()

  @property
  def tile(self) -> int | None:
    """Side of tiles in LR pixels; None while no image needed them."""
    return self._side

  def __call__(self, image: np.ndarray) -> np.ndarray:
    """Enlarges one image.

    A one-channel image is repeated for a model that takes RGB, and luma of
    BT.601 is taken of the result: its Y-channel scores are the RGB result's.

    Args:
      image: `[H, W, C]`, float in [0, 1] or uint8.

    Returns:
      float32 `[scale * H, scale * W, C]` in [0, 1].

    Raises:
      UserError: not such an image, NaN, channels that the model does not take,
        or more pixels than memory can hold.
    """
    _check_image(image, self.model)
    while True:
      side = self._side_for(*image.shape[:2])
      halo = side // 4 if self._halo is None else self._halo
      run = tiling.tiled(
        self._window, scale=self.model.scale, halo=halo, tile=side
      )
      try:
        return run(image)
      except jax.errors.JaxRuntimeError as error:
        if 'RESOURCE_EXHAUSTED' not in str(error):
          raise
        self._shrink(min(side, max(image.shape[:2])))

  def _window(self, image: np.ndarray) -> np.ndarray:
    """The whole way of one window `[h, w, C]`, float32 and clipped."""
    lr = np.asarray(image, np.float64)[None]
    if image.dtype == np.uint8:
      lr = lr / 255
    grey = lr.shape[-1] == 1 and self.model.channels == 3
    if grey:
      lr = np.repeat(lr, 3, axis=-1)
    sr = self._project(self._run)(lr)
    if grey:
      # Y of BT.601 spans 16..235.
      sr = (rgb_to_y(sr) * 255 - 16) / 219
    return np.clip(sr[0], 0, 1).astype(np.float32, copy=False)

  def _run(self, lr: np.ndarray) -> np.ndarray:
    """The network on the host's `[1, h, w, C]`, padded to a planned shape."""
    if self.model.on_host:
      return self._predict(lr, None)
    lr = lr.astype(np.float32)
    height, width = lr.shape[1:3]
    shape = self._shapes.get((height, width))
    if shape is None:
      return np.asarray(self._predict(lr, None))
    pad = ((0, 0), (0, shape[0] - height), (0, shape[1] - width), (0, 0))
    mask = np.ones((1, height, width, 1), np.float32)
    sr = self._predict(np.pad(lr, pad), np.pad(mask, pad))
    scale = self.model.scale
    return np.asarray(sr)[:, : scale * height, : scale * width]

  def _plan_shapes(self) -> dict[tuple[int, int], tuple[int, int]]:
    """Window size -> shape to pad it to; empty where none is padded."""
    if not self._sizes or self.model.halo is None or self.model.on_host:
      return {}
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
    least = 2 * self._halo + _LEAST_KEPT
    sides = []
    if self._on_host:
      sides.append(max(_HOST_SIDE // self.model.scale, least))
    if not self.model.on_host:
      probe = math.isqrt(_SMALL)
      density = self._bytes(probe, probe) / _SMALL
      sides.append(max(tiling.plan_side(density, self._device), least))
    return min(sides)

  def _bytes(self, height: int, width: int) -> int:
    """Memory that the program needs for one image of this size."""
    shape = (1, height, width, self.model.channels or 3)
    lr = jax.ShapeDtypeStruct(shape, np.float32)
    return tiling.program_bytes(self._program, self._params, lr, None)

  def _refuse_if_too_large(self, height: int, width: int) -> None:
    needed = self._bytes(height, width)
    if needed > tiling.available_bytes(self._device):
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
    if self._tile == 'off':
      raise UserError(
        f'out of memory with tile off; let model {name} tile: --tile auto'
      )
    if self._tile == 'auto' and self._halo is None:
      raise UserError(
        f'out of memory, and model {name} cannot be tiled exactly; give'
        f' --tile N (tile=N) below {side} and accept seams'
      )
    if side // 2 <= 2 * (self._halo or 0):
      raise UserError(
        f'out of memory with tiles of {side} pixels, the smallest that model'
        f' {name} allows; free some memory or choose a smaller model'
      )
    self._side = side // 2
    _log.warning('out of memory: going on with tiles of %d', self._side)
    self._shapes = self._plan_shapes()


@functools.lru_cache(maxsize=16)
def _jitted(predict: Callable[..., Any]) -> Any:
  """One program for all users of a model: weights are its arguments."""
  return jit(predict)


def _projection(
  scale: int,
  iterations: int,
  kernel: np.ndarray | Kernel | None,
  degradation: str | None,
) -> Callable[..., Any]:
  """Back-projection as a transform of predict functions, on the host."""
  made = functools.partial(
    degrade,
    None,
    scale=scale,
    degradation=degradation or ('bicubic' if kernel is None else 'direct'),
    kernel=kernel,
  )
  return functools.partial(
    project,
    degrade=made,
    upsample=functools.partial(imresize, scale=scale),
    iterations=iterations,
  )


def _total_halo(
  model: SRModel, iterations: int, kernel: np.ndarray | Kernel | None
) -> int | None:
  """Receptive radius in LR pixels of model and back-projections."""
  if model.halo is None:
    return None
  taps = 1 if kernel is None else max(correlation_taps(kernel).shape)
  blur = math.ceil(taps // 2 / model.scale)
  return model.halo + iterations * (_PROJECTION_HALO + blur)


def _checked_tile(tile: int | str, name: str, halo: int | None) -> int | str:
  if isinstance(tile, str):
    if tile not in ('auto', 'off'):
      raise UserError(f'tile must be auto, off or a number, not {tile!r}')
  elif tile <= 2 * (halo or 0):
    raise UserError(
      f'tile {tile} is too small for model {name}: give more than'
      f' {2 * (halo or 0)}'
    )
  elif halo is None:
    _log.warning('model %s is not local: its tiles may show seams', name)
  return tile


def _check_image(image: np.ndarray, model: SRModel) -> None:
  """Refuses what is no image, or none for this model."""
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
  # NaN and infinities compare false too; some overshoot of [0, 1] is usual.
  if not (low >= -1 and high <= 2):
    raise UserError(
      f'the image has values from {low:g} to {high:g}; make them finite and in'
      ' [0, 1], or give uint8'
    )

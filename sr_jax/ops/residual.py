"""Enhanced residual images: the targets of SRNet's residual-aware task (RAT).

The residual is the absolute difference of HR and enlarged LR, to which Pillow's
filters EDGE_ENHANCE_MORE and DETAIL are applied. Everything is computed as
Pillow does it for 8-bit images: values are rounded half up after every pass,
and the filters leave the outermost pixels unchanged. If DETAIL gives a value
exactly halfway between two levels, Pillow may round it up or down; here it is
rounded up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from sr_jax.errors import UserError
from sr_jax.ops.namespace import Array, array_namespace
from sr_jax.ops.precision import as_float
from sr_jax.ops.resize import cubic


def residual_image(hr: Array, lr: Array, upsampling: str = 'bicubic') -> Any:
  """Makes the enhanced residual image of an HR and LR pair.

  Args:
    hr: `[..., sH, sW, C]` in [0, 1], on 8-bit levels.
    lr: `[..., H, W, C]` in [0, 1], on 8-bit levels.
    upsampling: How LR is enlarged: 'bicubic', as the author describes it, or
      'nearest', Pillow's default at the time of the released script.

  Returns:
    `[..., sH, sW, C]` in [0, 1], on 8-bit levels.

  Raises:
    UserError: The upsampling is unknown.
  """
  xp = array_namespace(hr, lr)
  hr, lr = (xp.round(255 * as_float(x)) for x in (hr, lr))
  residual = xp.abs(hr - _enlarge(lr, hr.shape[-3:-1], upsampling))
  return _detail(_edge_enhance_more(residual)) / 255


def _enlarge(image: Array, shape: tuple[int, int], upsampling: str) -> Any:
  """Enlarges levels `[..., H, W, C]` to `shape` (height, width)."""
  if upsampling not in _TAPS:
    raise UserError(
      f'config.method.upsampling={upsampling!r}: choose from {sorted(_TAPS)}'
    )
  xp = array_namespace(image)
  levels = image.astype('int32')
  for axis, size in ((-2, shape[1]), (-3, shape[0])):  # columns first
    indices, weights = _TAPS[upsampling](levels.shape[axis], size)
    weights = np.rint(weights * 2**_BITS).astype(np.int32)
    shape_of_factor = [1] * levels.ndim
    shape_of_factor[axis] = size
    factors = weights.reshape(4, *shape_of_factor)
    total = sum(
      xp.take(levels, index, axis) * factor
      for index, factor in zip(indices, factors, strict=True)
    )
    levels = xp.clip((total + 2 ** (_BITS - 1)) >> _BITS, 0, 255)
  return levels.astype(image.dtype)


def _bicubic_taps(size: int, enlarged: int) -> tuple[np.ndarray, np.ndarray]:
  """Taps of Keys' cubic kernel; those outside the image are left out.

  Returns:
    Indices and weights of the input pixels, `[4, enlarged]` each.
  """
  centres = (np.arange(enlarged) + 0.5) * size / enlarged - 0.5
  indices = np.floor(centres).astype(int) + np.arange(-1, 3)[:, None]
  weights = cubic(centres - indices) * ((indices >= 0) & (indices < size))
  return indices.clip(0, size - 1), weights / weights.sum(0)


def _nearest_taps(size: int, enlarged: int) -> tuple[np.ndarray, np.ndarray]:
  """Taps of the nearest input pixel, in the same form as `_bicubic_taps`."""
  nearest = ((np.arange(enlarged) + 0.5) * size / enlarged).astype(int)
  return np.tile(nearest, (4, 1)), np.eye(4)[:, [0] * enlarged]


_TAPS: dict[str, Callable[[int, int], tuple[np.ndarray, np.ndarray]]] = {
  'bicubic': _bicubic_taps,
  'nearest': _nearest_taps,
}
# Pillow rounds its weights to multiples of 2^-22.
_BITS = 22


def _levels(x: Array) -> Any:
  """Rounds half up and clips to 0..255."""
  xp = array_namespace(x)
  return xp.clip(xp.floor(x + 0.5), 0, 255)


def _shifts(x: Array) -> dict[tuple[int, int], Any]:
  """Shifts `x` by each of the 3x3 offsets, with the border repeated."""
  xp = array_namespace(x)
  height, width = x.shape[-3:-1]
  pad = [(0, 0)] * x.ndim
  pad[-3] = pad[-2] = (1, 1)
  padded = xp.pad(x, pad, mode='edge')
  return {
    (i, j): padded[..., i : i + height, j : j + width, :]
    for i in range(3)
    for j in range(3)
  }


def _within(x: Array, filtered: Array) -> Any:
  """Rounds `filtered` to levels; the outermost pixels are those of `x`."""
  xp = array_namespace(x)
  inner = np.zeros((*(1,) * (x.ndim - 3), *x.shape[-3:-1], 1), bool)
  inner[..., 1:-1, 1:-1, :] = True
  return xp.where(inner, _levels(filtered), x)


def _edge_enhance_more(x: Array) -> Any:
  """Pillow's EDGE_ENHANCE_MORE: ten times a pixel minus its 3x3 sum."""
  return _within(x, 10 * x - sum(_shifts(x).values()))


def _detail(x: Array) -> Any:
  """Pillow's DETAIL: (ten times a pixel minus its four neighbours) / 6."""
  near = _shifts(x)
  cross = near[0, 1] + near[1, 0] + near[1, 2] + near[2, 1]
  # The 0.5 makes halves round up on every device, whatever its division does.
  return _within(x, (10 * x - cross + 0.5) / 6)

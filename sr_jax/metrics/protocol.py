"""What a number means: the rules under which two images are compared.

The field's scores differ by up to half a decibel with colour, rounding and
border rules, so every score carries its protocol and unlike ones are not
compared.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from sr_jax.errors import UserError
from sr_jax.metrics.psnr import psnr
from sr_jax.metrics.ssim import ssim
from sr_jax.ops.color import rgb_to_y
from sr_jax.ops.degrade import quantize
from sr_jax.ops.namespace import Array


@dataclasses.dataclass(frozen=True)
class Protocol:
  """Rules of one comparison; SR and HR are rounded to 8 bit first in all.

  Attributes:
    name: key in `PROTOCOLS`.
    colour: 'y' (luma of BT.601 as MATLAB, 16..235) or 'rgb' (every channel).
    round_y: whether luma is rounded to whole levels again.
    crop: border removed from each side in pixels; None means the scale factor.
    peak: the peak value of PSNR and SSIM.
    description: one line for tables.
  """

  name: str
  colour: Literal['y', 'rgb']
  round_y: bool
  crop: int | None = None
  peak: float = 255.0
  description: str = ''

  def to_dict(self, metrics: Sequence[Metric] = ()) -> dict[str, Any]:
    """Plain values for JSON, with the rules common to all protocols.

    And those of `metrics` that have rules of their own.
    """
    return dataclasses.asdict(self) | {
      'crop': 'scale' if self.crop is None else self.crop,
      'quantisation': 'SR and HR clipped and rounded to 8 bit first; to 16 bit'
      ' where HR has them, and not at all where it has floats',
      'ssim': '11x11 Gaussian, sigma 1.5, windows inside the image',
      'resize': 'MATLAB imresize, cubic, antialiased',
      'border': 'LR enters the network without an added border',
      **{metric.name: metric.rules for metric in metrics if metric.rules},
    }


PROTOCOLS = {
  p.name: p
  for p in (
    Protocol(
      name='y-uint8',
      colour='y',
      round_y=True,
      description='Y of BT.601 rounded to 8 bit (MATLAB scripts, MZSR)',
    ),
    Protocol(
      name='y-float',
      colour='y',
      round_y=False,
      description='Y of BT.601 not rounded (EDSR family, IKC)',
    ),
    Protocol(
      name='rgb',
      colour='rgb',
      round_y=False,
      description='all channels together (DIV2K, NTIRE)',
    ),
  )
}


def get_protocol(name: str, crop: int | None = None) -> Protocol:
  """The protocol called `name`, with another border crop if one is given.

  Raises:
    UserError: unknown name or negative crop.
  """
  if name not in PROTOCOLS:
    raise UserError(
      f'unknown protocol {name!r}: choose one of {", ".join(PROTOCOLS)}'
    )
  if crop is not None and crop < 0:
    raise UserError(f'border crop must be 0 or more pixels, not {crop}')
  return dataclasses.replace(PROTOCOLS[name], crop=crop)


def comparable(
  a: Protocol | dict[str, Any], b: Protocol | dict[str, Any]
) -> None:
  """Refuses two scores whose protocols (or their JSON form) are not the same.

  Raises:
    UserError: naming the rules that differ.
  """
  first = a.to_dict() if isinstance(a, Protocol) else a
  second = b.to_dict() if isinstance(b, Protocol) else b
  differing = [
    f'{key} {first.get(key)!r} against {second.get(key)!r}'
    for key in sorted(first.keys() | second.keys())
    if first.get(key) != second.get(key)
  ]
  if differing:
    raise UserError(
      f'scores of unlike protocols are not compared: {", ".join(differing)}'
    )


class Views(NamedTuple):
  """What metrics see of one image pair; levels 0..255, float64.

  Attributes:
    name: of the image, such as sub/0001.png.
    sr: `[H, W, C]` in the colour and border of the protocol.
    hr: the same.
    peak: the protocol's.
    whole_sr: `[H, W, C]` as files have it: every channel, no border cut.
    whole_hr: the same.
    crop: border that the protocol cuts.
  """

  name: str
  sr: np.ndarray
  hr: np.ndarray
  peak: float
  whole_sr: np.ndarray
  whole_hr: np.ndarray
  crop: int


# Names of the metrics whose smaller scores are the better ones.
LOWER_IS_BETTER = frozenset({'rmse', 'niqe', 'lpips', 'pi', 'root_error'})


class Metric(NamedTuple):
  """One score of an image pair.

  Attributes:
    name: its key in results.
    title: head of its column.
    score: of the views.
    rules: what its numbers depend on, for the protocol; '' if that tells all.
    mean: over the scores of images.
    decimals: in tables.
  """

  name: str
  title: str
  score: Callable[[Views], float]
  rules: str = ''
  mean: Callable[[Sequence[float]], float] = lambda x: sum(x) / len(x)
  decimals: int = 4

  @property
  def lower_is_better(self) -> bool:
    """Whether the smaller of two scores is the better one."""
    return self.name in LOWER_IS_BETTER

  @property
  def worst(self) -> float:
    """The score of an image that could not be measured."""
    return math.inf if self.lower_is_better else -math.inf


def _root_mean_square(values: Sequence[float]) -> float:
  return math.sqrt(sum(x**2 for x in values) / len(values))


PSNR = Metric('psnr', 'PSNR', lambda v: float(psnr(v.sr, v.hr, v.peak)))
SSIM = Metric(
  'ssim', 'SSIM', lambda v: float(ssim(v.sr, v.hr, v.peak)), decimals=5
)
# PIRM 2018's; that of a folder is the root of the mean squared error.
RMSE = Metric(
  'rmse',
  'RMSE',
  lambda v: float(np.sqrt(((v.sr - v.hr) ** 2).mean())),
  mean=_root_mean_square,
)


# Largest value of an HR image of floats: far beyond it are levels, not [0, 1].
_MOST_FLOAT = 4.0


def _levels(image: Array, title: str, dtype: Any) -> np.ndarray:
  """The levels of a type as float64 from 0 to 255."""
  levels = np.asarray(image)
  if levels.dtype == np.uint8:
    return levels.astype(np.float64)
  if levels.dtype == np.uint16:
    levels = levels / 65535.0
  elif levels.dtype.kind in 'biuc':
    raise UserError(
      f'{title} is of type {levels.dtype}: give uint8, uint16, or floats in '
      '[0, 1]'
    )
  unit = np.clip(levels.astype(np.float64), 0.0, 1.0)
  if np.dtype(dtype) == np.uint8:
    return np.round(unit * 255.0)
  return 255.0 * np.asarray(quantize(unit, dtype))


def _view(levels: np.ndarray, protocol: Protocol, crop: int) -> np.ndarray:
  """The part and colour of an image that the protocol compares, 0..255."""
  height, width, channels = levels.shape
  if min(height, width) <= 2 * crop:
    raise UserError(
      f'border crop of {crop} px leaves nothing of a {height}x{width} image: '
      'use a larger image or a smaller crop'
    )
  levels = levels[crop : height - crop, crop : width - crop]
  if protocol.colour == 'rgb':
    return levels
  if channels not in (1, 3):
    raise UserError(
      f'protocol {protocol.name} needs 1 or 3 channels, the image has '
      f'{channels}: use protocol rgb'
    )
  return luma(levels, rounded=protocol.round_y)


def luma(levels: np.ndarray, *, rounded: bool) -> np.ndarray:
  """Y `[H, W, 1]` of levels `[H, W, 1 or 3]`, 16..235."""
  # The field replicates grey to RGB before it forms Y.
  rgb = np.broadcast_to(levels, (*levels.shape[:2], 3))
  y = np.asarray(rgb_to_y(rgb / 255.0)) * 255.0
  return np.round(y) if rounded else y


def measure(
  sr: Array,
  hr: Array,
  *,
  protocol: Protocol,
  scale: float,
  metrics: Sequence[Metric] = (PSNR, SSIM),
  name: str = '',
  dtype: Any = np.uint8,
) -> dict[str, float]:
  """Scores of one image pair under `protocol`.

  Args:
    sr: `[H, W, C]` in [0, 1], or uint8 or uint16.
    hr: the same.
    protocol: see `get_protocol`.
    scale: the SR factor, which is the default border crop.
    metrics: what to measure; by default PSNR and SSIM, in float64 on the host.
    name: of the image, for metrics that know scores by name.
    dtype: type to whose levels SR and HR are rounded: that of the HR file,
      uint8, uint16 or a float type, for which nothing is rounded.

  Returns:
    Scores by the metrics' names; PSNR is inf for equal images.

  Raises:
    UserError: sizes differ, the crop leaves too little, the channel count does
      not suit the protocol, or a metric refuses the image.
  """
  if sr.shape != hr.shape:
    raise UserError(
      f'SR {sr.shape} and HR {hr.shape} differ in size: crop HR to a multiple '
      'of the scale'
    )
  if hr.dtype.kind == 'f' and hr.max() > _MOST_FLOAT:
    raise UserError(
      f'HR has values up to {hr.max():g}, but floats are taken in [0, 1]:'
      ' divide by the largest level or give uint8 or uint16'
    )
  crop = math.ceil(scale) if protocol.crop is None else protocol.crop
  whole_sr, whole_hr = _levels(sr, 'SR', dtype), _levels(hr, 'HR', dtype)
  views = Views(
    name=name,
    sr=_view(whole_sr, protocol, crop),
    hr=_view(whole_hr, protocol, crop),
    peak=protocol.peak,
    whole_sr=whole_sr,
    whole_hr=whole_hr,
    crop=crop,
  )
  return {metric.name: metric.score(views) for metric in metrics}

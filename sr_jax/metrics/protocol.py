"""Evaluation protocols: the rules under which two images are compared.

Published scores differ by up to half a decibel with the rules for colour,
rounding and borders. Every score therefore carries its protocol, and scores of
different protocols are not compared.
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
  """Rules of a comparison; all protocols first round SR and HR to 8 bits.

  Attributes:
    name: Key in `PROTOCOLS`.
    colour: 'y' (luma of BT.601 as in MATLAB, 16..235) or 'rgb' (all channels).
    round_y: Whether luma is rounded to whole levels again.
    crop: Border in pixels removed from each side; None means the scale factor.
    peak: Peak value of PSNR and SSIM.
    description: One line for tables.
  """

  name: str
  colour: Literal['y', 'rgb']
  round_y: bool
  crop: int | None = None
  peak: float = 255.0
  description: str = ''

  def to_dict(self, metrics: Sequence[Metric] = ()) -> dict[str, Any]:
    """Plain values for JSON.

    They include the rules that all protocols share, and the rules of those
    `metrics` that have any.
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
  """Returns the protocol called `name`, with border `crop` if it is given.

  Raises:
    UserError: The name is unknown or the crop is negative.
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
  """Checks that two scores have the same protocol, given as object or JSON.

  Raises:
    UserError: The protocols differ; the error names the rules that differ.
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
      f'scores of different protocols are not compared: {", ".join(differing)}'
    )


class Views(NamedTuple):
  """An image pair as metrics see it; images are float64 levels 0..255.

  Attributes:
    name: Name of the image, such as sub/0001.png.
    sr: SR image `[H, W, C]` in the colour of the protocol, with its border
      removed.
    hr: HR image, prepared like `sr`.
    peak: Peak value of the protocol.
    whole_sr: SR image `[H, W, C]` with all channels and its border.
    whole_hr: HR image with all channels and its border.
    crop: Border in pixels that the protocol removes.
  """

  name: str
  sr: np.ndarray
  hr: np.ndarray
  peak: float
  whole_sr: np.ndarray
  whole_hr: np.ndarray
  crop: int


# Names of the metrics of which lower scores are better.
LOWER_IS_BETTER = frozenset(
  {'rmse', 'niqe', 'lpips', 'pi', 'root_error', 'kernel_distance'}
)


class Metric(NamedTuple):
  """A metric: one score of an image pair.

  Attributes:
    name: Key of the score in results.
    title: Heading of the score's column in tables.
    score: Function that computes the score of `Views`.
    rules: Further settings that the score depends on, stored with the protocol;
      '' if there are none.
    mean: Function that averages the scores of several images.
    decimals: Number of decimals in tables.
  """

  name: str
  title: str
  score: Callable[[Views], float]
  rules: str = ''
  mean: Callable[[Sequence[float]], float] = lambda x: sum(x) / len(x)
  decimals: int = 4

  @property
  def lower_is_better(self) -> bool:
    """Whether the lower of two scores is the better one."""
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
# The RMSE of PIRM 2018. That of a folder is the root of the mean squared error
# of all its images.
RMSE = Metric(
  'rmse',
  'RMSE',
  lambda v: float(np.sqrt(((v.sr - v.hr) ** 2).mean())),
  mean=_root_mean_square,
)


# Largest accepted value of a float HR image. Larger values are levels, which
# should have been divided by the largest level.
_MOST_FLOAT = 4.0


def _levels(image: Array, title: str, dtype: Any) -> np.ndarray:
  """Rounds an image to the levels of a type; returns float64 0..255."""
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
  """Removes the border of an image and converts it to the protocol's colour."""
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
  """Luma `[H, W, 1]` in 16..235 of levels `[H, W, 1 or 3]`."""
  # Evaluation code replicates grey images to RGB before it computes luma.
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
  """Measures one image pair under a protocol.

  Args:
    sr: SR image `[H, W, C]`: floats in [0, 1], uint8 or uint16.
    hr: HR image, of the same shape.
    protocol: The rules of the comparison, see `get_protocol`.
    scale: SR factor; the border crop unless the protocol sets another.
    metrics: The metrics; by default PSNR and SSIM, in float64 on the host.
    name: Name of the image, for metrics that look scores up by name.
    dtype: Type of the HR file. SR and HR are rounded to its levels if it is
      uint8 or uint16, and not rounded if it is a float type.

  Returns:
    Scores by the metrics' names; PSNR is inf for equal images.

  Raises:
    UserError: Sizes differ, the crop leaves too little, the number of channels
      does not suit the protocol, or a metric refuses the image.
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

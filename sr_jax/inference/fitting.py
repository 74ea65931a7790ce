"""Adapts models to images of any size.

Images of one size are adapted to together, by one program. The random numbers
for an image depend only on the seed and on its own pixels, so that its result
depends neither on its name nor on the other images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from sr_jax.methods import Fitting
from sr_jax.ops.degrade import degrade

# Images fitted by one program at a time.
TOGETHER = 8


class Fitted(NamedTuple):
  """Parameters for one image.

  Attributes:
    params: Parameters by slot.
    steps: Number of gradient steps, or of corrections, that led to them.
  """

  params: Mapping[str, Any]
  steps: int


def fit_images(
  fitting: Fitting,
  params: Mapping[str, Any],
  images: Sequence[np.ndarray],
  seed: int,
) -> list[Fitted]:
  """Adapts a model to each of the images.

  Alone or with others an image gets the same parameters, up to the rounding of
  another program (1e-5 of the result).

  Args:
    fitting: How the model adapts.
    params: Its parameters by slot.
    images: `[H, W, C]` float32 in [0, 1], of any sizes.
    seed: Seed of everything random, together with the pixels of the image.
  """
  groups: dict[tuple[int, ...], list[int]] = {}
  views = [detailed_window(image, fitting.side) for image in images]
  for i, view in enumerate(views):
    groups.setdefault(view.shape, []).append(i)
  found: list[Fitted | None] = [None] * len(images)
  for members in groups.values():
    for start in range(0, len(members), TOGETHER):
      part = members[start : start + TOGETHER]
      fitted = _fit_alike(fitting, params, [views[i] for i in part], seed)
      for i, one in zip(part, fitted, strict=True):
        found[i] = one
  return [one for one in found if one is not None]


def _fit_alike(
  fitting: Fitting,
  params: Mapping[str, Any],
  images: Sequence[np.ndarray],
  seed: int,
) -> list[Fitted]:
  """Adapts to images of one size in one program."""
  keys = jax.numpy.stack([image_key(image, seed) for image in images])
  trees, report = fitting.fit(params, np.stack(images), keys)
  steps = np.asarray(report['steps'])
  return [
    Fitted(
      {**params, **jax.tree.map(lambda leaf, i=i: leaf[i], trees)},
      int(steps[i]),
    )
    for i in range(len(images))
  ]


def back_projection_error(
  fitting: Fitting, lr: np.ndarray, sr: np.ndarray, scale: float
) -> float:
  """How far a result, blurred and reduced again, is from its input.

  It hardly tells whether the assumed kernel is right: see `overshoot`.

  Args:
    fitting: How the model adapted, with the assumed kernel.
    lr: The input `[H, W, C]` in [0, 1].
    sr: The result in [0, 1].
    scale: Its enlargement.

  Returns:
    The root of the mean squared difference, in grey levels of 255.
  """
  reduced = degrade(
    None,
    sr,
    scale=scale,
    degradation=fitting.degradation,
    kernel=fitting.kernel,
    shape=lr.shape[:2],
  )
  return 255 * float(np.sqrt(np.mean((np.asarray(reduced) - lr) ** 2)))


def overshoot(lr: np.ndarray, sr: np.ndarray) -> float:
  """How far a result goes beyond the values around each pixel of its input.

  A result that rings does so at every edge. This happens if the assumed kernel
  is wider than the true one.

  Args:
    lr: The input `[H, W, C]`.
    sr: The result in the same unit, whose pixels from (0, 0) on at whole
      multiples of the scale lie where those of `lr` do.

  Returns:
    The mean excess, as a part of the standard deviation of the input.
  """
  from scipy import ndimage  # slow to import

  around = (3, 3, 1)
  rows, columns = (
    np.arange(large) * small // large
    for small, large in zip(lr.shape[:2], sr.shape[:2], strict=True)
  )
  place = np.ix_(rows, columns)
  above = sr - ndimage.maximum_filter(lr, around)[place]
  below = ndimage.minimum_filter(lr, around)[place] - sr
  excess = np.maximum(above, 0) + np.maximum(below, 0)
  return float(excess.mean() / max(lr.std(), 1e-6))


def image_key(image: np.ndarray, seed: int) -> jax.Array:
  """The PRNG key for an image: made of a seed and of its pixels."""
  digest = hashlib.sha256(np.ascontiguousarray(image).tobytes()).digest()
  key = jax.random.key(seed % 2**32)
  return jax.random.fold_in(key, int.from_bytes(digest[:4]))


def detailed_window(image: np.ndarray, side: int) -> np.ndarray:
  """The part of `[H, W, C]` with the most detail, at most `side` high and wide.

  Detail is the mean absolute difference of neighbouring pixels; windows are
  tried at steps of a quarter of their side, and at the far borders.
  """
  height, width = (min(n, side) for n in image.shape[:2])
  if (height, width) == image.shape[:2]:
    return image
  detail = np.zeros(image.shape[:2])
  detail[1:] += np.abs(np.diff(image, axis=0)).sum(-1)
  detail[:, 1:] += np.abs(np.diff(image, axis=1)).sum(-1)
  sums = np.pad(detail.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
  tops, lefts = (
    [*range(0, room, max(side // 4, 1)), room]
    for room in (image.shape[0] - height, image.shape[1] - width)
  )

  def inside(corner: tuple[int, int]) -> float:
    top, left = corner
    bottom, right = top + height, left + width
    return float(
      sums[bottom, right]
      - sums[top, right]
      - sums[bottom, left]
      + sums[top, left]
    )

  top, left = max(((t, x) for t in tops for x in lefts), key=inside)
  return image[top : top + height, left : left + width]

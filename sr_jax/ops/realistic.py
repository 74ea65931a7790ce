"""Realistic degradations with parameters of their own for every image.

Two sequences of operations are known:

  rounds    as Real-ESRGAN (Wang et al., ICCVW 2021): blur, resize, noise and
            JPEG; blur, resize and noise again; then the resize to the LR size
            and a sinc filter, and JPEG before or after these two
  shuffled  as BSRGAN (Zhang et al., ICCV 2021): two blurs, two resizes, noise
            and JPEG in an order that each image draws, then JPEG

Under jit all images of a batch run through the same operations of fixed shapes;
an image that leaves one out has parameters that make it the identity. NumPy
images are degraded on the host without compilation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from sr_jax.ops import noise, per_image
from sr_jax.ops.jpeg import jpeg_planes
from sr_jax.ops.kernel_families import NONE, Blur, kernels
from sr_jax.ops.namespace import Array, array_namespace
from sr_jax.ops.noise import Noise
from sr_jax.ops.precision import as_float

# The operations whose order is shuffled, see `Parameters.ranks`.
SHUFFLED = ('blur_1', 'blur_2', 'resize', 'last_resize', 'noise', 'jpeg')


class Resize(NamedTuple):
  """Parameters of a resize, `[B]` each.

  Attributes:
    factor: Size of the result relative to HR in the first round, to LR in the
      second.
    method: Index into `per_image.METHODS`.
    sigma: Standard deviation of the Gaussian method, in input pixels.
  """

  factor: Array
  method: Array
  sigma: Array


class Round(NamedTuple):
  """Parameters of one blur, one resize and one noise."""

  blur: Blur
  resize: Resize
  noise: Noise


class Last(NamedTuple):
  """Parameters of the last operations.

  Attributes:
    method: Method of the resize to LR's size, `[B]`.
    sinc: A sinc filter, or no blur.
    quality: JPEG quality, 0 for no JPEG, `[B]`.
    jpeg_last: Whether JPEG follows the resize and the filter, `[B]`.
  """

  method: Array
  sinc: Blur
  quality: Array
  jpeg_last: Array


class Parameters(NamedTuple):
  """What is done to each image of a batch.

  Attributes:
    halved: Whether HR is halved before all other operations, `[B]`.
    halving: Method of that resize, `[B]`.
    first: The first round.
    quality: Quality of the JPEG after the first round, 0 for no JPEG, `[B]`.
    second: The second round, of which 'shuffled' uses the blur alone.
    last: The last operations.
    ranks: Positions `[B, 6]` of the operations `SHUFFLED`; None for 'rounds'.
  """

  halved: Array
  halving: Array
  first: Round
  quality: Array
  second: Round
  last: Last
  ranks: Array | None


class Limits(NamedTuple):
  """Bounds of the parameters, which fix the shapes of a compiled program.

  Attributes:
    taps: Largest numbers of taps of the two blurs and of the last filter.
    factors: Largest factors of the two resizes.
    halves: Whether an image may be halved.
  """

  taps: tuple[int, int, int]
  factors: tuple[float, float]
  halves: bool


class _Image(NamedTuple):
  """Planes `[B, C, S1, S2]` and the sizes `[B, 2]` of their contents."""

  planes: Any
  sizes: Any


def degrade(
  key: Any,
  hr: Array,
  parameters: Parameters,
  limits: Limits,
  shape: tuple[int, int],
) -> Any:
  """Makes LR images.

  Args:
    key: PRNG key of the noise; NumPy's generator for NumPy images.
    hr: `[B, H, W, C]` in [0, 1]; C is 1 or 3.
    parameters: What is done to each image.
    limits: Bounds of the parameters.
    shape: LR (height, width).

  Returns:
    LR images `[B, *shape, C]` in [0, 1].
  """
  xp = array_namespace(hr)
  planes = xp.moveaxis(as_float(hr), -1, 1)
  sizes = xp.asarray(np.broadcast_to(planes.shape[2:], (len(hr), 2)))
  image = _Image(planes, sizes)
  if limits.halves:
    factor = xp.where(parameters.halved, 0.5, 1.0)
    halving = Resize(factor, parameters.halving, xp.zeros_like(factor))
    image = _resize(image, halving, sizes, planes.shape[2:])
  sequence = _rounds if parameters.ranks is None else _shuffled
  planes = sequence(key, image, parameters, limits, shape)
  return xp.moveaxis(xp.clip(planes, 0, 1), 1, -1)


def _rounds(
  key: Any,
  image: _Image,
  parameters: Parameters,
  limits: Limits,
  shape: tuple[int, int],
) -> Any:
  """Both rounds, and the last operations in the order that an image draws."""
  keys = (key, key)  # NumPy's generator never repeats itself
  if not isinstance(key, np.random.Generator):
    keys = jax.random.split(key)
  xp = array_namespace(image.planes)
  first, second, last = parameters.first, parameters.second, parameters.last
  image = _blur(image, limits.taps[:1], first.blur)
  most = _scaled(image.planes.shape[2:], limits.factors[0])
  image = _resize(image, first.resize, image.sizes, most)
  image = _noisy(image, noise.uniform(keys[0], image.planes.shape), first.noise)
  image = _compressed(image, parameters.quality)

  image = _blur(image, limits.taps[1:2], second.blur)
  lr = xp.asarray(np.broadcast_to(shape, (len(image.planes), 2)))
  most = _scaled(shape, limits.factors[1])
  image = _resize(image, second.resize, lr, most)
  image = _noisy(
    image, noise.uniform(keys[1], image.planes.shape), second.noise
  )

  image = _compressed(image, xp.where(last.jpeg_last, 0, last.quality))
  image = _reduced(image, last.method, shape)
  image = _blur(image, limits.taps[2:], last.sinc)
  return _compressed(image, xp.where(last.jpeg_last, last.quality, 0)).planes


def _shuffled(
  key: Any,
  image: _Image,
  parameters: Parameters,
  limits: Limits,
  shape: tuple[int, int],
) -> Any:
  """Operations in an order that each image draws, then JPEG.

  Every order is part of one fixed sequence. Noise and JPEG divide it into three
  parts; in each part come blurs, the first resize, and blurs. It is repeated
  after the last resize, without the first.
  """
  xp = array_namespace(image.planes)
  assert parameters.ranks is not None
  ranks = {name: parameters.ranks[:, i] for i, name in enumerate(SHUFFLED)}
  first, resize = parameters.first, parameters.first.resize
  blurs = {'blur_1': first.blur, 'blur_2': parameters.second.blur}
  dividers = xp.sort(xp.stack([ranks['noise'], ranks['jpeg']]), 0)
  part_of = {n: (r[None] > dividers).sum(0) for n, r in ranks.items()}

  def blurred(image: _Image, chosen: Callable[[str], Any]) -> _Image:
    kept = [
      blur._replace(family=xp.where(chosen(name), blur.family, NONE))
      for name, blur in blurs.items()
    ]
    return _blur(image, limits.taps[:2], *kept)

  most = _scaled(image.planes.shape[2:], limits.factors[0])
  # An image takes its noise once, so that all places share the numbers.
  u = noise.uniform(key, (*image.planes.shape[:2], *most))
  for last in (False, True):
    active = {n: (r > ranks['last_resize']) == last for n, r in ranks.items()}
    if last:
      image = _reduced(image, parameters.last.method, shape)
    for part in range(3):
      here = {n: active[n] & (part_of[n] == part) for n in ranks}
      sooner = {n: ranks[n] < ranks['resize'] for n in blurs}
      if not last:
        image = blurred(image, lambda n, h=here, s=sooner: h[n] & s[n])
        factor = xp.where(here['resize'], resize.factor, 1.0)
        image = _resize(
          image, resize._replace(factor=factor), image.sizes, most
        )
      image = blurred(image, lambda n, h=here, s=sooner: h[n] & ~s[n])
      if part < 2:
        is_noise = active['noise'] & (ranks['noise'] == dividers[part])
        is_jpeg = active['jpeg'] & (ranks['jpeg'] == dividers[part])
        image = _noisy(image, u, first.noise, is_noise)
        image = _compressed(image, xp.where(is_jpeg, parameters.quality, 0))
  return _compressed(image, parameters.last.quality).planes


def _blur(image: _Image, taps: Any, *blurs: Blur) -> _Image:
  """Applies blurs with at most `taps` taps, one after the other."""
  if _idle(*(blur.family == NONE for blur in blurs)):
    return image
  filters = [kernels(b, n) for b, n in zip(blurs, taps, strict=True)]
  return image._replace(planes=per_image.correlate(*image, filters))


def _resize(
  image: _Image, resize: Resize, base: Any, most: Sequence[int]
) -> _Image:
  """Resizes to `factor` times the sizes `base`; `most` bounds the result."""
  xp = array_namespace(image.planes)
  wanted = xp.rint(base * resize.factor[:, None]).astype(int)
  targets = xp.clip(wanted, 1, np.asarray(most)[None])
  if _idle(targets == image.sizes):
    return image
  if xp is np:
    most = targets.max(0)
  planes = per_image.resize(
    *image, targets, resize.method, resize.sigma, (most[0], most[1])
  )
  return _Image(planes, targets)


def _reduced(image: _Image, method: Any, shape: tuple[int, int]) -> _Image:
  """Resizes to the size of LR."""
  xp = array_namespace(image.planes)
  ones = xp.ones(len(method))
  base = xp.asarray(np.broadcast_to(shape, (len(method), 2)))
  return _resize(image, Resize(ones, method, 0 * ones), base, shape)


def _noisy(image: _Image, u: Any, each: Noise, active: Any = True) -> _Image:
  """Adds noise to the images that are active."""
  xp = array_namespace(image.planes)
  kind = xp.where(active, each.kind, noise.NONE)
  if _idle(kind == noise.NONE):
    return image
  height, width = image.planes.shape[2:]
  u = u[..., :height, :width]
  planes = noise.add(image.planes, u, each._replace(kind=kind))
  return image._replace(planes=planes)


def _compressed(image: _Image, quality: Any) -> _Image:
  """Compresses images as JPEG whose quality is not 0."""
  if _idle(quality == 0):
    return image
  xp = array_namespace(image.planes)
  coded = jpeg_planes(image.planes, xp.maximum(quality, 1))
  on = (quality > 0)[:, None, None, None]
  return image._replace(planes=xp.where(on, coded, image.planes))


def _idle(*unchanged: Any) -> bool:
  """Whether an operation is known to change no image."""
  if any(isinstance(known, jax.Array) for known in unchanged):
    return False
  return all(np.all(known) for known in unchanged)


def _scaled(shape: Sequence[int], factor: float) -> list[int]:
  return [int(np.ceil(n * factor)) for n in shape]

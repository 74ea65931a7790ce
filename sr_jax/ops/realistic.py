"""Realistic degradations with parameters of their own for every image.

Two sequences of operations are known:

  rounds    as Real-ESRGAN (Wang et al., ICCVW 2021): blur, resize, noise and
            JPEG; blur, resize and noise again; then the resize to the LR size
            and a sinc filter, and JPEG before or after these two
  shuffled  as BSRGAN (Zhang et al., ICCV 2021): two blurs, two resizes, noise
            and JPEG in a random order for each image, then JPEG

Under jit all images of a batch run through the same operations of fixed shapes;
an image that leaves one out has parameters that make it the identity. NumPy
images are degraded on the host without compilation.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
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
    methods: Indices of the methods that may be drawn for halving, for the two
      resizes, and for the last one. None for halving: no image is halved.
  """

  taps: tuple[int, int, int]
  factors: tuple[float, float]
  methods: tuple[tuple[int, ...], ...]


class _Image(NamedTuple):
  """Planes `[B, C, S1, S2]` and the sizes of their contents.

  Sizes are `[B, 1]` if HR is square, else `[B, 2]`.
  """

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
  image = _Image(planes, xp.asarray(_sizes(planes, planes.shape[2:])))
  if used := limits.methods[0]:
    factor = xp.where(parameters.halved, 0.5, 1.0)
    halving = Resize(factor, parameters.halving, xp.ones_like(factor))
    image = _resize(image, halving, image.sizes, planes.shape[2:], used)
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
  """Both rounds, and the last operations in the order drawn for each image."""
  keys = (key, key)  # NumPy's generator never repeats itself
  if not isinstance(key, np.random.Generator):
    keys = jax.random.split(key)
  xp = array_namespace(image.planes)
  first, second, last = parameters.first, parameters.second, parameters.last
  image = _blur(image, limits.taps[:1], [first.blur])
  most = _scaled(image.planes.shape[2:], limits.factors[0])
  used = limits.methods
  image = _resize(image, first.resize, image.sizes, most, used[1])
  image = _noisy(image, noise.uniform(keys[0], image.planes.shape), first.noise)
  image = _compressed(image, parameters.quality)

  image = _blur(image, limits.taps[1:2], [second.blur])
  lr = xp.asarray(_sizes(image.planes, shape, image.sizes.shape[1]))
  most = _scaled(shape, limits.factors[1])
  image = _resize(image, second.resize, lr, most, used[2])
  image = _noisy(
    image, noise.uniform(keys[1], image.planes.shape), second.noise
  )

  image = _compressed(image, xp.where(last.jpeg_last, 0, last.quality))
  image = _reduced(image, last.method, shape, used[3])
  image = _blur(image, limits.taps[2:], [last.sinc])
  return _compressed(image, xp.where(last.jpeg_last, last.quality, 0)).planes


def _shuffled(
  key: Any,
  image: _Image,
  parameters: Parameters,
  limits: Limits,
  shape: tuple[int, int],
) -> Any:
  """Operations in the order that was drawn for each image, then JPEG.

  Every order is contained in one fixed sequence. Noise and JPEG divide it into
  three parts, each of which has blurs, the first resize, and blurs again. The
  last resize follows. Then the sequence comes once more, without the first
  resize.
  """
  xp = array_namespace(image.planes)
  assert parameters.ranks is not None
  ranks = {name: parameters.ranks[:, i] for i, name in enumerate(SHUFFLED)}
  first, resize = parameters.first, parameters.first.resize
  used = limits.methods
  blurs = ('blur_1', 'blur_2')
  dividers = xp.sort(xp.stack([ranks['noise'], ranks['jpeg']]), 0)
  part_of = {n: (r[None] > dividers).sum(0) for n, r in ranks.items()}

  blurred = functools.partial(
    _blur, taps=limits.taps[:2], blurs=(first.blur, parameters.second.blur)
  )
  most = _scaled(image.planes.shape[2:], limits.factors[0])
  # Noise is added to an image in only one of the places where it may come, so
  # that all places can use the same random numbers.
  u = noise.uniform(key, (*image.planes.shape[:2], *most))
  for last in (False, True):
    active = {n: (r > ranks['last_resize']) == last for n, r in ranks.items()}
    if last:
      image = _reduced(image, parameters.last.method, shape, used[3])
    for part in range(3):
      here = {n: active[n] & (part_of[n] == part) for n in ranks}
      sooner = {n: ranks[n] < ranks['resize'] for n in blurs}
      if not last:
        image = blurred(image, active=[here[n] & sooner[n] for n in blurs])
        # Interpolation leaves an image whose size is kept as it is.
        now = resize._replace(
          factor=xp.where(here['resize'], resize.factor, 1.0),
          method=xp.where(here['resize'], resize.method, used[1][0]),
        )
        image = _resize(image, now, image.sizes, most, used[1])
      image = blurred(image, active=[here[n] & ~sooner[n] for n in blurs])
      if part < 2:
        is_noise = active['noise'] & (ranks['noise'] == dividers[part])
        is_jpeg = active['jpeg'] & (ranks['jpeg'] == dividers[part])
        image = _noisy(image, u, first.noise, is_noise)
        image = _compressed(image, xp.where(is_jpeg, parameters.quality, 0))
  return _compressed(image, parameters.last.quality).planes


def _blur(
  image: _Image,
  taps: Sequence[int],
  blurs: Sequence[Blur],
  active: Sequence[Any] | None = None,
) -> _Image:
  """Applies blurs with at most `taps` taps, one after the other.

  Args:
    image: The images.
    taps: Largest number of taps of each blur.
    blurs: Parameters of each blur.
    active: Whether each blur is applied, `[B]`; None applies all.
  """
  if active is None:
    unchanged = [blur.family == NONE for blur in blurs]
  else:
    unchanged = [~on for on in active]
  if _idle(*unchanged):
    return image
  filters = [kernels(b, n) for b, n in zip(blurs, taps, strict=True)]
  blurred = per_image.correlate(*image, filters, active)
  return image._replace(planes=blurred)


def _resize(
  image: _Image,
  resize: Resize,
  base: Any,
  most: Sequence[int],
  used: Sequence[int],
) -> _Image:
  """Resizes to `factor` times the sizes `base`; `most` bounds the result."""
  xp = array_namespace(image.planes)
  wanted = xp.rint(base * resize.factor[:, None]).astype(int)
  sides = base.shape[1]
  targets = xp.clip(wanted, 1, np.asarray(most[:sides])[None])
  if _idle(targets == image.sizes):
    return image
  height, width = most
  if xp is np:
    height, width = targets[0, 0], targets[0, -1]
  planes = per_image.resize(
    *(*image, targets, resize.method, resize.sigma, (height, width), used)
  )
  return _Image(planes, targets)


def _reduced(
  image: _Image, method: Any, shape: tuple[int, int], used: Sequence[int]
) -> _Image:
  """Resizes to the size of LR."""
  xp = array_namespace(image.planes)
  ones = xp.ones(len(method))
  base = xp.asarray(_sizes(image.planes, shape, image.sizes.shape[1]))
  return _resize(image, Resize(ones, method, ones), base, shape, used)


def _sizes(
  planes: Any, shape: Sequence[int], sides: int | None = None
) -> np.ndarray:
  """One size for all images; square images have one side."""
  if sides is None:
    sides = 1 if shape[0] == shape[1] else 2
  return np.broadcast_to(np.asarray(shape[:sides]), (len(planes), sides))


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

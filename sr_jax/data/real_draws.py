"""Draws the parameters of realistic degradations on the device.

`draw` is a pure function of a key and of ranges, see `real_presets`; it runs in
the train step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sr_jax.data.real_presets import Ranges
from sr_jax.ops import noise, per_image
from sr_jax.ops.kernel_families import FAMILIES, NONE, SINC, Blur
from sr_jax.ops.realistic import SHUFFLED, Last, Parameters, Resize, Round
from sr_jax.ops.scales import whole

# Number of uniform numbers per image, which is more than a draw uses.
_NUMBERS = 80
# Sinc kernels with fewer taps than this draw their cut-off from another range.
_FEW_TAPS = 13
_ISOTROPIC = [i for i, name in enumerate(FAMILIES) if 'anis' not in name]
_GENERALISED = FAMILIES.index('generalised_isotropic')
_PLATEAU = FAMILIES.index('plateau_isotropic')


def draw(
  key: jax.Array, count: int, scale: float, full: Ranges, half: Ranges
) -> Parameters:
  """Draws the parameters of `count` images.

  Args:
    key: PRNG key.
    count: Number of images.
    scale: Reduction factor.
    full: Ranges of images that are not halved first.
    half: Ranges of images that are halved first, at half the scale.
  """
  numbers = iter(jax.random.uniform(key, (_NUMBERS, count)))
  is_halved = _choose(numbers, _row(full['halved'])) == 1

  def select(one: Any, other: Any) -> Any:
    if isinstance(one, dict):
      return {name: select(one[name], other[name]) for name in one}
    return jnp.where(is_halved[:, None], _row(other), _row(one))

  first, second, last = (
    select(full[name], half[name]) for name in ('first', 'second', 'last')
  )
  step = jnp.where(is_halved, scale / 2, scale)
  return Parameters(
    halved=is_halved,
    halving=_choose(numbers, _row(full['halving'])),
    first=_round(numbers, first, step),
    quality=_switched(numbers, first['jpeg']),
    second=_round(numbers, second, step),
    last=_last(numbers, last),
    ranks=_ranks(numbers) if full['order'] == 'shuffled' else None,
  )


def _row(values: Sequence[float]) -> jax.Array:
  """A row of a range, `[1, N]`, which holds for all images."""
  return jnp.asarray(values, jnp.float32)[None]


def _choose(numbers: Iterator[jax.Array], shares: jax.Array) -> jax.Array:
  """Draws an index by shares `[B, N]`; what is left of 1 is that of index N."""
  bounds = jnp.cumsum(shares, -1)
  # Shares that sum to 1 leave no rest, whatever the rounding.
  bounds = jnp.where(bounds > 1 - 1e-5, 1.0, bounds)
  return (next(numbers)[:, None] >= bounds).sum(-1)


def _between(
  numbers: Iterator[jax.Array], row: jax.Array, start: int = 0
) -> jax.Array:
  """Draws from the range at `start` of a row, in steps if it names one."""
  u, least, most = next(numbers), row[:, start], row[:, start + 1]
  if row.shape[-1] < start + 3:
    return least + u * (most - least)
  step = row[:, start + 2]
  return least + step * jnp.floor(u * (jnp.floor((most - least) / step) + 1))


def _switched(numbers: Iterator[jax.Array], row: jax.Array) -> jax.Array:
  """Draws from the range of (share, least, most); 0 for the other images."""
  on = next(numbers) < row[:, 0]
  return jnp.where(on, _between(numbers, row, 1), 0.0)


def _taps(numbers: Iterator[jax.Array], row: jax.Array) -> jax.Array:
  """Draws an odd number of taps."""
  steps = jnp.concatenate([row, 2 + 0 * row[:, :1]], -1)
  return _between(numbers, steps).astype(jnp.int32)


def _round(numbers: Iterator[jax.Array], ranges: Any, step: jax.Array) -> Round:
  """Draws a blur, a resize and a noise."""
  return Round(
    blur=_blur(numbers, ranges),
    resize=_resize(numbers, ranges, step),
    noise=_noise(numbers, ranges),
  )


def _blur(numbers: Iterator[jax.Array], ranges: Any) -> Blur:
  family = _choose(numbers, ranges['families'])
  taps = _taps(numbers, ranges['taps'])
  sigmas = [_between(numbers, ranges['sigma']) for _ in range(2)]
  # Two variances take the place of the two standard deviations if given.
  roots = [jnp.sqrt(_between(numbers, ranges['variance'])) for _ in range(2)]
  by_variance = ranges['variance'][:, 1] > 0
  x, y = (
    jnp.where(by_variance, r, s) for r, s in zip(roots, sigmas, strict=True)
  )
  isotropic = jnp.isin(family, jnp.asarray(_ISOTROPIC))
  generalised = _between(numbers, ranges['generalised_beta'])
  plateau = _between(numbers, ranges['plateau_beta'])
  cutoffs = [
    _between(numbers, ranges[k]) for k in ('small_cutoff', 'large_cutoff')
  ]
  return Blur(
    family=family,
    taps=taps,
    sigma_x=jnp.where(isotropic, sigmas[0], x),
    sigma_y=jnp.where(isotropic, sigmas[0], y),
    angle=math.pi * (2 * next(numbers) - 1),
    beta=jnp.where(
      family >= _PLATEAU,
      plateau,
      jnp.where(family >= _GENERALISED, generalised, 1.0),
    ),
    cutoff=jnp.where(taps < _FEW_TAPS, cutoffs[0], cutoffs[1]),
  )


def _resize(
  numbers: Iterator[jax.Array], ranges: Any, step: jax.Array
) -> Resize:
  kinds = [k for k in ('up', 'down', 'reduce', 'sample') if k in ranges]
  shares = jnp.concatenate([ranges[k][:, :1] for k in kinds], -1)
  kind = _choose(numbers, shares)
  method = _choose(numbers, ranges['methods'])
  factor, sigma = jnp.ones(len(kind)), jnp.ones(len(kind))
  for i, name in enumerate(kinds):
    value = _between(numbers, ranges[name], 1)
    if name == 'sample':
      method = jnp.where(kind == i, per_image.GAUSSIAN, method)
      sigma, value = value, 1 / step
    elif name == 'reduce':
      value = 1 / value
    factor = jnp.where(kind == i, value, factor)
  return Resize(factor, method, sigma)


def _noise(numbers: Iterator[jax.Array], ranges: Any) -> noise.Noise:
  shares = jnp.concatenate(
    [ranges[k][:, :1] for k in ('gaussian', 'poisson')], -1
  )
  kind = _choose(numbers, shares)
  levels = [_between(numbers, ranges[k], 1) for k in ('gaussian', 'poisson')]
  rotation = _rotation(*(next(numbers) for _ in range(3)))
  scales = jnp.sqrt(jnp.stack([next(numbers) for _ in range(3)], -1))
  return noise.Noise(
    kind=kind,
    level=jnp.where(kind == noise.GAUSSIAN, levels[0], levels[1]),
    colour=_choose(numbers, ranges['colours']),
    mixing=rotation * scales[:, None],
  )


def _rotation(a: jax.Array, b: jax.Array, c: jax.Array) -> jax.Array:
  """Uniform random rotations `[B, 3, 3]` (Shoemake, Graphics Gems III)."""
  tau = 2 * math.pi
  x, y = jnp.sqrt(1 - a) * jnp.sin(tau * b), jnp.sqrt(1 - a) * jnp.cos(tau * b)
  z, w = jnp.sqrt(a) * jnp.sin(tau * c), jnp.sqrt(a) * jnp.cos(tau * c)
  rows = (
    (1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
    (2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
    (2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)),
  )
  return jnp.stack([jnp.stack(row, -1) for row in rows], -2)


def _last(numbers: Iterator[jax.Array], ranges: Any) -> Last:
  method = _choose(numbers, ranges['methods'])
  on = next(numbers) < ranges['sinc'][:, 0]
  taps = _taps(numbers, ranges['taps'])
  cutoff = _between(numbers, ranges['sinc'], 1)
  ones = jnp.ones_like(cutoff)
  family = jnp.where(on, SINC, NONE)
  return Last(
    method=method,
    sinc=Blur(family, taps, ones, ones, 0 * ones, ones, cutoff),
    quality=_switched(numbers, ranges['jpeg']),
    jpeg_last=_choose(numbers, ranges['jpeg_place']) == 1,
  )


def _ranks(numbers: Iterator[jax.Array]) -> jax.Array:
  """Draws an order; the last resize is after the first."""
  drawn = jnp.stack([next(numbers) for _ in SHUFFLED], -1)
  ranks = jnp.argsort(jnp.argsort(drawn, -1), -1)
  first, last = (SHUFFLED.index(k) for k in ('resize', 'last_resize'))
  both = ranks[:, jnp.asarray([first, last])]
  return ranks.at[:, first].set(both.min(-1)).at[:, last].set(both.max(-1))


def described(parameters: Parameters, index: int) -> dict[str, Any]:
  """What is done to one image, in words and numbers, as JSON can hold it."""
  p = jax.tree.map(lambda v: np.asarray(v)[index].tolist(), parameters)
  operations: dict[str, Any] = {
    'halved': per_image.METHODS[p.halving] if p.halved else None,
    'blur_1': _words_of_blur(p.first.blur),
    'resize_1': _words_of_resize(p.first.resize),
    'noise_1': _words_of_noise(p.first.noise),
    'jpeg_1': whole(p.quality) or None,
    'blur_2': _words_of_blur(p.second.blur),
  }
  if p.ranks is None:
    operations |= {
      'resize_2': _words_of_resize(p.second.resize),
      'noise_2': _words_of_noise(p.second.noise),
    }
  operations |= {
    'last_resize': per_image.METHODS[p.last.method],
    'last_sinc': _words_of_blur(p.last.sinc),
    'last_jpeg': whole(p.last.quality) or None,
  }
  if p.ranks is not None:
    order = [SHUFFLED[i] for i in np.argsort(p.ranks)]
    return {**operations, 'order': [*order, 'last_jpeg']}
  last = ['last_resize', 'last_sinc']
  where = [*last, 'last_jpeg'] if p.last.jpeg_last else ['last_jpeg', *last]
  rounds = [k for k in operations if k not in (*where, 'halved')]
  return {**operations, 'order': [*rounds, *where]}


def _words_of_blur(blur: Blur) -> dict[str, Any] | None:
  if blur.family == NONE:
    return None
  words: dict[str, Any] = {
    'family': FAMILIES[blur.family],
    'taps': blur.taps,
  }
  if blur.family == SINC:
    return words | {'cutoff': blur.cutoff}
  words |= {'sigma': [blur.sigma_x, blur.sigma_y]}
  if blur.family not in _ISOTROPIC:
    words['angle'] = blur.angle
  if blur.family >= _GENERALISED:
    words['beta'] = blur.beta
  return words


def _words_of_resize(resize: Resize) -> dict[str, Any] | None:
  words = {
    'factor': resize.factor,
    'method': per_image.METHODS[resize.method],
  }
  if resize.method == per_image.GAUSSIAN:
    return words | {'sigma': resize.sigma}
  return words


def _words_of_noise(each: noise.Noise) -> dict[str, Any] | None:
  if each.kind == noise.NONE:
    return None
  words = {
    'kind': noise.KINDS[each.kind],
    'level': each.level,
    'colour': noise.COLOURS[each.colour],
  }
  if words['colour'] == 'covariance':
    return words | {'mixing': each.mixing}
  return words

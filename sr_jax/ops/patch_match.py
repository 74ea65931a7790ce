"""Matches feature maps by 3x3 patches, and swaps features by the matches.

In SRNTT (Zhang et al., CVPR 2019) every patch P of an image's features is
matched with the patch Q of the references' features that has the largest
<P, Q> / ||Q||; the first of equal ones wins. A map of the image's size is then
assembled from the references' features: each matched patch is written to the
place of P, and overlapping patches are averaged.

The inner products of all pairs of patches are computed in one of three forms,
which give the same indices:

  convolution  the patches of the references are kernels
  matmul       patches of both sides are rows of a matrix
  box          inner products of single pixels, summed over the nine pixels of a
               pair of patches: a ninth of the multiplications

The box form is the default everywhere: on two CPU cores it is four to five
times as fast as the others. On accelerators all three forms move the same
number of scores through memory, and the box form does a ninth of the
multiplications. To bound the memory, the scores are computed for one block of
the image and one band of rows of a reference at a time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from sr_jax.ops.precision import einsum

PATCH = 3
# Largest side of a block of the image, in patches.
_BLOCK = 40
# Lower bound of norms: the score of a patch of zeros is then 0, not NaN.
_LEAST_NORM = 1e-12
# MiB of scores that are held at a time. The scores should fit the cache of a
# CPU; an accelerator needs more of them to keep its units busy.
_CHUNK = {'cpu': 16.0}
_CHUNK_OF_ACCELERATORS = 256.0


class Match(NamedTuple):
  """The best reference patch for each patch of an image.

  Attributes:
    index: Number of the reference patch, `[h - 2, w - 2]` int32. Patches are
      numbered row by row, through all references in order.
    score: `[h - 2, w - 2]`, the inner product of the image's patch and the
      reference patch divided by its norm.
    similarity: `[h, w]`, the cosine similarity of the two patches. Outermost
      pixels, which are not the centre of a patch, repeat the nearest value.
  """

  index: jax.Array
  score: jax.Array
  similarity: jax.Array


def match(
  content: jax.Array,
  references: Sequence[jax.Array],
  *,
  form: str = 'box',
  chunk: float | None = None,
) -> Match:
  """Finds the best patch of the references for every patch of an image.

  Args:
    content: Features of the image, `[h, w, C]`; both sides are 3 or more.
    references: Features of each reference, `[H, W, C]`; both sides are 3 or
      more and may differ between references.
    form: One of `FORMS`: how the inner products are computed.
    chunk: MiB of scores that are held at a time; at least one row of patches of
      a reference is. None chooses a size for the backend.
  """
  if chunk is None:
    # Only how much is held at once: the result is the same on any backend.
    chunk = _CHUNK.get(jax.default_backend(), _CHUNK_OF_ACCELERATORS)
  height, width = (n - PATCH + 1 for n in content.shape[:2])
  score = jnp.full((height, width), -jnp.inf, jnp.float32)
  index = jnp.zeros((height, width), jnp.int32)
  before = 0
  for reference in references:
    own_score, own_index = _match_one(content, reference, FORMS[form], chunk)
    better = own_score > score
    score = jnp.where(better, own_score, score)
    index = jnp.where(better, before + own_index, index)
    before += patch_count(reference.shape)
  similarity = score / patch_norms(content)
  return Match(index, score, jnp.pad(similarity, 1, 'edge'))


def patch_count(shape: Sequence[int]) -> int:
  """Number of patches of a map `[H, W, C]`."""
  return (shape[0] - PATCH + 1) * (shape[1] - PATCH + 1)


def patch_norms(features: jax.Array) -> jax.Array:
  """Norms `[H - 2, W - 2]` of all patches of `[H, W, C]`; never zero."""
  squares = (features.astype(jnp.float32) ** 2).sum(-1)
  rows = _along(squares, lambda x, i, n: x[i : n + i], squares.shape[0])
  both = _along(rows, lambda x, i, n: x[:, i : n + i], squares.shape[1])
  return jnp.maximum(jnp.sqrt(both), _LEAST_NORM)


def _along(
  x: jax.Array, shifted: Callable[..., jax.Array], size: int
) -> jax.Array:
  """Sums three neighbours along an axis of length `size`."""
  first, second, third = (shifted(x, i, size - PATCH + 1) for i in range(PATCH))
  return first + second + third


def _box(content: jax.Array, reference: jax.Array) -> jax.Array:
  pixels = einsum('yxc,YXc->yxYX', content, reference)
  height, width, rows, columns = pixels.shape
  first, second, third = (
    pixels[:, i : width - 2 + i, :, i : columns - 2 + i] for i in range(PATCH)
  )
  across = first + second + third
  first, second, third = (
    across[i : height - 2 + i, :, i : rows - 2 + i] for i in range(PATCH)
  )
  return first + second + third


def _matmul(content: jax.Array, reference: jax.Array) -> jax.Array:
  return einsum('yxk,YXk->yxYX', _patches(content), _patches(reference))


def _convolution(content: jax.Array, reference: jax.Array) -> jax.Array:
  patches = _patches(reference)
  rows, columns = patches.shape[:2]
  kernels = patches.reshape(rows * columns, PATCH, PATCH, -1)
  scores = jax.lax.conv_general_dilated(
    content[None],
    kernels.transpose(1, 2, 3, 0),
    window_strides=(1, 1),
    padding='VALID',
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    precision=jax.lax.Precision.HIGHEST,
  )[0]
  return scores.reshape(*scores.shape[:2], rows, columns)


def _patches(features: jax.Array) -> jax.Array:
  """All patches of `[H, W, C]`, as vectors `[H - 2, W - 2, 9 * C]`."""
  height, width = (n - PATCH + 1 for n in features.shape[:2])
  return jnp.concatenate(
    [
      features[i : height + i, j : width + j]
      for i in range(PATCH)
      for j in range(PATCH)
    ],
    axis=-1,
  )


# Functions that compute the inner products `[h, w, H, W]` of all pairs of
# patches of two maps.
FORMS: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
  'box': _box,
  'convolution': _convolution,
  'matmul': _matmul,
}


def _match_one(
  content: jax.Array,
  reference: jax.Array,
  products: Callable[[jax.Array, jax.Array], jax.Array],
  chunk: float,
) -> tuple[jax.Array, jax.Array]:
  """Score and index of the best patch of one reference, for each patch."""
  height, width = (n - PATCH + 1 for n in content.shape[:2])
  tall, wide = (_even(n, _BLOCK) for n in (height, width))
  down, across = -(-height // tall), -(-width // wide)
  more = (down * tall - height, across * wide - width)
  content = jnp.pad(content, ((0, more[0]), (0, more[1]), (0, 0)))
  bands = _bands(reference, chunk * 2**20 / (4 * (tall + 2) * (wide + 2)))

  def best_of_block(corner: jax.Array) -> tuple[jax.Array, jax.Array]:
    size = (tall + PATCH - 1, wide + PATCH - 1, content.shape[-1])
    start = (corner[0], corner[1], jnp.int32(0))
    block = jax.lax.dynamic_slice(content, start, size)
    nothing = (
      jnp.full((tall, wide), -jnp.inf, jnp.float32),
      jnp.zeros((tall, wide), jnp.int32),
    )
    step = functools.partial(_better, products, block)
    return jax.lax.scan(step, nothing, bands)[0]

  corners = [(y * tall, x * wide) for y in range(down) for x in range(across)]
  found = jax.lax.map(best_of_block, jnp.asarray(corners, jnp.int32))
  score, index = (_assembled(x, down, across) for x in found)
  return score[:height, :width], index[:height, :width]


class _Band(NamedTuple):
  """A band of rows of a reference; all bands are stacked on a leading axis.

  Attributes:
    features: `[k + 2, W, C]`, which hold k rows of patches.
    factors: `[k, W - 2]`, the reciprocals of the patches' norms; NaN where the
      padding makes no patch.
    first: Number of the first patch of the band.
  """

  features: jax.Array
  factors: jax.Array
  first: jax.Array


def _bands(reference: jax.Array, pixels: float) -> _Band:
  """Cuts a reference into bands of at most `pixels` pixels, or three rows."""
  height, width = (n - PATCH + 1 for n in reference.shape[:2])
  most = max(1, int(pixels / reference.shape[1]) - PATCH + 1)
  rows = _even(height, most)
  count = -(-height // rows)
  more = count * rows - height
  padded = jnp.pad(reference, ((0, more), (0, 0), (0, 0)))
  factors = jnp.pad(
    1 / patch_norms(reference), ((0, more), (0, 0)), constant_values=jnp.nan
  )
  starts = range(0, count * rows, rows)
  return _Band(
    jnp.stack([padded[i : i + rows + PATCH - 1] for i in starts]),
    factors.reshape(count, rows, width),
    jnp.asarray([i * width for i in starts], jnp.int32),
  )


def _even(size: int, most: int) -> int:
  """Cuts `size` evenly into parts of at most `most`; returns the part size."""
  return -(-size // -(-size // most))


def _better(
  products: Callable[[jax.Array, jax.Array], jax.Array],
  block: jax.Array,
  best: tuple[jax.Array, jax.Array],
  band: _Band,
) -> tuple[tuple[jax.Array, jax.Array], None]:
  """Updates the best matches of a block with the patches of a band."""
  exists = ~jnp.isnan(band.factors)[None, None]
  scores = products(block, band.features) * band.factors[None, None]
  scores = jnp.where(exists, scores, -jnp.inf)
  scores = scores.reshape(*scores.shape[:2], -1)
  index = jnp.argmax(scores, -1).astype(jnp.int32)
  score = jnp.take_along_axis(scores, index[..., None], -1)[..., 0]
  # Strictly greater, so that the first of equal patches stays.
  better = score > best[0]
  return (
    jnp.where(better, score, best[0]),
    jnp.where(better, band.first + index, best[1]),
  ), None


def _assembled(blocks: jax.Array, down: int, across: int) -> jax.Array:
  """Joins blocks `[down * across, h, w]` to one `[down * h, across * w]`."""
  tall, wide = blocks.shape[1:]
  grid = blocks.reshape(down, across, tall, wide).transpose(0, 2, 1, 3)
  return grid.reshape(down * tall, across * wide)


def swap(
  index: jax.Array, references: Sequence[jax.Array], ratio: int = 1
) -> jax.Array:
  """Assembles a map of the image's size from matched reference patches.

  Args:
    index: Numbers of the matched patches, `[h - 2, w - 2]`, see `Match`.
    references: Features of each reference, `[ratio * H, ratio * W, C]`, where
      `[H, W, ...]` is the size at which the reference was matched.
    ratio: Resolution of these features divided by that of the matched ones.

  Returns:
    `[ratio * h, ratio * w, C]`; overlapping patches are averaged.
  """
  height, width = (n + PATCH - 1 for n in index.shape)
  channels = references[0].shape[-1]
  flat = jnp.concatenate([x.reshape(-1, channels) for x in references])
  shapes = [tuple(n // ratio for n in x.shape[:2]) for x in references]
  first, stride = _first_pixels(index, shapes, ratio)
  sums = jnp.zeros((ratio * height, ratio * width, channels), flat.dtype)
  for i in range(PATCH):
    for j in range(PATCH):
      cells = _cells(flat, first, stride, (i, j), ratio)
      rows, columns = (
        slice(k * ratio, k * ratio + n)
        for k, n in zip((i, j), cells.shape[:2], strict=True)
      )
      sums = sums.at[rows, columns].add(cells)
  return sums / overlap(height, width, ratio)[..., None]


def _first_pixels(
  index: jax.Array, shapes: Sequence[tuple[int, ...]], ratio: int
) -> tuple[jax.Array, jax.Array]:
  """Finds the first pixel of each matched patch among all references' pixels.

  Returns:
    The index of the first pixel and the row length of its reference, both
    `[h - 2, w - 2]`.
  """
  first, stride = jnp.zeros_like(index), jnp.zeros_like(index)
  patches = pixels = 0
  for height, width in shapes:
    wide = width - PATCH + 1
    own = index - patches
    start = ratio**2 * (own // wide) * width + ratio * (own % wide)
    here = own >= 0  # patches of later references are overwritten later
    first = jnp.where(here, pixels + start, first)
    stride = jnp.where(here, ratio * width, stride)
    patches += patch_count((height, width))
    pixels += ratio**2 * height * width
  return first, stride


def _cells(
  flat: jax.Array,
  first: jax.Array,
  stride: jax.Array,
  cell: tuple[int, int],
  ratio: int,
) -> jax.Array:
  """Gathers one of the nine cells (`ratio` x `ratio` pixels) of each patch.

  Returns:
    `[ratio * (h - 2), ratio * (w - 2), C]`.
  """
  rows, columns = (ratio * k + jnp.arange(ratio) for k in cell)
  pixels = (
    first[:, None, :, None]
    + rows[None, :, None, None] * stride[:, None, :, None]
    + columns[None, None, None, :]
  )
  height, _, width, _ = pixels.shape
  return flat[pixels].reshape(ratio * height, ratio * width, -1)


def overlap(height: int, width: int, ratio: int = 1) -> jax.Array:
  """Number of patches over each pixel, `[ratio * height, ratio * width]`."""
  down, across = (_covering(n).repeat(ratio) for n in (height, width))
  return down[:, None] * across[None].astype(jnp.float32)


def _covering(size: int) -> jax.Array:
  """Number of patches that cover each of `size` pixels along an axis."""
  place = jnp.arange(size)
  last = jnp.minimum(place, size - PATCH)
  return last - jnp.maximum(place - PATCH + 1, 0) + 1

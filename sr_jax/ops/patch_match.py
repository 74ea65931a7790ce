"""Dense matching of feature maps by 3x3 patches, and swapping by its result.

SRNTT (Zhang et al., CVPR 2019): every patch P of an image's features takes the
patch Q of the references' features with the largest <P, Q> / ||Q||; ties go to
the first. The maps of the references are then rebuilt in the image's place:
every patch puts down the one it took, and overlapping ones are averaged.

The inner products of all pairs of patches are made in one of three forms, which
agree to the last index:

  convolution  the patches of the references are kernels
  matmul       patches of both sides are rows of a matrix
  box          inner products of single pixels, of which those of a patch are
               the sum along a diagonal: a ninth of the multiplications

The box form is the default everywhere: on two CPU cores it is four to five
times as fast as the others, and on accelerators all three pass as many scores
through the memory while it multiplies a ninth as much. Scores are held for a
block of the image and a band of a reference at a time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from sr_jax.ops.precision import einsum

PATCH = 3
# Largest side of the image's blocks, in patches.
_BLOCK = 40
# Norms below it count as it: a patch of zeros then scores 0, and is no NaN.
_LEAST_NORM = 1e-12
# MiB of scores that are held at a time: what CPU caches like, and more where
# thousands of units are to be kept busy.
_CHUNK = {'cpu': 16.0}
_CHUNK_OF_ACCELERATORS = 256.0


class Match(NamedTuple):
  """What an image's patches took.

  Attributes:
    index: `[h - 2, w - 2]` int32, the number of the patch: row by row, over the
      references in turn.
    score: `[h - 2, w - 2]`, its inner product with the normalised patch.
    similarity: `[h, w]`, the cosine of both; that of the border repeats its
      neighbours'.
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
    content: Features `[h, w, C]`, both sides 3 or more.
    references: Features `[H, W, C]` each, of any sizes from 3 on.
    form: One of `FORMS`.
    chunk: MiB of scores that are held at a time (but a row of a reference's
      at least); by default as the backend likes it.
  """
  if chunk is None:
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
  """Patches of a map `[H, W, C]`."""
  return (shape[0] - PATCH + 1) * (shape[1] - PATCH + 1)


def patch_norms(features: jax.Array) -> jax.Array:
  """Norm of every patch of `[H, W, C]`, `[H - 2, W - 2]`; never zero."""
  squares = (features.astype(jnp.float32) ** 2).sum(-1)
  rows = _along(squares, lambda x, i, n: x[i : n + i], squares.shape[0])
  both = _along(rows, lambda x, i, n: x[:, i : n + i], squares.shape[1])
  return jnp.maximum(jnp.sqrt(both), _LEAST_NORM)


def _along(
  x: jax.Array, shifted: Callable[..., jax.Array], size: int
) -> jax.Array:
  """Sum of three neighbours along an axis of this size."""
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
  """`[H, W, C]` -> `[H - 2, W - 2, 9 * C]`."""
  height, width = (n - PATCH + 1 for n in features.shape[:2])
  return jnp.concatenate(
    [
      features[i : height + i, j : width + j]
      for i in range(PATCH)
      for j in range(PATCH)
    ],
    axis=-1,
  )


# Inner products `[h, w, H, W]` of the patches of two maps.
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
  """Score and index of the best patch of one reference."""
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
  """Rows of a reference, stacked with the others of it.

  Attributes:
    features: `[k + 2, W, C]`.
    factors: `[k, W - 2]`, one over the norms; NaN where there is no patch.
    first: Number of its first patch.
  """

  features: jax.Array
  factors: jax.Array
  first: jax.Array


def _bands(reference: jax.Array, pixels: float) -> _Band:
  """A reference in bands of at most so many pixels, or of three rows."""
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
  """Side of the fewest equal parts of a size that are no larger than `most`."""
  return -(-size // -(-size // most))


def _better(
  products: Callable[[jax.Array, jax.Array], jax.Array],
  block: jax.Array,
  best: tuple[jax.Array, jax.Array],
  band: _Band,
) -> tuple[tuple[jax.Array, jax.Array], None]:
  """The better of what is known for a block and what a band has."""
  exists = ~jnp.isnan(band.factors)[None, None]
  scores = products(block, band.features) * band.factors[None, None]
  scores = jnp.where(exists, scores, -jnp.inf)
  scores = scores.reshape(*scores.shape[:2], -1)
  index = jnp.argmax(scores, -1).astype(jnp.int32)
  score = jnp.take_along_axis(scores, index[..., None], -1)[..., 0]
  # Strictly: of equals the first stays.
  better = score > best[0]
  return (
    jnp.where(better, score, best[0]),
    jnp.where(better, band.first + index, best[1]),
  ), None


def _assembled(blocks: jax.Array, down: int, across: int) -> jax.Array:
  """Blocks `[down * across, h, w]` as one `[down * h, across * w]`."""
  tall, wide = blocks.shape[1:]
  grid = blocks.reshape(down, across, tall, wide).transpose(0, 2, 1, 3)
  return grid.reshape(down * tall, across * wide)


def swap(
  index: jax.Array, references: Sequence[jax.Array], ratio: int = 1
) -> jax.Array:
  """The references' features in the places where their patches were taken.

  Args:
    index: `[h - 2, w - 2]`, see `Match`.
    references: Features `[ratio * H, ratio * W, C]` each, of the references
      that were matched as `[H, W, ...]`.
    ratio: Of these features' resolution to that of the matching.

  Returns:
    `[ratio * h, ratio * w, C]`: where patches overlap, their mean.
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
  """Where in all pixels of all references a patch begins, and their width."""
  first, stride = jnp.zeros_like(index), jnp.zeros_like(index)
  patches = pixels = 0
  for height, width in shapes:
    wide = width - PATCH + 1
    own = index - patches
    start = ratio**2 * (own // wide) * width + ratio * (own % wide)
    here = own >= 0  # those of later references are replaced in their turn
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
  """One of the nine cells of every patch, `[ratio * h, ratio * w, C]`."""
  rows, columns = (ratio * k + jnp.arange(ratio) for k in cell)
  pixels = (
    first[:, None, :, None]
    + rows[None, :, None, None] * stride[:, None, :, None]
    + columns[None, None, None, :]
  )
  height, _, width, _ = pixels.shape
  return flat[pixels].reshape(ratio * height, ratio * width, -1)


def overlap(height: int, width: int, ratio: int = 1) -> jax.Array:
  """How many patches cover each pixel, `[ratio * height, ratio * width]`."""
  down, across = (_covering(n).repeat(ratio) for n in (height, width))
  return down[:, None] * across[None].astype(jnp.float32)


def _covering(size: int) -> jax.Array:
  """How many of the patches along an axis cover each of its pixels."""
  place = jnp.arange(size)
  last = jnp.minimum(place, size - PATCH)
  return last - jnp.maximum(place - PATCH + 1, 0) + 1

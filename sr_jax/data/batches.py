"""Training batches as a pure function of (seed, step).

Example i of step t is drawn from a counter-based generator (Philox: Salmon et
al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) whose counter is
(t, i). So a resumed run needs only its step, and the number of processes or
worker threads changes nothing.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Generator

import numpy as np

from sr_jax.data.ranked import RankedSource
from sr_jax.data.references import ReferencedSource
from sr_jax.data.sources import ImageSource, MixedSource, PairedSource
from sr_jax.errors import UserError
from sr_jax.ops.scales import covered_size, whole

Batch = dict[str, np.ndarray]
Source = ImageSource | PairedSource
AnySource = Source | MixedSource | RankedSource | ReferencedSource

# Keys of the independent streams of one seed.
_EXAMPLES, _SCALES, _REFERENCES = 0, 1, 2


@dataclasses.dataclass(frozen=True)
class BatchSpec:
  """What a batch is made of.

  Attributes:
    batch_size: Examples per step over all processes.
    patch: Side of an LR crop; the HR crop is `scale` times as large, rounded
      down where that is not whole.
    scales: One of these is chosen for each step, whole or not.
    seed: Of everything random.
    augment: Whether crops are flipped and transposed at random, and their
      references by other coins.
    reference_size: Side of a reference's crop, 0 for that of the HR crop.
    process_index: This process; it draws its own rows of the batch only.
    process_count: Number of processes; divides `batch_size`.
  """

  batch_size: int
  patch: int
  scales: tuple[float, ...]
  seed: int
  augment: bool = True
  reference_size: int = 0
  process_index: int = 0
  process_count: int = 1

  def __post_init__(self) -> None:
    if self.batch_size < 1 or self.batch_size % self.process_count:
      raise UserError(
        f'batch_size={self.batch_size} cannot be shared by '
        f'{self.process_count} processes; make it a multiple'
      )
    if self.patch < 1:
      raise UserError(f'patch={self.patch}: an LR crop has a side of 1 or more')
    if not self.scales or min(self.scales) < 1:
      raise UserError(f'scales={self.scales}: name one or more, each 1 or more')
    if not 0 <= self.seed < 2**64:
      raise UserError(f'seed={self.seed}: choose from 0 to 2**64 - 1')
    if not 0 <= self.process_index < self.process_count:
      raise UserError(
        f'process_index={self.process_index} with '
        f'process_count={self.process_count}; count from 0'
      )

  @property
  def crop_size(self) -> int:
    """Side of the largest HR crop: the `min_size` a source needs."""
    return covered_size(self.patch, max(self.scales))

  @property
  def rows(self) -> range:
    """The examples of a step that belong to this process."""
    size = self.batch_size // self.process_count
    return range(self.process_index * size, (self.process_index + 1) * size)


def sample(
  source: AnySource, spec: BatchSpec, step: int
) -> tuple[Batch, float]:
  """This process's rows of the batch of one step, and the step's scale.

  Images are chosen uniformly, crops uniformly within them, and the eight
  flips and transpositions of a square uniformly.

  Returns:
    `{'hr': uint8 [b, P * scale, P * scale, 3]}`, for a paired source also
    `'lr': uint8 [b, P, P, 3]`, and where there are label maps
    `'labels': uint8 [b, P * scale, P * scale, 1]`, all aligned; and the scale,
    an int if it is whole. For a mixed source also `'labelled': bool [b]`, true
    for the rows that have HR, which come first and are those of the labelled
    source alone, and `'unlabelled': uint8 [b, P, P, 3]`, the LR of the others.
    What a row lacks is zero. For a source with references also `'ref': uint8
    [b, R, R, 3]`. For a ranked source instead `'first'` and
    `'second'`, uint8 `[b, P, P, 3]`, the same crop of two levels, and
    `'score_first'` and `'score_second'`, float32 `[b]`, where higher is worse.
  """
  draw = _random_words(spec.seed, _SCALES, step, 0)[0]
  scale = whole(spec.scales[draw % len(spec.scales)])
  if isinstance(source, MixedSource):
    return _mixed(source, spec, step, scale), scale
  if isinstance(source, RankedSource):
    return _ranked(source, spec, step), scale
  examples = [_example(source, spec, step, scale, row) for row in spec.rows]
  return _stack(examples), scale


def batches(
  source: AnySource,
  spec: BatchSpec,
  start_step: int,
  num_steps: int,
  *,
  workers: int = 1,
  prefetch: int = 4,
) -> Generator[tuple[int, float, Batch]]:
  """Iterates over (step, scale, batch), beginning at `start_step`.

  Args:
    source: Of the images.
    spec: Of the batches.
    start_step: The first step.
    num_steps: The step to stop before, as in `range(start_step, num_steps)`:
      a resumed run passes its step and the same `num_steps`.
    workers: Threads that prepare batches; 0 prepares them in the caller's.
    prefetch: Batches prepared ahead.

  Returns:
    A generator; `close()` ends its threads.
  """
  _check_pair_scale(source, spec.scales)
  steps = range(start_step, num_steps)
  return _prefetched(source, spec, steps, workers, prefetch)


def fixed_crops(
  source: Source | ReferencedSource, *, size: int, count: int, scale: int
) -> Batch:
  """Centred crops for evaluation during training, the same in every run.

  The images come evenly spaced from those that are at least `size` high and
  wide; where those are fewer than `count`, so are the crops.

  Args:
    source: Of the images.
    size: Side of an HR crop, a multiple of `scale`.
    count: Largest number of crops, one per image; at least 1.
    scale: Of HR to LR.

  Returns:
    `{'hr': uint8 [N, size, size, 3]}`, for a paired source also
    `'lr': uint8 [N, size / scale, size / scale, 3]`, for one with references
    `'ref': uint8 [N, size, size, 3]`, the first reference's in the same place.

  Raises:
    UserError: `size` is no multiple of `scale` or no image is large enough.
  """
  if size < scale or size % scale:
    raise UserError(
      f'evaluation crops of {size}: choose a multiple of the scale {scale}'
    )
  _check_pair_scale(source, (scale,))
  sides = [min(_images(source, i)['hr'].shape[:2]) for i in range(len(source))]
  large = [i for i, side in enumerate(sides) if side >= size]
  if not large:
    raise UserError(
      f'evaluation crops of {size}: the largest image has a side of '
      f'{max(sides)}; choose smaller crops'
    )
  count = min(count, len(large))
  chosen = [large[i * len(large) // count] for i in range(count)]
  return _stack([_centred(source, i, size, scale) for i in chosen])


def _prefetched(
  source: AnySource, spec: BatchSpec, steps: range, workers: int, prefetch: int
) -> Generator[tuple[int, float, Batch]]:
  import grain  # brings JAX and Orbax with it

  def load(step: int) -> tuple[int, float, Batch]:
    batch, scale = sample(source, spec, step)
    return step, scale, batch

  options = grain.ReadOptions(
    num_threads=workers, prefetch_buffer_size=max(workers, prefetch)
  )
  dataset = grain.MapDataset.range(steps.start, steps.stop).map(load)
  iterator = iter(dataset.to_iter_dataset(options))
  try:
    yield from iterator
  finally:
    iterator.close()


def _check_pair_scale(source: AnySource, scales: tuple[float, ...]) -> None:
  if isinstance(source, MixedSource):
    source = source.labelled
  if isinstance(source, ReferencedSource):
    source = source.images
  if isinstance(source, PairedSource) and set(scales) != {source.scale}:
    raise UserError(
      f'scales {scales}: the pairs are of scale {source.scale}; choose that'
    )


def _random_words(seed: int, stream: int, step: int, example: int) -> list[int]:
  """Four independent integers in [0, 2**64): one block of Philox.

  Raw words, because NumPy may change how its distributions use them.
  """
  philox = np.random.Philox(
    key=np.array([seed, stream], np.uint64),
    counter=np.array([0, example, step, 0], np.uint64),
  )
  return philox.random_raw(4).tolist()


def _mixed(
  source: MixedSource, spec: BatchSpec, step: int, scale: float
) -> Batch:
  """This process's rows of a batch of a mixed source."""

  def blank(side: int) -> np.ndarray:
    return np.broadcast_to(np.uint8(0), (side, side, 3))

  lacking = {
    'hr': blank(covered_size(spec.patch, scale)),
    'unlabelled': blank(spec.patch),
  }
  if isinstance(source.labelled, PairedSource):
    lacking['lr'] = blank(spec.patch)
  alone = round(source.share * spec.batch_size)
  labelled = np.asarray(spec.rows) < spec.batch_size - alone
  examples = []
  for row, known in zip(spec.rows, labelled, strict=True):
    if known:
      found = _example(source.labelled, spec, step, scale, row)
    else:
      crop = _example(source.unlabelled, spec, step, 1, row)['hr']
      found = {'unlabelled': crop}
    examples.append(lacking | found)
  return _stack(examples) | {'labelled': labelled}


def _ranked(source: RankedSource, spec: BatchSpec, step: int) -> Batch:
  """This process's rows of a batch of a ranked source.

  Patches, crops, and pairs of levels are chosen uniformly. Which level comes
  first is chosen too, lest the statistics of a batch tell the sides apart.
  """
  pairs = list(itertools.permutations(range(source.levels), 2))
  examples, scores = [], []
  for row in spec.rows:
    draws = _random_words(spec.seed, _EXAMPLES, step, row)
    index, coins = draws[0] % len(source), draws[3]
    places = source.size - spec.patch + 1
    top, left = draws[1] % places, draws[2] % places
    pair = pairs[coins // 8 % len(pairs)]  # below are the coins of flips
    crops = [
      source.image(index, level)[
        top : top + spec.patch, left : left + spec.patch
      ]
      for level in pair
    ]
    if spec.augment:
      crops = [_dihedral(crop, coins) for crop in crops]
    examples.append(dict(zip(('first', 'second'), crops, strict=True)))
    scores.append(source.scores[index, list(pair)])
  first, second = np.array(scores, np.float32).T
  return _stack(examples) | {'score_first': first, 'score_second': second}


def _example(
  source: Source | ReferencedSource,
  spec: BatchSpec,
  step: int,
  scale: float,
  row: int,
) -> Batch:
  """The crops of one example, as views of the source's arrays."""
  draws = _random_words(spec.seed, _EXAMPLES, step, row)
  index = draws[0] % len(source)
  images = _images(source, index)
  size = covered_size(spec.patch, scale)
  height, width = images['hr'].shape[:2]
  if min(height, width) < size:
    raise UserError(
      f'{source.names[index]}: {width}x{height} is smaller than the crop of '
      f'{size}x{size}; it changed, or the source was opened for smaller crops'
    )
  # An HR crop begins at any pixel; that of a pair on the LR image's grid.
  grid = _grid(source)
  top = draws[1] % ((height - size) // grid + 1) * grid
  left = draws[2] % ((width - size) // grid + 1) * grid
  crops = _cut(images, top, left, size, grid)
  coins = dict.fromkeys(crops, draws[3])
  if isinstance(source, ReferencedSource):
    words = _random_words(spec.seed, _REFERENCES, step, row)
    place = (top + size / 2) / height, (left + size / 2) / width
    side = spec.reference_size or size
    crops['ref'] = source.reference(index, place, side, words)
    coins['ref'] = draws[3] >> 3
  if not spec.augment:
    return crops
  return {key: _dihedral(crop, coins[key]) for key, crop in crops.items()}


def _grid(source: Source | ReferencedSource) -> int:
  """Step of the corners of HR crops."""
  if isinstance(source, ReferencedSource):
    source = source.images
  return source.scale if isinstance(source, PairedSource) else 1


def _centred(
  source: Source | ReferencedSource, index: int, size: int, scale: int
) -> Batch:
  images = _images(source, index)
  height, width = images['hr'].shape[:2]
  top = (height - size) // 2 // scale * scale
  left = (width - size) // 2 // scale * scale
  crops = _cut(images, top, left, size, scale)
  if isinstance(source, ReferencedSource):
    words = [0, *_random_words(0, _REFERENCES, 0, index)[1:]]
    crops['ref'] = source.reference(index, (0.5, 0.5), size, words)
  return crops


def _images(source: Source | ReferencedSource, index: int) -> Batch:
  """The whole images of one index, as plain arrays over the mapped files."""
  if isinstance(source, ReferencedSource):
    source = source.images
  if isinstance(source, PairedSource):
    lr, hr = source[index]
    images, labels = {'lr': lr, 'hr': hr}, source.hr.labels
  else:
    images, labels = {'hr': source[index]}, source.labels
  if labels:
    images['labels'] = labels[index]()
  return {key: np.asarray(image) for key, image in images.items()}


def _cut(images: Batch, top: int, left: int, size: int, scale: int) -> Batch:
  """The HR crop at (top, left), and the crops of the others that show it."""
  crops = {}
  for key, image in images.items():
    y, x, side = (n // (scale if key == 'lr' else 1) for n in (top, left, size))
    crops[key] = image[y : y + side, x : x + side]
  return crops


def _dihedral(crop: np.ndarray, coins: int) -> np.ndarray:
  """Flips and transposes a square `[S, S, C]` by the three lowest bits."""
  if coins & 1:
    crop = crop[:, ::-1]
  if coins & 2:
    crop = crop[::-1]
  return crop.swapaxes(0, 1) if coins & 4 else crop


def _stack(examples: list[Batch]) -> Batch:
  """Copies crops of one size into arrays `[B, S, S, C]`."""
  batch = {}
  for key, first in examples[0].items():
    batch[key] = np.empty((len(examples), *first.shape), np.uint8)
    for row, example in zip(batch[key], examples, strict=True):
      # By planes: four times as fast as turning pixels of three bytes.
      for channel in range(first.shape[-1]):
        row[..., channel] = example[key][..., channel]
  return batch

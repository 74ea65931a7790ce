"""Training batches as a pure function of (seed, step).

Every example is drawn by itself, see `data.draws`: a resumed run needs only
its step, and the number of processes or worker threads changes nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator
from typing import Protocol

import numpy as np

from sr_jax.data import draws
from sr_jax.data.draws import Arrays, Draw
from sr_jax.data.spectra import SpectraSource
from sr_jax.errors import UserError
from sr_jax.ops.scales import covered_size, rational, whole


class Source(Protocol):
  """Where training examples come from.

  Attributes:
    names: One name per image, in the order of the indices.
    skipped: (name, reason) of each file that is not part of the source.
  """

  @property
  def names(self) -> tuple[str, ...]: ...

  @property
  def skipped(self) -> tuple[tuple[str, str], ...]: ...

  def example(self, draw: Draw) -> Arrays:
    """The example that a draw selects, as views where that is possible."""
    ...

  def check_scales(self, scales: tuple[float, ...]) -> None:
    """Refuses scales that the source has no images for."""
    ...

  def digest(self) -> str:
    """Names and contents of all images, in 64 hexadecimal digits.

    It stays the same when the files move to another folder.
    """
    ...


class ImagesSource(draws.Images, Protocol):
  """A source of which fixed crops can be cut."""

  def centred(self, index: int, size: int, scale: int) -> Arrays:
    """The crop in the middle of the images at an index."""
    ...

  def check_scales(self, scales: tuple[float, ...]) -> None:
    """Refuses scales that the source has no images for."""
    ...


@dataclasses.dataclass(frozen=True)
class BatchSpec:
  """What a batch is made of.

  Attributes:
    batch_size: Examples per step over all processes.
    patch: Side of an LR crop; the HR crop is `scale` times as large, rounded
      down where that is not whole.
    scales: One of these is chosen for each step, whole or not.
    seed: Seed of everything random.
    augment: Whether crops are flipped and transposed at random, and their
      references by other coins.
    reference_size: Side of a reference's crop, 0 for that of the HR crop.
    margins: LR pixels, for each scale, by which HR crops are wider on every
      side where their LR is still to be made; () for none. What lies beside
      the crop in its image is there.
    process_index: This process; it draws its own rows of the batch only.
    process_count: Number of processes; divides `batch_size`.
  """

  batch_size: int
  patch: int
  scales: tuple[float, ...]
  seed: int
  augment: bool = True
  reference_size: int = 0
  margins: tuple[int, ...] = ()
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

  def margin(self, scale: float) -> int:
    """HR pixels by which the HR crops of a scale are wider on every side."""
    if not self.margins:
      return 0
    return round(self.margins[self.scales.index(scale)] * rational(scale))

  @property
  def crop_size(self) -> int:
    """Side of the largest HR crop: the `min_size` a source needs."""
    return covered_size(self.patch, max(self.scales))

  @property
  def rows(self) -> range:
    """The examples of a step that belong to this process."""
    size = self.batch_size // self.process_count
    return range(self.process_index * size, (self.process_index + 1) * size)

  def draw(self, step: int, row: int, scale: float) -> Draw:
    """What decides about one row of the batch of one step."""
    return Draw(
      seed=self.seed,
      step=step,
      row=row,
      batch_size=self.batch_size,
      patch=self.patch,
      scale=scale,
      augment=self.augment,
      reference_size=self.reference_size,
      margin=self.margin(scale),
    )


def sample(source: Source, spec: BatchSpec, step: int) -> tuple[Arrays, float]:
  """This process's rows of the batch of one step, and the step's scale.

  Images are chosen uniformly, crops uniformly within them, and the eight
  flips and transpositions of a square uniformly.

  Returns:
    `{'hr': uint8 [b, P * scale, P * scale, 3]}`, wider by the margins of
    `spec`; for a paired source, which needs no margin, also
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
  word = draws.random_words(spec.seed, draws.SCALES, step, 0)[0]
  scale = whole(spec.scales[word % len(spec.scales)])
  if isinstance(source, SpectraSource):
    return source.batch(spec.seed, step, spec.rows), scale
  examples = [source.example(spec.draw(step, row, scale)) for row in spec.rows]
  return _stack(examples), scale


def batches(
  source: Source,
  spec: BatchSpec,
  start_step: int,
  num_steps: int,
  *,
  workers: int = 1,
  prefetch: int = 4,
) -> Generator[tuple[int, float, Arrays]]:
  """Iterates over (step, scale, batch), beginning at `start_step`.

  Args:
    source: Where the images come from.
    spec: What the batches are made of.
    start_step: The first step.
    num_steps: The step to stop before, as in `range(start_step, num_steps)`:
      a resumed run passes its step and the same `num_steps`.
    workers: Threads that prepare batches; 0 prepares them in the caller's.
    prefetch: Batches prepared ahead.

  Returns:
    A generator; `close()` ends its threads.
  """
  source.check_scales(spec.scales)
  steps = range(start_step, num_steps)
  return _prefetched(source, spec, steps, workers, prefetch)


def fixed_crops(
  source: ImagesSource, *, size: int, count: int, scale: int
) -> Arrays:
  """Centred crops for evaluation during training, the same in every run.

  The images come evenly spaced from those that are at least `size` high and
  wide; where those are fewer than `count`, so are the crops.

  Args:
    source: Where the images come from.
    size: Side of an HR crop, a multiple of `scale`.
    count: Largest number of crops, one per image; at least 1.
    scale: Size of HR over size of LR.

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
  source.check_scales((scale,))
  sides = [min(source.whole(i)['hr'].shape[:2]) for i in range(len(source))]
  large = [i for i, side in enumerate(sides) if side >= size]
  if not large:
    raise UserError(
      f'evaluation crops of {size}: the largest image has a side of '
      f'{max(sides)}; choose smaller crops'
    )
  count = min(count, len(large))
  chosen = [large[i * len(large) // count] for i in range(count)]
  return _stack([source.centred(i, size, scale) for i in chosen])


def _prefetched(
  source: Source, spec: BatchSpec, steps: range, workers: int, prefetch: int
) -> Generator[tuple[int, float, Arrays]]:
  import grain  # brings JAX and Orbax with it

  def load(step: int) -> tuple[int, float, Arrays]:
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


def _stack(examples: list[Arrays]) -> Arrays:
  """Copies crops of one size into arrays `[B, S, S, C]`; numbers into `[B]`."""
  batch = {}
  for key, first in examples[0].items():
    if not np.ndim(first):
      batch[key] = np.array([example[key] for example in examples])
      continue
    batch[key] = np.empty((len(examples), *first.shape), first.dtype)
    for row, example in zip(batch[key], examples, strict=True):
      # By planes: four times as fast as turning pixels of three bytes.
      for channel in range(first.shape[-1]):
        row[..., channel] = example[key][..., channel]
  return batch

"""Training batches as a pure function of (seed, step).

Every example is drawn independently, see `data.draws`. A resumed run therefore
needs only its step, and the number of processes or worker threads has no
influence on the batches.
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
  """A source of training examples.

  Attributes:
    names: One name per image, in the order of the indices.
    skipped: (name, reason) of each file that is not part of the source.
  """

  @property
  def names(self) -> tuple[str, ...]: ...

  @property
  def skipped(self) -> tuple[tuple[str, str], ...]: ...

  def example(self, draw: Draw) -> Arrays:
    """The example that a draw selects, as views if possible."""
    ...

  def check_scales(self, scales: tuple[float, ...]) -> None:
    """Refuses scales for which the source has no images."""
    ...

  def digest(self) -> str:
    """Digest of the names and contents of all images, 64 hexadecimal digits.

    The digest does not change when the files move to another folder.
    """
    ...


class ImagesSource(draws.Images, Protocol):
  """A source from which fixed crops can be cut."""

  def centred(self, index: int, size: int, scale: int) -> Arrays:
    """The central crop of the images at an index."""
    ...

  def check_scales(self, scales: tuple[float, ...]) -> None:
    """Refuses scales for which the source has no images."""
    ...


@dataclasses.dataclass(frozen=True)
class BatchSpec:
  """The specification of batches.

  Attributes:
    batch_size: Number of examples per step in all processes.
    patch: Side of an LR crop. The HR crop is `scale` times as large, rounded
      down.
    scales: Scales, one of which is drawn for each step; they need not be whole.
    seed: Seed of all random choices.
    augment: Whether crops are flipped and transposed at random, and their
      references independently.
    reference_size: Side of a reference's crop; 0 takes the side of HR crops.
    margins: Margin on every side of the HR crops for each scale, in LR pixels;
      () for none. It holds the pixels around the crop in its image. Pairs with
      real LR images have no margin.
    min_gradient: Least root mean square difference of neighbouring pixels in
      an HR crop, in grey levels of 255; flatter crops are drawn again.
    process_index: Index of this process, which draws only its rows of a batch.
    process_count: Number of processes; it divides `batch_size`.
  """

  batch_size: int
  patch: int
  scales: tuple[float, ...]
  seed: int
  augment: bool = True
  reference_size: int = 0
  margins: tuple[int, ...] = ()
  min_gradient: float = 0.0
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
    if self.min_gradient and self.crop_size < 2:
      raise UserError(
        f'min_gradient={self.min_gradient}: a crop of one pixel has no'
        ' gradient; raise patch'
      )
    if not 0 <= self.seed < 2**64:
      raise UserError(f'seed={self.seed}: choose from 0 to 2**64 - 1')
    if not 0 <= self.process_index < self.process_count:
      raise UserError(
        f'process_index={self.process_index} with '
        f'process_count={self.process_count}; count from 0'
      )

  def margin(self, scale: float) -> int:
    """Margin of the HR crops of a scale on every side, in HR pixels."""
    if not self.margins:
      return 0
    return round(self.margins[self.scales.index(scale)] * rational(scale))

  @property
  def crop_size(self) -> int:
    """Side of the largest HR crop, which is the `min_size` of sources."""
    return covered_size(self.patch, max(self.scales))

  @property
  def rows(self) -> range:
    """The rows of a batch that belong to this process."""
    size = self.batch_size // self.process_count
    return range(self.process_index * size, (self.process_index + 1) * size)

  def draw(self, step: int, row: int, scale: float) -> Draw:
    """The draw of one row of the batch of one step."""
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
      min_gradient=self.min_gradient,
    )


def sample(source: Source, spec: BatchSpec, step: int) -> tuple[Arrays, float]:
  """Samples this process's rows of the batch of one step.

  Images, crops within them, and the eight flips and transpositions of a square
  are each drawn uniformly.

  Returns:
    The arrays of the batch by name, and the scale of the step, an int if it is
    whole. Images have the levels of the source (uint8 in most cases).

      'hr'          `[b, P * scale, P * scale, 3]`, with the margin of `spec`
      'lr'          `[b, P, P, 3]`, real LR images of a paired source
      'labels'      `[b, P * scale, P * scale, 1]` uint8 of label maps
      'labelled'    `[b]` bool, for a mixed source: the rows that have HR,
                    which come first and are those of the labelled source alone
      'unlabelled'  `[b, P, P, 3]`, the LR images of the other rows
      'ref'         `[b, R, R, 3]`, for a source with references

    Arrays are zero in rows that lack them. For a ranked source the arrays are
    'first' and 'second', uint8 `[b, P, P, 3]`, which are the same crop of two
    levels, and 'score_first' and 'score_second', float32 `[b]`, where higher is
    worse.
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
    source: The source of examples.
    spec: The specification of batches.
    start_step: The first step.
    num_steps: The end of the steps, as in `range(start_step, num_steps)`. A
      resumed run passes its step and the same `num_steps`.
    workers: Number of threads that prepare batches; 0 prepares them in the
      caller's thread.
    prefetch: Number of batches that are prepared in advance.

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

  The images are evenly spaced among those that are at least `size` high and
  wide. There are fewer crops than `count` if there are fewer such images.

  Args:
    source: The source of images.
    size: Side of an HR crop, a multiple of `scale`.
    count: Largest number of crops, one per image; at least 1.
    scale: Size of HR over size of LR.

  Returns:
    `{'hr': uint8 [N, size, size, 3]}`, for a paired source also
    `'lr': uint8 [N, size / scale, size / scale, 3]`, for a source with
    references `'ref': uint8 [N, size, size, 3]`, the crop of the first
    reference at the same place.

  Raises:
    UserError: `size` is no multiple of `scale`, or no image is large enough.
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
      # Copying plane by plane is four times as fast as pixels of three bytes.
      for channel in range(first.shape[-1]):
        row[..., channel] = example[key][..., channel]
  return batch

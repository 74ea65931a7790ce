"""The random choices of one training example, and the crops they select.

They come from a counter-based generator (Philox: Salmon et al., "Parallel
random numbers: as easy as 1, 2, 3", SC 2011) whose counter is (step, row). So
a resumed run needs only its step, and the number of processes or worker
threads changes nothing.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from sr_jax.errors import UserError
from sr_jax.ops.scales import covered_size

Arrays = dict[str, np.ndarray]

# Keys of the independent streams of one seed.
EXAMPLES, SCALES, REFERENCES = 0, 1, 2


class Draw(NamedTuple):
  """What decides about one example of one step.

  Attributes:
    seed: Seed of the run.
    step: Step of the batch.
    row: Row of the example within the batch of all processes.
    batch_size: Examples of the step over all processes.
    patch: Side of an LR crop.
    scale: Size of HR over size of LR.
    augment: Whether crops are flipped and transposed at random.
    reference_size: Side of a reference's crop, 0 for that of the HR crop.
    margin: HR pixels by which the HR crop is wider on every side, where its LR
      is still to be made.
  """

  seed: int
  step: int
  row: int
  batch_size: int
  patch: int
  scale: float
  augment: bool = True
  reference_size: int = 0
  margin: int = 0

  @property
  def crop_size(self) -> int:
    """Side of the HR crop."""
    return covered_size(self.patch, self.scale)

  def words(self, stream: int) -> list[int]:
    """Four independent integers in [0, 2**64) of this example."""
    return random_words(self.seed, stream, self.step, self.row)

  def turned(self, crop: np.ndarray, coins: int) -> np.ndarray:
    """The crop, flipped and transposed by three coins if `augment` asks."""
    return dihedral(crop, coins) if self.augment else crop


def random_words(seed: int, stream: int, step: int, row: int) -> list[int]:
  """Four independent integers in [0, 2**64): one block of Philox.

  Raw words, because NumPy may change how its distributions use them.
  """
  philox = np.random.Philox(
    key=np.array([seed, stream], np.uint64),
    counter=np.array([0, row, step, 0], np.uint64),
  )
  return philox.random_raw(4).tolist()


def words_of_rows(seed: int, stream: int, step: int, rows: range) -> np.ndarray:
  """Four independent integers for each of several rows, `[rows, 4]` uint64.

  Other integers than those of `random_words`, in a hundredth of the time. Those
  of a row depend on no other row.
  """
  philox = np.random.Philox(
    key=np.array([seed, stream], np.uint64),
    counter=np.array([rows.start, 0, step, 0], np.uint64),
  )
  return philox.random_raw(4 * len(rows)).reshape(-1, 4)


class Images(Protocol):
  """HR images by index, with the other images that show the same.

  Attributes:
    names: One name per image, in the order of the indices.
    grid: Step between the corners of HR crops, in pixels.
  """

  @property
  def names(self) -> tuple[str, ...]: ...

  @property
  def grid(self) -> int: ...

  def __len__(self) -> int: ...

  def whole(self, index: int) -> Arrays:
    """The whole images `[H, W, C]`: `hr`, and perhaps `lr` and `labels`."""
    ...

  def typed(self, crops: Arrays) -> Arrays:
    """Crops of any image in the types that all crops of a batch have."""
    ...


class Cropped(NamedTuple):
  """One crop of the images at one index.

  Attributes:
    index: Index of the images.
    place: (row, column) of the HR crop's centre, as shares of the sides.
    crops: The crops as views of the images, not yet turned.
    coins: Integer whose three lowest bits turn them; more bits follow.
  """

  index: int
  place: tuple[float, float]
  crops: Arrays
  coins: int


def crop(images: Images, draw: Draw) -> Cropped:
  """The crop that a draw selects, uniform over images and then places.

  Raises:
    UserError: the image is smaller than the crop.
  """
  words = draw.words(EXAMPLES)
  index, size, grid = words[0] % len(images), draw.crop_size, images.grid
  found = images.whole(index)
  height, width = found['hr'].shape[:2]
  if min(height, width) < size:
    raise UserError(
      f'{images.names[index]}: {width}x{height} is smaller than the crop of '
      f'{size}x{size}; it changed, or the source was opened for smaller crops'
    )
  top = words[1] % ((height - size) // grid + 1) * grid
  left = words[2] % ((width - size) // grid + 1) * grid
  place = (top + size / 2) / height, (left + size / 2) / width
  crops = cut(found, top, left, size, grid)
  if draw.margin and 'lr' not in found:
    crops['hr'] = wider(found['hr'], top, left, size, draw.margin)
  return Cropped(index, place, images.typed(crops), words[3])


def example(images: Images, draw: Draw) -> Arrays:
  """The crops that a draw selects, turned alike."""
  found = crop(images, draw)
  return {k: draw.turned(v, found.coins) for k, v in found.crops.items()}


def centred(images: Images, index: int, size: int, scale: int) -> Arrays:
  """The crop in the middle, with its corner at multiples of `scale`."""
  found = images.whole(index)
  height, width = found['hr'].shape[:2]
  top = (height - size) // 2 // scale * scale
  left = (width - size) // 2 // scale * scale
  return images.typed(cut(found, top, left, size, scale))


def cut(images: Arrays, top: int, left: int, size: int, scale: int) -> Arrays:
  """The HR crop at (top, left), and the crops of the others that show it."""
  crops = {}
  for key, image in images.items():
    y, x, side = (n // (scale if key == 'lr' else 1) for n in (top, left, size))
    crops[key] = image[y : y + side, x : x + side]
  return crops


def wider(
  image: np.ndarray, top: int, left: int, size: int, margin: int
) -> np.ndarray:
  """The crop at (top, left) and `margin` pixels beside it on every side.

  Beyond the image's border is its mirror image, as in MATLAB's `imresize`.
  """
  view, beyond = [], []
  for start, length in zip((top, left), image.shape[:2], strict=True):
    first, last = start - margin, start + size + margin
    view.append(slice(max(first, 0), min(last, length)))
    beyond.append((max(-first, 0), max(last - length, 0)))
  crop = image[tuple(view)]
  if not np.any(beyond):
    return crop
  return np.pad(crop, [*beyond, (0, 0)], mode='symmetric')


def dihedral(crop: np.ndarray, coins: int) -> np.ndarray:
  """Flips and transposes a square `[S, S, C]` by the three lowest bits."""
  if coins & 1:
    crop = crop[:, ::-1]
  if coins & 2:
    crop = crop[::-1]
  return crop.swapaxes(0, 1) if coins & 4 else crop

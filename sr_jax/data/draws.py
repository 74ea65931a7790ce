"""The random choices of one training example, and the crops they select.

The choices come from a counter-based generator (Philox: Salmon et al.,
"Parallel random numbers: as easy as 1, 2, 3", SC 2011) whose counter is (step,
row). A resumed run therefore needs only its step, and the number of processes
or worker threads has no influence.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from sr_jax.errors import UserError
from sr_jax.ops.scales import covered_size

Arrays = dict[str, np.ndarray]

# Keys of the independent streams of one seed.
EXAMPLES, SCALES, REFERENCES = 0, 1, 2
# Most crops that are drawn for one example.
_ATTEMPTS = 10


class Draw(NamedTuple):
  """The random draw of one example of one step.

  Attributes:
    seed: Seed of the run.
    step: Step of the batch.
    row: Row of the example within the batch of all processes.
    batch_size: Number of examples of the step in all processes.
    patch: Side of an LR crop.
    scale: Size of HR divided by size of LR.
    augment: Whether crops are flipped and transposed at random.
    reference_size: Side of a reference's crop; 0 takes the side of the HR crop.
    margin: Margin of the HR crop on every side in HR pixels, if its LR image is
      made from it.
    min_gradient: Least root mean square difference of neighbouring pixels in
      the HR crop, in grey levels of 255; see `crop`.
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
  min_gradient: float = 0.0

  @property
  def crop_size(self) -> int:
    """Side of the HR crop."""
    return covered_size(self.patch, self.scale)

  def words(self, stream: int, attempt: int = 0) -> list[int]:
    """Four independent integers in [0, 2**64) of an attempt at this example."""
    return random_words(self.seed, stream, self.step, self.row, attempt)

  def turned(self, crop: np.ndarray, coins: int) -> np.ndarray:
    """Flips and transposes the crop by three random bits if `augment`."""
    return dihedral(crop, coins) if self.augment else crop


def random_words(
  seed: int, stream: int, step: int, row: int, attempt: int = 0
) -> list[int]:
  """Four independent integers in [0, 2**64): one block of Philox.

  The raw words are used, because NumPy may change its distributions.
  """
  philox = np.random.Philox(
    key=np.array([seed, stream], np.uint64),
    counter=np.array([attempt, row, step, 0], np.uint64),
  )
  return philox.random_raw(4).tolist()


def words_of_rows(seed: int, stream: int, step: int, rows: range) -> np.ndarray:
  """Four independent integers for each of several rows, `[rows, 4]` uint64.

  The integers differ from those of `random_words`, and take a hundredth of the
  time. The integers of a row do not depend on other rows.
  """
  philox = np.random.Philox(
    key=np.array([seed, stream], np.uint64),
    counter=np.array([rows.start, 0, step, 0], np.uint64),
  )
  return philox.random_raw(4 * len(rows)).reshape(-1, 4)


class Images(Protocol):
  """HR images by index, with the LR images and label maps of the same scenes.

  Attributes:
    names: One name per image, in the order of the indices.
    grid: Corners of HR crops are multiples of this number of pixels.
  """

  @property
  def names(self) -> tuple[str, ...]: ...

  @property
  def grid(self) -> int: ...

  def __len__(self) -> int: ...

  def whole(self, index: int) -> Arrays:
    """The whole images `[H, W, C]`: `hr`, and any `lr` and `labels`."""
    ...

  def typed(self, crops: Arrays) -> Arrays:
    """Converts crops to the types that all crops of a batch have."""
    ...


class Cropped(NamedTuple):
  """One crop of the images at one index.

  Attributes:
    index: Index of the images.
    place: (row, column) of the HR crop's centre, as shares of the sides.
    crops: The crops as views of the images, before flips.
    coins: Integer whose three lowest bits flip and transpose the crops; further
      bits are free.
  """

  index: int
  place: tuple[float, float]
  crops: Arrays
  coins: int


def crop(images: Images, draw: Draw) -> Cropped:
  """Returns the crop of a draw, uniform over images and over places in them.

  A crop flatter than `draw.min_gradient` is drawn again. Of ten crops that are
  all too flat, the one with the largest gradient is taken.

  Raises:
    UserError: The image is smaller than the crop.
  """
  best = _crop(images, draw, 0)
  if not draw.min_gradient:
    return best
  gradient = _gradient(best, draw)
  for attempt in range(1, _ATTEMPTS):
    if gradient >= draw.min_gradient:
      break
    found = _crop(images, draw, attempt)
    if _gradient(found, draw) > gradient:
      best, gradient = found, _gradient(found, draw)
  return best


def _gradient(found: Cropped, draw: Draw) -> float:
  """`rms_gradient` of the HR crop without its margin."""
  hr = found.crops['hr']
  margin = (len(hr) - draw.crop_size) // 2
  inside = slice(margin, len(hr) - margin)
  return rms_gradient(hr[inside, inside])


def rms_gradient(image: np.ndarray) -> float:
  """Root mean square difference of neighbouring pixels, in levels of 255.

  MZSR (Soh et al., CVPR 2020) trains on crops of 12.7 or more: the logarithm of
  the mean over pixels of both squared differences, of values in [0, 1], is at
  least -6.

  Args:
    image: `[H, W, C]`, at least 2x2 pixels; integers or floats in [0, 1].
  """
  white = np.iinfo(image.dtype).max if image.dtype.kind == 'u' else 1.0
  pixels = image.astype(np.float32) * (255 / white)
  corner = pixels[:-1, :-1]
  squares = (corner - pixels[1:, :-1]) ** 2 + (corner - pixels[:-1, 1:]) ** 2
  return float(np.sqrt(squares.mean()))


def _crop(images: Images, draw: Draw, attempt: int) -> Cropped:
  words = draw.words(EXAMPLES, attempt)
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
  """Returns the crops of a draw, flipped and transposed in the same way."""
  found = crop(images, draw)
  return {k: draw.turned(v, found.coins) for k, v in found.crops.items()}


def centred(images: Images, index: int, size: int, scale: int) -> Arrays:
  """Returns the central crop, whose corner is at a multiple of `scale`."""
  found = images.whole(index)
  height, width = found['hr'].shape[:2]
  top = (height - size) // 2 // scale * scale
  left = (width - size) // 2 // scale * scale
  return images.typed(cut(found, top, left, size, scale))


def cut(images: Arrays, top: int, left: int, size: int, scale: int) -> Arrays:
  """Cuts the HR crop at (top, left), and its region of the other images."""
  crops = {}
  for key, image in images.items():
    y, x, side = (n // (scale if key == 'lr' else 1) for n in (top, left, size))
    crops[key] = image[y : y + side, x : x + side]
  return crops


def wider(
  image: np.ndarray, top: int, left: int, size: int, margin: int
) -> np.ndarray:
  """Cuts the crop at (top, left) with a margin of `margin` pixels.

  Beyond its border the image is mirrored, as in MATLAB's `imresize`.
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

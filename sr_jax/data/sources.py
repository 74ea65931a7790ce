"""Image sources: sequences of images `[H, W, 3]`, opened on access.

Every image is decoded once, when the source is made, so that an unusable file
is reported at the start and not in the middle of a run. `data.opening` opens
the sources that a config names.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import logging
import pathlib
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from sr_jax.data import cache, draws, folders
from sr_jax.data.draws import Arrays, Draw
from sr_jax.data.sifting import OnBad, sift, size_of, too_small
from sr_jax.errors import UserError
from sr_jax.ops import levels

_log = logging.getLogger(__name__)

PathLike = cache.PathLike
Skipped = folders.Skipped

# Colour photographs inside scikit-image's wheel; motorcycle_right shows the
# scene of motorcycle_left once more and is left out.
EMBEDDED = (
  'astronaut.png',
  'chelsea.png',
  'coffee.png',
  'hubble_deep_field.jpg',
  'motorcycle_left.png',
  'rocket.jpg',
)


_UINT8 = np.dtype(np.uint8)


@dataclasses.dataclass(frozen=True)
class ImageSource:
  """Images by index: `source[i]` is an array `[H, W, 3]` on its own levels.

  Attributes:
    names: One name per image, in the order of the indices.
    openers: One function per image that opens it as a memory map.
    skipped: (name, reason) of each file that is not part of the source.
    labels: One function per image that opens its label map, uint8 `[H, W, 1]`;
      empty if there are none.
    dtype: Type of all crops, which holds the levels of every image: uint8,
      uint16, or float32 in [0, 1].
  """

  names: tuple[str, ...]
  openers: tuple[Callable[[], np.ndarray], ...]
  skipped: Skipped = ()
  labels: tuple[Callable[[], np.ndarray], ...] = ()
  dtype: np.dtype = _UINT8

  grid = 1

  def __len__(self) -> int:
    return len(self.names)

  def __getitem__(self, index: int) -> np.ndarray:
    return self.openers[index]()

  @property
  def hr(self) -> ImageSource:
    """The source of HR images, which is this source."""
    return self

  def whole(self, index: int) -> Arrays:
    """The image as `hr`, and its label map as `labels` if there are any."""
    found = {'hr': self[index]}
    if self.labels:
      found['labels'] = self.labels[index]()
    # Crops of plain arrays are faster than crops of memory maps.
    return {key: np.asarray(image) for key, image in found.items()}

  def typed(self, crops: Arrays) -> Arrays:
    """Converts HR crops to the levels of `dtype`."""
    return crops | {'hr': levels.widened(crops['hr'], self.dtype)}

  def example(self, draw: Draw) -> Arrays:
    """The crops that a draw selects."""
    return draws.example(self, draw)

  def centred(self, index: int, size: int, scale: int) -> Arrays:
    """The central crop of the image at an index."""
    return draws.centred(self, index, size, scale)

  def check_scales(self, scales: tuple[float, ...]) -> None:
    """Accepts all scales, because LR is made from HR."""

  def kept(self, keep: Sequence[int]) -> ImageSource:
    """Returns a source of the images at some indices."""
    return dataclasses.replace(
      self,
      names=tuple(self.names[i] for i in keep),
      openers=tuple(self.openers[i] for i in keep),
      labels=tuple(self.labels[i] for i in keep) if self.labels else (),
    )

  def with_labels(
    self, openers: Sequence[Callable[[], np.ndarray]]
  ) -> ImageSource:
    """Returns a source of the images with label maps."""
    return dataclasses.replace(self, labels=tuple(openers))

  def digest(self) -> str:
    """See `batches.Source`."""
    contents = map(cache.content_digest, (*self.openers, *self.labels))
    return combined_digest((*self.names, *contents))


@dataclasses.dataclass(frozen=True)
class PairedSource:
  """Aligned pairs by index: `source[i]` is `(lr, hr)` with hr = scale * lr.

  Attributes:
    lr: LR images `[H, W, 3]`.
    hr: HR images of at least `[scale * H, scale * W, 3]`; further rows and
      columns (fewer than `scale`) are cut off.
    scale: Size of HR over size of LR.
    skipped: (name, reason) of each file that is not part of the source.
  """

  lr: ImageSource
  hr: ImageSource
  scale: int
  skipped: Skipped = ()

  @property
  def names(self) -> tuple[str, ...]:
    return self.hr.names

  @property
  def grid(self) -> int:
    """HR crops begin on the grid of the LR image."""
    return self.scale

  def __len__(self) -> int:
    return len(self.hr)

  def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
    found = self.whole(index)
    return found['lr'], found['hr']

  def whole(self, index: int) -> Arrays:
    """The images as `lr` and `hr`, and a label map as `labels` if any."""
    lr = np.asarray(self.lr[index])
    height, width = (self.scale * n for n in lr.shape[:2])
    found = self.hr.whole(index)
    return {'lr': lr, **found, 'hr': found['hr'][:height, :width]}

  def typed(self, crops: Arrays) -> Arrays:
    """Converts crops to the levels of their sources."""
    lr = levels.widened(crops['lr'], self.lr.dtype)
    return self.hr.typed(crops) | {'lr': lr}

  def example(self, draw: Draw) -> Arrays:
    """The crops that a draw selects."""
    return draws.example(self, draw)

  def centred(self, index: int, size: int, scale: int) -> Arrays:
    """The central crops of the pair at an index."""
    return draws.centred(self, index, size, scale)

  def check_scales(self, scales: tuple[float, ...]) -> None:
    """Refuses all scales but the scale of the pairs."""
    if set(scales) != {self.scale}:
      raise UserError(
        f'scales {scales}: the pairs are of scale {self.scale}; choose that'
      )

  def kept(self, keep: Sequence[int]) -> PairedSource:
    """Returns a source of the pairs at some indices."""
    return dataclasses.replace(
      self, lr=self.lr.kept(keep), hr=self.hr.kept(keep)
    )

  def with_labels(
    self, openers: Sequence[Callable[[], np.ndarray]]
  ) -> PairedSource:
    """Returns a source of the pairs with label maps."""
    return dataclasses.replace(self, hr=self.hr.with_labels(openers))

  def digest(self) -> str:
    """See `batches.Source`."""
    return combined_digest((self.lr.digest(), self.hr.digest()))


@dataclasses.dataclass(frozen=True)
class MixedSource:
  """A source of images with HR, and of LR images without HR.

  Attributes:
    labelled: Source of HR images or pairs.
    unlabelled: Source of LR images without HR.
    share: Share of every batch that has no HR, from 0 to 1.
  """

  labelled: ImageSource | PairedSource
  unlabelled: ImageSource
  share: float

  def __post_init__(self) -> None:
    if not 0 <= self.share <= 1:
      raise UserError(f'unlabelled_share={self.share:g}: give 0 to 1')

  @property
  def names(self) -> tuple[str, ...]:
    return (*self.labelled.names, *self.unlabelled.names)

  @property
  def skipped(self) -> Skipped:
    return (*self.labelled.skipped, *self.unlabelled.skipped)

  def example(self, draw: Draw) -> Arrays:
    """The crops of an image with or without HR; missing arrays are zero."""
    alone = round(self.share * draw.batch_size)
    known = draw.row < draw.batch_size - alone
    if known:
      found = self.labelled.example(draw)
    else:
      crop = self.unlabelled.example(draw._replace(scale=1, margin=0))['hr']
      found = {'unlabelled': crop}
    paired = isinstance(self.labelled, PairedSource)
    margin = 0 if paired else draw.margin
    lacking = {
      'hr': _blank(draw.crop_size + 2 * margin, self.labelled.hr.dtype),
      'unlabelled': _blank(draw.patch, self.unlabelled.dtype),
    }
    if isinstance(self.labelled, PairedSource):
      lacking['lr'] = _blank(draw.patch, self.labelled.lr.dtype)
    return lacking | found | {'labelled': np.asarray(known)}

  def check_scales(self, scales: tuple[float, ...]) -> None:
    """Refuses scales for which the labelled source has no images."""
    self.labelled.check_scales(scales)

  def digest(self) -> str:
    """See `batches.Source`."""
    return combined_digest((self.labelled.digest(), self.unlabelled.digest()))


def _blank(side: int, dtype: np.dtype) -> np.ndarray:
  return np.broadcast_to(dtype.type(0), (side, side, 3))


def combined_digest(parts: Sequence[str]) -> str:
  """Digest of a list of words, in their order."""
  text = '\n'.join((str(len(parts)), *parts))
  return hashlib.sha256(text.encode(errors='surrogateescape')).hexdigest()


def folder_source(
  path: PathLike,
  *,
  min_size: int,
  on_bad: OnBad = 'refuse',
  cache_dir: PathLike | None = None,
  peak: float = 0.0,
) -> ImageSource:
  """Opens every image file under a folder, in the order of relative paths.

  Args:
    path: The folder; files that `folders.passed_over` names are ignored.
    min_size: Smallest accepted height and width of an image.
    on_bad: `refuse` raises an error for an unusable file, `skip` leaves it out.
    cache_dir: Folder of the decoded images, by default `default_cache_dir()`.
    peak: The value of white, see `image_io.read_native`.

  Raises:
    UserError: No image is usable, or a file is unusable (corrupt, smaller than
      `min_size`, or no image) and `on_bad` is `refuse`.
  """
  images, bad = folders.list_images(path)
  openers = [
    cache.image_file(file, cache_dir, peak=peak) for file in images.values()
  ]
  return checked(
    f'folder {path}', tuple(images), openers, bad, min_size, on_bad
  )


def embedded_file(
  name: str, cache_dir: PathLike | None = None
) -> Callable[[], np.ndarray]:
  """Opens one of the photographs inside scikit-image's wheel."""
  return cache.image_file(_embedded_folder() / name, cache_dir)


def _embedded_folder() -> pathlib.Path:
  package = importlib.util.find_spec('skimage')
  if package is None or package.origin is None:
    raise UserError('source embedded: install scikit-image')
  return pathlib.Path(package.origin).parent / 'data'


def embedded_source(
  min_size: int, *, cache_dir: PathLike | None = None
) -> ImageSource:
  """Opens the photographs in scikit-image's wheel.

  Photographs smaller than `min_size` are left out and listed in `skipped`.
  """
  openers = [embedded_file(name, cache_dir) for name in EMBEDDED]
  return checked('source embedded', EMBEDDED, openers, (), min_size, 'skip')


def paired_source(
  lr_dir: PathLike,
  hr_dir: PathLike,
  scale: int,
  *,
  min_size: int,
  on_bad: OnBad = 'refuse',
  cache_dir: PathLike | None = None,
  peak: float = 0.0,
) -> PairedSource:
  """Opens pairs of an LR and an HR folder, matched by their relative paths.

  Names are matched by `folders.match_lr`. HR must have `scale` times the size
  of LR after its sides are cut to multiples of `scale`.

  Args:
    lr_dir: Folder of the LR images.
    hr_dir: Folder of the HR images.
    scale: Size of HR over size of LR.
    min_size: Smallest accepted height and width of an HR image.
    on_bad: `refuse` raises an error for an unusable file, `skip` leaves it out.
    cache_dir: Folder of the decoded images, by default `default_cache_dir()`.
    peak: The value of white, see `image_io.read_native`.

  Raises:
    UserError: No pair is usable, or a file is unusable and `on_bad` is
      `refuse`.
  """
  where = f'pairs {lr_dir}, {hr_dir}'
  lr_images, lr_bad = folders.list_images(lr_dir)
  hr_images, hr_bad = folders.list_images(hr_dir)
  pairs, faults, unused = folders.match_lr(hr_images, lr_images, scale)
  unmatched = [
    *faults.items(),
    *((name, 'LR image without an HR image') for name in unused),
  ]

  def openers(files: Iterable[pathlib.Path]) -> list[cache.CachedImage]:
    return [
      cache.image_file(file, cache_dir, peak=peak, one_range=True)
      for file in files
    ]

  lr_openers = openers(lr_images[name] for name in pairs.values())
  hr_openers = openers(hr_images[name] for name in pairs)
  names = tuple(pairs)

  def check(index: int) -> str | None:
    lr, hr = lr_openers[index](), hr_openers[index]()
    if (hr.shape[0] // scale, hr.shape[1] // scale) != lr.shape[:2]:
      return f'{size_of(hr)} is not {scale} times its LR image of {size_of(lr)}'
    return too_small(hr, min_size)

  keep, skipped = sift(
    where, names, check, (*lr_bad, *hr_bad, *unmatched), on_bad
  )
  return PairedSource(
    lr=pick(f'LR of {where}', tuple(pairs.values()), lr_openers, keep),
    hr=pick(f'HR of {where}', names, hr_openers, keep),
    scale=scale,
    skipped=skipped,
  )


def checked(
  where: str,
  names: Sequence[str],
  openers: Sequence[Callable[[], np.ndarray]],
  bad: Skipped,
  min_size: int,
  on_bad: OnBad,
) -> ImageSource:
  """Makes a source of the images that can be opened and are large enough."""

  def check(index: int) -> str | None:
    return too_small(openers[index](), min_size)

  keep, skipped = sift(where, names, check, bad, on_bad)
  return dataclasses.replace(pick(where, names, openers, keep), skipped=skipped)


def pick(
  where: str,
  names: Sequence[str],
  openers: Sequence[Callable[[], np.ndarray]],
  keep: Sequence[int],
) -> ImageSource:
  """Makes a source of images at some indices; `where` names it in messages."""
  kept = tuple(openers[i] for i in keep)
  return ImageSource(
    names=tuple(names[i] for i in keep),
    openers=kept,
    dtype=common_dtype(where, kept),
  )


def common_dtype(
  where: str, openers: Sequence[Callable[[], np.ndarray]]
) -> np.dtype:
  """Returns the type that holds the levels of all images.

  A warning is given if 16-bit images use few of their levels, as unscaled
  12-bit data do.
  """
  dtype = levels.widest({opener().dtype for opener in openers})
  if dtype == np.uint16:
    limit, largest = int(levels.peak(dtype)) // 8, 0
    for opener in openers:  # almost always the first image is enough
      image = opener()
      largest = max(largest, int(levels.widened(image, dtype).max()))
      if largest > limit:
        return dtype
    _log.warning(
      '%s: no value exceeds %d of 65535: if white is a smaller value, such as'
      ' 4095 of 12 bits, set data.peak to it',
      *(where, largest),
    )
  return dtype

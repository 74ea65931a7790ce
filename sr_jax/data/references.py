"""References: sharp photographs that lend their texture to others.

A config says where the references of its images come from:

  self         crops of the image itself that are shifted, rotated, scaled and
               recoloured
  shifted      crops of the image itself that are only shifted, by up to 14
               pixels (`shifted:4`: up to 4). They resemble neighbouring views,
               for a network that warps its references
  embedded     the right view of scikit-image's stereo pair. The left view is
               then the only image
  folder:PATH  (or the plain path) files that are matched by name, see
               `match_references`. CUFED has a folder of images and one of
               references, CUFED5 has both in the same folder
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from sr_jax.data import cache, draws, folders, sources
from sr_jax.data.draws import Arrays, Draw
from sr_jax.data.sources import ImageSource, OnBad, PairedSource, PathLike
from sr_jax.errors import UserError
from sr_jax.ops import levels

# Limits of the changes of self-made references: rotation in degrees, factor of
# the size, and changes of brightness and gain.
_TURN, _ZOOM, _SHADE, _GAIN = 15.0, 1.25, 0.1, 0.2
# Largest shift along each axis in pixels, as CrossNet uses it for the data set
# Flower.
_SHIFT = 14
_SHIFTED = re.compile(r'shifted(?::([1-9][0-9]{0,2}))?')
# Names such as a/001_2.
_NUMBERED = re.compile(r'(.+)_([1-9][0-9]*)')
_STEREO = 'motorcycle_left.png', 'motorcycle_right.png'


@dataclasses.dataclass(frozen=True)
class ReferencedSource:
  """Images with references; `source.reference(i, ...)` cuts out a crop of one.

  Attributes:
    images: The images, with their LR images if they have any.
    references: One tuple of openers per image; empty for self-made ones.
    skipped: (name, reason) of each file that is not part of the source.
    shift: Largest shift in pixels of references of the kind `shifted`; 0 for
      the other kinds.
    dtype: Type of the crops of references. None for self-made references, which
      have the type of the images.
  """

  images: ImageSource | PairedSource
  references: tuple[tuple[Callable[[], np.ndarray], ...], ...]
  skipped: sources.Skipped = ()
  shift: int = 0
  dtype: np.dtype | None = None

  @property
  def names(self) -> tuple[str, ...]:
    return self.images.names

  @property
  def grid(self) -> int:
    """Step between the corners of HR crops."""
    return self.images.grid

  def __len__(self) -> int:
    return len(self.images)

  def whole(self, index: int) -> Arrays:
    """The whole images, without references."""
    return self.images.whole(index)

  def typed(self, crops: Arrays) -> Arrays:
    """Converts the crops of images to the levels of their sources."""
    return self.images.typed(crops)

  def example(self, draw: Draw) -> Arrays:
    """The crops that a draw selects, and one of a reference.

    The crop of the reference is flipped and transposed independently.
    """
    found = draws.crop(self.images, draw)
    crops = {k: draw.turned(v, found.coins) for k, v in found.crops.items()}
    side = draw.reference_size or draw.crop_size
    words = draw.words(draws.REFERENCES)
    reference = self.reference(found.index, found.place, side, words)
    return crops | {'ref': draw.turned(reference, found.coins >> 3)}

  def centred(self, index: int, size: int, scale: int) -> Arrays:
    """The central crops, and that of the first reference at the same place."""
    crops = draws.centred(self.images, index, size, scale)
    words = [0, *draws.random_words(0, draws.REFERENCES, 0, index)[1:]]
    return crops | {'ref': self.reference(index, (0.5, 0.5), size, words)}

  def check_scales(self, scales: tuple[float, ...]) -> None:
    """Refuses scales for which there are no images."""
    self.images.check_scales(scales)

  def digest(self) -> str:
    """See `batches.Source`."""
    contents = [
      cache.content_digest(opener)
      for openers in self.references
      for opener in openers
    ]
    counts = [str(len(openers)) for openers in self.references]
    return sources.combined_digest((self.images.digest(), *counts, *contents))

  def reference(
    self, index: int, place: tuple[float, float], size: int, words: list[int]
  ) -> np.ndarray:
    """Cuts a crop `[size, size, 3]` of a reference, for a crop of an image.

    Args:
      index: Index of the image.
      place: (row, column) of the centre of the image's crop, as shares of the
        image's sides.
      size: Side of the reference's crop.
      words: Four random integers in [0, 2**64), which decide all choices.
    """
    if not self.references:
      image = np.asarray(self.images.hr[index])
      if self.shift:
        crop = _shifted(image, place, size, words, self.shift)
      else:
        crop = _remade(image, place, size, words)
    else:
      openers = self.references[index]
      image = np.asarray(openers[words[0] % len(openers)]())
      crop = _cut(image, place, size)
    return levels.widened(crop, self.dtype or self.images.hr.dtype)


def _cut(
  image: np.ndarray, place: tuple[float, float], size: int
) -> np.ndarray:
  """Cuts a crop around a place; an image that is too small is mirrored."""
  more = [max(0, size - n) for n in image.shape[:2]]
  if any(more):
    image = np.pad(image, ((0, more[0]), (0, more[1]), (0, 0)), 'symmetric')
  top, left = (
    min(max(round(share * n - size / 2), 0), n - size)
    for share, n in zip(place, image.shape[:2], strict=True)
  )
  return image[top : top + size, left : left + size]


def _shifted(
  image: np.ndarray,
  place: tuple[float, float],
  size: int,
  words: list[int],
  most: int,
) -> np.ndarray:
  """Cuts a crop that is shifted by whole pixels, less so at the border."""
  row, column = (
    share + (word % (2 * most + 1) - most) / n
    for share, word, n in zip(place, words[1:], image.shape[:2], strict=False)
  )
  return _cut(image, (row, column), size)


def _remade(
  image: np.ndarray, place: tuple[float, float], size: int, words: list[int]
) -> np.ndarray:
  """Cuts a crop that is moved by up to half its side, rotated, recoloured."""
  from scipy import ndimage  # slow to import

  draws = _fractions(words)
  turn = math.radians(_TURN) * draws[2]
  zoom = _ZOOM ** draws[3]
  step = zoom * np.array(
    [[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]]
  )
  centre = [
    share * n - 0.5 + size / 2 * draw
    for share, n, draw in zip(place, image.shape[:2], draws[:2], strict=True)
  ]
  start = centre - step @ np.full(2, (size - 1) / 2)
  gain = 1 + _GAIN * draws[4:7]
  white = levels.peak(image.dtype)
  shade = white * _SHADE * draws[7]
  crop = np.empty((size, size, 3), image.dtype)
  for channel in range(3):
    seen = ndimage.affine_transform(
      image[..., channel].astype(np.float32),
      step,
      start,
      (size, size),
      order=3,
      mode='mirror',
    )
    seen = (gain[channel] * seen + shade).clip(0, white)
    crop[..., channel] = seen.round() if white > 1 else seen
  return crop


def _fractions(words: Sequence[int]) -> np.ndarray:
  """Makes two numbers in [-1, 1) from each word."""
  halves = [half for word in words for half in (word >> 32, word & 0xFFFFFFFF)]
  return np.array(halves) / 2**31 - 1


def with_references(
  source: ImageSource | PairedSource,
  name: str,
  *,
  folder: str,
  on_bad: OnBad,
  cache_dir: PathLike | None = None,
  peak: float = 0.0,
) -> ReferencedSource:
  """Adds the references that a config names to a source.

  Args:
    source: The images.
    name: Kind of the references, see the top of this file.
    folder: The source of the images, as the config names it.
    on_bad: `refuse` raises an error for an image without reference, `skip`
      leaves it out.
    cache_dir: Folder of the decoded images.
    peak: The value that is white, see `image_io.read_native`.

  Raises:
    UserError: The folder does not exist, or an image has no reference.
  """
  if name == 'self':
    return ReferencedSource(source, (), source.skipped)
  if found := _SHIFTED.fullmatch(name):
    shift = int(found[1] or _SHIFT)
    return ReferencedSource(source, (), source.skipped, shift)
  if name == 'embedded':
    if folder != 'embedded':
      raise UserError(
        'reference embedded: belongs only to the source embedded; give self or'
        ' a folder'
      )
    left, right = _STEREO
    opener = sources.embedded_file(right, cache_dir)
    return _keep(source, {left: (opener,)}, source.skipped)
  root = name.removeprefix('folder:')
  files = folders.list_images(root)[0]
  own = folder.removeprefix('folder:')
  together = os.path.realpath(own) == os.path.realpath(root)
  matched = match_references(source.names, files, together=together)
  if matched.faults and on_bad == 'refuse':
    image, fault = next(iter(matched.faults.items()))
    more = len(matched.faults) - 1
    others = f' (and {more} more)' if more else ''
    raise UserError(
      f"references {root}: {image}: {fault}{others}; on_bad='skip' leaves such"
      ' images out'
    )
  openers: dict[str, tuple[Callable[[], np.ndarray], ...]] = {
    image: tuple(
      cache.image_file(files[ref], cache_dir, peak=peak) for ref in refs
    )
    for image, refs in matched.pairs.items()
  }
  if not openers:
    raise UserError(f'references {root}: none belongs to any image')
  skipped = (*source.skipped, *matched.faults.items())
  return _keep(source, openers, skipped)


def _keep(
  source: ImageSource | PairedSource,
  openers: dict[str, tuple[Callable[[], np.ndarray], ...]],
  skipped: sources.Skipped,
) -> ReferencedSource:
  """Makes a source of the images that have references."""
  kept = [i for i, name in enumerate(source.names) if name in openers]
  found = tuple(openers[source.names[i]] for i in kept)
  each = [opener for several in found for opener in several]
  return ReferencedSource(
    source.kept(kept),
    found,
    skipped,
    dtype=sources.common_dtype('references', each),
  )


class Matched(NamedTuple):
  """Matched images and references, by relative paths.

  Attributes:
    pairs: References by image, the most similar first.
    faults: Reason why an image has no reference, by image.
  """

  pairs: dict[str, list[str]]
  faults: dict[str, str]


def match_references(
  images: Iterable[str],
  references: Iterable[str],
  *,
  together: bool = False,
  level: int = 0,
) -> Matched:
  """Matches images and references by their relative paths.

  The references of `a/001.png` are `a/001`, `a/001_1`, `a/001_2` and so on,
  with any suffix. The references of `a/001_0.png` are `a/001_0`, `a/001_1` and
  so on, as in CUFED5, where the similarity falls as the number rises.

  Args:
    images: Paths of the images.
    references: Paths of the references.
    together: Whether images and references are in one folder. Files that are
      references of another file are then no images, and no image is its own
      reference.
    level: Number of the references to use; 0 uses all.
  """
  images = list(images)
  by_stem: dict[str, list[str]] = {}
  numbered: dict[str, list[tuple[int, str]]] = {}
  for reference in references:
    stem = os.path.splitext(reference)[0]
    by_stem.setdefault(stem, []).append(reference)
    if found := _NUMBERED.fullmatch(stem):
      numbered.setdefault(found[1], []).append((int(found[2]), reference))
  stems = {os.path.splitext(image)[0] for image in images}
  pairs: dict[str, list[str]] = {}
  faults: dict[str, str] = {}
  for image in images:
    stem = os.path.splitext(image)[0]
    base = stem.removesuffix('_0')
    own = _NUMBERED.fullmatch(stem) if together else None
    if own and {own[1], f'{own[1]}_0'} & stems:
      continue  # it is a reference
    found = [
      name
      for number, name in sorted(numbered.get(base, ()))
      if level in (0, number)
    ]
    if not level and not together:
      found = by_stem.get(stem, []) + found
    if found:
      pairs[image] = found
    else:
      wanted = f'{base}_{level or 1}'
      faults[image] = f'no reference (looked for {wanted} and the like)'
  return Matched(pairs, faults)

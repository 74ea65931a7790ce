"""Adds label maps to the HR images of a source."""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from sr_jax.data import cache, label_maps
from sr_jax.data.folders import Skipped
from sr_jax.data.sifting import OnBad, sift, size_of
from sr_jax.data.sources import ImageSource, PairedSource
from sr_jax.errors import UserError


def with_labels(
  source: ImageSource | PairedSource,
  labels: str,
  ids: str,
  *,
  on_bad: OnBad = 'refuse',
  cache_dir: cache.PathLike | None = None,
) -> ImageSource | PairedSource:
  """Returns a source with a label map for every HR image.

  Args:
    source: The source of images.
    labels: Folder of the maps (see `label_maps`); the map of `a/0001.jpg` is
      `a/0001.png`. `brightness` makes maps from the images, for trials.
    ids: One of `label_maps.IDS`.
    on_bad: `refuse` raises an error for an image without usable map, `skip`
      leaves it out.
    cache_dir: Folder of the decoded maps, by default `default_cache_dir()`.

  Raises:
    UserError: No map is usable; or a map is missing, unreadable, has unknown
      ids or another size than its image, and `on_bad` is `refuse`.
  """
  if ids not in label_maps.IDS:
    raise UserError(f'label_ids={ids!r}: choose from {label_maps.IDS}')
  hr = source.hr
  if labels == 'brightness':
    made_up = (functools.partial(_made_up, opener) for opener in hr.openers)
    return _labelled(source, range(len(hr)), tuple(made_up), ())
  folder = pathlib.Path(labels.removeprefix('folder:'))
  if not folder.is_dir():
    raise UserError(f'labels {folder}: no such folder: check the path')
  wanted = [os.path.splitext(name)[0] + '.png' for name in hr.names]
  openers = tuple(_label_map(folder / file, ids, cache_dir) for file in wanted)

  def check(index: int) -> str | None:
    if not (folder / wanted[index]).is_file():
      return f'no label map (looked for {wanted[index]})'
    of_labels, of_image = size_of(openers[index]()), size_of(hr[index])
    if of_labels == of_image:
      return None
    return f'its label map is {of_labels}, the image {of_image}'

  keep, skipped = sift(f'labels {folder}', hr.names, check, (), on_bad)
  return _labelled(source, keep, openers, skipped)


def _made_up(opener: Callable[[], np.ndarray]) -> np.ndarray:
  return label_maps.made_up(opener())


def _label_map(
  path: pathlib.Path, ids: str, cache_dir: cache.PathLike | None
) -> cache.CachedImage:
  path = path.absolute()
  return cache.CachedImage(
    f'labels:{ids}:{path}',
    lambda: cache.stamp_of(path),
    lambda: label_maps.read_label_map(path, ids),
    cache_dir,
  )


def _labelled(
  source: ImageSource | PairedSource,
  keep: Sequence[int],
  openers: Sequence[Callable[[], np.ndarray]],
  skipped: Skipped,
) -> ImageSource | PairedSource:
  """Returns the kept images of a source with the label maps of HR."""
  kept = source.kept(keep).with_labels([openers[i] for i in keep])
  return dataclasses.replace(kept, skipped=(*source.skipped, *skipped))

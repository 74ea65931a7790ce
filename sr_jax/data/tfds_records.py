"""The examples of a prepared TFDS data set, read without TensorFlow."""

from __future__ import annotations

import json
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from sr_jax.data import cache, sources
from sr_jax.errors import UserError

# Keys of a `features.json` whose values are names of classes, in its older and
# its newer form.
_CLASS_KEYS = ('type', 'pythonClassName', 'python_class_name')
_OWN_FEATURES = 'tensorflow_datasets.core.features.'


def split_name(name: str) -> tuple[str, str]:
  """Splits `NAME[:VERSION][:SPLIT]` into `NAME[:VERSION]` and `SPLIT`."""
  version = r'(?::[\d*]+\.[\d*]+\.[\d*]+)?'
  parts = re.fullmatch(rf'([^:]+{version})(?::(.+))?', name)
  if parts is None:
    raise UserError(f'source tfds:{name}: write tfds:NAME[:SPLIT]')
  return parts[1], parts[2] or 'train'


def tfds_source(
  name: str,
  split: str,
  *,
  min_size: int,
  on_bad: sources.OnBad = 'refuse',
  feature: str | None = None,
  data_dir: cache.PathLike | None = None,
  cache_dir: cache.PathLike | None = None,
) -> sources.ImageSource:
  """Opens the images of a prepared TFDS data set, without TensorFlow.

  Args:
    name: Name for `tfds.builder`: `NAME[/CONFIG][:VERSION]`.
    split: Any split of the data set, slices included (`train[:90%]`).
    min_size: Smallest accepted height and width of an image.
    on_bad: `refuse` raises an error for an unusable image, `skip` leaves it
      out.
    feature: Key of the image in an example. The default is `image`, or `hr` if
      there is no `image`.
    data_dir: Folder of TFDS's prepared data sets.
    cache_dir: Folder of the decoded images, by default `default_cache_dir()`.

  Raises:
    UserError: The data set does not exist in a random-access format, has no
      such split or feature, or no image is usable.
  """
  builder, records = open_records(name, split, data_dir)
  feature = image_feature(name, builder.info.features, feature)
  directory = os.fspath(builder.data_path)
  stamp = cache.stamp_of(os.path.join(directory, 'dataset_info.json'))
  names = tuple(f'{split}#{index}' for index in range(len(records)))

  def image(index: int) -> cache.CachedImage:
    return cache.CachedImage(
      f'tfds:{directory}:{split}:{feature}#{index}',
      lambda: stamp,
      lambda: _repeat_grey(records[index][feature]),
      cache_dir,
    )

  openers = tuple(map(image, range(len(names))))
  return sources.checked(f'tfds:{name}', names, openers, (), min_size, on_bad)


def open_records(
  name: str, split: str, data_dir: cache.PathLike | None
) -> tuple[Any, Any]:
  """Opens a prepared data set; returns its builder and a split's examples."""
  import tensorflow_datasets as tfds  # takes half a second

  prepare = (
    f'prepare it: pip install "sr_jax[tf]", then tfds build {name} '
    '--file_format=array_record; a folder of images: see '
    'sr-jax prepare tfds --help'
  )
  _check_features(name, data_dir)
  try:
    builder: Any = tfds.builder(name, data_dir=data_dir)
  except (ValueError, AssertionError, ImportError) as error:
    raise UserError(f'tfds:{name}: {_first_line(error)} {prepare}') from error
  if not (builder.data_path / 'dataset_info.json').exists():
    raise UserError(f'tfds:{name}: not in {builder.data_path}; {prepare}')
  try:
    return builder, builder.as_data_source(split)
  except NotImplementedError as error:
    raise UserError(
      f'tfds:{name}: not stored as array_record, the only format whose examples'
      f' can be read in any order; {prepare}'
    ) from error
  except ValueError as error:
    raise UserError(f'tfds:{name}: {_first_line(error)}') from error


def _check_features(name: str, data_dir: cache.PathLike | None) -> None:
  """Refuses data sets whose files name classes outside of TFDS.

  TFDS imports the module of every class that a `features.json` names, which
  could be any module that Python finds.
  """
  from tensorflow_datasets.core import naming
  from tensorflow_datasets.core.utils import file_utils

  base = naming.camelcase_to_snakecase(re.split('[/:]', name)[0])
  for root in file_utils.list_data_dirs(given_data_dir=data_dir):
    for file in pathlib.Path(root, base).rglob('features.json'):
      try:
        classes = list(_classes(json.loads(file.read_bytes())))
      except (OSError, ValueError, RecursionError) as error:
        raise UserError(f'{file}: cannot be read: {error}') from error
      for found in classes:
        if not found.startswith(_OWN_FEATURES):
          raise UserError(
            f'{file}: names the class {found[:80]!r}: only the features of'
            f' tensorflow_datasets itself are read'
          )


def _classes(value: Any) -> Iterator[str]:
  """Names of classes anywhere in the content of a `features.json`."""
  if isinstance(value, list):
    for item in value:
      yield from _classes(item)
  if isinstance(value, dict):
    for key, item in value.items():
      if key in _CLASS_KEYS and isinstance(item, str):
        yield item
      yield from _classes(item)


def image_feature(name: str, features: Any, feature: str | None) -> str:
  """Returns the key of the image in an example."""
  feature = feature or ('image' if 'image' in features else 'hr')
  if feature not in features:
    known = ', '.join(sorted(features))
    raise UserError(f'tfds:{name}: no feature {feature!r}; it has {known}')
  kind = features[feature]
  if kind.np_dtype != np.uint8 or kind.shape[2:] not in ((1,), (3,)):
    raise UserError(
      f'tfds:{name}: {feature!r} is {kind}; only 8-bit grey and RGB serve'
    )
  return feature


def _first_line(error: BaseException) -> str:
  return str(error).partition('\n')[0]


def _repeat_grey(image: np.ndarray) -> np.ndarray:
  return np.broadcast_to(image, (*image.shape[:2], 3))

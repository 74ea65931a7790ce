"""Turns a folder of images into a TFDS data set that training can read.

    sr-jax prepare tfds FOLDER --name photos

`data.source=tfds:image_folder_sr/photos` then names it.

The examples are written as PNG into ArrayRecord files, so that neither writing
nor reading needs TensorFlow (other TFDS data sets do need it to be prepared).
"""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from sr_jax.data import sources
from sr_jax.errors import UserError


class ImageFolderSr(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Images of any size in one split, `train`, in the order of the source."""

  VERSION = tfds.core.Version('1.0.0')
  # Otherwise TFDS would look for checksums of downloads beside this file. For
  # that it uses importlib_resources, which only the extra `tf` installs.
  code_path = None

  def __init__(self, source: sources.ImageSource, **kwargs):
    """Takes the images, and the arguments of any TFDS builder."""
    self._source = source
    super().__init__(**kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description='Photographs for super-resolution.',
      features=tfds.features.FeaturesDict(
        {
          'image': tfds.features.Image(
            shape=(None, None, 3), encoding_format='png'
          ),
          'name': tfds.features.Text(),
        }
      ),
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # nothing is downloaded
    return {'train': self._generate_examples()}

  def _generate_examples(self) -> Iterator[tuple[int, dict[str, object]]]:
    for index, name in enumerate(self._source.names):
      yield index, {'image': png_bytes(self._source[index]), 'name': name}


def prepare(
  folder: sources.PathLike,
  *,
  name: str,
  data_dir: sources.PathLike | None = None,
  on_bad: sources.OnBad = 'refuse',
) -> str:
  """Writes the images under `folder` as the data set `image_folder_sr/NAME`.

  Args:
    folder: Folder of images, in any layout and format.
    name: Name of the data set's config.
    data_dir: Folder of TFDS's data sets, by default that of TFDS.
    on_bad: `refuse` raises an error for an unusable file, `skip` leaves it out.

  Returns:
    The name under which `tfds_source` finds it.

  Raises:
    UserError: No image is usable, or the data set exists already.
  """
  source = sources.folder_source(folder, min_size=1, on_bad=on_bad)
  builder = ImageFolderSr(
    source,
    config=tfds.core.BuilderConfig(name=name),
    data_dir=data_dir,
    file_format='array_record',
  )
  if builder.data_path.exists():
    raise UserError(
      f'{builder.data_path} exists already; remove it or choose another name'
    )
  builder.download_and_prepare()
  return f'{builder.name}/{name}'


def png_bytes(image: np.ndarray) -> io.BytesIO:
  """Encodes an image as PNG.

  TFDS stores bytes unchanged, but would encode an array by TensorFlow.
  """
  content = io.BytesIO()
  Image.fromarray(image).save(content, 'PNG')
  content.seek(0)
  return content

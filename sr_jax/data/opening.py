"""Opens all data sources that a config names.

The train loop reads the source that `training` opens, the evaluation that of
`held_out`. A method declares which of `USES` it needs; a config that names
further data is refused.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

from sr_jax.data import (
  batches,
  labelled,
  ranked,
  references,
  sources,
  spectra,
  tfds_records,
)
from sr_jax.data.ranked import RankedSource
from sr_jax.data.references import ReferencedSource
from sr_jax.data.sources import (
  ImageSource,
  MixedSource,
  OnBad,
  PairedSource,
  PathLike,
)
from sr_jax.errors import UserError, counted

_log = logging.getLogger(__name__)

# Further data that a method may use besides HR images, by the config's key.
USES = {
  'reference': 'references',
  'labels': 'label maps',
  'unlabelled': 'LR images without HR',
  'ranked': 'rank data sets',
  'spectra': 'power spectra of its own making',
}


def batch_spec(
  config: Mapping[str, Any],
  *,
  margin: Callable[[float], int] = lambda scale: 0,
  process_index: int = 0,
  process_count: int = 1,
) -> batches.BatchSpec:
  """Makes the `BatchSpec` of a config.

  Args:
    config: Config of the run.
    margin: The method's `margin`.
    process_index: Index of this process.
    process_count: Number of processes.

  Raises:
    UserError: A number is out of range.
  """
  data = config['data']
  scales = tuple(data['scales']) or (config['model']['scale'],)
  return batches.BatchSpec(
    batch_size=data['batch_size'],
    patch=data['patch'],
    scales=scales,
    margins=tuple(margin(scale) for scale in scales),
    seed=config['seed'],
    augment=data['augment'],
    min_gradient=data['min_gradient'],
    reference_size=data['reference_size'],
    process_index=process_index,
    process_count=process_count,
  )


def training(
  config: Mapping[str, Any], uses: Collection[str] = ()
) -> batches.Source:
  """Opens the training source, which `config.data` names.

  Args:
    config: The config of the run.
    uses: The keys of `USES` that the method needs. A method that needs rank
      data sets takes nothing else.

  Raises:
    UserError: The method does not use what the config names, or a source cannot
      be opened.
  """
  _check_uses(config, 'data', uses)
  _check_uses(config, 'eval', uses)
  data, spec = config['data'], batch_spec(config)
  if 'ranked' in uses:
    return _ranked(config, data['source'], 'training', spec.crop_size)
  if 'spectra' in uses:
    return _spectra(config, data['source'], data['on_bad'], config['seed'])
  options: dict[str, Any] = {
    'on_bad': data['on_bad'],
    'cache_dir': data['cache_dir'] or None,
    'peak': _peak(config),
  }
  images = open_labelled(
    *(data['source'], data['lr_folder'], config['model']['scale']),
    min_size=spec.crop_size,
    **options,
  )
  if data['labels']:
    images = labelled.with_labels(
      *(images, data['labels'], data['label_ids']),
      on_bad=data['on_bad'],
      cache_dir=data['cache_dir'] or None,
    )
  source: MixedSource | ReferencedSource | ImageSource | PairedSource = images
  if data['unlabelled']:
    alone = open_source(data['unlabelled'], min_size=spec.patch, **options)
    source = MixedSource(images, alone, data['unlabelled_share'])
  elif data['reference']:
    source = references.with_references(
      images, data['reference'], folder=data['source'], **options
    )
  if source.skipped:
    _log.warning('data: skipped %s', counted(len(source.skipped), 'image'))
  return source


def held_out(
  config: Mapping[str, Any],
) -> ImageSource | PairedSource | ReferencedSource:
  """Opens the images for evaluation during training, which `config.eval` names.

  Unusable images are left out, with a warning.

  Raises:
    UserError: There is no such source, or no image is usable.
  """
  section = config['eval']
  options: dict[str, Any] = {
    'on_bad': 'skip',
    'cache_dir': config['data']['cache_dir'] or None,
    'peak': _peak(config),
  }
  images = open_labelled(
    *(section['source'], section['lr_folder'], config['model']['scale']),
    min_size=section['crop_size'],
    **options,
  )
  if not section['reference']:
    return images
  return references.with_references(
    images, section['reference'], folder=section['source'], **options
  )


def held_out_patches(
  config: Mapping[str, Any],
) -> RankedSource | ImageSource:
  """Opens the held-out part of the rank data set `config.eval.source`.

  The name '' means the rank data set of the training.

  Raises:
    UserError: As for `held_out`.
  """
  section = config['eval']
  name = section['source'] or config['data']['source']
  return _ranked(config, name, 'held_out', section['crop_size'])


def _peak(config: Mapping[str, Any]) -> float:
  """The value of `config.data.peak`, which configs of old runs lack."""
  peak = config['data'].get('peak', 0.0)
  if not 0 <= peak < math.inf:
    raise UserError(f'config.data.peak={peak}: give a positive value, or 0')
  return peak


def held_out_spectra(config: Mapping[str, Any]) -> spectra.SpectraSource:
  """Opens reductions of the photographs of `config.eval.source`.

  Raises:
    UserError: As for `held_out`.
  """
  # The seed differs from the training's, if both use the same photographs.
  return _spectra(
    config, config['eval']['source'], 'skip', config['seed'] + 2**32
  )


def _spectra(
  config: Mapping[str, Any], name: str, on_bad: OnBad, seed: int
) -> spectra.SpectraSource:
  data = config['data']
  scales = [int(scale) for scale in data['scales']]
  images = open_source(
    name,
    min_size=min(scales) * data['patch'],
    on_bad=on_bad,
    cache_dir=data['cache_dir'] or None,
  )
  return spectra.make(
    images,
    scales=scales,
    per_image=config['method']['per_image'],
    seed=seed,
    workers=data['workers'],
  )


def _check_uses(
  config: Mapping[str, Any], section: str, uses: Collection[str]
) -> None:
  """Refuses further data for a method that cannot use it."""
  for key, what in USES.items():
    if config[section].get(key) and key not in uses:
      raise UserError(
        f'config.{section}.{key}: method {config["method"]["name"]} has no use'
        f' for {what}; leave it empty'
      )


def _ranked(
  config: Mapping[str, Any], name: str, part: str, min_size: int
) -> RankedSource | ImageSource:
  """Opens a part of a rank data set, or the embedded photographs for trials."""
  section = config['method']
  try:
    ranked.check_metric(section['metric'], section['better'])
  except UserError as error:
    raise UserError(f'config.method: {error}') from None
  if name.startswith(ranked.PREFIX):
    return ranked.open_ranked(
      name.removeprefix(ranked.PREFIX),
      metric=section['metric'],
      better=section['better'],
      part=part,
      min_size=min_size,
    )
  if name == 'embedded':
    cache_dir = config['data']['cache_dir'] or None
    return sources.embedded_source(min_size, cache_dir=cache_dir)
  raise UserError(
    f'source {name!r}: a ranker is trained on ranked:DIR, which sr-jax'
    ' rank-data writes, or tried out with embedded'
  )


def open_source(
  name: str,
  *,
  min_size: int,
  on_bad: OnBad = 'refuse',
  cache_dir: PathLike | None = None,
  data_dir: PathLike | None = None,
  peak: float = 0.0,
) -> ImageSource:
  """Opens a source by its name.

  Args:
    name: `embedded`, `folder:PATH` (or the plain path), or
      `tfds:NAME[:SPLIT]`, where NAME may carry a config and a version.
    min_size: Smallest accepted height and width of an image.
    on_bad: `refuse` raises an error for an unusable file, `skip` leaves it out.
    cache_dir: Folder of the decoded images, by default `default_cache_dir()`.
    data_dir: Folder of TFDS's prepared data sets.
    peak: The value of white, see `image_io.read_native`.

  Raises:
    UserError: No image is usable, or a file is unusable and `on_bad` is
      `refuse`.
  """
  if name == 'embedded':
    return sources.embedded_source(min_size, cache_dir=cache_dir)
  kind, _, rest = name.partition(':')
  if kind == 'tfds':
    dataset, split = tfds_records.split_name(rest)
    return tfds_records.tfds_source(
      dataset,
      split,
      min_size=min_size,
      on_bad=on_bad,
      data_dir=data_dir,
      cache_dir=cache_dir,
    )
  path = rest if kind == 'folder' else name
  if not path:
    raise UserError(f'source {name!r}: name embedded, a folder, or tfds:NAME')
  return sources.folder_source(
    path, min_size=min_size, on_bad=on_bad, cache_dir=cache_dir, peak=peak
  )


def open_labelled(
  name: str,
  lr_folder: str,
  scale: int,
  *,
  min_size: int,
  on_bad: OnBad = 'refuse',
  cache_dir: PathLike | None = None,
  peak: float = 0.0,
) -> ImageSource | PairedSource:
  """Opens a source by its name, with LR images if they have a folder.

  Args:
    name: A name for `open_source`; it must be a folder if `lr_folder` is given.
    lr_folder: Folder of real LR images; '' for none.
    scale: Size of HR over size of LR.
    min_size: Smallest accepted height and width of an HR image.
    on_bad: `refuse` raises an error for an unusable file, `skip` leaves it out.
    cache_dir: Folder of the decoded images, by default `default_cache_dir()`.
    peak: The value of white, see `image_io.read_native`.

  Raises:
    UserError: As for `open_source` or `paired_source`.
  """
  options: dict[str, Any] = {
    'min_size': min_size,
    'on_bad': on_bad,
    'cache_dir': cache_dir,
    'peak': peak,
  }
  if lr_folder:
    hr_folder = name.removeprefix('folder:')
    return sources.paired_source(lr_folder, hr_folder, scale, **options)
  return open_source(name, **options)

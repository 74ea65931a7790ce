"""Models by name or from checkpoints, ready for inference.

model = sr_jax.load('edsr-small-x2')  # or a workdir, or any checkpoint
model = sr_jax.load('zssr', scale=2)  # needs no weights
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib.resources
import json
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from sr_jax import checkpoints, methods, models
from sr_jax.errors import UserError
from sr_jax.inference.exported import SUFFIX, read_exported
from sr_jax.inference.model import SRModel, check_scale
from sr_jax.inference.stored import MOST_SCALE, by_config, check_stored
from sr_jax.models.parts.parameters import check_parameters
from sr_jax.ops.resize import imresize
from sr_jax.ops.scales import whole

# Reach of the cubic kernel in LR pixels when it enlarges.
BICUBIC_HALO = 2


def pretrained() -> dict[str, pathlib.Path]:
  """Folders of the weights that come with the package, by name."""
  root = pathlib.Path(str(importlib.resources.files('sr_jax') / 'pretrained'))
  folders = sorted(root.iterdir()) if root.is_dir() else []
  return {p.name: p for p in folders if p.is_dir() and p.name[0] not in '._'}


def loadable() -> list[str]:
  """Names that `load` takes: those without weights, and the pretrained ones."""
  return [*WITHOUT_WEIGHTS, *pretrained()]


def load(
  name: str | os.PathLike[str],
  *,
  scale: float | None = None,
  options: Mapping[str, Any] | None = None,
) -> SRModel:
  """A model by name, or from a checkpoint.

  Args:
    name: One of `WITHOUT_WEIGHTS`, a name in `pretrained()`, or a checkpoint: a
      workdir, a step's folder, imported weights, or a safetensors file that
      `sr-jax export` wrote.
    scale: Needed without weights; otherwise checked against the checkpoint's,
      or chosen within the range that it was trained for.
    options: Options of the architecture in place of the checkpoint's, as far as
      its parameters leave them open: `{'steps': 2}` ends SRFBN after two steps.

  Raises:
    UserError: no such model, a damaged checkpoint, another scale, or options
      that the parameters do not suit.
  """
  if name in WITHOUT_WEIGHTS:
    if options:
      raise UserError(
        f'model {name} has no options: leave {_keys(options)} out'
      )
    return WITHOUT_WEIGHTS[str(name)](_needed_scale(str(name), scale))
  path = pretrained().get(str(name), pathlib.Path(name))
  if not path.exists() and len(path.parts) == 1:
    names = loadable()
    near = difflib.get_close_matches(str(name), names, n=1)
    hint = f'did you mean {near[0]}?' if near else 'give one of these or a path'
    raise UserError(f'no model {str(name)!r}; {hint} ({", ".join(names)})')
  exported = path.suffix == SUFFIX and path.is_file()
  loaded = read_exported(path) if exported else checkpoints.load_params(path)
  check_stored(loaded, path)
  config = _asked_scale(loaded.config, scale, str(name))
  if options:
    config = _with_options(config, options, loaded.params)
  told = f'{name} ({_keys(options)})' if options else str(name)
  build = functools.partial(from_params, name=told)
  try:
    model = by_config(build, config, loaded.params)
  except UserError as error:
    raise UserError(f'{path}: {error}') from error
  check_scale(model, scale)
  return model


def _with_options(
  config: Mapping[str, Any],
  options: Mapping[str, Any],
  params: Mapping[str, Any],
) -> dict[str, Any]:
  """A config with other options of its model, which suit the parameters."""
  if fixed := [key for key in ('name', 'scale') if key in options]:
    raise UserError(f'option {fixed[0]}: choose it by name or scale=S')
  model = {**config['model'], **options}
  try:
    check_parameters(models.create(model), params)
  except UserError as error:
    raise UserError(f'{_keys(options)}: {error}') from error
  return {**config, 'model': model}


def _keys(options: Mapping[str, Any]) -> str:
  """The options as the command line has them."""
  return ' '.join(f'{key}={value}' for key, value in options.items())


def _asked_scale(
  config: Mapping[str, Any], scale: float | None, name: str
) -> Mapping[str, Any]:
  """The config of a multi-scale model at one of its scales."""
  heads = models.create(config['model']).scales
  if heads and scale is not None and scale not in heads:
    raise UserError(
      f'model {name} enlarges by {", ".join(map(str, heads))}, not by'
      f' {scale:g}; choose one of these or another model'
    )
  own = (config['model']['scale'],)
  trained = (
    heads
    or config['method'].get('scales')
    or config.get('data', {}).get('scales')
    or own
  )
  least, most = min(trained), max(trained)
  if scale is None or least == most:
    return config
  if not least <= scale <= most:
    raise UserError(
      f'model {name} enlarges by {least:g} to {most:g}, not by {scale:g};'
      ' choose one of these or another model'
    )
  return at_scale(config, scale)


def at_scale(config: Mapping[str, Any], scale: float) -> dict[str, Any]:
  """A config with its model at another scale."""
  return {**config, 'model': {**config['model'], 'scale': whole(scale)}}


def from_params(
  config: Mapping[str, Any], params: Mapping[str, Any], *, name: str
) -> SRModel:
  """The model that a config describes, with these parameters by slot."""
  network = models.create(config['model'])
  used = ('method', 'model', 'degradation')
  sections = {name: config[name] for name in used if name in config}
  inference = _inference(json.dumps(sections))
  inference.check(params)
  referring = inference.referring
  reach = network.halo
  if referring is not None and reach is not None:
    reach += referring.halo
  return SRModel(
    name=name,
    scale=config['model']['scale'],
    channels=3 if network.luma else network.channels,
    halo=reach,
    config=config,
    params=params,
    predict=inference.predict,
    fitting=inference.fitting
    and functools.partial(by_config, inference.fitting),
    referring=referring,
    cell=network.cell,
    needs_kernel=inference.needs_kernel,
    iterations=inference.iterations,
  )


@functools.lru_cache(maxsize=16)
def _inference(config: str) -> methods.Inference:
  """One per config, so that new weights do not compile its functions anew."""
  return methods.inference(json.loads(config))


def _needed_scale(name: str, scale: float | None) -> float:
  """The scale of a model that has none of its own."""
  if scale is None:
    raise UserError(f'model {name} needs a scale: give scale=S')
  if not 1 < scale <= MOST_SCALE:
    raise UserError(
      f'scale must be above 1 and at most {MOST_SCALE}, not {scale:g}'
    )
  return whole(scale)


def _bicubic(scale: float) -> SRModel:
  """MATLAB's cubic interpolation, the baseline of every table."""
  return SRModel(
    name='bicubic',
    scale=scale,
    channels=None,
    halo=BICUBIC_HALO if isinstance(scale, int) else None,
    config={'method': {'name': 'bicubic'}, 'model': {'name': 'bicubic'}},
    params={},
    predict=functools.partial(_enlarge, scale=scale),
    on_host=True,
  )


def _zssr(
  name: str, scale: float, *, gradual: bool = False, channels: str = 'together'
) -> SRModel:
  """ZSSR, whose weights are found for each image."""
  config = {
    'method': {'name': 'zero_shot', 'gradual': gradual, 'channels': channels},
    'model': {'name': 'zssr', 'scale': scale},
  }
  return dataclasses.replace(from_params(config, {}, name=name), channels=None)


# name -> its model at a scale
WITHOUT_WEIGHTS: dict[str, Callable[[float], SRModel]] = {
  'bicubic': _bicubic,
  'zssr': functools.partial(_zssr, 'zssr'),
  'zssr-gradual': functools.partial(_zssr, 'zssr-gradual', gradual=True),
  'zssr-shared': functools.partial(_zssr, 'zssr-shared', channels='shared'),
  'zssr-each': functools.partial(_zssr, 'zssr-each', channels='each'),
}


def _enlarge(params: Any, lr: Any, mask: None = None, *, scale: float) -> Any:
  del params, mask
  return imresize(lr, scale=scale).clip(0, 1)

"""The metrics of `sr-jax evaluate` by name, with the files that they need."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sr_jax.data.ranked import read_scores
from sr_jax.errors import UserError
from sr_jax.metrics.lpips import BACKBONES, Backbone, lpips
from sr_jax.metrics.niqe import Pristine, niqe, own_pristine, read_pristine
from sr_jax.metrics.protocol import PSNR, RMSE, SSIM, Metric, Views, luma
from sr_jax.ops.compilation import jit
from sr_jax.weights import features
from sr_jax.weights.formats.torch_pickle import read_tensors
from sr_jax.weights.parts import unwrap

PathLike = str | os.PathLike[str]

_NEEDING = {
  'niqe_params': ('niqe', 'pi'),
  'lpips_weights': ('lpips',),
  'ma_scores': ('ma', 'pi'),
}


def choose(
  names: str,
  *,
  niqe_params: PathLike | None = None,
  lpips_weights: Sequence[PathLike] | None = None,
  ma_scores: PathLike | None = None,
) -> list[Metric]:
  """Returns metrics by name.

  Args:
    names: Names among psnr, ssim, rmse, niqe, lpips, ma and pi, separated by
      commas.
    niqe_params: A file for `read_pristine`; None takes the parameters that come
      with the package.
    lpips_weights: The weights of the backbone, as a SPEC of `weights.features`,
      and the file of LPIPS's linear layers.
    ma_scores: A file of lines `NAME SCORE` with scores of Ma et al.'s metric,
      which cannot be computed here because its model has no open format.

  Raises:
    UserError: A name is unknown, a file is missing or damaged, or no metric
      needs it.
  """
  files = {
    'niqe_params': niqe_params,
    'lpips_weights': lpips_weights,
    'ma_scores': ma_scores,
  }
  makers: dict[str, Callable[[], Metric]] = {
    'psnr': lambda: PSNR,
    'ssim': lambda: SSIM,
    'rmse': lambda: RMSE,
    'niqe': lambda: _niqe(_pristine(niqe_params)),
    'lpips': lambda: _lpips(lpips_weights),
    'ma': lambda: _ma(ma_scores),
    'pi': lambda: _pi(_pristine(niqe_params), _ma(ma_scores)),
  }
  asked = list(dict.fromkeys(name.strip() for name in names.split(',')))
  for name in asked:
    if name not in makers:
      raise UserError(
        f'unknown metric {name!r}: choose from {", ".join(makers)}'
      )
  for option, users in _NEEDING.items():
    if files[option] is not None and not set(users) & set(asked):
      raise UserError(
        f'{option}=FILE is for {" and ".join(users)}: add it to metrics=NAMES '
        'or leave the file out'
      )
  return [makers[name]() for name in asked]


def _pristine(path: PathLike | None) -> Pristine:
  return own_pristine() if path is None else read_pristine(path)


def _niqe_of(views: Views, pristine: Pristine) -> float:
  """NIQE of the rounded luma of SR, without the protocol's border."""
  height, width, channels = views.whole_sr.shape
  if channels not in (1, 3):
    raise UserError(f'NIQE needs 1 or 3 channels, the image has {channels}')
  crop = views.crop
  y = luma(views.whole_sr, rounded=True)[..., 0]
  return float(niqe(y[crop : height - crop, crop : width - crop], pristine))


def _niqe_rules(pristine: Pristine) -> str:
  return (
    'of SR alone, Y rounded to 8 bit, the border cut; parameters '
    f'{pristine.source}'
  )


def _niqe(pristine: Pristine) -> Metric:
  return Metric(
    'niqe',
    'NIQE',
    lambda views: _niqe_of(views, pristine),
    _niqe_rules(pristine),
  )


def _ma(path: PathLike | None) -> Metric:
  """Reads scores from a file, by the names of HR images or saved PNG images."""
  if path is None:
    raise UserError('ma and pi need ma_scores=FILE with lines NAME SCORE')
  known = read_scores(path)

  def score(views: Views) -> float:
    name = Path(views.name)
    keys = (str(name), str(name.with_suffix('.png')), str(name.with_suffix('')))
    for key in keys:
      if key in known:
        return known[key]
    raise UserError(f'{path}: has no score of {name}')

  return Metric('ma', 'Ma', score, f'as in {os.fspath(path)}')


def _pi(pristine: Pristine, ma: Metric) -> Metric:
  """The perceptual index of PIRM 2018, whose mean is that of mean scores."""
  return Metric(
    'pi',
    'PI',
    lambda views: (10 - ma.score(views) + _niqe_of(views, pristine)) / 2,
    f'((10 - Ma) + NIQE) / 2; Ma {ma.rules}; NIQE {_niqe_rules(pristine)}',
  )


def _lpips(paths: Sequence[PathLike] | None) -> Metric:
  if paths is None:
    raise UserError(
      "lpips needs lpips_weights=FILES, BACKBONE and LINEAR: torchvision's "
      'alexnet-owt-7be5be79.pth and alex.pth of LPIPS v0.1, or '
      'vgg16-397923af.pth and vgg.pth'
    )
  weights = _read_linear(paths[1])
  name, backbone = _backbone(weights, paths[1])
  params = features.load(
    paths[0],
    model=backbone.model,
    layers=backbone.layers,
    variant=backbone.variant,
  )
  network = features.network(backbone.model, backbone.layers, backbone.variant)

  @jit
  def distance(params: Any, weights: Any, sr: jax.Array, hr: jax.Array) -> Any:
    features = network.apply({'params': params}, jnp.stack([sr, hr]))
    layers = [features[layer] for layer in backbone.layers]
    return lpips([x[:1] for x in layers], [x[1:] for x in layers], weights)[0]

  def score(views: Views) -> float:
    sr, hr = (_rgb(x, backbone) for x in (views.whole_sr, views.whole_hr))
    # Accelerators would round the factors of convolutions.
    with jax.default_matmul_precision('highest'):
      return float(distance(params, weights, sr, hr))

  digest = hashlib.sha256()
  for leaf in jax.tree.leaves([params, weights]):
    digest.update(np.ascontiguousarray(leaf, '<f4').tobytes())
  return Metric(
    'lpips',
    'LPIPS',
    score,
    f'v0.1 {name}, RGB, no border cut; weights {digest.hexdigest()[:8]}',
  )


def _rgb(levels: np.ndarray, backbone: Backbone) -> np.ndarray:
  """Levels as RGB in [0, 1], float32."""
  height, width, channels = levels.shape
  if channels not in (1, 3):
    raise UserError(f'LPIPS needs 1 or 3 channels, the image has {channels}')
  if min(height, width) < backbone.smallest:
    raise UserError(
      f'LPIPS needs {backbone.smallest}x{backbone.smallest} pixels, the image '
      f'has {height}x{width}: use a larger one'
    )
  rgb = np.broadcast_to(levels, (height, width, 3)) / 255
  return rgb.astype(np.float32)


def _read_linear(path: PathLike) -> list[np.ndarray]:
  """Reads the weights of LPIPS's linear layers, `[C]` for each layer."""
  if not os.path.exists(path):
    raise UserError(
      f'{path}: no such weights: put alex.pth or vgg.pth of LPIPS v0.1 there'
    )
  value = read_tensors(path)
  try:
    tensors, _ = unwrap(value)
  except UserError as error:
    raise UserError(f'{path}: {error}') from None
  names = [f'lin{i}.model.1.weight' for i in range(5)]
  if missing := [name for name in names if name not in tensors]:
    raise UserError(f'{path}: is none of LPIPS: it lacks {missing[0]}')
  return [tensors[name].reshape(-1).astype(np.float32) for name in names]


def _backbone(
  weights: Sequence[np.ndarray], path: PathLike
) -> tuple[str, Backbone]:
  """Finds the backbone whose layers have as many channels as the weights."""
  channels = tuple(len(weight) for weight in weights)
  for name, backbone in BACKBONES.items():
    if backbone.channels == channels:
      return name, backbone
  raise UserError(
    f'{path}: layers of {channels} channels: give those of LPIPS for AlexNet '
    'or VGG16'
  )

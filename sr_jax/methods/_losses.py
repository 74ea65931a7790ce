"""Losses by the names that configs use, also of networks with many outputs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax

from sr_jax.data.degradation import REAL, Degradation
from sr_jax.errors import UserError
from sr_jax.losses import outputs, perceptual, pixel
from sr_jax.ops.blur_kernels import align
from sr_jax.ops.degrade import correlate
from sr_jax.ops.resize import imresize

_LOSSES = {
  'l1': pixel.l1,
  'l2': pixel.l2,
  'charbonnier': pixel.charbonnier,
  'charbonnier_sum': pixel.charbonnier_sum,
  'euclidean': pixel.euclidean,
}
_OUTPUTS: dict[str, Callable[..., jax.Array]] = {
  'none': outputs.final,
  'steps': outputs.steps,
  'pyramid': outputs.pyramid,
  'recursive': outputs.recursive,
}


def pixel_loss(config: Mapping[str, Any]) -> Callable[..., jax.Array]:
  """Makes the loss `config['loss']`; it ignores `config['loss_border']` pixels.

  Raises:
    UserError: No loss has this name.
  """
  name, border = config['loss'], config.get('loss_border', 0)
  if name not in _LOSSES:
    raise UserError(
      f'config.loss: unknown {name!r}; choose from {sorted(_LOSSES)}'
    )
  loss = _LOSSES[name]
  return functools.partial(_inside, loss, border) if border else loss


def _inside(
  loss: Callable[..., jax.Array], border: int, sr: jax.Array, hr: jax.Array
) -> jax.Array:
  """The loss of `[B, H, W, C]` images without `border` pixels on each side."""
  if 2 * border >= min(sr.shape[1:3]):
    raise UserError(
      f'config.loss_border={border} leaves nothing of crops of'
      f' {sr.shape[2]}x{sr.shape[1]}; lower it or raise config.data.patch'
    )
  inside = (slice(None), *(slice(border, -border),) * 2)
  return loss(sr[inside], hr[inside])


def recipe_by_name(name: str) -> perceptual.Recipe:
  """Returns the perceptual loss that `config.method.perceptual` names.

  Raises:
    UserError: No perceptual loss has this name.
  """
  if name not in perceptual.RECIPES:
    raise UserError(
      f'config.method.perceptual: unknown {name!r}; choose from'
      f' {sorted(perceptual.RECIPES)}'
    )
  return perceptual.RECIPES[name]


def over_outputs(
  loss: Callable[..., jax.Array], section: Mapping[str, Any]
) -> Callable[..., jax.Array]:
  """Makes the loss of all outputs of a network, see `config.method.outputs`.

  Raises:
    UserError: The outputs are unknown, or lack a setting that they need.
  """
  name = section.get('outputs', 'none')
  if name == 'residual':
    upsampling = section.get('upsampling', 'bicubic')
    return functools.partial(_over_residual, loss, upsampling)
  if name == 'curriculum':
    return functools.partial(_over_curriculum, loss)
  if name not in _OUTPUTS:
    raise UserError(
      f'config.method.outputs: unknown {name!r}; choose from'
      f' {sorted([*_OUTPUTS, "curriculum", "residual"])}'
    )
  over = _OUTPUTS[name]
  if name == 'recursive':
    if 'alpha_steps' not in section:
      raise UserError(
        'config.method.alpha_steps is missing: outputs=recursive needs the'
        ' number of steps in which its weights change'
      )
    over = functools.partial(over, alpha_steps=section['alpha_steps'])
  return functools.partial(_over_several, name, functools.partial(over, loss))


def _over_several(
  name: str,
  over: Callable[..., jax.Array],
  sr: jax.Array,
  aux: Mapping[str, Any],
  images: tuple[jax.Array, jax.Array],
  scale: float,
  step: jax.Array,
) -> jax.Array:
  """Loss of all outputs of a network, by a function of `_OUTPUTS`."""
  del scale
  every = (sr,) if name == 'none' else _all_outputs(name, sr, aux)
  return over(every, images[1], step)


def _all_outputs(
  name: str, sr: jax.Array, aux: Mapping[str, Any]
) -> tuple[jax.Array, ...]:
  """All outputs of a network that has several; the last one is SR."""
  if 'outputs' not in aux:
    raise UserError(
      f'config.method.outputs={name}: this model has only one output; choose'
      ' none'
    )
  return (*aux['outputs'][:-1], sr)


def _over_curriculum(
  loss: Callable[..., jax.Array],
  sr: jax.Array,
  aux: Mapping[str, Any],
  images: tuple[jax.Array, jax.Array, jax.Array],
  scale: float,
  step: jax.Array,
) -> jax.Array:
  """Loss whose targets become harder with every step of the network."""
  del scale
  _, hr, easy = images
  every = _all_outputs('curriculum', sr, aux)
  return outputs.curriculum(loss, every, hr, step, easy=easy)


def easy_targets(section: Mapping[str, Any]) -> Callable[..., jax.Array]:
  """Makes `(hr, lr, scale) -> image`: hr with the blur and the noise of lr.

  The blur does not shift hr, even if the kernel shifts the pixels of LR. The
  noise is the enlarged difference between lr and an LR image that is made
  without noise and JPEG compression.

  Args:
    section: `config.degradation`.
  """
  if section['name'] == REAL:
    raise UserError(
      "config.method.outputs='curriculum': its easy targets need one blur for"
      " all images, which config.degradation.name='real' does not have"
    )
  clean = Degradation.from_config(
    {**section, 'noise_sigma': 0.0, 'jpeg_quality': 0}
  )
  kernel = clean.taps
  if kernel is not None:
    kernel = align(kernel, to='mzsr', frm='mzsr', scale=1).array

  def easy(hr: jax.Array, lr: jax.Array, scale: int) -> jax.Array:
    blurred = hr if kernel is None else correlate(hr, kernel)
    noise = lr - clean.on_device(None, hr, scale)
    return blurred + imresize(noise, scale=scale)

  return easy


def _over_residual(
  loss: Callable[..., jax.Array],
  upsampling: str,
  sr: jax.Array,
  aux: Mapping[str, Any],
  images: tuple[jax.Array, jax.Array],
  scale: float,
  step: jax.Array,
) -> jax.Array:
  """Loss of a network that predicts SR and a residual image."""
  del scale, step
  lr, hr = images
  if 'residual' not in aux:
    raise UserError(
      'config.method.outputs=residual: this model predicts no residual; choose'
      ' none'
    )
  return outputs.residual(
    loss, sr, aux['residual'], hr, lr, upsampling=upsampling
  )

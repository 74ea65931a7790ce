"""Curriculum over the steps of a feedback network (SRFBN, CVPR 2019).

For LR images that are blurred or noisy the first half of the steps aims at SR
alone: HR that has the blur and the noise still. The second half aims at HR.
The paper orders the targets from easy to hard so, but neither it nor its code
tells them exactly: these are our reading.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from sr_jax.data.degradation import Degradation
from sr_jax.errors import UserError
from sr_jax.methods import Method, supervised
from sr_jax.ops.blur_kernels import align
from sr_jax.ops.degrade import correlate
from sr_jax.ops.resize import imresize

predictor = supervised.predictor


def make(config: Mapping[str, Any]) -> Method:
  """Training of `config['model']`, whose `aux` must have `outputs`.

  Sections used: those of `supervised`.

  Raises:
    UserError: as `supervised.make`.
  """
  pixel_loss = supervised.loss_by_name(config['loss'])

  def loss(
    sr: jax.Array,
    aux: Mapping[str, Any],
    images: tuple[jax.Array, jax.Array, jax.Array],
    scale: int,
    step: jax.Array,
  ) -> jax.Array:
    del sr, scale, step
    if 'outputs' not in aux:
      raise UserError(
        f'config.method.name=curriculum: model {config["model"]["name"]} has'
        ' one output alone; choose supervised'
      )
    _, hr, easy = images
    return curriculum_loss(pixel_loss, aux['outputs'], easy, hr)

  return supervised.training(
    config, loss, targets=easy_targets(config['degradation'])
  )


def easy_targets(section: Mapping[str, Any]) -> Callable[..., jax.Array]:
  """`(hr, lr, scale) -> hr` with the blur and the noise that lr has.

  The blur lies where HR does, wherever its kernel puts LR pixels. The noise is
  what lr is off an LR image without noise and JPEG, enlarged.
  """
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


def curriculum_loss(
  loss: Callable[..., jax.Array],
  outputs: Sequence[jax.Array],
  easy: jax.Array,
  hr: jax.Array,
) -> jax.Array:
  """Sum over the outputs: the first half against easy, the others HR."""
  half = len(outputs) // 2
  losses = [loss(sr, easy if i < half else hr) for i, sr in enumerate(outputs)]
  return jnp.stack(losses).sum()

"""Curriculum over the steps of a feedback network (SRFBN, CVPR 2019).

For LR images that are blurred or noisy the first half of the steps aims at SR
alone: HR that has the blur and the noise still. The second half aims at HR.
The paper orders the targets from easy to hard so, but neither it nor its code
tells them exactly: these are our reading.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from sr_jax import models, optimizers
from sr_jax.errors import UserError
from sr_jax.methods import Method, supervised
from sr_jax.ops.blur_kernels import align, parse_kernel_spec
from sr_jax.ops.degrade import correlate
from sr_jax.ops.resize import imresize
from sr_jax.state import TrainState

predictor = supervised.predictor


def make(config: Mapping[str, Any]) -> Method:
  """Training of `config['model']`, whose `aux` must have `outputs`.

  Sections used: those of `supervised`.

  Raises:
    UserError: as `supervised.make`.
  """
  architecture = models.module(config['model']['name'])
  tx, rate = optimizers.make(
    steps=config['steps'],
    constants=getattr(architecture, 'CONSTANTS', ()),
    **config['optimizer'],
  )
  method = supervised.make(config)
  easy = easy_targets(config['degradation'])
  return method._replace(
    train_step=functools.partial(
      _train_step,
      config['model'],
      tx,
      rate,
      supervised.loss_by_name(config['loss']),
      method.degrade,
      easy,
    )
  )


def easy_targets(section: Mapping[str, Any]) -> Callable[..., jax.Array]:
  """`(hr, lr, scale) -> hr` with the blur and the noise that lr has.

  The blur lies where HR does, wherever its kernel puts LR pixels. The noise is
  what lr is off an LR image without noise and JPEG, enlarged.
  """
  clean_lr = supervised.degrader(
    {**section, 'noise_sigma': 0.0, 'jpeg_quality': 0}
  )
  kernel = parse_kernel_spec(section['kernel'])
  if kernel is not None:
    kernel = align(kernel, to='mzsr', frm='mzsr', scale=1).array

  def easy(hr: jax.Array, lr: jax.Array, scale: int) -> jax.Array:
    blurred = hr if kernel is None else correlate(hr, kernel)
    noise = lr - clean_lr(None, hr, scale)
    return blurred + imresize(noise, scale=scale)

  return easy


def curriculum_loss(
  loss: Callable[..., jax.Array],
  outputs: Sequence[jax.Array],
  easy: jax.Array,
  hr: jax.Array,
) -> jax.Array:
  """Mean over the outputs: the first half against easy, the others HR."""
  half = len(outputs) // 2
  losses = [loss(sr, easy if i < half else hr) for i, sr in enumerate(outputs)]
  return jnp.mean(jnp.stack(losses))


def _train_step(
  section: Mapping[str, Any],
  tx: optax.GradientTransformation,
  rate: optax.Schedule,
  loss: Callable[..., jax.Array],
  make_lr: Callable[..., jax.Array],
  easy: Callable[..., jax.Array],
  state: TrainState,
  batch: Mapping[str, jax.Array],
  scale: int,
) -> tuple[TrainState, dict[str, jax.Array]]:
  hr = batch['hr'].astype(jnp.float32) / 255
  if 'lr' in batch:
    lr = batch['lr'].astype(jnp.float32) / 255
  else:
    lr = make_lr(state.step_key(), hr, scale)
  target = easy(hr, lr, scale)
  model: Any = models.create({**section, 'scale': scale})

  def objective(params: Any) -> jax.Array:
    _, aux = model.apply({'params': params}, lr, train=True)
    if 'outputs' not in aux:
      raise UserError(
        f'config.method.name=curriculum: model {section["name"]} has one'
        ' output alone; choose supervised'
      )
    return curriculum_loss(loss, aux['outputs'], target, hr)

  old = state.params['generator']
  value, grads = jax.value_and_grad(objective)(old)
  updates, opt_state = tx.update(grads, state.opt_state['generator'], old)
  in_a_row, total = optimizers.skipped_updates(opt_state)
  metrics = {
    'loss': value,
    'gradient_norm': jnp.asarray(optax.tree.norm(grads)),
    # The schedule counts the updates that were not skipped.
    'learning_rate': jnp.asarray(rate(state.step - total)),
    'skipped_in_a_row': in_a_row,
    'skipped': total,
  }
  state = state.replace(
    step=state.step + 1,
    params={'generator': optax.apply_updates(old, updates)},
    opt_state={'generator': opt_state},
  )
  return state, metrics

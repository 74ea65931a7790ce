"""Supervised training: one network, one pixel loss, LR made on the device."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from sr_jax import models, optimizers
from sr_jax.errors import UserError
from sr_jax.losses import pixel
from sr_jax.methods import Method
from sr_jax.models.masking import masked_apply
from sr_jax.ops.blur_kernels import parse_kernel_spec
from sr_jax.ops.degrade import degrade, quantize
from sr_jax.state import TrainState, start_from

_LOSSES = {'l1': pixel.l1, 'l2': pixel.l2, 'charbonnier': pixel.charbonnier}


def make(config: Mapping[str, Any]) -> Method:
  """Supervised training of `config['model']`.

  Sections used: `model`, `loss`, `degradation`, `optimizer`, `steps`.

  Raises:
    UserError: unknown loss, or a section that its consumer refuses.
  """
  generator = functools.partial(_create, config['model'])
  architecture = models.module(config['model']['name'])
  tx, rate = optimizers.make(
    steps=config['steps'],
    constants=getattr(architecture, 'CONSTANTS', ()),
    **config['optimizer'],
  )
  make_lr = degrader(config['degradation'])
  return Method(
    init=functools.partial(_init, generator, tx),
    train_step=functools.partial(
      _train_step, generator, tx, rate, loss_by_name(config['loss']), make_lr
    ),
    predict=predictor(config),
    degrade=make_lr,
    averaged=averaged,
  )


def predictor(config: Mapping[str, Any]) -> Callable[..., jax.Array]:
  """`predict` of the method alone; needs no section but `model`."""
  return functools.partial(predict, models.create(config['model']))


def _create(model: Mapping[str, Any], scale: int | None = None) -> Any:
  """The network, at another scale than configured if the batch has one."""
  return models.create({**model, 'scale': scale or model['scale']})


def loss_by_name(name: str) -> Callable[..., jax.Array]:
  """The pixel loss that `config.loss` names.

  Raises:
    UserError: there is none of this name.
  """
  if name not in _LOSSES:
    raise UserError(
      f'config.loss: unknown {name!r}; choose from {sorted(_LOSSES)}'
    )
  return _LOSSES[name]


def degrader(section: Mapping[str, Any]) -> Callable[..., jax.Array]:
  """`Method.degrade` as `config.degradation` describes it.

  Raises:
    UserError: the kernel cannot be read.
  """
  return functools.partial(
    _make_lr,
    degradation=section['name'],
    kernel=parse_kernel_spec(section['kernel']),
    noise_sigma=section['noise_sigma'],
    jpeg_quality=section['jpeg_quality'] or None,
  )


def _make_lr(
  key: jax.Array, hr: jax.Array, scale: int, **options: Any
) -> jax.Array:
  """LR of `hr` `[B, H, W, C]`, rounded to 8 bit as files are."""
  return quantize(degrade(key, hr, scale=scale, **options))


def pair(
  make_lr: Callable[..., jax.Array],
  key: jax.Array,
  batch: Mapping[str, jax.Array],
  scale: int,
) -> tuple[jax.Array, jax.Array]:
  """The (lr, hr) of a uint8 batch; LR is made from HR unless it is given."""
  hr = batch['hr'].astype(jnp.float32) / 255
  if 'lr' in batch:
    return batch['lr'].astype(jnp.float32) / 255, hr
  return make_lr(key, hr, scale), hr


def _init(
  generator: Callable[..., Any],
  tx: optax.GradientTransformation,
  key: jax.Array,
  batch: Mapping[str, jax.Array],
  pretrained: Mapping[str, Any],
  scale: int,
) -> TrainState:
  init_key, state_key = jax.random.split(key)
  channels = batch['hr'].shape[-1]
  variables = generator(scale).init(init_key, jnp.zeros((1, 8, 8, channels)))
  params = start_from({'generator': variables['params']}, pretrained)
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    key=state_key,
    params=params,
    opt_state={'generator': tx.init(params['generator'])},
  )


def _train_step(
  generator: Callable[..., Any],
  tx: optax.GradientTransformation,
  rate: optax.Schedule,
  loss: Callable[..., jax.Array],
  make_lr: Callable[..., jax.Array],
  state: TrainState,
  batch: Mapping[str, jax.Array],
  scale: int,
) -> tuple[TrainState, dict[str, jax.Array]]:
  lr, hr = pair(make_lr, state.step_key(), batch, scale)
  model = generator(scale)

  def objective(params: Any) -> jax.Array:
    sr, _ = model.apply({'params': params}, lr, train=True)
    return loss(sr, hr)

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


def predict(
  model: Any,
  params: Mapping[str, Any],
  lr: jax.Array,
  mask: jax.Array | None = None,
) -> jax.Array:
  """`Method.predict` of a network."""
  sr = masked_apply(model, params['generator'], lr, mask)
  return jnp.clip(sr, 0, 1)


def averaged(state: TrainState) -> dict[str, Any]:
  """Parameters by slot for inference: the moving average if one is kept."""
  slots = state.params.items()
  return {
    slot: optimizers.averaged_params(state.opt_state[slot], params)
    for slot, params in slots
  }

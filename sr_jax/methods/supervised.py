"""Supervised training: one network, pixel losses, LR made on the device."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from sr_jax import models, optimizers
from sr_jax.errors import UserError
from sr_jax.losses import outputs, pixel
from sr_jax.methods import Method
from sr_jax.models.luma import apply_to_image, as_seen
from sr_jax.ops.blur_kernels import parse_kernel_spec
from sr_jax.ops.degrade import degrade, quantize
from sr_jax.state import TrainState, start_from

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


def make(config: Mapping[str, Any]) -> Method:
  """Supervised training of `config['model']`.

  Sections used: `model`, `method`, `loss`, `degradation`, `optimizer`, `steps`.

  Raises:
    UserError: unknown loss or outputs, or a section that its consumer refuses.
  """
  generator = functools.partial(_create, config['model'])
  architecture = models.module(config['model']['name'])
  tx, rate = optimizers.make(
    steps=config['steps'],
    constants=getattr(architecture, 'CONSTANTS', ()),
    **config['optimizer'],
  )
  loss = _over_outputs(loss_by_name(config['loss']), config['method'])
  make_lr = degrader(config['degradation'])
  return Method(
    init=functools.partial(_init, generator, tx),
    train_step=functools.partial(
      _train_step, generator, tx, rate, loss, make_lr
    ),
    predict=predictor(config),
    degrade=make_lr,
    averaged=averaged,
  )


def predictor(config: Mapping[str, Any]) -> Callable[..., jax.Array]:
  """`predict` of the method alone; needs no section but `model`."""
  return functools.partial(predict, models.create(config['model']))


def _create(model: Mapping[str, Any], scale: float | None = None) -> Any:
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


def _over_outputs(
  loss: Callable[..., jax.Array], section: Mapping[str, Any]
) -> Callable[..., jax.Array]:
  """`(sr, aux, lr, hr, step) -> value` as `config.method` describes it."""
  name = section.get('outputs', 'none')
  if name == 'residual':
    upsampling = section.get('upsampling', 'bicubic')
    return functools.partial(_over_residual, loss, upsampling)
  if name not in _OUTPUTS:
    raise UserError(
      f'config.method.outputs: unknown {name!r}; choose from'
      f' {sorted([*_OUTPUTS, "residual"])}'
    )
  over = _OUTPUTS[name]
  if name == 'recursive':
    alpha_steps = section.get('alpha_steps', 0)
    if alpha_steps < 1:
      raise UserError(
        f'config.method.alpha_steps={alpha_steps}: give 1 or more'
      )
    over = functools.partial(over, alpha_steps=alpha_steps)

  def value(
    sr: jax.Array,
    aux: Mapping[str, Any],
    lr: jax.Array,
    hr: jax.Array,
    step: jax.Array,
  ) -> jax.Array:
    del lr
    if name != 'none' and 'outputs' not in aux:
      raise UserError(
        f'config.method.outputs={name}: this model has one output alone;'
        ' choose none'
      )
    return over(loss, sr, aux.get('outputs', ()), hr, step)

  return value


def _over_residual(
  loss: Callable[..., jax.Array],
  upsampling: str,
  sr: jax.Array,
  aux: Mapping[str, Any],
  lr: jax.Array,
  hr: jax.Array,
  step: jax.Array,
) -> jax.Array:
  """Loss of a network that predicts SR and a residual image."""
  del step
  if 'residual' not in aux:
    raise UserError(
      'config.method.outputs=residual: this model predicts no residual; choose'
      ' none'
    )
  return outputs.residual(
    loss, sr, aux['residual'], hr, lr, upsampling=upsampling
  )


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
  key: jax.Array, hr: jax.Array, scale: float, **options: Any
) -> jax.Array:
  """LR of `hr` `[B, H, W, C]`, rounded to 8 bit as files are."""
  return quantize(degrade(key, hr, scale=scale, **options))


def pair(
  make_lr: Callable[..., jax.Array],
  key: jax.Array,
  batch: Mapping[str, jax.Array],
  scale: float,
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
  scale: float,
) -> TrainState:
  init_key, state_key = jax.random.split(key)
  model = generator(scale)
  lr = as_seen(model, jnp.zeros((1, 8, 8, batch['hr'].shape[-1])))
  stats = dict(model.init(init_key, lr))
  slots = start_from({'generator': stats.pop('params'), **stats}, pretrained)
  params = slots.pop('generator')
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    key=state_key,
    params={'generator': params},
    opt_state={'generator': tx.init(params)},
    model_state={'generator': slots} if slots else {},
  )


def _train_step(
  generator: Callable[..., Any],
  tx: optax.GradientTransformation,
  rate: optax.Schedule,
  loss: Callable[..., jax.Array],
  make_lr: Callable[..., jax.Array],
  state: TrainState,
  batch: Mapping[str, jax.Array],
  scale: float,
) -> tuple[TrainState, dict[str, jax.Array]]:
  model = generator(scale)
  images = pair(make_lr, state.step_key(), batch, scale)
  lr, hr = (as_seen(model, x) for x in images)
  stats = state.model_state.get('generator', {})

  def objective(params: Any) -> tuple[jax.Array, Any]:
    (sr, aux), changed = model.apply(
      {'params': params, **stats}, lr, train=True, mutable=list(stats)
    )
    # At scales that are not whole SR may reach a pixel beyond HR.
    sr = sr[:, : hr.shape[1], : hr.shape[2]]
    target = _centre(hr, sr.shape[1:3])
    return loss(sr, aux, lr, target, state.step), changed

  old = state.params['generator']
  (value, stats), grads = jax.value_and_grad(objective, has_aux=True)(old)
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
    model_state={'generator': stats} if stats else {},
  )
  return state, metrics


def _centre(image: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """The middle of `[B, H, W, C]`: a network without padding gives no more."""
  top, left = (
    (n - m) // 2 for n, m in zip(image.shape[1:3], shape, strict=True)
  )
  return image[:, top : top + shape[0], left : left + shape[1]]


def predict(
  model: Any,
  params: Mapping[str, Any],
  lr: jax.Array,
  mask: jax.Array | None = None,
) -> jax.Array:
  """`Method.predict` of a network."""
  stats = params.get('batch_stats')
  sr = apply_to_image(model, params['generator'], lr, mask, stats)
  return jnp.clip(sr, 0, 1)


def averaged(state: TrainState) -> dict[str, Any]:
  """Parameters by slot for inference: the moving average if one is kept.

  Running statistics of the generator come beside them, as `batch_stats`.
  """
  slots = {
    slot: optimizers.averaged_params(state.opt_state[slot], params)
    for slot, params in state.params.items()
  }
  return slots | state.model_state.get('generator', {})

"""Supervised training: one network, pixel losses, LR made on the device."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from sr_jax import models, optimizers
from sr_jax.data.kernel_files import parse_kernel_spec
from sr_jax.errors import UserError
from sr_jax.losses import outputs, perceptual, pixel
from sr_jax.methods import Method
from sr_jax.models.parts.luma import apply_to_image, as_seen
from sr_jax.models.parts.parameters import expected_shapes
from sr_jax.ops.degrade import degrade, quantize
from sr_jax.ops.resize import imresize
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
  section = config['method']
  loss = _over_outputs(loss_by_name(config['loss']), section)
  return training(config, loss, tuple(section.get('scales', ())))


def training(
  config: Mapping[str, Any],
  loss: Callable[..., jax.Array],
  scales: tuple[float, ...] = (),
) -> Method:
  """Training of `config['model']` by a loss of its own.

  Sections used: `model`, `degradation`, `optimizer`, `steps`.

  Args:
    config: Of the experiment.
    loss: `(sr, aux, pair, scale, step) -> value`, of what the network gives for
      LR, and the (lr, hr) it sees.
    scales: Of the images of a batch in turn, for a network that enlarges by
      bicubic resizing; none for the batch's own.

  Raises:
    UserError: a section that its consumer refuses.
  """
  generator = functools.partial(_create, config['model'])
  _check_scales(
    generator,
    config['model']['scale'],
    [*config.get('data', {}).get('scales', ()), *(1 for _ in scales)],
  )
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
      _train_step, generator, tx, rate, loss, make_lr, scales
    ),
    predict=predictor(config),
    degrade=make_lr,
    averaged=averaged,
  )


def predictor(config: Mapping[str, Any]) -> Callable[..., jax.Array]:
  """`predict` of the method alone; needs no section but `model`."""
  return functools.partial(predict, models.create(config['model']))


def _create(model: Mapping[str, Any], scale: float) -> Any:
  """The network at the scale of a batch."""
  return models.create({**model, 'scale': scale})


def _check_scales(
  generator: Callable[..., Any], own: float, others: Sequence[float]
) -> None:
  """Refuses scales at which the network has other parameters, or is none."""
  try:
    for scale in {min(others), max(others)} - {own} if others else ():
      unlike = expected_shapes(generator(scale)) != expected_shapes(
        generator(own)
      )
      if unlike:
        raise UserError(f'it has other weights at scale {scale:g}')
  except UserError as error:
    raise UserError(
      'config.model does not suit the several scales of config.data.scales or'
      f' config.method.scales: {error}'
    ) from None


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


def recipe_by_name(name: str) -> perceptual.Recipe:
  """The perceptual loss that `config.method.perceptual` names.

  Raises:
    UserError: there is none of this name.
  """
  if name not in perceptual.RECIPES:
    raise UserError(
      f'config.method.perceptual: unknown {name!r}; choose from'
      f' {sorted(perceptual.RECIPES)}'
    )
  return perceptual.RECIPES[name]


def _over_outputs(
  loss: Callable[..., jax.Array], section: Mapping[str, Any]
) -> Callable[..., jax.Array]:
  """The loss for `training` that `config.method` describes."""
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
    images: tuple[jax.Array, jax.Array],
    scale: float,
    step: jax.Array,
  ) -> jax.Array:
    del scale
    if name != 'none' and 'outputs' not in aux:
      raise UserError(
        f'config.method.outputs={name}: this model has one output alone;'
        ' choose none'
      )
    return over(loss, (*aux.get('outputs', (sr,))[:-1], sr), images[1], step)

  return value


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


def _mixed_pair(
  make_lr: Callable[..., jax.Array],
  scales: tuple[float, ...],
  key: jax.Array,
  batch: Mapping[str, jax.Array],
) -> tuple[jax.Array, jax.Array]:
  """As `pair`, image by image of another scale, LR enlarged to HR's size."""
  if 'lr' in batch:
    raise UserError(
      'config.method.scales: pairs of files have a scale of their own; leave it'
      ' empty'
    )
  hr = batch['hr'].astype(jnp.float32) / 255
  lr, parts = [], []
  for i, scale in enumerate(scales):
    part = hr[i :: len(scales)]
    if part.shape[1] % scale:
      raise UserError(
        f'config.method.scales={scales}: HR crops of {part.shape[1]} are no'
        f' multiple of {scale:g}; choose another config.data.patch'
      )
    small = make_lr(jax.random.fold_in(key, i), part, scale)
    lr.append(imresize(small, scale=scale))
    parts.append(part)
  return jnp.concatenate(lr), jnp.concatenate(parts)


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
  scales: tuple[float, ...],
  state: TrainState,
  batch: Mapping[str, jax.Array],
  scale: float,
) -> tuple[TrainState, dict[str, jax.Array]]:
  if scales:
    scale, images = 1, _mixed_pair(make_lr, scales, state.step_key(), batch)
  else:
    images = pair(make_lr, state.step_key(), batch, scale)
  model = generator(scale)
  lr, hr = (as_seen(model, x) for x in images)
  stats = state.model_state.get('generator', {})

  def objective(params: Any) -> tuple[jax.Array, Any]:
    (sr, aux), changed = model.apply(
      {'params': params, **stats}, lr, train=True, mutable=list(stats)
    )
    # At scales that are not whole SR may reach a pixel beyond HR.
    sr = sr[:, : hr.shape[1], : hr.shape[2]]
    target = _centre(hr, sr.shape[1:3])
    return loss(sr, aux, (lr, target), scale, state.step), changed

  old = state.params['generator']
  (value, stats), grads = jax.value_and_grad(objective, has_aux=True)(old)
  state, metrics = optimizers.update(tx, rate, state, {'generator': grads})
  state = state.with_statistics({'generator': stats})
  return state, metrics | {'loss': value}


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

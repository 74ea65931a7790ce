"""Supervised training: one network, pixel losses, LR made on the device."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sr_jax import models, optimizers
from sr_jax.data.degradation import Degradation, covering_margin
from sr_jax.errors import (
  TEXT,
  Many,
  OneOf,
  Optional,
  Range,
  Rules,
  UserError,
  check,
  whole,
)
from sr_jax.methods import COMMON_RULES, Inference, Method
from sr_jax.methods._losses import easy_targets, over_outputs, pixel_loss
from sr_jax.models.parts.luma import apply_to_image, as_seen
from sr_jax.models.parts.parameters import expected_shapes
from sr_jax.ops.degrade import RESIZE_REACH
from sr_jax.ops.levels import to_unit
from sr_jax.ops.resize import imresize
from sr_jax.state import EMPTY, TrainState, check_frozen, start_from
from sr_jax.typing import Network

# Allowed keys and values of `config.method`.
_RULES: Rules = {
  **COMMON_RULES,
  'outputs': Optional(TEXT),
  'alpha_steps': Optional(whole(1)),
  'upsampling': Optional(OneOf(('bicubic', 'nearest'))),
  'scales': Optional(Many(Range(1, 100))),
}


class _Training(NamedTuple):
  """Network and settings that the functions of the method share.

  Attributes:
    network: `scale -> network`.
    tx: The optimizer.
    rate: The learning rate.
    loss: `(sr, aux, images, scale, step) -> value`. (sr, aux) is the output of
      the network, and images are (lr, hr), followed by the image of `targets`.
    pairs: Makes the (lr, hr) pairs of a batch.
    targets: `(hr, lr, scale) -> image` of HR's size, a further target of the
      loss; None if the loss needs none.
  """

  network: Callable[[float], Network]
  tx: optax.GradientTransformation
  rate: optax.Schedule
  loss: Callable[..., jax.Array]
  pairs: Degrader | _MixedScales
  targets: Callable[..., jax.Array] | None


def make(config: Mapping[str, Any]) -> Method:
  """Makes the supervised training of `config['model']`.

  Sections used: `model`, `method`, `loss`, `degradation`, `data`, `optimizer`,
  `steps`.

  Raises:
    UserError: The loss or outputs are unknown, or the value of a section is
      refused.
  """
  section = config['method']
  check('config.method', section, _RULES)
  scales = tuple(section.get('scales', ()))
  network = functools.partial(_create, config['model'])
  _check_scales(
    network,
    config['model']['scale'],
    [*config.get('data', {}).get('scales', ()), *(1 for _ in scales)],
  )
  tx, rate = optimizers.make(
    steps=config['steps'],
    constants=models.module(config['model']['name']).CONSTANTS,
    **config['optimizer'],
  )
  degrade = degrader(config)
  curriculum = section.get('outputs') == 'curriculum'
  training = _Training(
    *(network, tx, rate),
    loss=over_outputs(pixel_loss(config), section),
    pairs=_MixedScales(degrade, scales) if scales else degrade,
    targets=easy_targets(config['degradation']) if curriculum else None,
  )
  return Method(
    init=functools.partial(_init, training),
    train_step=functools.partial(_train_step, training),
    degrade=degrade.degradation.on_device,
    averaged=averaged,
    margin=training.pairs.margin,
  )


def inference(config: Mapping[str, Any]) -> Inference:
  """Applies the network of `config['model']`; needs no other section."""
  network = models.create(config['model'])
  return Inference(functools.partial(predict, network))


def _create(model: Mapping[str, Any], scale: float) -> Any:
  """Makes the network for the scale of a batch."""
  return models.create({**model, 'scale': scale})


def _check_scales(
  network: Callable[[float], Any], trained: float, others: Sequence[float]
) -> None:
  """Refuses scales at which the network does not exist or has other weights."""
  try:
    for scale in {min(others), max(others)} - {trained} if others else ():
      expected = expected_shapes(network(trained))
      if expected_shapes(network(scale)) != expected:
        raise UserError(f'it has other weights at scale {scale:g}')
  except UserError as error:
    raise UserError(
      'config.model does not suit the several scales of config.data.scales or'
      f' config.method.scales: {error}'
    ) from None


class Degrader(NamedTuple):
  """Makes the LR images of a batch of HR crops.

  Attributes:
    degradation: How LR is made.
    wide: Whether the HR crops of a batch have a margin around the crops for
      training. LR is then not affected by the mirrored borders of blur and
      resizing, and equals a crop of the LR of the whole photograph.
  """

  degradation: Degradation
  wide: bool

  def margin(self, scale: float) -> int:
    """Margin of the crops of a batch on every side, in LR pixels."""
    return self.degradation.margin(scale) if self.wide else 0

  def core(self, hr: jax.Array, scale: float) -> jax.Array:
    """Removes the margin of HR crops `[B, H, W, C]`."""
    return cut(hr, round(self.margin(scale) * scale))

  def pair(
    self, key: jax.Array, batch: Mapping[str, jax.Array], scale: float
  ) -> tuple[jax.Array, jax.Array]:
    """Returns (lr, hr) of a batch in [0, 1]; makes LR unless it is given."""
    lr, hr = self.images(key, batch, scale)
    return lr, hr

  def images(
    self,
    key: jax.Array,
    batch: Mapping[str, jax.Array],
    scale: float,
    targets: Callable[..., jax.Array] | None = None,
  ) -> tuple[jax.Array, ...]:
    """Returns (lr, hr) as `pair`, and the image that `targets` makes."""
    hr = to_unit(batch['hr'])
    if 'lr' in batch:  # real LR images, which have no margin
      lr = to_unit(batch['lr'])
      return (lr, hr) if targets is None else (lr, hr, targets(hr, lr, scale))
    lr = self.degradation.on_device(key, hr, scale, batch['hr'].dtype)
    images = [hr] if targets is None else [hr, targets(hr, lr, scale)]
    cores = [self.core(image, scale) for image in images]
    return (cut(lr, self.margin(scale)), *cores)


def cut(image: jax.Array, border: int) -> jax.Array:
  """Removes `border` pixels on every side of `[B, H, W, C]`."""
  return image[:, border:-border, border:-border] if border else image


def degrader(config: Mapping[str, Any]) -> Degrader:
  """Makes the degrader of `config.degradation` and `config.data.margin`.

  Raises:
    UserError: The kernel cannot be read, or does not suit the degradation.
  """
  return Degrader(
    Degradation.from_config(config['degradation']),
    config.get('data', {}).get('margin', False),
  )


class _MixedScales(NamedTuple):
  """Makes pairs of several scales in one batch; LR is enlarged to HR's size.

  Attributes:
    degrader: Makes LR.
    scales: Scales, which the images of a batch use in turn.
  """

  degrader: Degrader
  scales: tuple[float, ...]

  def margin(self, scale: float) -> int:
    """Margin of the crops of a batch on every side, in HR pixels."""
    del scale  # always 1, because LR is enlarged
    if not self.degrader.wide:
      return 0
    reach = max(
      s * (self.degrader.margin(s) + RESIZE_REACH) for s in self.scales
    )
    return covering_margin(reach, 1, *self.scales)

  def images(
    self,
    key: jax.Array,
    batch: Mapping[str, jax.Array],
    scale: float,
    targets: Callable[..., jax.Array] | None = None,
  ) -> tuple[jax.Array, ...]:
    """Returns (enlarged lr, hr) of a batch in [0, 1].

    Raises:
      UserError: The batch has real LR images, or the size of crops is no
        multiple of a scale.
    """
    del targets  # such networks have one output and need no further target
    if 'lr' in batch:
      raise UserError(
        'config.method.scales: pairs of files have a scale of their own; leave'
        ' it empty'
      )
    margin, step = self.margin(scale), len(self.scales)
    wide = to_unit(batch['hr'])
    lr, hr = [], []
    for i, each in enumerate(self.scales):
      part = wide[i::step]
      size = part.shape[1] - 2 * margin
      if size % each:
        raise UserError(
          f'config.method.scales={self.scales}: HR crops of {size} are no'
          f' multiple of {each:g}; choose another config.data.patch'
        )
      small = self.degrader.degradation.on_device(
        jax.random.fold_in(key, i), part, each, batch['hr'].dtype
      )
      lr.append(cut(imresize(small, scale=each), margin))
      hr.append(cut(part, margin))
    return jnp.concatenate(lr), jnp.concatenate(hr)


def _init(
  training: _Training,
  key: jax.Array,
  shapes: Mapping[str, jax.ShapeDtypeStruct],
  frozen: Mapping[str, Any],
  scale: float,
  pretrained: Mapping[str, Any] = EMPTY,
) -> TrainState:
  check_frozen(frozen, ())
  init_key, state_key = jax.random.split(key)
  network = training.network(scale)
  lr = as_seen(network, jnp.zeros((1, 8, 8, shapes['hr'].shape[-1])))
  stats = dict(network.init(init_key, lr))
  slots = start_from({'generator': stats.pop('params'), **stats}, pretrained)
  params = slots.pop('generator')
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    key=state_key,
    params={'generator': params},
    opt_state={'generator': training.tx.init(params)},
    model_state={'generator': slots} if slots else {},
  )


def _train_step(
  training: _Training,
  state: TrainState,
  batch: Mapping[str, jax.Array],
  scale: float,
) -> tuple[TrainState, dict[str, jax.Array]]:
  pairs = training.pairs
  images = pairs.images(state.step_key(), batch, scale, training.targets)
  if isinstance(pairs, _MixedScales):
    scale = 1  # LR is already enlarged
  network = training.network(scale)
  lr, hr, *others = (as_seen(network, x) for x in images)
  stats = state.model_state.get('generator', {})

  def objective(params: Any) -> tuple[jax.Array, Any]:
    (sr, aux), changed = network.apply(
      {'params': params, **stats}, lr, train=True, mutable=list(stats)
    )
    # At scales that are not whole SR may reach a pixel beyond HR.
    sr = sr[:, : hr.shape[1], : hr.shape[2]]
    hrs = [_centre(image, sr.shape[1:3]) for image in (hr, *others)]
    value = training.loss(sr, aux, (lr, *hrs), scale, state.step)
    return value, changed

  old = state.params['generator']
  (value, stats), grads = jax.value_and_grad(objective, has_aux=True)(old)
  state, metrics = optimizers.step_slots(
    training.tx, training.rate, state, {'generator': grads}
  )
  state = state.with_statistics({'generator': stats})
  return state, metrics | {'loss': value}


def _centre(image: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Central crop of `[B, H, W, C]`, for networks without padding."""
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
  """`Inference.predict` of a network."""
  stats = params.get('batch_stats')
  sr = apply_to_image(model, params['generator'], lr, mask, stats)
  return jnp.clip(sr, 0, 1)


def averaged(state: TrainState) -> dict[str, Any]:
  """Parameters by slot for inference: the moving average if one is kept.

  Running statistics of the generator are added as slot `batch_stats`.
  """
  slots = {
    slot: optimizers.averaged_params(state.opt_state[slot], params)
    for slot, params in state.params.items()
  }
  return slots | state.model_state.get('generator', {})

"""Dual regression training (DRN, Guo et al., CVPR 2020).

One step updates the primal network (slot `generator`) and its dual networks
(`dual_0` from twice the LR size to LR size, `dual_1`, ...) by the gradient of
one loss, each with an optimizer state of its own, as the released code does;
the paper's algorithms write the updates one after the other.

A batch may hold samples without HR (`labelled` is false, and LR is in
`unlabelled`). Only the dual terms of the loss use these, as in Algorithm 1.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sr_jax import models, optimizers
from sr_jax.errors import FLAG, Range, Rules, check
from sr_jax.methods import COMMON_RULES, Inference, Method, _losses, supervised
from sr_jax.models import drn
from sr_jax.ops.degrade import degrade, quantize
from sr_jax.ops.levels import to_unit
from sr_jax.state import EMPTY, TrainState, check_frozen, start_from
from sr_jax.transforms.dual_regression import closed_loop

# Allowed keys and values of `config.method`.
_RULES: Rules = {
  **COMMON_RULES,
  'dual_weight': Range(),
  'hr_cycle': FLAG,
  'compose': FLAG,
}


class _Networks(NamedTuple):
  """The primal network, and the architecture that all dual networks share."""

  primal: Any
  dual: Any
  levels: int

  @property
  def dual_slots(self) -> list[str]:
    return [f'dual_{i}' for i in range(self.levels)]


class _Training(NamedTuple):
  """Networks and settings that the functions of the method share.

  Attributes:
    networks: The primal and the dual networks.
    tx: The optimizer of each network.
    rate: The learning rate.
    loop: `closed_loop` with the settings of `config.method`.
    degrader: Makes the (lr, hr) pairs of a batch.
  """

  networks: _Networks
  tx: optax.GradientTransformation
  rate: optax.Schedule
  loop: Callable[..., Any]
  degrader: supervised.Degrader


def make(config: Mapping[str, Any]) -> Method:
  """Makes the training of `config['model']`, any network with `features`.

  Sections used: `method`, `model`, `loss`, `degradation`, `optimizer`, `steps`.

  Raises:
    UserError: The loss is unknown, the scale is no power of two, or the value
      of a section is refused.
  """
  check('config.method', config['method'], _RULES)
  model = config['model']
  networks = _networks(models.create(model))
  architecture = models.module(model['name'])
  tx, rate = optimizers.make(
    steps=config['steps'],
    constants=architecture.CONSTANTS,
    **config['optimizer'],
  )
  loop = functools.partial(
    closed_loop,
    distance=_losses.pixel_loss(config),
    **{k: config['method'][k] for k in ('dual_weight', 'hr_cycle', 'compose')},
  )
  degrader = supervised.degrader(config)
  training = _Training(networks, tx, rate, loop, degrader)
  return Method(
    init=functools.partial(_init, training),
    train_step=functools.partial(_train_step, training),
    degrade=degrader.degradation.on_device,
    margin=degrader.margin,
    averaged=supervised.averaged,
    uses=frozenset({'unlabelled'}),
  )


def inference(config: Mapping[str, Any]) -> Inference:
  """Applies the primal network alone, as `supervised` does."""
  return supervised.inference(config)


def _networks(primal: Any) -> _Networks:
  dual = drn.Dual(features=primal.features, channels=primal.channels)
  return _Networks(primal, dual, drn.levels(primal.scale))


def _init(
  training: _Training,
  key: jax.Array,
  shapes: Mapping[str, jax.ShapeDtypeStruct],
  frozen: Mapping[str, Any],
  scale: int,
  pretrained: Mapping[str, Any] = EMPTY,
) -> TrainState:
  del scale  # always the config's, because it sets the number of levels
  check_frozen(frozen, ())
  networks = training.networks
  init_key, state_key = jax.random.split(key)
  image = jnp.zeros((1, 8, 8, shapes['hr'].shape[-1]))
  params = {'generator': networks.primal.init(init_key, image)['params']}
  for i, slot in enumerate(networks.dual_slots):
    dual_key = jax.random.fold_in(init_key, i)
    params[slot] = networks.dual.init(dual_key, image)['params']
  params = start_from(params, pretrained)
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    key=state_key,
    params=params,
    opt_state={slot: training.tx.init(tree) for slot, tree in params.items()},
  )


def _targets(
  lr: jax.Array, wide: jax.Array, levels: int, margin: int, dtype: Any
) -> list[jax.Array]:
  """Targets of all levels: LR, bicubic reductions of HR, and HR.

  Args:
    lr: `[B, H, W, C]` in [0, 1].
    wide: HR with its margin.
    levels: log2 of the scale.
    margin: HR pixels of the margin on every side, a multiple of the scale.
    dtype: Type to whose levels the reductions are rounded.
  """
  factors = [2 ** (levels - level) for level in range(1, levels)]
  between = [
    supervised.cut(
      quantize(degrade(None, wide, scale=factor), dtype), margin // factor
    )
    for factor in factors
  ]
  return [lr, *between, supervised.cut(wide, margin)]


def _objective(
  training: _Training,
  targets: list[jax.Array],
  labelled: jax.Array | None,
  params: Mapping[str, Any],
) -> tuple[jax.Array, Any]:
  """The loss of all networks, and its terms."""
  networks = training.networks

  def primal(lr: jax.Array) -> Any:
    variables = {'params': params['generator']}
    sr, aux = networks.primal.apply(variables, lr, train=True)
    return aux.get('outputs', (sr,))

  duals = [
    functools.partial(networks.dual.apply, {'params': params[slot]})
    for slot in networks.dual_slots
  ]
  return training.loop(primal, duals)(targets, labelled)


def _train_step(
  training: _Training,
  state: TrainState,
  batch: Mapping[str, jax.Array],
  scale: int,
) -> tuple[TrainState, dict[str, jax.Array]]:
  degrader = training.degrader
  lr, _ = degrader.pair(state.step_key(), batch, scale)
  labelled = batch.get('labelled')
  if labelled is not None:
    alone = to_unit(batch['unlabelled'])
    lr = jnp.where(labelled[:, None, None, None], lr, alone)
  margin = 0 if 'lr' in batch else degrader.margin(scale) * scale
  wide = to_unit(batch['hr'])
  targets = _targets(
    lr, wide, training.networks.levels, margin, batch['hr'].dtype
  )
  objective = functools.partial(_objective, training, targets, labelled)
  (value, terms), grads = jax.value_and_grad(objective, has_aux=True)(
    state.params
  )
  state, metrics = optimizers.step_slots(
    training.tx, training.rate, state, grads
  )
  return state, metrics | {'loss': value, **terms._asdict()}

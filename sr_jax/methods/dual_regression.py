"""Dual regression training (DRN, Guo et al., CVPR 2020).

One step updates the primal network (slot `generator`) and its dual networks
(`dual_0` from twice the LR size to LR size, `dual_1`, ...) by the gradient of
one loss, each with an optimizer state of its own, as the released code does;
the paper's algorithms write the updates one after the other.

A batch may hold samples of which only LR exists (`labelled` false, LR in
`unlabelled`): they join the dual terms alone, as in Algorithm 1.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sr_jax import models, optimizers
from sr_jax.errors import UserError
from sr_jax.methods import Method, supervised
from sr_jax.models import drn
from sr_jax.ops.degrade import degrade, quantize
from sr_jax.state import TrainState, start_from
from sr_jax.transforms.dual_regression import closed_loop

# Batches may hold LR images without HR.
USES_UNLABELLED = True

predictor = supervised.predictor

_SETTINGS = ('dual_weight', 'hr_cycle', 'compose')


class _Networks(NamedTuple):
  """The primal and the dual networks, which share one architecture."""

  primal: Any
  dual: Any
  levels: int

  @property
  def dual_slots(self) -> list[str]:
    return [f'dual_{i}' for i in range(self.levels)]


def make(config: Mapping[str, Any]) -> Method:
  """Dual regression of `config['model']`, any network with `features`.

  Sections used: `method`, `model`, `loss`, `degradation`, `optimizer`, `steps`.

  Raises:
    UserError: unknown loss, a scale that is no power of two, or a section that
      its consumer refuses.
  """
  model = config['model']
  section = {key: config['method'][key] for key in _SETTINGS}
  networks = _networks(models.create(model))
  architecture = models.module(model['name'])
  tx, rate = optimizers.make(
    steps=config['steps'],
    constants=architecture.CONSTANTS,
    **config['optimizer'],
  )
  degrader = supervised.degrader(config)
  distance = supervised.loss_by_name(config['loss'])
  objective = functools.partial(
    _objective, networks, _loop(distance=distance, **section)
  )
  return Method(
    init=functools.partial(_init, networks, tx),
    train_step=functools.partial(
      _train_step, networks, tx, rate, objective, degrader
    ),
    predict=predictor(config),
    degrade=degrader.degradation.on_device,
    margin=degrader.margin,
    averaged=supervised.averaged,
  )


def _networks(primal: Any) -> _Networks:
  dual = drn.Dual(features=primal.features, channels=primal.channels)
  return _Networks(primal, dual, drn.levels(primal.scale))


def _loop(
  *,
  distance: Callable[..., jax.Array],
  dual_weight: float,
  hr_cycle: bool,
  compose: bool,
) -> Callable[..., Any]:
  """`closed_loop` with the settings of `config.method`."""
  if dual_weight < 0:
    raise UserError(
      f'config.method.dual_weight={dual_weight:g}: give 0 or more'
    )
  return functools.partial(
    closed_loop,
    distance=distance,
    dual_weight=dual_weight,
    hr_cycle=hr_cycle,
    compose=compose,
  )


def _init(
  networks: _Networks,
  tx: optax.GradientTransformation,
  key: jax.Array,
  batch: Mapping[str, jax.Array],
  pretrained: Mapping[str, Any],
  scale: int,
) -> TrainState:
  del scale  # the config's: other scales have other levels
  init_key, state_key = jax.random.split(key)
  image = jnp.zeros((1, 8, 8, batch['hr'].shape[-1]))
  params = {'generator': networks.primal.init(init_key, image)['params']}
  for i, slot in enumerate(networks.dual_slots):
    dual_key = jax.random.fold_in(init_key, i)
    params[slot] = networks.dual.init(dual_key, image)['params']
  params = start_from(params, pretrained)
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    key=state_key,
    params=params,
    opt_state={slot: tx.init(tree) for slot, tree in params.items()},
  )


def _targets(
  lr: jax.Array, wide: jax.Array, levels: int, margin: int
) -> list[jax.Array]:
  """Images of every level: LR, bicubic reductions of HR in 8 bits, HR.

  Args:
    lr: `[B, H, W, C]` in [0, 1].
    wide: HR with its margin.
    levels: log2 of the scale.
    margin: HR pixels of the margin on every side, a multiple of the scale.
  """
  factors = [2 ** (levels - level) for level in range(1, levels)]
  between = [
    supervised.cut(
      quantize(degrade(None, wide, scale=factor)), margin // factor
    )
    for factor in factors
  ]
  return [lr, *between, supervised.cut(wide, margin)]


def _objective(
  networks: _Networks,
  loop: Callable[..., Any],
  params: Mapping[str, Any],
  targets: list[jax.Array],
  labelled: jax.Array | None,
) -> tuple[jax.Array, Any]:
  """Loss of all networks, and its terms."""

  def primal(lr: jax.Array) -> Any:
    variables = {'params': params['generator']}
    sr, aux = networks.primal.apply(variables, lr, train=True)
    return aux.get('outputs', (sr,))

  duals = [
    functools.partial(networks.dual.apply, {'params': params[slot]})
    for slot in networks.dual_slots
  ]
  return loop(primal, duals)(targets, labelled)


def _train_step(
  networks: _Networks,
  tx: optax.GradientTransformation,
  rate: optax.Schedule,
  objective: Callable[..., Any],
  degrader: supervised.Degrader,
  state: TrainState,
  batch: Mapping[str, jax.Array],
  scale: int,
) -> tuple[TrainState, dict[str, jax.Array]]:
  lr, _ = degrader.pair(state.step_key(), batch, scale)
  labelled = batch.get('labelled')
  if labelled is not None:
    alone = batch['unlabelled'].astype(jnp.float32) / 255
    lr = jnp.where(labelled[:, None, None, None], lr, alone)
  margin = 0 if 'lr' in batch else degrader.margin(scale) * scale
  wide = batch['hr'].astype(jnp.float32) / 255
  targets = _targets(lr, wide, networks.levels, margin)
  (value, terms), grads = jax.value_and_grad(objective, has_aux=True)(
    state.params, targets, labelled
  )
  state, metrics = optimizers.update(tx, rate, state, grads)
  return state, metrics | {'loss': value, **terms._asdict()}

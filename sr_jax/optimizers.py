"""From a config section to one optax transformation."""

from __future__ import annotations

import fnmatch
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sr_jax.errors import UserError
from sr_jax.state import TrainState

PyTree = Any

_OPTIMIZERS = {
  'adam': optax.scale_by_adam,
  'sgd': lambda b1, b2, eps: optax.trace(decay=b1),
}
# apply_if_finite gives up after this many skips; the train loop stops sooner.
_NEVER = 2**31 - 1


class EmaState(NamedTuple):
  """Exponential moving average of the parameters, and its updates so far."""

  ema: PyTree
  updates: jax.Array


def make_schedule(
  *,
  name: str,
  learning_rate: float,
  steps: int,
  warmup_steps: int,
  boundaries: Sequence[int],
  factor: float,
) -> optax.Schedule:
  """Learning rate as a pure function of the step.

  Args:
    name: `constant`, `cosine` (to zero at `steps`, and at each boundary, where
      it starts again) or `step`.
    learning_rate: Peak rate.
    steps: Length of the run.
    warmup_steps: Linear rise from zero before the named schedule.
    boundaries: Steps at which `step` multiplies the rate by `factor`, or where
      a cycle of `cosine` begins.
    factor: Factor of `step`.

  Raises:
    UserError: unknown name.
  """
  if name == 'constant':
    main = optax.constant_schedule(learning_rate)
  elif name == 'cosine':
    starts = [0, *(t - warmup_steps for t in boundaries if t < steps)]
    lengths = np.diff([*starts, max(steps - warmup_steps, starts[-1] + 1)])
    cycles = [
      optax.cosine_decay_schedule(learning_rate, int(n)) for n in lengths
    ]
    main = optax.join_schedules(cycles, starts[1:])
  elif name == 'step':
    scales = {step - warmup_steps: factor for step in boundaries}
    main = optax.piecewise_constant_schedule(learning_rate, scales)
  else:
    raise UserError(
      f'config.optimizer.schedule: unknown {name!r}; choose constant, cosine'
      ' or step'
    )
  if not warmup_steps:
    return main
  warmup = optax.linear_schedule(0.0, learning_rate, warmup_steps)
  return optax.join_schedules([warmup, main], [warmup_steps])


def params_ema(decay: float) -> optax.GradientTransformation:
  """Keeps an average of the parameters after each update; put it last.

  The decay rises to its value as (1 + t) / (10 + t), so that short runs do
  not average over their start.
  """

  def init(params: optax.Params) -> EmaState:
    return EmaState(jax.tree.map(jnp.array, params), jnp.zeros((), jnp.int32))

  def update(
    updates: optax.Updates,
    state: optax.OptState,
    params: optax.Params | None = None,
  ) -> tuple[optax.Updates, optax.OptState]:
    if params is None or not isinstance(state, EmaState):
      raise ValueError('params_ema needs the parameters and its own state')
    count = state.updates + 1
    rate = jnp.minimum(decay, (1 + count) / (10 + count))
    new_params = optax.apply_updates(params, updates)
    ema = optax.incremental_update(new_params, state.ema, 1 - rate)
    return updates, EmaState(ema, count)

  return optax.GradientTransformation(init, update)


def make(
  *,
  name: str,
  learning_rate: float,
  schedule: str,
  steps: int,
  warmup_steps: int,
  boundaries: Sequence[int],
  factor: float,
  b1: float,
  b2: float,
  eps: float,
  weight_decay: float,
  clip_norm: float,
  clip_value: float,
  clip_follows_rate: bool,
  rate_factors: Sequence[tuple[str, float]],
  ema_decay: float,
  constants: Sequence[str] = (),
) -> tuple[optax.GradientTransformation, optax.Schedule]:
  """The optimizer of one slot and its learning-rate schedule.

  Updates with a non-finite gradient are skipped and counted
  (`optax.apply_if_finite`). Zero turns clipping, decay and EMA off. Decay
  spares the layers named in `constants`, which get no gradient either. With sgd
  it goes through the momentum, as a part of the loss would.

  With `clip_follows_rate` gradients are clipped to the given limit divided by
  the learning rate, so that the limit bounds what an update does (Kim et al.,
  VDSR, CVPR 2016). `rate_factors` are (pattern, factor): the rate of parameters
  whose path (`conv3/bias`) matches is multiplied.

  Raises:
    UserError: unknown optimizer or schedule.
  """
  if name not in _OPTIMIZERS:
    raise UserError(
      f'config.optimizer.name: unknown {name!r}; choose from'
      f' {sorted(_OPTIMIZERS)}'
    )
  rate = make_schedule(
    name=schedule,
    learning_rate=learning_rate,
    steps=steps,
    warmup_steps=warmup_steps,
    boundaries=boundaries,
    factor=factor,
  )
  parts = []
  follow = rate if clip_follows_rate else None
  if clip_value:
    parts.append(_clip(optax.clip, clip_value, follow))
  if clip_norm:
    parts.append(_clip(optax.clip_by_global_norm, clip_norm, follow))
  parts.append(_OPTIMIZERS[name](b1=b1, b2=b2, eps=eps))
  if weight_decay:
    mask = functools.partial(_all_but, constants)
    decay = optax.add_decayed_weights(weight_decay, mask)
    parts.insert(len(parts) - (name == 'sgd'), decay)
  if rate_factors:
    parts.append(_scale_by_path(rate_factors))
  parts.append(optax.scale_by_learning_rate(rate))
  if ema_decay:
    parts.append(params_ema(ema_decay))
  return optax.apply_if_finite(optax.chain(*parts), _NEVER), rate


def _clip(
  clip: Callable[[Any], optax.GradientTransformation],
  limit: float,
  rate: optax.Schedule | None,
) -> optax.GradientTransformation:
  """`clip(limit)`, or of the limit divided by the rate of the step."""
  if rate is None:
    return clip(limit)

  def init(params: optax.Params) -> optax.OptState:
    del params
    return optax.ScaleByScheduleState(jnp.zeros((), jnp.int32))

  def update(
    updates: optax.Updates,
    state: optax.OptState,
    params: optax.Params | None = None,
  ) -> tuple[optax.Updates, optax.OptState]:
    if not isinstance(state, optax.ScaleByScheduleState):
      raise ValueError('clipping by the rate needs its own state')
    # No limit where the rate is zero, at the first step of a warmup.
    now = clip(limit / rate(state.count))
    updates, _ = now.update(updates, now.init(updates), params)
    return updates, optax.ScaleByScheduleState(state.count + 1)

  return optax.GradientTransformation(init, update)


def _scale_by_path(
  factors: Sequence[tuple[str, float]],
) -> optax.GradientTransformation:
  """Multiplies the updates of parameters whose paths match.

  Raises:
    UserError: at the first update, a pattern matches none.
  """

  def update(updates: optax.Updates, params: Any = None) -> optax.Updates:
    del params
    unused = dict(factors)

    def scaled(path: Any, value: jax.Array) -> jax.Array:
      name = jax.tree_util.keystr(path, simple=True, separator='/')
      for pattern, factor in factors:
        if fnmatch.fnmatchcase(name, pattern):
          unused.pop(pattern, None)
          value = factor * value
      return value

    updates = jax.tree_util.tree_map_with_path(scaled, updates)
    if unused:
      raise UserError(
        'config.optimizer.rate_factors: no parameter matches'
        f' {next(iter(unused))!r}'
      )
    return updates

  return optax.stateless(update)


def _all_but(names: Sequence[str], params: Mapping[str, Any]) -> PyTree:
  """True for every leaf but those of the layers `names`."""
  return {
    layer: jax.tree.map(lambda _, kept=layer not in names: kept, leaves)
    for layer, leaves in params.items()
  }


def averaged_params(opt_state: PyTree, params: PyTree) -> PyTree:
  """The moving average that `opt_state` keeps, else `params` themselves."""
  ema = optax.tree.get(opt_state, 'ema')
  return params if ema is None else ema


def update(
  tx: optax.GradientTransformation,
  rate: optax.Schedule,
  state: TrainState,
  grads: Mapping[str, PyTree],
) -> tuple[TrainState, dict[str, jax.Array]]:
  """One step of every slot, each with an optimizer state of its own.

  Args:
    tx: From `make`.
    rate: From `make`.
    state: Of the training.
    grads: Gradients of `state.params`, by slot.

  Returns:
    The next state, and metrics: the gradient's norm, the rate, and how many
    updates were skipped because they were not finite, in a row and in all.
  """
  params, opt_state = {}, {}
  for slot, old in state.params.items():
    updates, new = tx.update(grads[slot], state.opt_state[slot], old)
    params[slot] = optax.apply_updates(old, updates)
    opt_state[slot] = new
  metrics = step_metrics(rate, state.step, grads, opt_state)
  state = state.replace(step=state.step + 1, params=params, opt_state=opt_state)
  return state, metrics


def step_metrics(
  rate: optax.Schedule,
  step: jax.Array,
  grads: PyTree,
  opt_state: Mapping[str, PyTree],
) -> dict[str, jax.Array]:
  """Metrics of a step, as `update` gives them.

  Args:
    rate: Of the slot that is looked at.
    step: Steps before this one.
    grads: Gradients whose norm is told.
    opt_state: Of every slot, after the step.
  """
  skips = [skipped_updates(own) for own in opt_state.values()]
  in_a_row, total = (jnp.stack(n).max() for n in zip(*skips, strict=True))
  return {
    'gradient_norm': jnp.asarray(optax.tree.norm(grads)),
    # The schedule counts the updates that were not skipped.
    'learning_rate': jnp.asarray(rate(step - total)),
    'skipped_in_a_row': in_a_row,
    'skipped': total,
  }


def skipped_updates(opt_state: PyTree) -> tuple[jax.Array, jax.Array]:
  """Non-finite updates skipped in a row until now, and in all."""
  in_a_row = optax.tree.get(opt_state, 'notfinite_count')
  total = optax.tree.get(opt_state, 'total_notfinite')
  return in_a_row, total

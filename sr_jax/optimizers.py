"""From a config section to one optax transformation."""

from __future__ import annotations

import fnmatch
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sr_jax.errors import (
  FLAG,
  TEXT,
  Many,
  Range,
  Row,
  Rules,
  UserError,
  check,
  whole,
)
from sr_jax.state import TrainState, all_finite

PyTree = Any

_OPTIMIZERS = {
  'adam': optax.scale_by_adam,
  'sgd': lambda b1, b2, eps: optax.trace(decay=b1),
}
# What `config.optimizer` may hold.
RULES: Rules = {
  'name': TEXT,
  'learning_rate': Range(0, 1000),
  'schedule': TEXT,
  'warmup_steps': whole(),
  'boundaries': Many(whole(1)),
  'factor': Range(0, 1000, open='left'),
  'b1': Range(0, 1, open='right'),
  'b2': Range(0, 1, open='right'),
  # Smaller ones are zero in float32 arithmetic: Adam would divide by zero.
  'eps': Range(1e-30, 1),
  'weight_decay': Range(0, 1000),
  'clip_norm': Range(),
  'clip_value': Range(),
  'clip_follows_rate': FLAG,
  'rate_factors': Many(Row((TEXT, Range()))),
  'ema_decay': Range(0, 1, open='right'),
}


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
  """Learning rate as a pure function of the updates done so far.

  A network that is not updated at every step (`generator_every` of the method
  `gan`, `critic_steps` of `reference`) counts its own updates here.

  Args:
    name: `constant`, `cosine` (to zero at `steps`, and at each boundary, where
      it starts again) or `step`.
    learning_rate: Peak rate.
    steps: Updates of the run.
    warmup_steps: Linear rise from zero before the named schedule.
    boundaries: Updates at which `step` multiplies the rate by `factor`, or
      where a cycle of `cosine` begins.
    factor: Factor of `step`.

  Raises:
    UserError: an unknown name, or boundaries that do not rise or that lie
      within the warm-up.
  """
  shown = f'config.optimizer.boundaries={tuple(boundaries)}'
  if any(a >= b for a, b in itertools.pairwise(boundaries)):
    raise UserError(f'{shown}: give each once, from the first to the last')
  if boundaries and boundaries[0] <= warmup_steps:
    raise UserError(
      f'{shown}: the first lies within the {warmup_steps} steps of'
      ' config.optimizer.warmup_steps; give larger ones, or a shorter warm-up'
    )
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
  steps: int,
  constants: Sequence[str] = (),
  starts_at: int = 0,
  **section: Any,
) -> tuple[optax.GradientTransformation, optax.Schedule]:
  """The optimizer of one slot and its learning-rate schedule.

  Args:
    steps: Updates that the schedule spans.
    constants: Layers that get no gradient; weight decay spares them.
    starts_at: Where in the schedule the first update lies.
    **section: `config.optimizer`.

  Returns:
    The transformation, and the rate as a function of its updates so far.
    Updates that are not finite are skipped and counted, see `skip_nonfinite`.

  Raises:
    UserError: an unknown optimizer or schedule, or a value out of its range.
  """
  check('config.optimizer', section, RULES)
  if section['name'] not in _OPTIMIZERS:
    raise UserError(
      f'config.optimizer.name: unknown {section["name"]!r}; choose from'
      f' {sorted(_OPTIMIZERS)}'
    )
  keys = ('learning_rate', 'warmup_steps', 'boundaries', 'factor')
  whole_run = make_schedule(
    name=section['schedule'], steps=steps, **{k: section[k] for k in keys}
  )

  def rate(count: jax.typing.ArrayLike) -> jax.Array:
    return jnp.asarray(whole_run(count + starts_at))

  others = {k: v for k, v in section.items() if k not in (*keys, 'schedule')}
  return skip_nonfinite(_chain(rate, constants, **others)), rate


def _chain(
  rate: optax.Schedule,
  constants: Sequence[str],
  *,
  name: str,
  b1: float,
  b2: float,
  eps: float,
  weight_decay: float,
  clip_norm: float,
  clip_value: float,
  clip_follows_rate: bool,
  rate_factors: Sequence[tuple[str, float]],
  ema_decay: float,
) -> optax.GradientTransformation:
  """The optimizer; zero turns clipping, weight decay and the average off.

  With sgd weight decay goes through the momentum, as a part of the loss would.

  With `clip_follows_rate` gradients are clipped to the given limit divided by
  the learning rate, so that the limit bounds what an update does (Kim et al.,
  VDSR, CVPR 2016). `rate_factors` are (pattern, factor): the rate of parameters
  whose path (`conv3/bias`) matches is multiplied.
  """
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
  return optax.chain(*parts)


def skip_nonfinite(
  inner: optax.GradientTransformation,
) -> optax.GradientTransformation:
  """Skips and counts updates that would leave something that is not finite.

  `optax.apply_if_finite`, whose state this has, looks at the gradient alone.
  Here the update, the updated parameters and the optimizer's own averages must
  be finite too: finite gradients may still overflow when they are squared.
  """

  def init(params: optax.Params) -> optax.OptState:
    return optax.ApplyIfFiniteState(
      notfinite_count=jnp.zeros((), jnp.int32),
      last_finite=jnp.array(True),
      total_notfinite=jnp.zeros((), jnp.int32),
      inner_state=inner.init(params),
    )

  def update(
    updates: optax.Updates,
    state: optax.OptState,
    params: optax.Params | None = None,
  ) -> tuple[optax.Updates, optax.OptState]:
    if params is None or not isinstance(state, optax.ApplyIfFiniteState):
      raise ValueError('skip_nonfinite needs the parameters and its own state')
    new, inner_state = inner.update(updates, state.inner_state, params)
    moved = optax.apply_updates(params, new)
    finite = all_finite((updates, moved, inner_state))
    skips = jnp.logical_not(finite).astype(jnp.int32)
    return (
      jax.tree.map(lambda x: jnp.where(finite, x, jnp.zeros_like(x)), new),
      optax.ApplyIfFiniteState(
        notfinite_count=skips * (state.notfinite_count + 1),
        last_finite=finite,
        total_notfinite=state.total_notfinite + skips,
        inner_state=jax.tree.map(
          lambda after, before: jnp.where(finite, after, before),
          *(inner_state, state.inner_state),
        ),
      ),
    )

  return optax.GradientTransformation(init, update)


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


def step_slots(
  tx: optax.GradientTransformation,
  rate: optax.Schedule,
  state: TrainState,
  grads: Mapping[str, PyTree],
) -> tuple[TrainState, dict[str, jax.Array]]:
  """One step of every slot, each with an optimizer state of its own.

  Args:
    tx: From `make`.
    rate: From `make`.
    state: State of the training.
    grads: Gradients of `state.params`, by slot.

  Returns:
    The next state, and the metrics that `step_metrics` gives.
  """
  params, opt_state = {}, {}
  for slot, old in state.params.items():
    updates, new = tx.update(grads[slot], state.opt_state[slot], old)
    params[slot] = optax.apply_updates(old, updates)
    opt_state[slot] = new
  metrics = step_metrics(rate, grads, opt_state)
  state = state.replace(step=state.step + 1, params=params, opt_state=opt_state)
  return state, metrics


def step_metrics(
  rate: optax.Schedule,
  grads: PyTree,
  opt_state: Mapping[str, PyTree],
  slot: str = 'generator',
) -> dict[str, jax.Array]:
  """The gradient's norm, one slot's rate, and the skipped updates.

  Args:
    rate: The schedule of the slot whose rate is reported.
    grads: Gradients whose norm is reported.
    opt_state: Optimizer states of all slots, after the step.
    slot: The slot whose rate is reported.

  Returns:
    `gradient_norm`; `learning_rate`, which the last update of the slot had;
    `skipped_in_a_row` and `skipped`, updates that were not finite.
  """
  skips = [skipped_updates(slot) for slot in opt_state.values()]
  in_a_row, total = (jnp.stack(n).max() for n in zip(*skips, strict=True))
  return {
    'gradient_norm': jnp.asarray(optax.tree.norm(grads)),
    'learning_rate': applied_rate(rate, opt_state[slot]),
    'skipped_in_a_row': in_a_row,
    'skipped': total,
  }


def applied_rate(rate: optax.Schedule, opt_state: PyTree) -> jax.Array:
  """The learning rate of the last update that `opt_state` counts."""

  def counts(node: Any) -> bool:
    return isinstance(node, optax.ScaleByScheduleState)

  nodes = jax.tree.leaves(opt_state, is_leaf=counts)
  updates = next(node.count for node in reversed(nodes) if counts(node))
  return jnp.asarray(rate(jnp.maximum(updates - 1, 0)))


def skipped_updates(opt_state: PyTree) -> tuple[jax.Array, jax.Array]:
  """Non-finite updates skipped in a row until now, and in all."""
  in_a_row = optax.tree.get(opt_state, 'notfinite_count')
  total = optax.tree.get(opt_state, 'total_notfinite')
  return in_a_row, total

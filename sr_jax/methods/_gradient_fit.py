"""MZSR's adaptation to an image (Soh et al., CVPR 2020, Algorithm 2).

Meta-trained weights are changed by some steps of gradient descent on one pair
of images. The target of the pair is the LR image itself. Its input is the
image's son, which is the LR image, blurred by the given kernel and reduced.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sr_jax import models
from sr_jax.data.degradation import REAL
from sr_jax.errors import (
  Many,
  Range,
  Rules,
  Section,
  UserError,
  check,
  whole,
)
from sr_jax.methods import Assumed, Fitting, zero_shot
from sr_jax.ops.compilation import jit
from sr_jax.transforms import meta
from sr_jax.typing import Refining

# Largest side in LR pixels of the part of an image that is used for adapting.
# Gradients of larger images do not fit the memory of small devices, and would
# hardly change the result.
_GRADIENT_SIDE = 512
# Allowed values of `config.method.adapt`. They are limited, because they come
# with a checkpoint, whose author must not be able to make adaptation endless.
ADAPT_RULES: Rules = {
  'steps': whole(0, 10_000),
  'rates': Many(Range(0, 1000), least=1),
}
# Constants of `adapt_steps='auto'`, see `adapt_until_flat`.
_MOST_STEPS = 50
_PATIENCE = 5
_LEAST_GAIN = 0.005


def rates_of_steps(given: Sequence[float], steps: int) -> tuple[float, ...]:
  """Returns one rate per step; the last given rate is used for the rest."""
  return tuple(given[min(i, len(given) - 1)] for i in range(steps))


def gradient_fitting(
  config: Mapping[str, Any], assumed: Assumed, steps: int | str | None
) -> Fitting:
  """Adapts MZSR to an image by some steps of plain gradient descent.

  Args:
    config: Config of the checkpoint: `model`, `method.adapt` with `steps` and
      `rates`, and `degradation.name` of the training, if that is known.
    assumed: How the images were degraded; the kernel must be known.
    steps: Number of steps; 'auto' stops when the reconstruction of the image no
      longer improves; None takes the checkpoint's number.

  Raises:
    UserError: There is no kernel, the weights were trained for another
      degradation, or the config asks for impossible steps.
  """
  trained_for = config.get('degradation', {}).get('name')
  if trained_for == REAL:  # it has no kernel, so any way of sampling may do
    trained_for = None
  known = {k: v for k, v in config['method'].items() if k == 'adapt'}
  check('config.method', known, {'adapt': Section(ADAPT_RULES)})
  section = known['adapt']
  if assumed.kernel is None:
    how = f' by {trained_for!r} sampling' if trained_for else ''
    raise UserError(
      f'its weights adapt to images with a known blur{how}: give kernel=SPEC,'
      ' or no adapt steps (adapt_steps=0)'
    )
  degradation = assumed.degradation or trained_for or 'direct'
  if degradation != (trained_for or degradation):
    raise UserError(
      f'its weights were trained for {trained_for!r} images, not'
      f' {degradation!r}: choose others, or no adapt steps (adapt_steps=0)'
    )
  network = models.create_refining(config['model'], config['method']['name'])
  auto = steps == 'auto'
  count = section['steps'] if steps is None else steps
  program = _gradient_program(
    network,
    degradation,
    assumed.noise_sigma,
    rates_of_steps(section['rates'], _MOST_STEPS if auto else int(count)),
    auto,
  )
  return Fitting(
    fit=functools.partial(program, np.asarray(assumed.kernel, np.float32)),
    predict=zero_shot.predictor_of(network),
    halo=network.halo,
    side=_GRADIENT_SIDE,
    ensemble=False,
    back_project=0,
    degradation=degradation,
    kernel=assumed.kernel,
  )


@functools.lru_cache(maxsize=32)
def _gradient_program(
  network: Refining,
  degradation: str,
  noise_sigma: float,
  rates: tuple[float, ...],
  auto: bool,
) -> Callable[..., Any]:
  """Compiles `(kernel, params, lr, keys) -> (params, report)` for images."""
  loss = zero_shot.reconstruction_loss(network)

  def fit_one(
    kernel: jax.Array, params: Any, image: jax.Array, key: jax.Array
  ) -> Any:
    target = zero_shot.whole_sons(image, network.scale)[None]
    son = zero_shot.make_son(
      network,
      target,
      key,
      degradation=degradation,
      kernel=kernel,
      noise_sigma=noise_sigma,
    )
    run = adapt_until_flat if auto else _adapt_by_number
    fitted, steps = run(
      loss, params['generator'], (son, target), _rates(params, rates)
    )
    return {**params, 'generator': fitted}, {'steps': steps}

  def fit(kernel: jax.Array, params: Any, lr: jax.Array, keys: jax.Array):
    one = functools.partial(fit_one, kernel)
    return _each_image(one, params, lr, keys)

  return jit(fit)


def _adapt_by_number(
  loss: meta.LossFn, params: Any, pair: Any, rates: Any
) -> tuple[Any, jax.Array]:
  """Takes one step per rate."""
  steps = _steps_of(rates)
  adapted = meta.adapt(loss, params, pair, steps=steps, learning_rates=rates)
  return adapted.params, jnp.asarray(steps)


class _Search(NamedTuple):
  """State of the search for the smallest reconstruction error."""

  params: Any
  step: jax.Array
  best: Any
  best_step: jax.Array
  least: jax.Array
  gained: jax.Array  # last step that lowered the error by `_LEAST_GAIN`


def adapt_until_flat(
  loss: meta.LossFn, params: Any, pair: Any, rates: Any
) -> tuple[Any, jax.Array]:
  """Takes steps until the reconstruction of the image no longer improves.

  HR is unknown, so the error of restoring the image from its son decides. The
  search ends when `_PATIENCE` steps have not lowered the smallest error by
  `_LEAST_GAIN` of it, or when there are no more rates.

  Returns:
    The parameters with the smallest error, and their number of steps.
  """
  most = _steps_of(rates)

  def one(now: _Search) -> _Search:
    rate = jax.tree.map(lambda leaf: leaf[now.step][None], rates)
    adapted = meta.adapt(loss, now.params, pair, steps=1, learning_rates=rate)
    error = adapted.losses[0]  # the error of now.params
    better = error < now.least
    gains = error < (1 - _LEAST_GAIN) * now.least
    keep = lambda new, old: jnp.where(better, new, old)  # noqa: E731
    return _Search(
      params=adapted.params,
      step=now.step + 1,
      best=jax.tree.map(keep, now.params, now.best),
      best_step=keep(now.step, now.best_step),
      least=keep(error, now.least),
      gained=jnp.where(gains, now.step, now.gained),
    )

  zero = jnp.zeros((), jnp.int32)
  end = jax.lax.while_loop(
    lambda now: (now.step < most) & (now.step - now.gained <= _PATIENCE),
    one,
    _Search(params, zero, params, zero, jnp.asarray(jnp.inf), zero),
  )
  return end.best, end.best_step


def _rates(params: Mapping[str, Any], given: tuple[float, ...]) -> Any:
  """The learned rates if the parameters contain any, else the given rates."""
  if 'rates' not in params:
    return jnp.asarray(given)
  picked = [min(i, _steps_of(params['rates']) - 1) for i in range(len(given))]
  return jax.tree.map(lambda leaf: leaf[jnp.array(picked)], params['rates'])


def _steps_of(rates: Any) -> int:
  return jax.tree.leaves(rates)[0].shape[0]


def _each_image(
  fit_one: Callable[..., Any], params: Any, lr: jax.Array, keys: jax.Array
) -> Any:
  """Maps `fit_one(params, image, key)` over images, as each platform prefers.

  The platform is chosen when the program is lowered, so that one for a TPU can
  be made on a machine that has none.
  """

  def one_by_one(params: Any, lr: jax.Array, keys: jax.Array) -> Any:
    return jax.lax.map(lambda pair: fit_one(params, *pair), (lr, keys))

  def at_once(params: Any, lr: jax.Array, keys: jax.Array) -> Any:
    return jax.vmap(functools.partial(fit_one, params))(lr, keys)

  return jax.lax.platform_dependent(
    params, lr, keys, cpu=one_by_one, default=at_once
  )

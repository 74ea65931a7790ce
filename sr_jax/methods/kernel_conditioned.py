"""Training of a network that is given the code of the blur (IKC's first stage).

SFTMD (Gu et al., CVPR 2019) learns to enlarge images that were blurred by
random Gaussians, whose codes it is given. The basis of the codes is kept with
the weights.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sr_jax import optimizers
from sr_jax.errors import UserError, check
from sr_jax.methods import (
  Assumed,
  Fitting,
  Inference,
  Method,
  _losses,
  supervised,
)
from sr_jax.methods import _kernel_codes as kernel_codes
from sr_jax.methods._kernel_codes import CODES, Blurs
from sr_jax.state import EMPTY, TrainState, check_frozen, start_from
from sr_jax.typing import Conditioned


class _Training(NamedTuple):
  """Network and settings that the functions of the method share.

  Attributes:
    network: The network.
    tx: The optimizer.
    rate: The learning rate.
    distance: Pixel loss of two images.
    blurs: How LR is made.
  """

  network: Conditioned
  tx: optax.GradientTransformation
  rate: optax.Schedule
  distance: Callable[..., jax.Array]
  blurs: Blurs


def make(config: Mapping[str, Any]) -> Method:
  """Makes the training of `config['model']`, which is `ikc`.

  Sections used: `method`, `model`, `loss`, `degradation`, `data`, `optimizer`,
  `steps`.

  Raises:
    UserError: The model is another one, or the value of a section is refused.
  """
  check('config.method', config['method'], kernel_codes.RULES)
  tx, rate = optimizers.make(steps=config['steps'], **config['optimizer'])
  training = _Training(
    *(kernel_codes.network_of(config), tx, rate),
    distance=_losses.pixel_loss(config),
    blurs=kernel_codes.blurs_of(config),
  )
  return Method(
    init=functools.partial(_init, training),
    train_step=functools.partial(_train_step, training),
    degrade=supervised.degrader(config).degradation.on_device,
    averaged=_averaged,
    margin=training.blurs.margin,
  )


def inference(config: Mapping[str, Any]) -> Inference:
  """Applies the network to images whose kernel is given."""
  network = kernel_codes.network_of(config)
  return Inference(
    kernel_codes.predictor_of(network),
    fitting=functools.partial(_fitting, config, network),
    needs_kernel=True,
    check=functools.partial(kernel_codes.check_codes, network),
  )


def _fitting(
  config: Mapping[str, Any],
  network: Conditioned,
  assumed: Assumed,
  steps: int | str | None,
) -> Fitting:
  """Makes a `Fitting` that gives the network the code of the given kernel.

  Raises:
    UserError: No kernel is given, or a number of adapt steps is.
  """
  if steps:
    raise UserError(
      'it is given the kernel and takes no gradient steps: leave adapt_steps=N'
      ' out'
    )
  if assumed.kernel is None:
    raise UserError('it must be given the blur: give kernel=SPEC')
  return kernel_codes.known_fitting(config, network, assumed)


def _init(
  training: _Training,
  key: jax.Array,
  shapes: Mapping[str, jax.ShapeDtypeStruct],
  frozen: Mapping[str, Any],
  scale: float,
  pretrained: Mapping[str, Any] = EMPTY,
) -> TrainState:
  del scale
  check_frozen(frozen, ())
  init_key, state_key = jax.random.split(key)
  network = training.network
  image = jnp.zeros((1, 8, 8, shapes['hr'].shape[-1]))
  slots = start_from(
    {
      'generator': network.init(init_key, image)['params'],
      CODES: {'basis': jnp.asarray(training.blurs.basis(network.codes))},
    },
    pretrained,
  )
  codes = slots.pop(CODES)
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    key=state_key,
    params=slots,
    opt_state={'generator': training.tx.init(slots['generator'])},
    model_state={CODES: codes},
  )


def _averaged(state: TrainState) -> dict[str, Any]:
  params = optimizers.averaged_params(
    state.opt_state['generator'], state.params['generator']
  )
  return {'generator': params, CODES: state.model_state[CODES]}


def _train_step(
  training: _Training,
  state: TrainState,
  batch: Mapping[str, jax.Array],
  scale: float,
) -> tuple[TrainState, dict[str, jax.Array]]:
  basis = state.model_state[CODES]['basis']
  lr, hr, code = training.blurs.draw(state.step_key(), batch, scale, basis)

  def objective(params: Any) -> jax.Array:
    sr, _ = training.network.apply({'params': params}, lr, code, train=True)
    return training.distance(sr, hr)

  value, grads = jax.value_and_grad(objective)(state.params['generator'])
  state, metrics = optimizers.step_slots(
    training.tx, training.rate, state, {'generator': grads}
  )
  return state, metrics | {'loss': value}

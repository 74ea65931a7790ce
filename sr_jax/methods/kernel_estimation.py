"""Training of the network that estimates the blur of LR images.

The method follows no paper.

The network learns from spectra and edges of photographs that were reduced by
known kernels, see `data.spectra`. The loss has three terms. The first is the
error of the square root of the kernel's covariance (smooth L1; kernels that are
too wide cost more, because they make the enlarged image ring). The second
trains the network to predict this error. The third is the classification of how
the image was made.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sr_jax import models, optimizers
from sr_jax.data.degradation import Degradation
from sr_jax.errors import TEXT, Range, Rules, UserError, check, whole
from sr_jax.methods import Inference, Method
from sr_jax.models.estimators.spectrum_mlp import SpectrumMLP
from sr_jax.ops.edge_profile import PROFILES
from sr_jax.ops.power_spectrum import FEATURES
from sr_jax.state import EMPTY, TrainState, check_frozen, start_from

# Allowed keys and values of `config.method`.
_RULES: Rules = {
  'name': TEXT,
  'per_image': whole(1, 10_000),
  'wide_penalty': Range(1, 100),
  'error_weight': Range(),
  'origin_weight': Range(),
}
# Error in LR pixels below which the loss is quadratic.
_SMOOTH = 0.04


class _Training(NamedTuple):
  """Network and settings that the functions of the method share.

  Attributes:
    network: The Linen module.
    tx: The optimizer.
    rate: The learning rate.
    wide_penalty: Factor on errors towards a wider kernel.
    error_weight: Weight of the loss of the predicted error.
    origin_weight: Weight of the loss of how the image was made.
  """

  network: Any
  tx: optax.GradientTransformation
  rate: optax.Schedule
  wide_penalty: float
  error_weight: float
  origin_weight: float


def make(config: Mapping[str, Any]) -> Method:
  """Makes the training of `config['model']`, an estimator.

  Sections used: `method`, `model`, `degradation`, `optimizer`, `steps`.

  Raises:
    UserError: The model is no estimator, or the value of a section is refused.
  """
  section = config['method']
  check('config.method', section, _RULES)
  tx, rate = optimizers.make(steps=config['steps'], **config['optimizer'])
  training = _Training(
    _network(config),
    *(tx, rate, section['wide_penalty']),
    *(section['error_weight'], section['origin_weight']),
  )
  return Method(
    init=functools.partial(_init, training),
    train_step=functools.partial(_train_step, training),
    degrade=Degradation.from_config(config['degradation']).on_device,
    averaged=_averaged,
    uses=frozenset({'spectra'}),
    judges='spectra',
  )


def inference(config: Mapping[str, Any]) -> Inference:
  """Makes `predict(params, features, edges, scale) -> (root, error, logits)`.

  The inputs are those of `SpectrumMLP`. The results are `[B, 3]`, `[B]` and
  `[B, origins]`, see `models.estimators.spectrum_mlp`; each is the mean over
  the members of the network.
  """
  return Inference(functools.partial(_predict, _network(config)))


def _network(config: Mapping[str, Any]) -> Any:
  network = models.create(config['model'])
  if not isinstance(network, SpectrumMLP):
    raise UserError(
      f'config.model.name={config["model"]["name"]!r}: kernel_estimation trains'
      ' spectrum_mlp'
    )
  return network


def _predict(
  network: Any,
  params: Mapping[str, Any],
  features: jax.Array,
  edges: jax.Array,
  scale: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  variables = {
    'params': params['generator'],
    'batch_stats': params['batch_stats'],
  }
  answers = network.apply(variables, features, edges, scale)
  root, error, logits = (answer.mean(0) for answer in answers)
  return root, error, logits


def _init(
  training: _Training,
  key: jax.Array,
  shapes: Mapping[str, jax.ShapeDtypeStruct],
  frozen: Mapping[str, Any],
  scale: float,
  pretrained: Mapping[str, Any] = EMPTY,
) -> TrainState:
  del shapes, scale  # features have one shape
  check_frozen(frozen, ())
  init_key, state_key = jax.random.split(key)
  variables = dict(
    training.network.init(
      init_key,
      *(jnp.zeros((1, *shape)) for shape in (FEATURES, PROFILES)),
      jnp.ones(1),
    )
  )
  slots = {'generator': variables.pop('params'), **variables}
  slots = start_from(slots, pretrained)
  params = slots.pop('generator')
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    key=state_key,
    params={'generator': params},
    opt_state={'generator': training.tx.init(params)},
    model_state={'generator': slots},
  )


def _averaged(state: TrainState) -> dict[str, Any]:
  params = optimizers.averaged_params(
    state.opt_state['generator'], state.params['generator']
  )
  return {'generator': params, **state.model_state['generator']}


def losses(
  training: Any,
  answers: tuple[jax.Array, jax.Array, jax.Array],
  batch: Mapping[str, jax.Array],
) -> dict[str, jax.Array]:
  """The three terms of the loss, unweighted, and the mean error in LR pixels.

  Args:
    training: Settings, of which `wide_penalty` is used.
    answers: The outputs of `SpectrumMLP`.
    batch: The fields of `data.spectra.Example`, `[B, ...]` each.
  """
  root, error, logits = answers
  known = batch['known'].astype(jnp.float32)[None]
  count = jnp.maximum(known.sum(), 1)

  def mean(values: jax.Array) -> jax.Array:
    """Mean over the members and the examples whose kernel is to be learned."""
    return (values * known).sum() / (count * len(root))

  off = root - batch['root'][None]
  distance = jnp.abs(off)
  smooth = jnp.where(
    distance < _SMOOTH, distance**2 / (2 * _SMOOTH), distance - _SMOOTH / 2
  )
  # The trace of the square root measures how wide a kernel is.
  wide = (off[..., 0] + off[..., 2] > 0)[..., None]
  smooth = smooth * jnp.where(wide, training.wide_penalty, 1.0)
  observed = jax.lax.stop_gradient(distance.mean(-1))
  origin = jnp.broadcast_to(batch['origin'][None], logits.shape[:-1])
  return {
    'root': mean(smooth.mean(-1)),
    # Likelihood of a Laplacian whose width is the expected error.
    'expected_error': mean(jnp.log(error) + observed / error),
    'origin': optax.softmax_cross_entropy_with_integer_labels(
      logits, origin
    ).mean(),
    'root_error': mean(distance.mean(-1)),
  }


def _train_step(
  training: _Training,
  state: TrainState,
  batch: Mapping[str, jax.Array],
  scale: float,
) -> tuple[TrainState, dict[str, jax.Array]]:
  del scale  # every example has a scale of its own

  def objective(params: Any) -> tuple[jax.Array, Any]:
    answers, stats = training.network.apply(
      {'params': params, **state.model_state['generator']},
      batch['features'].astype(jnp.float32),
      batch['edges'].astype(jnp.float32),
      batch['scale'],
      train=True,
      mutable=['batch_stats'],
      rngs={'dropout': state.step_key()},
    )
    terms = losses(training, answers, batch)
    total = (
      terms['root']
      + training.error_weight * terms['expected_error']
      + training.origin_weight * terms['origin']
    )
    return total, (terms, stats)

  params = state.params['generator']
  (loss, (terms, stats)), grads = jax.value_and_grad(objective, has_aux=True)(
    params
  )
  state, metrics = optimizers.step_slots(
    training.tx, training.rate, state, {'generator': grads}
  )
  state = state.with_statistics({'generator': stats})
  return state, metrics | {'loss': loss, **terms}

"""Reference-based training (SRNTT, Zhang et al., CVPR 2019).

A batch holds references beside HR; without them LR is its own. They are matched
in the step itself, so that images and references are augmented each by itself.
The terms of the generator's loss, of which a weight of 0 leaves one out:

  pixel_weight           distance of SR to HR, by `config.loss`
  enlarged_weight        the same of what the network makes without reference
  perceptual_weight      distance of features of VGG19, by `perceptual`, a
                         recipe of `losses.perceptual`
  texture_weight         distance of Gram matrices to the swapped features'
  back_projection_weight distance of SR, reduced again, to LR
  adversarial_weight     `discriminator`, by Wasserstein's game

With `truth_steps` every second step of the generator sees HR's own features in
place of swapped ones, and `critic_steps` steps of the discriminator alone go
before them, as in the authors' code.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sr_jax import models, optimizers
from sr_jax.errors import UserError
from sr_jax.losses import adversarial, perceptual, texture
from sr_jax.methods import Method, supervised
from sr_jax.methods import _texture as referring
from sr_jax.models.parts.common import up_to
from sr_jax.state import TrainState, start_from
from sr_jax.transforms import texture_transfer
from sr_jax.transforms.adversarial import (
  Critic,
  Report,
  joint_gradients,
  update,
)
from sr_jax.typing import Network
from sr_jax.weights import features as feature_weights

PyTree = Any

USES_REFERENCE = True
REFERRING = referring.REFERRING

_CRITIC = 'discriminator'


class _Parts(NamedTuple):
  """Networks, losses and optimizers, as the config describes them.

  Attributes:
    generator: Its Linen module.
    discriminator: The same of the discriminator, None for none.
    weights: Of all terms, by name.
    distance: Of SR to HR.
    recipe: The perceptual loss.
    threshold: Weights of the texture loss by similarity, None for all 1.
    penalty: Weight of WGAN-GP's.
    per_pixel: Its form.
    cycle: Steps of one round.
    critic_steps: Those at its start that the discriminator has for itself.
    truth: Whether its last step sees HR's own features.
    optimizers: (transformation, learning rate) by slot.
  """

  generator: Any
  discriminator: Any
  weights: Mapping[str, float]
  distance: Callable[..., jax.Array]
  recipe: perceptual.Recipe
  threshold: texture.Threshold | None
  penalty: float
  per_pixel: bool
  cycle: int
  critic_steps: int
  truth: bool
  optimizers: Mapping[str, tuple[optax.GradientTransformation, optax.Schedule]]

  @property
  def layers(self) -> list[str]:
    """Layers of VGG19 that training looks at."""
    more = self.recipe.layers if self.weights['perceptual'] else ()
    return [*texture_transfer.RATIOS, *more]


def make(config: Mapping[str, Any]) -> Method:
  """Reference-based training of `config['model']`.

  Sections used: `method`, `model`, `loss`, `data`, `degradation`, `optimizer`,
  `steps`.

  Raises:
    UserError: a patch that the discriminator does not take or that is smaller
      than a reference's, or a section that its consumer refuses.
  """
  section = dict(config['method'])
  del section['name']
  features_from = section.pop('features_from')
  parts = _parts(config, **section)
  _check_patch(config, parts)
  degrader = supervised.degrader(config)
  return Method(
    init=functools.partial(_init, parts, degrader),
    train_step=functools.partial(_train_step, parts, degrader),
    predict=predictor(config),
    degrade=degrader.degradation.on_device,
    margin=degrader.margin,
    averaged=averaged,
    frozen=functools.partial(_frozen, parts, features_from),
  )


def _parts(
  config: Mapping[str, Any],
  *,
  pixel_weight: float,
  enlarged_weight: float,
  perceptual: str,
  perceptual_weight: float,
  texture_weight: float,
  texture_threshold: Sequence[float],
  back_projection_weight: float,
  adversarial_weight: float,
  discriminator: Mapping[str, Any],
  gradient_penalty: float,
  penalty_per_pixel: bool,
  critic_steps: int,
  truth_steps: bool,
) -> _Parts:
  """What the sections of the config describe."""
  generator = models.create(config['model'])
  weights = {
    'pixel': pixel_weight,
    'enlarged': enlarged_weight,
    'perceptual': perceptual_weight,
    'texture': texture_weight,
    'back_projection': back_projection_weight,
    'adversarial': adversarial_weight,
  }
  for name, value in weights.items():
    if value < 0:
      raise UserError(f'config.method.{name}_weight={value:g}: give 0 or more')
  if critic_steps < 0:
    raise UserError(
      f'config.method.critic_steps={critic_steps}: give 0 or more'
    )
  critic = None
  if adversarial_weight:
    try:
      critic = models.create(discriminator)
    except UserError as error:
      raise UserError(f'config.method.discriminator: {error}') from None
  alone = critic_steps if critic else 0
  return _Parts(
    generator=generator,
    discriminator=critic,
    weights=weights,
    distance=supervised.loss_by_name(config['loss']),
    recipe=supervised.recipe_by_name(perceptual),
    threshold=_threshold(texture_threshold),
    penalty=gradient_penalty,
    per_pixel=penalty_per_pixel,
    cycle=alone + 1 + truth_steps,
    critic_steps=alone,
    truth=truth_steps,
    optimizers=_optimizers(config, critic is not None),
  )


def _threshold(values: Sequence[float]) -> texture.Threshold | None:
  """(sign, centre, slope) of the texture loss's weights; None for none."""
  if not values:
    return None
  if len(values) != 3:
    raise UserError(
      f'config.method.texture_threshold={tuple(values)}: give (sign, centre,'
      ' slope), or () for none'
    )
  return texture.Threshold(*values)


def _optimizers(
  config: Mapping[str, Any], adversarial: bool
) -> dict[str, tuple[optax.GradientTransformation, optax.Schedule]]:
  """By slot; only the generator keeps a moving average."""
  make = functools.partial(optimizers.make, steps=config['steps'])
  section = config['optimizer']
  found = {'generator': make(**section)}
  if adversarial:
    plain: dict[str, Any] = {**section, 'ema_decay': 0.0, 'rate_factors': ()}
    found[_CRITIC] = make(**plain)
  return found


def _check_patch(config: Mapping[str, Any], parts: _Parts) -> None:
  """Refuses crops that have no patch to match, or that no critic takes.

  Raises:
    UserError: the crops are too small or too large.
  """
  data, scale = config['data'], config['model']['scale']
  least = texture_transfer.LEAST_SIDE
  for key in ('patch', 'reference_size'):
    if 0 < data[key] < least:
      raise UserError(
        f'config.data.{key}={data[key]}: a reference has {least} pixels a side'
        ' or more'
      )
  if parts.discriminator is None:
    return
  sides, hr = parts.discriminator.sides, data['patch'] * scale
  if not sides[0] <= hr <= sides[-1]:
    raise UserError(
      f'config.data.patch={data["patch"]}: HR crops are {hr}x{hr}, but the'
      f' discriminator takes {sides[0]} to {sides[-1]} pixels a side'
    )


def _frozen(parts: _Parts, features_from: str) -> dict[str, PyTree]:
  """VGG19's weights.

  Raises:
    UserError: there are none where the config says.
  """
  if not features_from:
    raise UserError(
      "config.method.features_from: references are matched by VGG19's features;"
      " give the path of torchvision's file, or random:0 to try things out"
    )
  return {
    referring.FEATURES: referring.read_features(features_from, parts.layers)
  }


def _init(
  parts: _Parts,
  degrader: supervised.Degrader,
  key: jax.Array,
  batch: Mapping[str, jax.Array],
  pretrained: Mapping[str, Any],
  scale: float,
) -> TrainState:
  init_key, critic_key, state_key = jax.random.split(key, 3)
  hr = jnp.zeros((1, *batch['hr'].shape[1:]))
  if 'lr' not in batch:
    hr = degrader.core(hr, scale)
  stats = dict(parts.generator.init(init_key, jnp.zeros((1, 8, 8, 3))))
  fresh = {'generator': stats.pop('params'), **stats}
  given = {k: v for k, v in pretrained.items() if k in fresh}
  slots = start_from(fresh, given)
  params, stats = {'generator': slots.pop('generator')}, {'generator': slots}
  if parts.discriminator is not None:
    own = dict(parts.discriminator.init(critic_key, hr))
    params[_CRITIC] = start_from(own.pop('params'), pretrained.get(_CRITIC))
    stats[_CRITIC] = own
  # Fresh ones where only shapes are asked for.
  vgg = feature_weights.network(layers=parts.layers, **referring.VGG)
  features = (
    pretrained.get(referring.FEATURES) or vgg.init(init_key, hr)['params']
  )
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    key=state_key,
    params=params,
    opt_state={
      slot: tx.init(params[slot]) for slot, (tx, _) in parts.optimizers.items()
    },
    model_state={slot: own for slot, own in stats.items() if own},
    frozen={referring.FEATURES: features},
  )


def _train_step(
  parts: _Parts,
  degrader: supervised.Degrader,
  state: TrainState,
  batch: Mapping[str, jax.Array],
  scale: float,
) -> tuple[TrainState, dict[str, jax.Array]]:
  key, phase = state.step_key(), state.step % parts.cycle
  lr, hr = degrader.pair(key, batch, scale)
  reference = batch['ref'].astype(jnp.float32) / 255 if 'ref' in batch else None
  features = referring.vgg_features(
    parts.layers, state.frozen[referring.FEATURES]
  )
  seen = functools.partial(_swapped, features, lr, reference)
  if parts.truth:
    seen = jax.lax.cond(
      phase == parts.cycle - 1,
      functools.partial(texture_transfer.truth, features, hr),
      seen,
    )
  else:
    seen = seen()
  critics = {}
  if parts.discriminator is not None:
    critics[_CRITIC] = _critic(parts, state.model_state, hr, key)
  gradients = joint_gradients(
    functools.partial(_generate, parts, state.model_state, lr, seen),
    functools.partial(_content, parts, features, lr, hr, seen),
    critics,
  )
  theta = state.params['generator']
  phis = {slot: state.params[slot] for slot in critics}
  of_theta, of_phis, report = gradients(theta, phis)
  turn = phase >= parts.critic_steps
  state, metrics = _moved(parts, state, of_theta, of_phis, turn)
  stats = {'generator': report.aux, **report.critic_aux}
  state = state.with_statistics(stats)
  return state, metrics | _told(report, seen)


def _swapped(
  features: texture_transfer.Features,
  lr: jax.Array,
  reference: jax.Array | None,
) -> texture_transfer.Texture:
  """What a batch gets of its references, or of itself."""
  reference = texture_transfer.itself(lr) if reference is None else reference
  looked = texture_transfer.look_at(features, reference)
  return texture_transfer.swapped(features, lr, [looked])


def _generate(
  parts: _Parts,
  model_state: Mapping[str, Any],
  lr: jax.Array,
  seen: texture_transfer.Texture,
  theta: PyTree,
) -> tuple[Any, Any]:
  """(SR, aux) and the generator's new running statistics."""
  stats = model_state.get('generator', {})
  return parts.generator.apply(
    {'params': theta, **stats},
    *(lr, seen.maps, seen.similarity),
    train=True,
    mutable=list(stats),
  )


def _content(
  parts: _Parts,
  features: texture_transfer.Features,
  lr: jax.Array,
  hr: jax.Array,
  seen: texture_transfer.Texture,
  outputs: tuple[jax.Array, Any],
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The generator's loss without discriminator, and its terms unweighted."""
  sr, aux = outputs
  of_sr = features(sr)
  values: dict[str, Callable[[], jax.Array]] = {
    'pixel': lambda: parts.distance(sr, hr),
    'enlarged': lambda: parts.distance(aux['enlarged'], hr),
    'perceptual': lambda: perceptual.feature_distance(
      of_sr, features(hr), parts.recipe
    ),
    'texture': lambda: texture.texture(
      of_sr, seen.maps, _texture_weights(parts, seen)
    ),
    'back_projection': lambda: texture.back_projection(sr, lr),
  }
  terms = {k: value() for k, value in values.items() if parts.weights[k]}
  total = jnp.zeros(())
  for name, value in terms.items():
    total += parts.weights[name] * value
  return total, terms


def _texture_weights(
  parts: _Parts, seen: texture_transfer.Texture
) -> dict[str, jax.Array] | None:
  if parts.threshold is None:
    return None
  sizes = texture.at_sizes_of(seen.similarity, seen.maps)
  return {layer: parts.threshold(x) for layer, x in sizes.items()}


def _critic(
  parts: _Parts,
  model_state: Mapping[str, Any],
  hr: jax.Array,
  key: jax.Array,
) -> Critic:
  """The discriminator's part; real and made images are batches apart."""
  before = model_state.get(_CRITIC, {})

  def apply(phi: PyTree, image: jax.Array, stats: Any) -> tuple[jax.Array, Any]:
    return parts.discriminator.apply(
      {'params': phi, **stats}, image, train=True, mutable=list(stats)
    )

  def judge(phi: PyTree, outputs: Any) -> tuple[Any, Any]:
    of_real, stats = apply(phi, hr, before)
    of_fake, stats = apply(phi, outputs[0], stats)
    return (of_real, of_fake), stats

  def penalty(phi: PyTree, outputs: Any) -> jax.Array:
    return parts.penalty * adversarial.gradient_penalty(
      lambda image: apply(phi, image, before)[0],
      *(hr, outputs[0], key),
      per_pixel=parts.per_pixel,
    )

  return Critic(
    judge=judge,
    game=adversarial.wasserstein,
    weight=parts.weights['adversarial'],
    penalty=penalty if parts.penalty else None,
  )


def _moved(
  parts: _Parts,
  state: TrainState,
  of_theta: PyTree,
  of_phis: Mapping[str, PyTree],
  turn: jax.Array,
) -> tuple[TrainState, dict[str, jax.Array]]:
  """The state after every update, and metrics of the optimizers."""
  grads = {'generator': of_theta, **of_phis}
  turns = {slot: slot == _CRITIC or turn for slot in grads}
  moved, opt_state = {}, {}
  for slot, (tx, _) in parts.optimizers.items():
    moved[slot], opt_state[slot] = update(
      tx, grads[slot], state.opt_state[slot], state.params[slot], turns[slot]
    )
  _, rate = parts.optimizers['generator']
  metrics = optimizers.step_metrics(rate, of_theta, opt_state)
  state = state.replace(step=state.step + 1, params=moved, opt_state=opt_state)
  return state, metrics


def _told(
  report: Report, seen: texture_transfer.Texture
) -> dict[str, jax.Array]:
  """Metrics of the losses and of the matching."""
  metrics = {'loss': report.loss, **report.terms}
  metrics['similarity'] = seen.similarity.mean()
  for verdict in report.verdicts.values():
    metrics['adversarial'] = verdict.generator
    metrics['discriminator'] = verdict.discriminator
    metrics['discriminator_accuracy'] = verdict.accuracy
  return metrics


def averaged(state: TrainState) -> dict[str, Any]:
  """As `supervised.averaged`, with what matching needs of VGG19."""
  held = state.frozen[referring.FEATURES]
  slots = supervised.averaged(state)
  slots[referring.FEATURES] = {
    k: held[k] for k in up_to(texture_transfer.RATIOS, held)
  }
  return slots


def predictor(config: Mapping[str, Any]) -> Callable[..., jax.Array]:
  """`predict` of the method alone; needs no section but `model`.

  The parameters hold references as `look` makes them; without such LR is its
  own.
  """
  return functools.partial(predict, models.create(config['model']))


def predict(
  network: Network,
  params: Mapping[str, Any],
  lr: jax.Array,
  mask: None = None,
) -> jax.Array:
  """`Method.predict` of a network; images cannot be padded."""
  del mask
  seen = referring.texture_of(params, lr)
  stats = params.get('batch_stats')
  variables = {'params': params['generator']}
  variables |= {'batch_stats': stats} if stats else {}
  sr, _ = network.apply(variables, lr, seen.maps, seen.similarity)
  return jnp.clip(sr, 0, 1)

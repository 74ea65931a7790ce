"""Reference-based training (SRNTT, Zhang et al., CVPR 2019).

A batch holds references and HR; without references LR is its own reference. The
matching is a part of the step, so that images and references can be augmented
independently. The generator's loss has these terms; a weight of 0 leaves a term
out:

  pixel_weight           distance of SR to HR, by `config.loss`
  enlarged_weight        the same for the network's result without reference
  perceptual_weight      distance of features of VGG19, by `perceptual`, a
                         recipe of `losses.perceptual`
  texture_weight         distance of SR's Gram matrices to those of the swapped
                         features
  back_projection_weight distance of SR, reduced again, to LR
  adversarial_weight     `discriminator`, by Wasserstein's game

With `truth_steps` every second step of the generator takes the features of HR
instead of swapped features. Each round begins with `critic_steps` steps of the
discriminator alone. Both are as in the authors' code.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sr_jax import models
from sr_jax.errors import (
  FLAG,
  SECTION,
  TEXT,
  Many,
  Range,
  Rules,
  UserError,
  check,
  whole,
)
from sr_jax.losses import adversarial, perceptual, texture
from sr_jax.methods import (
  COMMON_RULES,
  Inference,
  Method,
  _adversarial,
  _losses,
  _texture,
  supervised,
)
from sr_jax.methods._adversarial import Discriminator, Optimizer
from sr_jax.methods._texture import FEATURES, Features, Texture
from sr_jax.models.parts.common import up_to
from sr_jax.ops.levels import to_unit
from sr_jax.state import EMPTY, TrainState, check_frozen, start_from
from sr_jax.transforms.adversarial import joint_gradients
from sr_jax.typing import Network

PyTree = Any

_CRITIC = 'discriminator'
# Terms of the generator's loss; `config.method` has NAME_weight for each.
_TERMS = (
  *('pixel', 'enlarged', 'perceptual', 'texture', 'back_projection'),
  'adversarial',
)
# Allowed keys and values of `config.method`.
_RULES: Rules = {
  **COMMON_RULES,
  **{f'{term}_weight': Range() for term in _TERMS},
  'perceptual': TEXT,
  'texture_threshold': Many(Range(-1e6, 1e6)),
  'discriminator': SECTION,
  'gradient_penalty': Range(),
  'penalty_per_pixel': FLAG,
  'critic_steps': whole(0, 10_000),
  'truth_steps': FLAG,
  'features_from': TEXT,
}


class _Training(NamedTuple):
  """Networks, losses and optimizers, as the config describes them.

  Attributes:
    generator: The Linen module of the generator.
    discriminators: The discriminator by its slot; empty if its weight is 0.
    weights: Weights of the terms of the loss, by name.
    distance: Pixel loss between SR and HR.
    recipe: The perceptual loss.
    threshold: Weights of the texture loss by similarity; None means 1.
    cycle: Number of steps of a round.
    critic_steps: Number of steps of the discriminator alone at the start of a
      round.
    truth: Whether the last step of a round takes the features of HR.
    optimizers: Optimizers by slot.
    degrader: Makes the (lr, hr) pairs of a batch.
  """

  generator: Any
  discriminators: Mapping[str, Discriminator]
  weights: Mapping[str, float]
  distance: Callable[..., jax.Array]
  recipe: perceptual.Recipe
  threshold: texture.Threshold | None
  cycle: int
  critic_steps: int
  truth: bool
  optimizers: Mapping[str, Optimizer]
  degrader: supervised.Degrader

  @property
  def layers(self) -> list[str]:
    """Layers of VGG19 that training needs."""
    more = self.recipe.layers if self.weights['perceptual'] else ()
    return [*_texture.RATIOS, *more]


def make(config: Mapping[str, Any]) -> Method:
  """Makes the reference-based training of `config['model']`.

  Sections used: `method`, `model`, `loss`, `data`, `degradation`, `optimizer`,
  `steps`.

  Raises:
    UserError: Crops or references have a size that the discriminator or the
      matching does not take, or the value of a section is refused.
  """
  section = config['method']
  check('config.method', section, _RULES)
  training = _describe(config)
  _check_references(config['data'])
  return Method(
    init=functools.partial(_init, training),
    train_step=functools.partial(_train_step, training),
    degrade=training.degrader.degradation.on_device,
    margin=training.degrader.margin,
    averaged=averaged,
    frozen=functools.partial(_frozen, training, section['features_from']),
    uses=frozenset({'reference'}),
  )


def inference(config: Mapping[str, Any]) -> Inference:
  """Applies the network; needs no section but `model`.

  The parameters hold the references that `_texture.look` added; without any, LR
  is its own reference.
  """
  network = models.create(config['model'])
  return Inference(
    functools.partial(predict, network), referring=_texture.REFERRING
  )


def _describe(config: Mapping[str, Any]) -> _Training:
  """Builds everything that the sections of the config describe."""
  section = config['method']
  generator = models.create(config['model'])
  weights = {term: section[f'{term}_weight'] for term in _TERMS}
  discriminators = {}
  if weights['adversarial']:
    network = _adversarial.create_network(_CRITIC, section[_CRITIC])
    _adversarial.check_crops(config, network)
    discriminators[_CRITIC] = Discriminator(
      network,
      adversarial.wasserstein,
      *('adversarial', weights['adversarial'], lambda image: image),
      section['gradient_penalty'],
      section['penalty_per_pixel'],
    )
  alone = section['critic_steps'] if discriminators else 0
  return _Training(
    generator=generator,
    discriminators=discriminators,
    weights=weights,
    distance=_losses.pixel_loss(config),
    recipe=_losses.recipe_by_name(section['perceptual']),
    threshold=_threshold(section['texture_threshold']),
    cycle=alone + 1 + section['truth_steps'],
    critic_steps=alone,
    truth=section['truth_steps'],
    optimizers=_adversarial.make_optimizers(config, list(discriminators)),
    degrader=supervised.degrader(config),
  )


def _threshold(values: Sequence[float]) -> texture.Threshold | None:
  """Makes the threshold of (sign, centre, slope); None for ()."""
  if not values:
    return None
  if len(values) != 3:
    raise UserError(
      f'config.method.texture_threshold={tuple(values)}: give (sign, centre,'
      ' slope), or () for none'
    )
  return texture.Threshold(*values)


def _check_references(data: Mapping[str, Any]) -> None:
  """Refuses crops and references that have no patch to match.

  Raises:
    UserError: Crops or references are too small.
  """
  least = _texture.LEAST_SIDE
  for key in ('patch', 'reference_size'):
    if 0 < data[key] < least:
      raise UserError(
        f'config.data.{key}={data[key]}: a reference needs {least} or more'
        ' pixels a side'
      )


def _frozen(training: _Training, features_from: str) -> dict[str, PyTree]:
  """Reads VGG19's weights.

  Raises:
    UserError: The config names no weights, or they cannot be read.
  """
  needed_by = 'references are matched by the features of'
  features = _adversarial.read_features(
    features_from, needed_by, training.layers, _texture.VGG['variant']
  )
  return {FEATURES: features}


def _init(
  training: _Training,
  key: jax.Array,
  shapes: Mapping[str, jax.ShapeDtypeStruct],
  frozen: Mapping[str, Any],
  scale: float,
  pretrained: Mapping[str, Any] = EMPTY,
) -> TrainState:
  check_frozen(frozen, (FEATURES,))
  init_key, critic_key, state_key = jax.random.split(key, 3)
  hr = jnp.zeros((1, *shapes['hr'].shape[1:]))
  if 'lr' not in shapes:
    hr = training.degrader.core(hr, scale)
  stats = dict(training.generator.init(init_key, jnp.zeros((1, 8, 8, 3))))
  fresh = {'generator': stats.pop('params'), **stats}
  given = {k: v for k, v in pretrained.items() if k in fresh}
  slots = start_from(fresh, given)
  params, stats = {'generator': slots.pop('generator')}, {'generator': slots}
  for slot, judge in training.discriminators.items():
    others = dict(judge.network.init(critic_key, hr))
    params[slot] = start_from(others.pop('params'), pretrained.get(slot))
    stats[slot] = others
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    key=state_key,
    params=params,
    opt_state={
      slot: optimizer.tx.init(params[slot])
      for slot, optimizer in training.optimizers.items()
    },
    model_state={slot: tree for slot, tree in stats.items() if tree},
    frozen=dict(frozen),
  )


def _train_step(
  training: _Training,
  state: TrainState,
  batch: Mapping[str, jax.Array],
  scale: float,
) -> tuple[TrainState, dict[str, jax.Array]]:
  noise_key, critic_key = jax.random.split(state.step_key())
  phase = state.step % training.cycle
  lr, hr = training.degrader.pair(noise_key, batch, scale)
  reference = to_unit(batch['ref']) if 'ref' in batch else None
  features = _texture.vgg_features(training.layers, state.frozen[FEATURES])
  swapped = functools.partial(_swapped, features, lr, reference)
  if training.truth:
    seen = jax.lax.cond(
      phase == training.cycle - 1,
      functools.partial(_texture.truth, features, hr),
      swapped,
    )
  else:
    seen = swapped()
  judges = training.discriminators
  inputs = (lr, seen.maps, seen.similarity)
  gradients = joint_gradients(
    _adversarial.generate(training.generator, state.model_state, *inputs),
    functools.partial(_content, training, features, lr, hr, seen),
    _adversarial.critics(judges, state, hr, critic_key),
  )
  theta = state.params['generator']
  phis = {slot: state.params[slot] for slot in judges}
  of_theta, of_phis, report = gradients(theta, phis)
  moved, after, metrics = _adversarial.move(
    training.optimizers,
    *(state, state.params, {'generator': of_theta, **of_phis}),
    turns={'generator': phase >= training.critic_steps},
  )
  after = after.replace(params=moved)
  after = after.with_statistics({'generator': report.aux, **report.critic_aux})
  metrics |= _adversarial.losses(report, judges)
  return after, metrics | {'similarity': seen.similarity.mean()}


def _swapped(
  features: Features,
  lr: jax.Array,
  reference: jax.Array | None,
) -> Texture:
  """Swapped features for a batch, from its references or from LR itself."""
  reference = _texture.itself(lr) if reference is None else reference
  looked = _texture.look_at(features, reference)
  return _texture.swapped(features, lr, [looked])


def _content(
  training: _Training,
  features: Features,
  lr: jax.Array,
  hr: jax.Array,
  seen: Texture,
  outputs: tuple[jax.Array, Any],
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The generator's loss without discriminator, and its unweighted terms."""
  sr, aux = outputs
  of_sr = features(sr)
  values: dict[str, Callable[[], jax.Array]] = {
    'pixel': lambda: training.distance(sr, hr),
    'enlarged': lambda: training.distance(aux['enlarged'], hr),
    'perceptual': lambda: perceptual.feature_distance(
      of_sr, features(hr), training.recipe
    ),
    'texture': lambda: texture.texture(
      of_sr, seen.maps, _texture_weights(training, seen)
    ),
    'back_projection': lambda: texture.back_projection(sr, lr),
  }
  terms = {k: value() for k, value in values.items() if training.weights[k]}
  total = jnp.zeros(())
  for name, value in terms.items():
    total += training.weights[name] * value
  return total, terms


def _texture_weights(
  training: _Training, seen: Texture
) -> dict[str, jax.Array] | None:
  if training.threshold is None:
    return None
  sizes = texture.at_sizes_of(seen.similarity, seen.maps)
  return {layer: training.threshold(x) for layer, x in sizes.items()}


def averaged(state: TrainState) -> dict[str, Any]:
  """`supervised.averaged`, with the layers of VGG19 that matching needs."""
  held = state.frozen[FEATURES]
  slots = supervised.averaged(state)
  slots[FEATURES] = {k: held[k] for k in up_to(_texture.RATIOS, held)}
  return slots


def predict(
  network: Network,
  params: Mapping[str, Any],
  lr: jax.Array,
  mask: None = None,
) -> jax.Array:
  """`Inference.predict` of a network; images cannot be padded."""
  del mask
  seen = _texture.texture_of(params, lr)
  stats = params.get('batch_stats')
  variables = {'params': params['generator']}
  variables |= {'batch_stats': stats} if stats else {}
  sr, _ = network.apply(variables, lr, seen.maps, seen.similarity)
  return jnp.clip(sr, 0, 1)

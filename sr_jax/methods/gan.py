"""Adversarial training (SRGAN, Ledig et al., CVPR 2017, and its successors).

The `generator` learns from distances to HR and from discriminators. All
networks are updated at the same time, from their old parameters, see
`transforms.adversarial`. The terms of the generator's loss have weights in
`config.method`; a weight of zero leaves a term out:

  pixel_weight           distance of SR to HR, by `config.loss`
  perceptual_weight      distance of features of VGG, by `perceptual`, a
                         recipe of `losses.perceptual`
  boundary_weight, background_weight, object_weight
                         distance of features within these regions (SROBB), by
                         `region_layers`
  variation_weight       total variation of SR in [-1, 1] (SRGAN's VGG22)
  adversarial_weight     `discriminator`, which takes images
  gradient_weight        mean squared distance of gradient maps (SPSR)
  gradient_adversarial_weight
                         `discriminator_gradient`, which takes gradient maps
  branch_weight          L1 of the map that SPSR's generator predicts
  rank_weight            score of SR by a trained ranker (RankSRGAN)
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from sr_jax import optimizers
from sr_jax.errors import UserError
from sr_jax.losses import perceptual, pixel, ranking, targeted
from sr_jax.methods import Inference, Method, _adversarial, supervised
from sr_jax.methods._adversarial import FEATURES
from sr_jax.methods._gan_config import (
  HELD,
  RANKER,
  VIEWS,
  Players,
  describe,
  frozen_networks,
)
from sr_jax.ops.gradient_map import gradient_map
from sr_jax.ops.regions import regions
from sr_jax.state import EMPTY, TrainState, check_frozen, start_from
from sr_jax.transforms.adversarial import generator_turn, joint_gradients

PyTree = Any

# Limits of the discriminator's accuracy and loss, beyond which `advice` warns.
_ALWAYS_RIGHT, _LOSES_NOTHING = 0.995, 0.05
_LARGE_LOGIT = 50.0
_CONTRAST = (0.2, 3.0)


def make(config: Mapping[str, Any]) -> Method:
  """Makes the adversarial training of `config['model']`.

  Sections used: `method`, `model`, `loss`, `data`, `degradation`, `optimizer`,
  `steps`.

  Raises:
    UserError: The loss or game is unknown, the discriminator does not take
      crops of this size, or the value of a section is refused.
  """
  players = describe(config)
  return Method(
    init=functools.partial(_init, players),
    train_step=functools.partial(_train_step, players),
    degrade=players.degrader.degradation.on_device,
    margin=players.degrader.margin,
    averaged=functools.partial(_averaged, players),
    frozen=functools.partial(frozen_networks, players, config['method']),
    advice=advice,
    uses=frozenset({'labels'}),
  )


def inference(config: Mapping[str, Any]) -> Inference:
  """Applies the generator, as `supervised` does."""
  return supervised.inference(config)


def _init(
  players: Players,
  key: jax.Array,
  shapes: Mapping[str, jax.ShapeDtypeStruct],
  frozen: Mapping[str, Any],
  scale: int,
  pretrained: Mapping[str, Any] = EMPTY,
) -> TrainState:
  check_frozen(frozen, players.frozen)
  if pretrained and 'generator' not in pretrained:
    raise UserError(
      'config.checkpoint.init_from: holds no generator, only'
      f' {", ".join(sorted(pretrained))}; give a model that enlarges'
    )
  if players.targeted and 'labels' not in shapes:
    raise UserError(
      f'config.method.{next(iter(players.targeted))}_weight: needs label maps;'
      ' give their folder as config.data.labels'
    )
  init_key, state_key = jax.random.split(key)
  hr = jnp.zeros((1, *shapes['hr'].shape[1:]))
  if 'lr' not in shapes:
    hr = players.degrader.core(hr, scale)
  params, stats = _start(players, init_key, hr, pretrained)
  parts = players.parts(params['generator'])
  if not parts['generator']:
    raise UserError(
      'config.method.early_layers: no layer of the generator matches'
      f' {", ".join(players.early) or "nothing"}; it has'
      f' {", ".join(sorted(params["generator"]))}'
    )
  trees = parts | {slot: params[slot] for slot in players.discriminators}
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    key=state_key,
    params=params,
    opt_state={
      slot: players.optimizers[slot].tx.init(tree)
      for slot, tree in trees.items()
    },
    model_state=stats,
    frozen=dict(frozen),
  )


def _start(
  players: Players,
  key: jax.Array,
  hr: jax.Array,
  pretrained: Mapping[str, Any],
) -> tuple[dict[str, PyTree], dict[str, PyTree]]:
  """Makes initial parameters and running statistics by slot."""
  lr = jnp.zeros((1, 8, 8, hr.shape[-1]))
  fresh = {'generator': players.generator.init(key, lr)}
  for i, (slot, judge) in enumerate(players.discriminators.items(), 1):
    judge_key = jax.random.fold_in(key, i)
    fresh[slot] = judge.network.init(judge_key, judge.view(hr))
  params, stats = {}, {}
  for slot, variables in fresh.items():
    others = dict(variables)
    params[slot] = start_from(others.pop('params'), pretrained.get(slot, {}))
    if others:
      stats[slot] = others
  if 'batch_stats' in pretrained and 'generator' in stats:
    stats['generator'] = start_from(
      stats['generator'], {'batch_stats': pretrained['batch_stats']}
    )
  return params, stats


def _train_step(
  players: Players,
  state: TrainState,
  batch: Mapping[str, jax.Array],
  scale: int,
) -> tuple[TrainState, dict[str, jax.Array]]:
  noise_key, critic_key = jax.random.split(state.step_key())
  lr, hr = players.degrader.pair(noise_key, batch, scale)
  judges = players.discriminators
  masks = {}
  if players.targeted:
    masks = regions(batch['labels'][..., 0], players.radius)
  gradients = joint_gradients(
    _adversarial.generate(players.generator, state.model_state, lr),
    functools.partial(_content, players, state.frozen, hr, masks),
    _adversarial.critics(judges, state, hr, critic_key),
  )
  theta = state.params['generator']
  phis = {slot: state.params[slot] for slot in judges}
  of_theta, of_phis, report = gradients(theta, phis)
  parts = players.parts(theta)
  turn = generator_turn(state.step, **players.turns)
  turns = {
    slot: turn & (state.step >= players.optimizers[slot].begins)
    for slot in parts
  }
  moved, after, metrics = _adversarial.move(
    players.optimizers,
    *(state, parts | phis, players.parts(of_theta) | of_phis, turns),
  )
  generator = moved.pop('generator') | moved.pop(HELD, {})
  after = after.replace(params={'generator': generator, **moved})
  after = after.with_statistics({'generator': report.aux, **report.critic_aux})
  metrics |= _adversarial.losses(report, judges)
  contrast = report.outputs[0].std() / jnp.maximum(hr.std(), 1e-6)
  return after, metrics | {'contrast': contrast}


def _content(
  players: Players,
  frozen: Mapping[str, PyTree],
  hr: jax.Array,
  masks: Mapping[str, jax.Array],
  outputs: tuple[jax.Array, Any],
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The generator's loss without discriminators, and its unweighted terms."""
  sr, aux = outputs
  terms = {}
  if players.weights['pixel']:
    terms['pixel'] = players.distance(sr, hr)
  if players.weights['perceptual']:
    of_sr, of_hr = (
      _look(players, frozen, list(players.recipe.layers), image)
      for image in (sr, hr)
    )
    terms['perceptual'] = perceptual.feature_distance(
      of_sr, of_hr, players.recipe
    )
  for region, layer in players.targeted.items():
    look = functools.partial(_look, players, frozen, [layer])
    terms[region] = targeted.masked_distance(look, sr, hr, masks[region])
  if players.weights['variation']:
    terms['variation'] = 2 * perceptual.total_variation(sr)
  if players.weights['gradient']:
    maps = (gradient_map(image, padding=2) for image in (sr, hr))
    terms['gradient'] = pixel.l2(*maps)
  if players.weights['branch']:
    if 'gradient' not in aux:
      raise UserError(
        'config.method.branch_weight: this model predicts no gradient map; set'
        ' it to 0'
      )
    terms['branch'] = pixel.l1(aux['gradient'], gradient_map(hr))
  if players.weights['rank']:
    # Running statistics make the score of an image independent of the others.
    terms['rank'] = ranking.content(players.ranker.apply(frozen[RANKER], sr))
  total = jnp.zeros(())
  for name, value in terms.items():
    total += players.weights[name] * value
  return total, terms


def _look(
  players: Players,
  frozen: Mapping[str, PyTree],
  layers: Sequence[str],
  image: jax.Array,
) -> dict[str, jax.Array]:
  """Features of an image by layer."""
  return players.features(layers).apply({'params': frozen[FEATURES]}, image)


def advice(metrics: Mapping[str, float]) -> str | None:
  """Suggests a remedy if means of the metrics show that one network wins."""
  low, high = _CONTRAST
  if not low <= metrics['contrast'] <= high:
    what = 'collapse' if metrics['contrast'] < low else 'blow up'
    return (
      f'the generated images {what}: their contrast is'
      f' {metrics["contrast"]:.2g} times that of HR; start from a model trained'
      ' by pixel loss (config.checkpoint.init_from), lower'
      ' config.optimizer.learning_rate or raise config.method.pixel_weight'
    )
  for slot in VIEWS:
    if slot not in metrics:
      continue
    largest = max(abs(metrics[f'{slot}_{kind}']) for kind in ('real', 'fake'))
    if largest > _LARGE_LOGIT:
      return (
        f'{slot} blows up: its logits reach {largest:.3g}; lower'
        ' config.optimizer.learning_rate or set config.optimizer.clip_norm'
      )
    right = metrics[f'{slot}_accuracy'] > _ALWAYS_RIGHT
    # Wasserstein's loss has no lower bound and is negative in this case.
    if right and 0 <= metrics[slot] < _LOSES_NOTHING:
      return (
        f'{slot} recognises every generated image, which teaches the'
        ' generator little; raise config.data.batch_size or lower'
        ' config.method.adversarial_weight if this lasts'
      )
  return None


def _averaged(players: Players, state: TrainState) -> dict[str, Any]:
  """`supervised.averaged`, also for a generator with two optimizers."""
  slots = dict(state.params)
  slots['generator'] = {}
  for part, tree in players.parts(state.params['generator']).items():
    slots['generator'] |= optimizers.averaged_params(
      state.opt_state[part], tree
    )
  return slots | state.model_state.get('generator', {})

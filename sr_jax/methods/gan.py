"""Adversarial training (SRGAN, Ledig et al., CVPR 2017, and its successors).

The `generator` learns from distances to HR and from what discriminators make
of its images; all move at once, from their old parameters, as in
`transforms.adversarial`. Which terms there are is told by their weights in
`config.method`; zero leaves one out:

  pixel_weight           distance of SR to HR, by `config.loss`
  perceptual_weight      distance of features of VGG, by `perceptual`, a
                         recipe of `losses.perceptual`
  boundary_weight, background_weight, object_weight
                         distance of features within these regions (SROBB), by
                         `region_layers`
  variation_weight       total variation of SR in [-1, 1] (SRGAN's VGG22)
  adversarial_weight     `discriminator`, which sees images
  gradient_weight        mean squared distance of gradient maps (SPSR)
  gradient_adversarial_weight
                         `discriminator_gradient`, which sees gradient maps
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
from sr_jax.losses import adversarial, perceptual, pixel, ranking, targeted
from sr_jax.methods import Method, supervised
from sr_jax.methods._gan_config import (
  FEATURES,
  HELD,
  RANKER,
  VIEWS,
  Players,
  check_features,
  check_patch,
  describe,
  frozen_networks,
)
from sr_jax.ops.gradient_map import gradient_map
from sr_jax.ops.regions import regions
from sr_jax.state import TrainState, start_from
from sr_jax.transforms.adversarial import (
  Critic,
  Report,
  generator_turn,
  joint_gradients,
  update,
)

predictor = supervised.predictor

USES_LABELS = True

PyTree = Any

# Keys of the config that tell where these come from.
_SOURCES = ('features_from', 'ranker_from', 'rank_metric')
# Beyond these `advice` speaks up.
_TELLS_ALL, _LOSES_NOTHING = 0.995, 0.05
_LARGE_LOGIT = 50.0
_CONTRAST = (0.2, 3.0)


def make(config: Mapping[str, Any]) -> Method:
  """Adversarial training of `config['model']`.

  Sections used: `method`, `model`, `loss`, `data`, `degradation`, `optimizer`,
  `steps`.

  Raises:
    UserError: unknown loss or game, a patch that the discriminator does not
      take, or a section that its consumer refuses.
  """
  section = dict(config['method'])
  del section['name']
  sources = {k: section.pop(k) for k in _SOURCES}
  players = describe(config, **section)
  check_features(players)
  check_patch(config, players)
  degrader = supervised.degrader(config)
  return Method(
    init=functools.partial(_init, players, degrader),
    train_step=functools.partial(_train_step, players, degrader),
    predict=predictor(config),
    degrade=degrader.degradation.on_device,
    margin=degrader.margin,
    averaged=functools.partial(_averaged, players),
    frozen=functools.partial(frozen_networks, players, **sources),
    advice=advice,
  )


def _init(
  players: Players,
  degrader: supervised.Degrader,
  key: jax.Array,
  batch: Mapping[str, jax.Array],
  pretrained: Mapping[str, Any],
  scale: int,
) -> TrainState:
  init_key, state_key = jax.random.split(key)
  known = set(pretrained) - {FEATURES, RANKER}
  if known and 'generator' not in known:
    raise UserError(
      'config.checkpoint.init_from: holds no generator but'
      f' {", ".join(sorted(known))}; give a model that enlarges'
    )
  if players.targeted and 'labels' not in batch:
    raise UserError(
      f'config.method.{next(iter(players.targeted))}_weight: needs label maps;'
      ' give their folder as config.data.labels'
    )
  hr = jnp.zeros((1, *batch['hr'].shape[1:]))
  if 'lr' not in batch:
    hr = degrader.core(hr, scale)
  stats, params = {}, {}

  def add(slot: str, fresh: Mapping[str, Any]) -> None:
    own = dict(fresh)
    if given := pretrained.get(slot):
      own['params'] = start_from(own['params'], given)
    params[slot] = own.pop('params')
    if own:
      stats[slot] = own

  lr = jnp.zeros((1, 8, 8, hr.shape[-1]))
  add('generator', players.generator.init(init_key, lr))
  if 'batch_stats' in pretrained and 'generator' in stats:
    stats['generator'] = start_from(
      stats['generator'], {'batch_stats': pretrained['batch_stats']}
    )
  for i, slot in enumerate(players.critics, 1):
    judge_key = jax.random.fold_in(init_key, i)
    seen = VIEWS[slot][1](hr)
    add(slot, players.discriminator.init(judge_key, seen))
  frozen = {}
  if players.layers:
    # Fresh ones where only shapes are asked for.
    fresh = players.features(players.layers).init(init_key, hr)['params']
    frozen[FEATURES] = pretrained.get(FEATURES, fresh)
  if players.weights['rank']:
    fresh = players.ranker.init(init_key, hr)
    frozen[RANKER] = pretrained.get(RANKER, fresh)
  parts = players.parts(params['generator'])
  if not parts['generator']:
    raise UserError(
      'config.method.early_layers: no layer of the generator matches'
      f' {", ".join(players.early) or "nothing"}; it has'
      f' {", ".join(sorted(params["generator"]))}'
    )
  trees = {
    **parts,
    **{slot: params[slot] for slot in players.critics},
  }
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    key=state_key,
    params=params,
    opt_state={
      slot: players.optimizers[slot].tx.init(tree)
      for slot, tree in trees.items()
    },
    model_state=stats,
    frozen=frozen,
  )


def _train_step(
  players: Players,
  degrader: supervised.Degrader,
  state: TrainState,
  batch: Mapping[str, jax.Array],
  scale: int,
) -> tuple[TrainState, dict[str, jax.Array]]:
  key = state.step_key()
  lr, hr = degrader.pair(key, batch, scale)
  critics = {
    slot: _critic(players, slot, state.model_state, hr, key)
    for slot in players.critics
  }
  masks = {}
  if players.targeted:
    masks = regions(batch['labels'][..., 0], players.radius)
  gradients = joint_gradients(
    functools.partial(_generate, players, state.model_state, lr),
    functools.partial(_content, players, state.frozen, hr, masks),
    critics,
  )
  theta = state.params['generator']
  phis = {slot: state.params[slot] for slot in critics}
  of_theta, of_phis, report = gradients(theta, phis)
  state, metrics = _moved(players, state, of_theta, of_phis)
  stats = {'generator': report.aux, **report.critic_aux}
  state = state.with_statistics(stats)
  return state, metrics | _told(report, hr)


def _generate(
  players: Players,
  model_state: Mapping[str, Any],
  lr: jax.Array,
  theta: PyTree,
) -> tuple[Any, Any]:
  """(SR, aux) and the generator's new running statistics."""
  stats = model_state.get('generator', {})
  return players.generator.apply(
    {'params': theta, **stats}, lr, train=True, mutable=list(stats)
  )


def _content(
  players: Players,
  frozen: Mapping[str, PyTree],
  hr: jax.Array,
  masks: Mapping[str, jax.Array],
  outputs: tuple[jax.Array, Any],
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The generator's loss without discriminators, and its terms unweighted."""
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
    # By its running statistics: the score of an image is its own.
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


def _critic(
  players: Players,
  slot: str,
  model_state: Mapping[str, Any],
  hr: jax.Array,
  key: jax.Array,
) -> Critic:
  """One discriminator's part; real and generated images are batches apart."""
  term, view = VIEWS[slot]
  network, real = players.discriminator, view(hr)
  before = model_state.get(slot, {})

  def apply(phi: PyTree, image: jax.Array, stats: Any) -> tuple[jax.Array, Any]:
    return network.apply(
      {'params': phi, **stats}, image, train=True, mutable=list(stats)
    )

  def judge(phi: PyTree, outputs: Any) -> tuple[Any, Any]:
    of_real, stats = apply(phi, real, before)
    of_fake, stats = apply(phi, view(outputs[0]), stats)
    return (of_real, of_fake), stats

  def penalty(phi: PyTree, outputs: Any) -> jax.Array:
    return players.penalty * adversarial.gradient_penalty(
      lambda image: apply(phi, image, before)[0], real, view(outputs[0]), key
    )

  return Critic(
    judge=judge,
    game=players.game,
    weight=players.weights[term],
    penalty=penalty if players.penalty else None,
  )


def _moved(
  players: Players,
  state: TrainState,
  of_theta: Mapping[str, PyTree],
  of_phis: Mapping[str, PyTree],
) -> tuple[TrainState, dict[str, jax.Array]]:
  """The state after every player's update, and metrics of the optimizers."""
  trees = players.parts(state.params['generator']) | {
    slot: state.params[slot] for slot in players.critics
  }
  grads = players.parts(of_theta) | dict(of_phis)
  turn = generator_turn(state.step, **players.turns)
  moved, opt_state = {}, {}
  for slot, tree in trees.items():
    tx, _, begins = players.optimizers[slot]
    own = (slot in VIEWS) | (turn & (state.step >= begins))
    moved[slot], opt_state[slot] = update(
      tx, grads[slot], state.opt_state[slot], tree, own
    )
  params = {slot: moved[slot] for slot in players.critics}
  params['generator'] = moved['generator'] | moved.get(HELD, {})
  rate = players.optimizers['generator'].rate
  metrics = optimizers.step_metrics(rate, of_theta, opt_state)
  state = state.replace(step=state.step + 1, params=params, opt_state=opt_state)
  return state, metrics


def _told(report: Report, hr: jax.Array) -> dict[str, jax.Array]:
  """Metrics of the losses, and of how the players fare."""
  metrics = {'loss': report.loss, **report.terms}
  for slot, verdict in report.verdicts.items():
    metrics[VIEWS[slot][0]] = verdict.generator
    metrics[slot] = verdict.discriminator
    metrics[f'{slot}_accuracy'] = verdict.accuracy
    metrics[f'{slot}_real'] = verdict.real
    metrics[f'{slot}_fake'] = verdict.fake
  metrics['contrast'] = report.outputs[0].std() / jnp.maximum(hr.std(), 1e-6)
  return metrics


def advice(metrics: Mapping[str, float]) -> str | None:
  """What to do about means of the metrics that tell of a lost game."""
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
    tells = metrics[f'{slot}_accuracy'] > _TELLS_ALL
    # Wasserstein's loss, which may fall without end, is negative then.
    if tells and 0 <= metrics[slot] < _LOSES_NOTHING:
      return (
        f'{slot} tells every generated image from HR, which teaches the'
        ' generator little; raise config.data.batch_size or lower'
        ' config.method.adversarial_weight if this lasts'
      )
  return None


def _averaged(players: Players, state: TrainState) -> dict[str, Any]:
  """As `supervised.averaged`, for a generator with two optimizers as well."""
  slots = dict(state.params)
  slots['generator'] = {}
  for part, tree in players.parts(state.params['generator']).items():
    slots['generator'] |= optimizers.averaged_params(
      state.opt_state[part], tree
    )
  return slots | state.model_state.get('generator', {})

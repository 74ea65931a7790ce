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
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sr_jax import feature_weights, models, optimizers, ranker_weights
from sr_jax.errors import UserError
from sr_jax.losses import adversarial, perceptual, pixel, ranking, targeted
from sr_jax.methods import Method, supervised
from sr_jax.models import vgg
from sr_jax.models.common import up_to
from sr_jax.ops.gradient_map import gradient_map
from sr_jax.ops.regions import NAMES, regions
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

# The optimizer of layers that begin to learn later.
_HELD = 'generator_held'
_GAMES = {
  'vanilla': adversarial.vanilla,
  'least_squares': adversarial.least_squares,
  'wasserstein': adversarial.wasserstein,
  'relativistic': adversarial.relativistic,
}
# Slots of the frozen networks: of features, and of the ranker.
_FEATURES, _RANKER = 'features', 'ranker'
# Keys of the config that tell where these come from.
_SOURCES = ('features_from', 'ranker_from', 'rank_metric')
# What each discriminator sees of an image, and its weight's name.
_VIEWS = {
  'discriminator': ('adversarial', lambda image: image),
  'discriminator_gradient': (
    'gradient_adversarial',
    functools.partial(gradient_map, padding=2),
  ),
}
# Beyond these `advice` speaks up.
_TELLS_ALL, _LOSES_NOTHING = 0.995, 0.05
_LARGE_LOGIT = 50.0
_CONTRAST = (0.2, 3.0)


class _Optimizer(NamedTuple):
  """How a part of the generator, or a discriminator, learns.

  Attributes:
    tx: Its transformation.
    rate: Its learning rate.
    begins: Step before which it stays as it is.
  """

  tx: optax.GradientTransformation
  rate: optax.Schedule
  begins: int = 0


class _Players(NamedTuple):
  """Networks, losses and optimizers, as the config describes them.

  Attributes:
    generator: Its Linen module.
    discriminator: The Linen module of every discriminator.
    ranker: The Linen module of the ranker.
    game: What they play.
    weights: Of all terms, by name.
    distance: Of SR to HR.
    recipe: The perceptual loss.
    regions: Layers that compare each region.
    radius: Of the boundaries.
    variant: Of the network of features.
    penalty: Weight of WGAN-GP's.
    optimizers: Of `generator`, of its held layers and of each discriminator.
    early: Patterns of the generator's layers that are not held.
    turns: Arguments of `generator_turn`.
  """

  generator: Any
  discriminator: Any
  ranker: Any
  game: adversarial.Game
  weights: Mapping[str, float]
  distance: Callable[..., jax.Array]
  recipe: perceptual.Recipe
  regions: Mapping[str, str]
  radius: int
  variant: str
  penalty: float
  optimizers: Mapping[str, _Optimizer]
  early: Sequence[str]
  turns: Mapping[str, int]

  @property
  def targeted(self) -> dict[str, str]:
    """Layers by region, of those regions that have a weight."""
    return {name: self.regions[name] for name in NAMES if self.weights[name]}

  @property
  def layers(self) -> list[str]:
    """All that the losses compare by."""
    whole = self.recipe.layers if self.weights['perceptual'] else ()
    return [*whole, *self.targeted.values()]

  def features(self, layers: Sequence[str]) -> Any:
    """The Linen module of some layers, no deeper than these."""
    return feature_weights.network('vgg', list(layers), self.variant)

  @property
  def critics(self) -> list[str]:
    """Slots of the discriminators that have a weight."""
    return [
      slot for slot, (term, _) in _VIEWS.items() if self.weights.get(term)
    ]

  def parts(self, tree: Mapping[str, PyTree]) -> dict[str, dict[str, PyTree]]:
    """A tree of the generator's layers, by the optimizer that moves them."""
    if _HELD not in self.optimizers:
      return {'generator': dict(tree)}
    early = {
      k: v
      for k, v in tree.items()
      if any(fnmatchcase(k, p) for p in self.early)
    }
    held = {k: v for k, v in tree.items() if k not in early}
    return {'generator': early, _HELD: held}


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
  players = _players(config, **section)
  _check_features(players)
  _check_patch(config, players)
  make_lr = supervised.degrader(config['degradation'])
  return Method(
    init=functools.partial(_init, players),
    train_step=functools.partial(_train_step, players, make_lr),
    predict=predictor(config),
    degrade=make_lr,
    averaged=functools.partial(_averaged, players),
    frozen=functools.partial(_frozen, players, **sources),
    advice=advice,
  )


def _players(
  config: Mapping[str, Any],
  *,
  discriminator: Mapping[str, Any],
  game: str,
  detach_mean: bool,
  mean_over: str,
  gradient_penalty: float,
  pixel_weight: float,
  perceptual: str,
  perceptual_weight: float,
  variation_weight: float,
  boundary_weight: float,
  background_weight: float,
  object_weight: float,
  region_layers: Mapping[str, str],
  boundary_radius: int,
  features: str,
  adversarial_weight: float,
  gradient_weight: float,
  gradient_adversarial_weight: float,
  branch_weight: float,
  ranker: Mapping[str, Any],
  rank_weight: float,
  generator_every: int,
  generator_first: int,
  held_steps: int,
  early_layers: Sequence[str],
) -> _Players:
  """What the sections of the config describe."""
  generator = models.create(config['model'])
  weights = {
    'pixel': pixel_weight,
    'perceptual': perceptual_weight,
    'variation': variation_weight,
    'boundary': boundary_weight,
    'background': background_weight,
    'object': object_weight,
    'adversarial': adversarial_weight,
    'gradient': gradient_weight,
    'gradient_adversarial': gradient_adversarial_weight,
    'branch': branch_weight,
    'rank': rank_weight,
  }
  for name, value in {**weights, 'held_steps': held_steps}.items():
    if value < 0:
      key = name if name == 'held_steps' else f'{name}_weight'
      raise UserError(f'config.method.{key}={value:g}: give 0 or more')
  if generator_every < 1:
    raise UserError(
      f'config.method.generator_every={generator_every}: give 1 or more'
    )
  if boundary_radius < 0:
    raise UserError(
      f'config.method.boundary_radius={boundary_radius}: give 0 or more'
    )
  judges: dict[str, Any] = {}
  for key, model in (('discriminator', discriminator), ('ranker', ranker)):
    try:
      judges[key] = models.create({**model, 'channels': generator.channels})
    except UserError as error:
      raise UserError(f'config.method.{key}: {error}') from None
  return _Players(
    generator=generator,
    **judges,
    game=_game(game, detach_mean, mean_over),
    weights=weights,
    distance=supervised.loss_by_name(config['loss']),
    recipe=supervised.recipe_by_name(perceptual),
    regions=region_layers,
    radius=boundary_radius,
    variant=features,
    penalty=gradient_penalty,
    optimizers=_optimizers(config, held_steps),
    early=early_layers,
    turns={'every': generator_every, 'first': generator_first},
  )


def _check_features(players: _Players) -> None:
  """Refuses features that there are none of."""
  if players.variant not in vgg.VARIANTS:
    raise UserError(
      f'config.method.features: unknown {players.variant!r}; choose from'
      f' {sorted(vgg.VARIANTS)}'
    )
  try:
    up_to(players.layers, vgg.convolutions(players.variant))
  except UserError as error:
    raise UserError(
      f'config.method.features={players.variant}: {error}'
    ) from None


def _frozen(
  players: _Players, features_from: str, ranker_from: str, rank_metric: str
) -> dict[str, PyTree]:
  """Weights of the frozen networks that have a say.

  Raises:
    UserError: there are none where the config says.
  """
  found: dict[str, PyTree] = {}
  if players.layers:
    if not features_from:
      raise UserError(
        'config.method.features_from: the perceptual loss needs'
        f" {players.variant.upper()}'s weights; give the path of torchvision's"
        ' file, or random:0 to try things out'
      )
    found[_FEATURES] = feature_weights.load(
      features_from,
      model='vgg',
      layers=players.layers,
      variant=players.variant,
    )
  if players.weights['rank']:
    if not ranker_from:
      raise UserError(
        'config.method.ranker_from: the rank-content loss needs a ranker; give'
        ' the --workdir of configs/ranker.py, or random:0 to try things out'
      )
    found[_RANKER] = ranker_weights.load(
      ranker_from, players.ranker, rank_metric
    )
  return found


def _game(name: str, detach_mean: bool, mean_over: str) -> adversarial.Game:
  """The game of `config.method`."""
  groups = {'mesh': 1, 'device': jax.device_count()}
  if mean_over not in groups:
    raise UserError(
      f'config.method.mean_over: unknown {mean_over!r}; choose mesh or device'
    )
  if name == 'relativistic_average':
    return adversarial.relativistic_average(
      groups=groups[mean_over], detach_mean=detach_mean
    )
  if name not in _GAMES:
    raise UserError(
      f'config.method.game: unknown {name!r}; choose from'
      f' {sorted([*_GAMES, "relativistic_average"])}'
    )
  return _GAMES[name]


def _optimizers(
  config: Mapping[str, Any], held_steps: int
) -> dict[str, _Optimizer]:
  """By slot; only the generator keeps a moving average."""
  architecture = models.module(config['model']['name'])
  section, steps = config['optimizer'], config['steps']
  make = functools.partial(
    optimizers.make, constants=getattr(architecture, 'CONSTANTS', ())
  )
  generator = _Optimizer(*make(steps=steps, **section))
  plain: dict[str, Any] = {**section, 'ema_decay': 0.0}
  discriminator = _Optimizer(*optimizers.make(steps=steps, **plain))
  found = {'generator': generator, **dict.fromkeys(_VIEWS, discriminator)}
  if held_steps:
    # Its own steps are counted from there, the schedule's from the start.
    later: dict[str, Any] = {
      **section,
      'boundaries': [t - held_steps for t in section['boundaries']],
    }
    left = max(1, steps - held_steps)
    found[_HELD] = _Optimizer(*make(steps=left, **later), begins=held_steps)
  return found


def _check_patch(config: Mapping[str, Any], players: _Players) -> None:
  """Refuses crops that a discriminator does not take, naming what it does.

  Raises:
    UserError: the crops are too small or too large.
  """
  data, sides = config['data'], players.discriminator.sides
  for scale in data['scales'] or (config['model']['scale'],):
    hr = int(data['patch'] * scale)
    # Gradient maps are two pixels larger.
    largest = hr + 2 * ('discriminator_gradient' in players.critics)
    if hr < sides[0] or largest > sides[-1]:
      more = largest - hr
      least, most = -(-sides[0] // scale), (sides[-1] - more) // scale
      raise UserError(
        f'config.data.patch={data["patch"]}: HR crops are {hr}x{hr}, but the'
        f' discriminator {config["method"]["discriminator"]["name"]} takes'
        f' {sides[0]} to {sides[-1] - more} pixels a side; give {least:g}'
        f' to {most:g}'
      )


def _init(
  players: _Players,
  key: jax.Array,
  batch: Mapping[str, jax.Array],
  pretrained: Mapping[str, Any],
  scale: int,
) -> TrainState:
  del scale  # the discriminator's crops have one size
  init_key, state_key = jax.random.split(key)
  known = set(pretrained) - {_FEATURES, _RANKER}
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
    seen = _VIEWS[slot][1](hr)
    add(slot, players.discriminator.init(judge_key, seen))
  frozen = {}
  if players.layers:
    # Fresh ones where only shapes are asked for.
    fresh = players.features(players.layers).init(init_key, hr)['params']
    frozen[_FEATURES] = pretrained.get(_FEATURES, fresh)
  if players.weights['rank']:
    fresh = players.ranker.init(init_key, hr)
    frozen[_RANKER] = pretrained.get(_RANKER, fresh)
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
  players: _Players,
  make_lr: Callable[..., jax.Array],
  state: TrainState,
  batch: Mapping[str, jax.Array],
  scale: int,
) -> tuple[TrainState, dict[str, jax.Array]]:
  key = state.step_key()
  lr, hr = supervised.pair(make_lr, key, batch, scale)
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
  state = state.replace(model_state={k: v for k, v in stats.items() if v})
  return state, metrics | _told(report, hr)


def _generate(
  players: _Players,
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
  players: _Players,
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
    terms['rank'] = ranking.content(players.ranker.apply(frozen[_RANKER], sr))
  total = jnp.zeros(())
  for name, value in terms.items():
    total += players.weights[name] * value
  return total, terms


def _look(
  players: _Players,
  frozen: Mapping[str, PyTree],
  layers: Sequence[str],
  image: jax.Array,
) -> dict[str, jax.Array]:
  """Features of an image by layer."""
  return players.features(layers).apply({'params': frozen[_FEATURES]}, image)


def _critic(
  players: _Players,
  slot: str,
  model_state: Mapping[str, Any],
  hr: jax.Array,
  key: jax.Array,
) -> Critic:
  """One discriminator's part; real and generated images are batches apart."""
  term, view = _VIEWS[slot]
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
  players: _Players,
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
    own = (slot in _VIEWS) | (turn & (state.step >= begins))
    moved[slot], opt_state[slot] = update(
      tx, grads[slot], state.opt_state[slot], tree, own
    )
  params = {slot: moved[slot] for slot in players.critics}
  params['generator'] = moved['generator'] | moved.get(_HELD, {})
  rate = players.optimizers['generator'].rate
  metrics = optimizers.step_metrics(rate, state.step, of_theta, opt_state)
  state = state.replace(step=state.step + 1, params=params, opt_state=opt_state)
  return state, metrics


def _told(report: Report, hr: jax.Array) -> dict[str, jax.Array]:
  """Metrics of the losses, and of how the players fare."""
  metrics = {'loss': report.loss, **report.terms}
  for slot, verdict in report.verdicts.items():
    metrics[_VIEWS[slot][0]] = verdict.generator
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
  for slot in _VIEWS:
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


def _averaged(players: _Players, state: TrainState) -> dict[str, Any]:
  """As `supervised.averaged`, for a generator with two optimizers as well."""
  slots = dict(state.params)
  slots['generator'] = {}
  for part, tree in players.parts(state.params['generator']).items():
    slots['generator'] |= optimizers.averaged_params(
      state.opt_state[part], tree
    )
  return slots | state.model_state.get('generator', {})

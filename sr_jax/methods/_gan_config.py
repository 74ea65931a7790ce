"""Who plays in adversarial training: networks, losses and optimizers.

What the sections of a config describe, and the checks of it, for `gan`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import jax
import optax

from sr_jax import models, optimizers
from sr_jax.errors import UserError
from sr_jax.losses import adversarial, perceptual
from sr_jax.methods import supervised
from sr_jax.models.features import vgg
from sr_jax.models.parts.common import up_to
from sr_jax.ops.gradient_map import gradient_map
from sr_jax.ops.regions import NAMES
from sr_jax.weights import features as feature_weights
from sr_jax.weights import ranker as ranker_weights

PyTree = Any

# The optimizer of layers that begin to learn later.
HELD = 'generator_held'
_GAMES = {
  'vanilla': adversarial.vanilla,
  'least_squares': adversarial.least_squares,
  'wasserstein': adversarial.wasserstein,
  'relativistic': adversarial.relativistic,
}
# Slots of the frozen networks: of features, and of the ranker.
FEATURES, RANKER = 'features', 'ranker'
# What each discriminator sees of an image, and its weight's name.
VIEWS = {
  'discriminator': ('adversarial', lambda image: image),
  'discriminator_gradient': (
    'gradient_adversarial',
    functools.partial(gradient_map, padding=2),
  ),
}


class Optimizer(NamedTuple):
  """How a part of the generator, or a discriminator, learns.

  Attributes:
    tx: Its transformation.
    rate: Its learning rate.
    begins: Step before which it stays as it is.
  """

  tx: optax.GradientTransformation
  rate: optax.Schedule
  begins: int = 0


class Players(NamedTuple):
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
  optimizers: Mapping[str, Optimizer]
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
    return [slot for slot, (term, _) in VIEWS.items() if self.weights.get(term)]

  def parts(self, tree: Mapping[str, PyTree]) -> dict[str, dict[str, PyTree]]:
    """A tree of the generator's layers, by the optimizer that moves them."""
    if HELD not in self.optimizers:
      return {'generator': dict(tree)}
    early = {
      k: v
      for k, v in tree.items()
      if any(fnmatchcase(k, p) for p in self.early)
    }
    held = {k: v for k, v in tree.items() if k not in early}
    return {'generator': early, HELD: held}


def describe(
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
) -> Players:
  """What the sections of the config describe.

  Raises:
    UserError: a value out of its range, or an unknown name.
  """
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
  turns = {'every': generator_every, 'first': generator_first}
  judges: dict[str, Any] = {}
  for key, model in (('discriminator', discriminator), ('ranker', ranker)):
    try:
      judges[key] = models.create({**model, 'channels': generator.channels})
    except UserError as error:
      raise UserError(f'config.method.{key}: {error}') from None
  return Players(
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
    optimizers=_optimizers(config, held_steps, turns),
    early=early_layers,
    turns=turns,
  )


def check_features(players: Players) -> None:
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


def frozen_networks(
  players: Players, features_from: str, ranker_from: str, rank_metric: str
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
    found[FEATURES] = feature_weights.load(
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
    found[RANKER] = ranker_weights.load(
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
  config: Mapping[str, Any], held_steps: int, turns: Mapping[str, int]
) -> dict[str, Optimizer]:
  """By slot; only the generator keeps a moving average."""
  architecture = models.module(config['model']['name'])
  section, steps = config['optimizer'], config['steps']
  make = functools.partial(optimizers.make, constants=architecture.CONSTANTS)
  generator = Optimizer(*make(steps=steps, **section))
  plain: dict[str, Any] = {**section, 'ema_decay': 0.0}
  discriminator = Optimizer(*optimizers.make(steps=steps, **plain))
  found = {'generator': generator, **dict.fromkeys(VIEWS, discriminator)}
  if held_steps:
    # Counts its own updates, but goes on in the schedule of the others.
    before = max(0, held_steps - turns['first']) // turns['every']
    held = make(steps=steps, starts_at=before, **section)
    found[HELD] = Optimizer(*held, begins=held_steps)
  return found


def check_patch(config: Mapping[str, Any], players: Players) -> None:
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

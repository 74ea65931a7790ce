"""Builds and validates what `config.method` describes for `gan`.

That is: the networks, their losses and their optimizers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import jax

from sr_jax import models, optimizers
from sr_jax.errors import (
  FLAG,
  SECTION,
  TEXT,
  Many,
  Optional,
  Range,
  Rules,
  Section,
  UserError,
  check,
  whole,
)
from sr_jax.losses import adversarial, perceptual
from sr_jax.methods import COMMON_RULES, _losses, supervised
from sr_jax.methods._adversarial import (
  FEATURES,
  Discriminator,
  Optimizer,
  check_crops,
  constants,
  create_network,
  make_optimizers,
  read_features,
)
from sr_jax.models.features import vgg
from sr_jax.models.parts.common import up_to
from sr_jax.ops.gradient_map import gradient_map
from sr_jax.ops.regions import NAMES
from sr_jax.weights import features as feature_weights
from sr_jax.weights import ranker as ranker_weights

PyTree = Any

# Slot of the generator's layers that begin to learn later than the others.
HELD = 'generator_held'
# Slot of the frozen ranker.
RANKER = 'ranker'
_GAMES = {
  'vanilla': adversarial.vanilla,
  'least_squares': adversarial.least_squares,
  'wasserstein': adversarial.wasserstein,
  'relativistic': adversarial.relativistic,
}
_gradient_view = functools.partial(gradient_map, padding=2)
# By discriminator: its term in the loss, and the function that makes its input
# from an image.
VIEWS: dict[str, tuple[str, Callable[[jax.Array], jax.Array]]] = {
  'discriminator': ('adversarial', lambda image: image),
  'discriminator_gradient': ('gradient_adversarial', _gradient_view),
}
# Terms of the generator's loss; `config.method` has NAME_weight for each.
_TERMS = (
  *('pixel', 'perceptual', 'variation', *NAMES, 'adversarial', 'gradient'),
  *('gradient_adversarial', 'branch', 'rank'),
)
# What `config.method` may hold.
_RULES: Rules = {
  **COMMON_RULES,
  **{f'{term}_weight': Range() for term in _TERMS},
  'perceptual': TEXT,
  'region_layers': Section(dict.fromkeys(NAMES, Optional(TEXT))),
  'boundary_radius': whole(0, 100),
  'features': TEXT,
  'features_from': TEXT,
  'ranker_from': TEXT,
  'rank_metric': TEXT,
  'ranker': SECTION,
  'discriminator': SECTION,
  'game': TEXT,
  'detach_mean': FLAG,
  'mean_over': TEXT,
  'gradient_penalty': Range(),
  'generator_every': whole(1),
  'generator_first': whole(),
  'held_steps': whole(),
  'early_layers': Many(TEXT),
}


class Players(NamedTuple):
  """Networks, losses and optimizers, as the config describes them.

  Attributes:
    generator: Its Linen module.
    discriminators: Those that have a weight, by slot.
    ranker: The Linen module of the ranker.
    weights: Weights of the terms of the loss, by name.
    distance: Pixel loss between SR and HR.
    recipe: The perceptual loss.
    regions: Layers that compare each region.
    radius: Radius of the boundary regions in HR pixels.
    variant: Variant of the network of features, vgg16 or vgg19.
    optimizers: Optimizers of `generator`, of its held layers and of each
      discriminator, by slot.
    early: Name patterns of the generator's layers that learn from the start.
    turns: Arguments of `generator_turn`.
    degrader: Makes the pairs of a batch.
  """

  generator: Any
  discriminators: Mapping[str, Discriminator]
  ranker: Any
  weights: Mapping[str, float]
  distance: Callable[..., jax.Array]
  recipe: perceptual.Recipe
  regions: Mapping[str, str]
  radius: int
  variant: str
  optimizers: Mapping[str, Optimizer]
  early: Sequence[str]
  turns: Mapping[str, int]
  degrader: supervised.Degrader

  @property
  def targeted(self) -> dict[str, str]:
    """Layers by region, for the regions whose weight is not zero."""
    return {name: self.regions[name] for name in NAMES if self.weights[name]}

  @property
  def layers(self) -> list[str]:
    """Names of all layers of features that the losses compare."""
    whole = self.recipe.layers if self.weights['perceptual'] else ()
    return [*whole, *self.targeted.values()]

  def features(self, layers: Sequence[str]) -> Any:
    """The network of features, up to the deepest of the given layers."""
    return feature_weights.network('vgg', list(layers), self.variant)

  @property
  def frozen(self) -> list[str]:
    """Slots of the frozen networks that the losses need."""
    ranker = [RANKER] if self.weights['rank'] else []
    return [FEATURES, *ranker] if self.layers else ranker

  def parts(self, tree: Mapping[str, PyTree]) -> dict[str, dict[str, PyTree]]:
    """Splits a tree of the generator's layers by their optimizer."""
    if HELD not in self.optimizers:
      return {'generator': dict(tree)}
    early = {
      k: v
      for k, v in tree.items()
      if any(fnmatchcase(k, p) for p in self.early)
    }
    held = {k: v for k, v in tree.items() if k not in early}
    return {'generator': early, HELD: held}


def describe(config: Mapping[str, Any]) -> Players:
  """Makes the networks, losses and optimizers that a config describes.

  Raises:
    UserError: A value is out of its range, or a name is unknown.
  """
  section = config['method']
  check('config.method', section, _RULES)
  generator = models.create(config['model'])
  channels = {'channels': generator.channels}
  judge, ranker = (
    create_network(key, {**section[key], **channels})
    for key in ('discriminator', 'ranker')
  )
  weights = {term: section[f'{term}_weight'] for term in _TERMS}
  game = _game(section['game'], section['detach_mean'], section['mean_over'])
  discriminators = {
    slot: Discriminator(
      *(judge, game, term, weights[term], view, section['gradient_penalty'])
    )
    for slot, (term, view) in VIEWS.items()
    if weights[term]
  }
  turns = {
    'every': section['generator_every'],
    'first': section['generator_first'],
  }
  players = Players(
    generator=generator,
    discriminators=discriminators,
    ranker=ranker,
    weights=weights,
    distance=_losses.pixel_loss(config),
    recipe=_losses.recipe_by_name(section['perceptual']),
    regions=section['region_layers'],
    radius=section['boundary_radius'],
    variant=section['features'],
    optimizers=_optimizers(config, list(discriminators), turns),
    early=section['early_layers'],
    turns=turns,
    degrader=supervised.degrader(config),
  )
  _check_features(players)
  # Gradient maps are two pixels larger than their images.
  larger_by = 2 * ('discriminator_gradient' in discriminators)
  check_crops(config, judge, larger_by=larger_by)
  return players


def _check_features(players: Players) -> None:
  """Refuses layers that the network of features does not have."""
  for region in NAMES:
    if players.weights[region] and region not in players.regions:
      raise UserError(
        f'config.method.region_layers: names no layer for {region}, whose'
        ' weight is not 0'
      )
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
  players: Players, section: Mapping[str, Any]
) -> dict[str, PyTree]:
  """Reads the weights of the frozen networks that the losses need.

  Args:
    players: Which networks these are.
    section: `config.method`, which says where their weights are.

  Raises:
    UserError: The config names no weights, or they cannot be read.
  """
  networks: dict[str, PyTree] = {}
  if players.layers:
    networks[FEATURES] = read_features(
      section['features_from'],
      'the perceptual loss needs the weights of',
      *(players.layers, players.variant),
    )
  if players.weights['rank']:
    if not section['ranker_from']:
      raise UserError(
        'config.method.ranker_from: the rank-content loss needs a ranker; give'
        ' the --workdir of configs/ranker.py, or random:0 to try things out'
      )
    networks[RANKER] = ranker_weights.load(
      section['ranker_from'], players.ranker, section['rank_metric']
    )
  return networks


def _game(name: str, detach_mean: bool, mean_over: str) -> adversarial.Game:
  """Makes the losses of the game that `config.method` describes."""
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
  config: Mapping[str, Any],
  discriminators: Sequence[str],
  turns: Mapping[str, int],
) -> dict[str, Optimizer]:
  """Makes the optimizers by slot; held layers, if any, have a separate one."""
  slots = make_optimizers(config, discriminators)
  held_steps = config['method']['held_steps']
  if held_steps:
    # The optimizer of the held layers counts its updates from 0. Its schedule
    # starts at the update that the other layers will have reached by then.
    before = max(0, held_steps - turns['first']) // turns['every']
    held = optimizers.make(
      steps=config['steps'],
      constants=constants(config),
      starts_at=before,
      **config['optimizer'],
    )
    slots[HELD] = Optimizer(*held, begins=held_steps)
  return slots

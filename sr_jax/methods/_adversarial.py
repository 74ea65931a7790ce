"""Code that the methods with discriminators share: `gan` and `reference`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import optax

from sr_jax import models, optimizers
from sr_jax.errors import UserError
from sr_jax.losses import adversarial
from sr_jax.state import TrainState
from sr_jax.transforms.adversarial import Critic, Report, update_in_turn
from sr_jax.typing import Judging, Network
from sr_jax.weights import features as feature_weights

PyTree = Any

# Slot of the frozen network of features, in the state and in checkpoints.
FEATURES = feature_weights.SLOT


class Optimizer(NamedTuple):
  """The optimizer of a slot.

  Attributes:
    tx: The gradient transformation.
    rate: The learning rate.
    begins: First step at which the slot is updated.
  """

  tx: optax.GradientTransformation
  rate: optax.Schedule
  begins: int = 0


class Discriminator(NamedTuple):
  """A discriminator with its losses.

  Attributes:
    network: The Linen module.
    game: The losses of the generator and of the discriminator.
    term: Name of the generator's loss with this discriminator, in metrics.
    weight: Weight of that loss.
    view: Converts an image to the input of the discriminator.
    penalty: Weight of the gradient penalty (WGAN-GP); 0 turns it off.
    per_pixel: Form of the penalty, see `losses.adversarial`.
  """

  network: Network
  game: adversarial.Game
  term: str
  weight: float
  view: Callable[[jax.Array], jax.Array]
  penalty: float
  per_pixel: bool = False


def create_network(key: str, section: Mapping[str, Any]) -> Any:
  """Makes the network that a section of `config.method` describes.

  Raises:
    UserError: The section names no network, or its options are refused.
  """
  if not isinstance(section.get('name'), str):
    raise UserError(
      f'config.method.{key}={section}: give it the name of a network'
    )
  try:
    return models.create(section)
  except UserError as error:
    raise UserError(f'config.method.{key}: {error}') from None


def make_optimizers(
  config: Mapping[str, Any], discriminators: Sequence[str]
) -> dict[str, Optimizer]:
  """Makes the optimizers by slot.

  Only the generator has a moving average and rates by layer.

  Raises:
    UserError: `config.optimizer` is refused.
  """
  section, steps = config['optimizer'], config['steps']
  generator = optimizers.make(
    steps=steps, constants=constants(config), **section
  )
  plain: dict[str, Any] = {**section, 'ema_decay': 0.0, 'rate_factors': ()}
  discriminator = Optimizer(*optimizers.make(steps=steps, **plain))
  slots = dict.fromkeys(discriminators, discriminator)
  return {'generator': Optimizer(*generator), **slots}


def constants(config: Mapping[str, Any]) -> Sequence[str]:
  """Names of layers of the generator that get no gradient."""
  return models.module(config['model']['name']).CONSTANTS


def check_crops(
  config: Mapping[str, Any], network: Judging, *, larger_by: int = 0
) -> None:
  """Refuses crops of a size that a discriminator does not take.

  Args:
    config: Config of the experiment.
    network: The discriminator.
    larger_by: Pixels by which the discriminator's inputs may be larger than the
      crops.

  Raises:
    UserError: The crops are too small or too large.
  """
  data, sides = config['data'], network.sides
  for scale in data['scales'] or (config['model']['scale'],):
    hr = int(data['patch'] * scale)
    if hr < sides[0] or hr + larger_by > sides[-1]:
      most = sides[-1] - larger_by
      raise UserError(
        f'config.data.patch={data["patch"]}: HR crops are {hr}x{hr}, but the'
        f' discriminator {config["method"]["discriminator"]["name"]} takes'
        f' {sides[0]} to {most} pixels a side; give'
        f' {-(-sides[0] // scale):g} to {most // scale:g}'
      )


def read_features(
  spec: str, needed_by: str, layers: Sequence[str], variant: str
) -> PyTree:
  """Reads the weights of VGG up to the deepest of the given layers.

  Args:
    spec: `config.method.features_from`.
    needed_by: Start of the error message if there is no spec: who needs VGG.
    layers: Names of layers, such as conv5_4.
    variant: vgg16 or vgg19.

  Raises:
    UserError: The config names no weights, or they cannot be read.
  """
  if not spec:
    raise UserError(
      f'config.method.features_from: {needed_by} {variant.upper()}; give the'
      " path of torchvision's file, or random:0 to try things out"
    )
  return feature_weights.load(spec, model='vgg', layers=layers, variant=variant)


def generate(
  network: Network, model_state: Mapping[str, Any], *inputs: Any
) -> Callable[[PyTree], tuple[Any, Any]]:
  """Returns the generator as `theta -> (outputs, running statistics)`."""
  stats = model_state.get('generator', {})

  def of_theta(theta: PyTree) -> tuple[Any, Any]:
    variables = {'params': theta, **stats}
    return network.apply(variables, *inputs, train=True, mutable=list(stats))

  return of_theta


def critic(
  discriminator: Discriminator, stats: PyTree, hr: jax.Array, key: jax.Array
) -> Critic:
  """Makes a `Critic` that takes real and generated images in two batches.

  Args:
    discriminator: The discriminator.
    stats: The discriminator's running statistics before the step.
    hr: The real images.
    key: PRNG key of the points at which the gradient penalty is computed.
  """
  network, view = discriminator.network, discriminator.view
  real = view(hr)

  def apply(phi: PyTree, image: jax.Array, stats: Any) -> tuple[jax.Array, Any]:
    return network.apply(
      {'params': phi, **stats}, image, train=True, mutable=list(stats)
    )

  def judge(phi: PyTree, outputs: Any) -> tuple[Any, Any]:
    of_real, after = apply(phi, real, stats)
    of_fake, after = apply(phi, view(outputs[0]), after)
    return (of_real, of_fake), after

  def penalty(phi: PyTree, outputs: Any) -> jax.Array:
    return discriminator.penalty * adversarial.gradient_penalty(
      lambda image: apply(phi, image, stats)[0],
      *(real, view(outputs[0]), key),
      per_pixel=discriminator.per_pixel,
    )

  return Critic(
    judge=judge,
    game=discriminator.game,
    weight=discriminator.weight,
    penalty=penalty if discriminator.penalty else None,
  )


def critics(
  discriminators: Mapping[str, Discriminator],
  state: TrainState,
  hr: jax.Array,
  key: jax.Array,
) -> dict[str, Critic]:
  """Makes critics of all discriminators by slot, each with its own PRNG key."""
  keys = jax.random.split(key, max(1, len(discriminators)))
  return {
    slot: critic(one, state.model_state.get(slot, {}), hr, keys[i])
    for i, (slot, one) in enumerate(discriminators.items())
  }


def move(
  slots: Mapping[str, Optimizer],
  state: TrainState,
  trees: Mapping[str, PyTree],
  grads: Mapping[str, PyTree],
  turns: Mapping[str, jax.Array],
) -> tuple[dict[str, PyTree], TrainState, dict[str, jax.Array]]:
  """Updates all slots; slots of the generator only when it is their turn.

  Args:
    slots: Optimizers by slot.
    state: State before the step.
    trees: Parameters by slot.
    grads: Gradients by slot.
    turns: Whether a slot of the generator is updated, by slot.

  Returns:
    The new parameters by slot; the state with new optimizer states and old
    parameters; and the metrics of the optimizers.
  """
  moved, opt_state = {}, {}
  for slot, tree in trees.items():
    turn = turns.get(slot, True)
    moved[slot], opt_state[slot] = update_in_turn(
      slots[slot].tx, grads[slot], state.opt_state[slot], tree, turn
    )
  of_theta = [grads[slot] for slot in turns]
  rate = slots['generator'].rate
  metrics = optimizers.step_metrics(rate, of_theta, opt_state)
  return moved, state.replace(step=state.step + 1, opt_state=opt_state), metrics


def losses(
  report: Report, discriminators: Mapping[str, Discriminator]
) -> dict[str, jax.Array]:
  """Metrics of the losses, and of the discriminators' success."""
  metrics = {'loss': report.loss, **report.terms}
  for slot, verdict in report.verdicts.items():
    metrics[discriminators[slot].term] = verdict.generator
    metrics[slot] = verdict.discriminator
    metrics[f'{slot}_accuracy'] = verdict.accuracy
    metrics[f'{slot}_real'] = verdict.real
    metrics[f'{slot}_fake'] = verdict.fake
  return metrics

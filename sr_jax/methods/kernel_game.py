"""Meta-training of KernelGAN's start, as in MetaKernelGAN (WACV 2023).

A task is an image and the kernel by which it is reduced. The inner loop plays
KernelGAN's game on the reduced image for a few iterations. The outer loss is
the distance of the generator's kernel from the true one after each of these
iterations. Its gradient passes through the game. In this way the discriminator
learns to lead the generator to the true kernel, and the learning rates of both
networks become such that a few iterations are enough.

This was written without sight of the authors' code. The gradient through the
game is exact, and every layer has a learning rate of its own at each iteration.
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
from sr_jax.errors import TEXT, OneOf, Range, Rules, UserError, check, whole
from sr_jax.methods import Inference, Method
from sr_jax.methods.supervised import cut
from sr_jax.models.estimators.kernelgan import (
  KERNEL_SIDE,
  Discriminator,
  Generator,
  reduce_by,
)
from sr_jax.ops.blur_kernels import gaussian_kernel, random_gaussian
from sr_jax.ops.degrade import correlate
from sr_jax.ops.levels import to_unit
from sr_jax.state import EMPTY, TrainState, check_frozen, start_from
from sr_jax.transforms import kernel_game, meta

# Allowed keys and values of `config.method`.
_RULES: Rules = {
  'name': TEXT,
  'iterations': whole(1, 1000),
  'rate': Range(0, 1000),
  'judge_features': whole(1, 4096),
  'min_variance': Range(0, 1000, open='left'),
  'max_variance': Range(0, 1000, open='left'),
  'task_axis': OneOf(('map', 'vmap', 'unroll')),
}
_SCALE = 2
# Margin of the images in LR pixels: a kernel's reach, rounded up.
_MARGIN = KERNEL_SIDE // 2 // _SCALE + 1
# Only the adversarial loss moves the kernel. KernelGAN's other losses say what
# kernels are like, which the outer loss teaches here. They would hinder
# gradient descent: the loss of the sum moves all taps by the same amount,
# however near the sum is to 1, and the slope of the sparsity loss is infinite
# at zero.
_WEIGHTS = kernel_game.Weights(None, None, None, None, None)
# Variance in HR pixels squared of the kernel that the training starts from.
_START = 2.0


class _Training(NamedTuple):
  """Networks and settings that the functions of the method share."""

  generator: Generator
  discriminator: Discriminator
  tx: optax.GradientTransformation
  learning_rate: optax.Schedule
  section: Mapping[str, Any]


def make(config: Mapping[str, Any]) -> Method:
  """Makes the meta-training of KernelGAN's start.

  Sections used: `method`, `model`, `optimizer`, `steps`.

  Raises:
    UserError: The model is another, or the value of a section is refused.
  """
  generator, discriminator = _networks(config)
  section = config['method']
  if section['min_variance'] > section['max_variance']:
    raise UserError(
      f'config.method.min_variance={section["min_variance"]}: give no more than'
      ' max_variance'
    )
  tx, rate = optimizers.make(steps=config['steps'], **config['optimizer'])
  training = _Training(generator, discriminator, tx, rate, section)
  return Method(
    init=functools.partial(_init, training),
    train_step=functools.partial(_train_step, training),
    degrade=Degradation.from_config(config['degradation']).on_device,
    averaged=_averaged,
    margin=lambda scale: _MARGIN,
    judges='kernels',
  )


def inference(config: Mapping[str, Any]) -> Inference:
  """`predict(params, lr, key, sides=None) -> kernel`, see `adapt`."""
  return Inference(functools.partial(_predict, _networks(config)))


def players_of(
  generator: Generator, discriminator: Discriminator
) -> kernel_game.Players:
  """The two networks of KernelGAN as functions of their parameters."""

  def kernel(theta: Any) -> jax.Array:
    return jnp.asarray(generator.apply({'params': theta}))

  def judge(phi: Any, spectral: Any, patch: jax.Array) -> tuple[jax.Array, Any]:
    chances, after = discriminator.apply(
      {'params': phi, 'spectral': spectral}, patch, mutable=['spectral']
    )
    return chances, after['spectral']

  return kernel_game.Players(
    kernel=kernel,
    reduce=reduce_by,
    judge=judge,
    tx=kernel_game.optimizer(),
    tx_judge=kernel_game.optimizer(),
  )


def _networks(config: Mapping[str, Any]) -> tuple[Generator, Discriminator]:
  check('config.method', config['method'], _RULES)
  generator = models.create(config['model'])
  if not isinstance(generator, Generator):
    raise UserError(
      f'config.model.name={config["model"]["name"]!r}: kernel_game trains'
      ' kernelgan'
    )
  return generator, Discriminator(config['method']['judge_features'])


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
  keys = jax.random.split(key, 3)
  patch = jnp.zeros((kernel_game.SMALL, kernel_game.SMALL, 3))
  judge = training.discriminator.init(keys[1], patch)
  params = {
    'generator': _at_gaussian(training.generator.init(keys[0])['params']),
    'discriminator': judge['params'],
  }
  section = training.section
  params['rates'] = {
    slot: meta.learned_rates(
      tree, section['iterations'], section['rate'], per='layer'
    )
    for slot, tree in params.items()
  }
  slots = start_from({**params, 'spectral': judge['spectral']}, pretrained)
  spectral = slots.pop('spectral')
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    key=keys[2],
    params=slots,
    opt_state={slot: training.tx.init(tree) for slot, tree in slots.items()},
    model_state={'discriminator': {'spectral': spectral}},
  )


def _at_gaussian(theta: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
  """Adds a Gaussian kernel to a generator, by the first channel of its layers.

  The kernel of random layers alone is near zero. From there a few iterations
  lead nowhere, whatever their learning rate.
  """
  moved = {}
  for i, (name, weight) in enumerate(sorted(theta.items())):
    side = len(weight)
    variance = _START if i == 0 else 1e-3
    path = gaussian_kernel(variance, size=side)
    moved[name] = weight.at[:, :, 0, 0].add(jnp.asarray(path, weight.dtype))
  return moved


def _averaged(state: TrainState) -> dict[str, Any]:
  params = {
    slot: optimizers.averaged_params(state.opt_state[slot], tree)
    for slot, tree in state.params.items()
  }
  return {**params, **state.model_state['discriminator']}


def _train_step(
  training: _Training,
  state: TrainState,
  batch: Mapping[str, jax.Array],
  scale: float,
) -> tuple[TrainState, dict[str, jax.Array]]:
  del scale  # every task is x2
  keys = jax.random.split(state.step_key(), len(batch['hr']))
  gradient = meta.mean_over_tasks(
    functools.partial(_one_task, training), axis=training.section['task_axis']
  )
  spectral = state.model_state['discriminator']['spectral']
  means = gradient((state.params, spectral), (keys, batch['hr']))
  state, metrics = optimizers.step_slots(
    training.tx, training.learning_rate, state, means['grads']
  )
  # A small image is enough to refine the singular vectors.
  _, after = training.discriminator.apply(
    {'params': state.params['discriminator'], 'spectral': spectral},
    jnp.zeros((8, 8, 3)),
    mutable=['spectral'],
  )
  state = state.replace(model_state={'discriminator': dict(after)})
  distances = means['distances']
  return state, metrics | {
    'loss': means['loss'],
    'distance_first': distances[0],
    'distance_last': distances[-1],
  }


def _one_task(
  training: _Training, shared: tuple[Any, Any], task: tuple[Any, Any]
) -> dict[str, Any]:
  """The outer loss of one task and its gradient, and distances on the way."""
  params, spectral = shared
  key, image = task
  task_key, game_key = jax.random.split(key)
  section = training.section
  lr, true = draw_task(
    task_key, to_unit(image), section['min_variance'], section['max_variance']
  )
  networks = training.generator, training.discriminator

  def objective(params: Any) -> tuple[jax.Array, jax.Array]:
    kernels = adapt(networks, {**params, 'spectral': spectral}, lr, game_key)
    distances = jnp.abs(kernels - true[None]).sum((1, 2))
    return distances.mean(), distances

  (loss, distances), grads = jax.value_and_grad(objective, has_aux=True)(params)
  return {'loss': loss, 'grads': grads, 'distances': distances}


def draw_task(
  key: jax.Array, hr: jax.Array, min_variance: float, max_variance: float
) -> tuple[jax.Array, jax.Array]:
  """Reduces an image by two with a random Gaussian kernel.

  Args:
    key: PRNG key of the task.
    hr: `[H, W, 3]` in [0, 1], with a margin of two kernels' reach.
    min_variance: Smallest variance of the kernels in HR pixels squared.
    max_variance: Largest variance.

  Returns:
    LR in [-1, 1], rounded to 8 bits and without the margin, and the kernel.
  """
  kernel = random_gaussian(
    key,
    scale=1.0,
    size=KERNEL_SIDE,
    min_variance=min_variance,
    max_variance=max_variance,
  )
  lr = correlate(hr[None], kernel)[:, ::_SCALE, ::_SCALE]
  lr = jnp.round(cut(lr, _MARGIN)[0] * 255).clip(0, 255)
  return lr / 127.5 - 1, kernel


def adapt(
  networks: tuple[Generator, Discriminator],
  params: Mapping[str, Any],
  lr: jax.Array,
  key: jax.Array,
  sides: jax.Array | None = None,
) -> jax.Array:
  """Plays the game on an image with the trained start and rates.

  Args:
    networks: Generator and discriminator.
    params: The slots `generator`, `discriminator`, `rates` and `spectral`.
    lr: `[H, W, 3]` in [-1, 1].
    key: PRNG key of patches and noise.
    sides: Height and width of the image, `[2]`, if `lr` is padded.

  Returns:
    The kernel after each iteration, `[iterations, K, K]`.
  """
  rates = params['rates']
  players = players_of(*networks)._replace(
    tx=_descent(rates['generator']),
    tx_judge=_descent(rates['discriminator']),
  )
  state = kernel_game.start(
    *(players, params['generator'], params['discriminator']),
    params['spectral'],
  )
  size = jnp.asarray(lr.shape[:2] if sides is None else sides)

  def body(state: kernel_game.State, key: jax.Array) -> tuple[Any, jax.Array]:
    keys = jax.random.split(key, 3)
    large, small = (
      jax.random.randint(k, (2,), 0, size - side + 1)
      for k, side in zip(
        keys[:2], (kernel_game.LARGE, kernel_game.SMALL), strict=True
      )
    )
    patches = kernel_game.patches_at(lr, (large, small), keys[2])
    state, _ = kernel_game.step(players, _WEIGHTS, state, patches)
    return state, players.kernel(state.generator)

  iterations = len(jax.tree.leaves(rates)[0])
  _, kernels = jax.lax.scan(
    jax.checkpoint(body), state, jax.random.split(key, iterations)
  )
  return kernels


def _descent(rates: Any) -> optax.GradientTransformation:
  """Gradient descent with a rate for every layer and iteration."""

  def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
    del params
    steps = jax.tree.map(lambda grad, rate: -rate[state] * grad, updates, rates)
    return steps, state + 1

  return optax.GradientTransformation(lambda params: jnp.int32(0), update)


def _predict(
  networks: tuple[Generator, Discriminator],
  params: Mapping[str, Any],
  lr: jax.Array,
  key: jax.Array,
  sides: jax.Array | None = None,
) -> jax.Array:
  """The kernel of an image, after the last iteration."""
  return adapt(networks, params, lr, key, sides)[-1]

"""KernelGAN's game as a pure function of state and patches.

The generator halves a patch of the image by its kernel; the discriminator tells
such patches from patches of the image itself (Bell-Kligler, Shocher and Irani,
NeurIPS 2019). `step` is one update of either network, `play` the whole game of
one image in a scan. The game depends on the image only through the patches, so
it compiles once, whatever the size of the image.

The released code differs from what its authors describe: its bicubic target
adds up the colours, and the noise on its patches stays in the image, where it
accumulates. `Players.released` does both; otherwise noise is always fresh.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from sr_jax.losses import kernel as kernel_losses

PyTree = Any
# Sides of the patches that the generator halves, and of those it must match.
LARGE, SMALL = 64, 26
# Deviation of the noise on real patches and on halved ones, in [-1, 1].
REAL_NOISE, FAKE_NOISE = 2 / 255, 1 / 255
# The weight of the bicubic loss, and how it falls: once its loss was below
# `_NEAR` for `_STREAK` iterations, by `_FALL` every `_PERIOD` iterations.
_BICUBIC, _LEAST_BICUBIC = 5.0, 5e-6
_NEAR, _STREAK, _FALL, _PERIOD = 0.4, 3, 100.0, 200
# The last two losses start when that weight has fallen below this.
_LATE = 5e-3
_SUM, _BORDER, _CENTRE, _SPARSE = 0.5, 0.5, 1.0, 5.0
_RATE, _RATE_PERIOD = 2e-4, 750


class Weights(NamedTuple):
  """Weights of the losses beside the game; None leaves a loss out.

  Attributes:
    bicubic: Of the distance from a bicubic reduction.
    centre: Of the distance of the centre of mass from the middle.
    sparse: Of small taps.
    sum_to_one: Of the distance of the sum from one.
    border: Of taps near the border.
  """

  bicubic: Any = _BICUBIC
  centre: Any = 0.0
  sparse: Any = 0.0
  sum_to_one: Any = _SUM
  border: Any = _BORDER


class Schedule(NamedTuple):
  """Where the weights of the losses stand.

  Attributes:
    bicubic: Weight of the bicubic loss.
    streak: Iterations in a row in which that loss was small.
    falling: Whether the weight has begun to fall.
    late: Whether the last two losses have started.
  """

  bicubic: jax.Array
  streak: jax.Array
  falling: jax.Array
  late: jax.Array

  @property
  def weights(self) -> Weights:
    """The weights of the next iteration."""
    late = self.late.astype(jnp.float32)
    return Weights(self.bicubic, _CENTRE * late, _SPARSE * late)


def first_schedule() -> Schedule:
  """The schedule before the first iteration."""
  return Schedule(
    jnp.float32(_BICUBIC), jnp.int32(0), jnp.bool_(False), jnp.bool_(False)
  )


def next_schedule(
  schedule: Schedule, iteration: jax.Array, bicubic_loss: jax.Array
) -> Schedule:
  """The schedule after an iteration with this bicubic loss."""
  small = (bicubic_loss < _NEAR) & (iteration > 0)
  streak = jnp.where(small, schedule.streak + 1, 0)
  falling = schedule.falling | (streak >= _STREAK)
  falls = falling & (iteration % _PERIOD == 0)
  bicubic = jnp.where(
    falls,
    jnp.maximum(schedule.bicubic / _FALL, _LEAST_BICUBIC),
    schedule.bicubic,
  )
  return Schedule(bicubic, streak, falling, schedule.late | (bicubic < _LATE))


def learning_rate(iteration: ArrayLike) -> jax.Array:
  """The learning rate of both networks."""
  # The released code counts before it divides.
  periods = jnp.maximum(jnp.asarray(iteration) - 1, 0) // _RATE_PERIOD
  return _RATE * 0.1**periods


def optimizer() -> optax.GradientTransformation:
  """The optimizer of both networks."""
  return optax.adam(learning_rate, b1=0.5, b2=0.999)


class Players(NamedTuple):
  """The networks as functions, and the settings of the game.

  Attributes:
    kernel: `theta -> [K, K]`, the generator's kernel.
    reduce: `(image, kernel) -> reduced image`.
    judge: `(phi, spectral, patch) -> (chances, spectral)`.
    tx: The optimizer of the generator.
    tx_judge: The optimizer of the discriminator.
    centre: The tap where the centre of mass shall be.
    released: Whether the bicubic target adds up the colours, and the noise of
      real patches stays in the image.
  """

  kernel: Callable[[PyTree], jax.Array]
  reduce: Callable[[jax.Array, jax.Array], jax.Array]
  judge: Callable[[PyTree, PyTree, jax.Array], tuple[jax.Array, PyTree]]
  tx: optax.GradientTransformation
  tx_judge: optax.GradientTransformation
  centre: float = 6.5
  released: bool = False


class Patches(NamedTuple):
  """What one iteration sees of the image, in [-1, 1].

  Attributes:
    large: `[64, 64, C]`, for the generator to halve.
    real: `[26, 26, C]`, with noise.
    noise: `[26, 26, C]`, to be added to the halved patch.
  """

  large: jax.Array
  real: jax.Array
  noise: jax.Array


class State(NamedTuple):
  """Everything an iteration reads and writes.

  Attributes:
    generator: Parameters theta.
    discriminator: Parameters phi.
    spectral: Singular vectors of the discriminator's weights.
    opt_generator: State of the generator's optimizer.
    opt_discriminator: State of the discriminator's optimizer.
  """

  generator: PyTree
  discriminator: PyTree
  spectral: PyTree
  opt_generator: PyTree
  opt_discriminator: PyTree


def start(
  players: Players, theta: PyTree, phi: PyTree, spectral: PyTree
) -> State:
  """The state before the first iteration."""
  opt_states = players.tx.init(theta), players.tx_judge.init(phi)
  return State(theta, phi, spectral, *opt_states)


def step(
  players: Players, weights: Weights, state: State, patches: Patches
) -> tuple[State, dict[str, jax.Array]]:
  """One iteration: an update of the generator, then one of the discriminator.

  Returns:
    The state, and the losses before the updates.
  """
  bicubic = kernel_losses.bicubic_half(
    patches.large, len(patches.real), summed=players.released
  )

  def deceive(theta: PyTree) -> tuple[jax.Array, Any]:
    kernel = players.kernel(theta)
    fake = players.reduce(patches.large, kernel)
    chances, spectral = players.judge(state.discriminator, state.spectral, fake)
    terms = kernel_terms(kernel, players.centre)
    terms['bicubic'] = ((fake - bicubic) ** 2).mean()
    terms['generator'] = jnp.abs(chances - 1).mean()
    loss = terms['generator']
    for name, weight in weights._asdict().items():
      if weight is not None:
        loss += weight * terms[name]
    return loss, (terms, spectral)

  grads, (terms, spectral) = jax.grad(deceive, has_aux=True)(state.generator)
  theta, opt_generator = _updated(
    players.tx, grads, state.opt_generator, state.generator
  )
  fake = players.reduce(patches.large, players.kernel(theta)) + patches.noise

  def discern(phi: PyTree) -> tuple[jax.Array, PyTree]:
    real, after = players.judge(phi, spectral, patches.real)
    halved, after = players.judge(phi, after, fake)
    return (jnp.abs(halved).mean() + jnp.abs(real - 1).mean()) / 2, after

  (terms['discriminator'], spectral), grads = jax.value_and_grad(
    discern, has_aux=True
  )(state.discriminator)
  phi, opt_discriminator = _updated(
    players.tx_judge, grads, state.opt_discriminator, state.discriminator
  )
  state = State(theta, phi, spectral, opt_generator, opt_discriminator)
  return state, terms


def kernel_terms(kernel: jax.Array, centre: float) -> dict[str, jax.Array]:
  """The losses that look at the kernel alone, by the names of `Weights`."""
  return {
    'sum_to_one': kernel_losses.sum_to_one(kernel),
    'border': kernel_losses.near_border(kernel),
    'centre': kernel_losses.off_centre(kernel, centre),
    'sparse': kernel_losses.sparsity(kernel),
  }


def _updated(
  tx: optax.GradientTransformation, grads: PyTree, state: PyTree, params: PyTree
) -> tuple[PyTree, PyTree]:
  updates, state = tx.update(grads, state, params)
  return optax.apply_updates(params, updates), state


def crop(image: jax.Array, corner: jax.Array, side: int) -> jax.Array:
  """The patch `[side, side, C]` of an image with this upper left corner."""
  return jax.lax.dynamic_slice(
    image, (corner[0], corner[1], 0), (side, side, image.shape[-1])
  )


def patches_at(
  image: jax.Array, corners: tuple[jax.Array, jax.Array], key: jax.Array
) -> Patches:
  """The patches at two corners, and fresh noise.

  Args:
    image: `[H, W, C]` in [-1, 1].
    corners: Those of the large and of the small patch, `[2]` each.
    key: PRNG key of the noise.
  """
  shape = (2, SMALL, SMALL, image.shape[-1])
  noise = jax.random.normal(key, shape)
  real = crop(image, corners[1], SMALL) + REAL_NOISE * noise[0]
  return Patches(crop(image, corners[0], LARGE), real, FAKE_NOISE * noise[1])


def keep_noise(
  image: jax.Array, corner: jax.Array, patch: jax.Array
) -> jax.Array:
  """The image with a noisy patch in place of its own, as in the released code.

  Args:
    image: `[H, W, C]`.
    corner: Upper left corner of the patch, `[2]`.
    patch: `[S, S, C]`.
  """
  return jax.lax.dynamic_update_slice(image, patch, (corner[0], corner[1], 0))


def play(
  players: Players,
  state: State,
  image: jax.Array,
  corners: tuple[jax.Array, jax.Array],
  key: jax.Array,
) -> tuple[State, Mapping[str, jax.Array]]:
  """The whole game of one image.

  Args:
    players: Networks and settings.
    state: From `start`.
    image: `[H, W, C]` in [-1, 1]; it may be padded where no patch lies.
    corners: Upper left corners of the large and the small patches,
      `[iterations, 2]` each.
    key: PRNG key of the noise.

  Returns:
    The state at the end, and the losses of all iterations.
  """

  def body(carry: Any, inputs: Any) -> tuple[Any, Any]:
    state, schedule, image = carry
    iteration, here = inputs
    patches = patches_at(image, here, jax.random.fold_in(key, iteration))
    if players.released:
      image = keep_noise(image, here[1], patches.real)
    state, terms = step(players, schedule.weights, state, patches)
    schedule = next_schedule(schedule, iteration, terms['bicubic'])
    return (state, schedule, image), terms

  iterations = jnp.arange(len(corners[0]))
  (state, _, _), terms = jax.lax.scan(
    body, (state, first_schedule(), image), (iterations, corners)
  )
  return state, terms

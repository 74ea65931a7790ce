"""Training on the test image itself (Shocher et al., CVPR 2018, section 3).

A father is a crop of the image, warped at random; its son is the father reduced
as the image was. A network that restores fathers from sons restores, applied to
the image, what the image is the son of. The whole training is one `while_loop`:
nothing returns to the host between iterations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sr_jax.ops.warp import sample_cubic

PyTree = Any


class Augmentation(NamedTuple):
  """How fathers are drawn; the defaults are those of the released code.

  Attributes:
    unchanged: Share of plain crops.
    rigid: Share of crops that are flipped and turned by quarters.
    turn: Whether rotations and mirrors are allowed; not for a given kernel,
      which they would turn as well.
    min_zoom: Least zoom of the other share, which is warped affinely.
    max_zoom: Largest zoom.
    zoom_difference: Standard deviation of the two axes' difference in zoom.
    shear: Standard deviation of either shear.
  """

  unchanged: float = 0.05
  rigid: float = 0.45
  turn: bool = True
  min_zoom: float = 0.5
  max_zoom: float = 1.0
  zoom_difference: float = 0.25
  shear: float = 0.1


class Policy(NamedTuple):
  """When the learning rate falls and the training ends.

  The rate is divided by ten where -ratio * slope is at most the standard error
  of the slope of a line through the last reconstruction errors of the whole
  image, with the residual variance taken over tests - 2 degrees of freedom.
  (Released: less than that, which never ends on an image without detail.)

  Attributes:
    rate: Learning rate at first, of Adam.
    last_rate: Training ends when the rate is below it.
    max_steps: Training ends after so many steps anyhow.
    test_every: Steps between measured errors.
    decide_every: Steps between decisions.
    patience: The rate stays for more steps than these.
    tests: Errors that the line is fitted to.
    ratio: See above.
  """

  rate: float = 1e-3
  last_rate: float = 9e-6
  max_steps: int = 3000
  test_every: int = 50
  decide_every: int = 60
  patience: int = 256
  tests: int = 5
  ratio: float = 1.5


class Training(NamedTuple):
  """State of a training on one image.

  Attributes:
    params: Parameters.
    opt_state: State of Adam.
    step: Steps done.
    rate: Current learning rate.
    changed: Step at which the rate last fell.
    errors: `[tests]` last reconstruction errors, newest last.
  """

  params: PyTree
  opt_state: PyTree
  step: jax.Array
  rate: jax.Array
  changed: jax.Array
  errors: jax.Array


def train_on_fathers(
  loss_fn: Callable[[PyTree, jax.Array], jax.Array],
  error_fn: Callable[[PyTree], jax.Array],
  draw_father: Callable[[jax.Array], Any],
  params: PyTree,
  key: jax.Array,
  policy: Policy,
) -> Training:
  """Trains by Adam on a fresh father per step, as `policy` says.

  Args:
    loss_fn: `(params, father) -> scalar`.
    error_fn: `params -> scalar`, reconstruction error of the whole image.
    draw_father: `key -> father`.
    params: Where to start.
    key: Step i draws from `fold_in(key, i)`.
    policy: When the rate falls and the training ends.
  """
  adam = optax.scale_by_adam()

  def step(now: Training) -> Training:
    father = draw_father(jax.random.fold_in(key, now.step))
    grads = jax.grad(loss_fn)(now.params, father)
    updates, opt_state = adam.update(grads, now.opt_state)
    params = jax.tree.map(lambda p, u: p - now.rate * u, now.params, updates)
    errors = jax.lax.cond(
      now.step % policy.test_every == 0,
      lambda: jnp.append(now.errors[1:], error_fn(params)),
      lambda: now.errors,
    )
    done = now.step + 1
    falls = _falls(policy, done, now.changed, errors)
    return Training(
      params=params,
      opt_state=opt_state,
      step=done,
      rate=jnp.where(falls, now.rate / 10, now.rate),
      changed=jnp.where(falls, done, now.changed),
      errors=errors,
    )

  start = Training(
    params=params,
    opt_state=adam.init(params),
    step=jnp.zeros((), jnp.int32),
    rate=jnp.asarray(policy.rate, jnp.float32),
    changed=jnp.zeros((), jnp.int32),
    errors=jnp.zeros((policy.tests,), jnp.float32),
  )
  return jax.lax.while_loop(
    lambda now: (now.rate >= policy.last_rate) & (now.step < policy.max_steps),
    step,
    start,
  )


def _falls(
  policy: Policy, step: jax.Array, changed: jax.Array, errors: jax.Array
) -> jax.Array:
  """Whether the rate falls now."""
  slope, deviation = line_fit(errors)
  due = (step % policy.decide_every == 0) & (step - changed > policy.patience)
  return due & (-policy.ratio * slope <= deviation)


def line_fit(values: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Slope per value of a least-squares line, and its standard error."""
  count = values.shape[0]
  x = jnp.arange(count, dtype=values.dtype) - (count - 1) / 2
  spread = jnp.vdot(x, x)
  slope = jnp.vdot(x, values) / spread
  residual = values - values.mean() - slope * x
  variance = jnp.vdot(residual, residual) / (count - 2)
  return slope, jnp.sqrt(variance / spread)


def draw_crop(
  key: jax.Array,
  image: jax.Array,
  side: int,
  augmentation: Augmentation,
) -> jax.Array:
  """A random crop of an image, plain, flipped, or warped.

  Where a warp reaches beyond the image, the image goes on mirrored (the
  released code leaves black there, and trains on it).

  Args:
    key: PRNG key.
    image: `[H, W, C]`.
    side: Side of the crop, at most the smaller of H and W.
    augmentation: Distribution.

  Returns:
    `[side, side, C]`, clipped to [0, 1] like the image.
  """
  keys = jax.random.split(key, 3)
  kind = jax.random.uniform(keys[0])
  size = np.array(image.shape[:2])
  rigid = _rigid(keys[1], size, side, augmentation.turn)
  affine = _affine(keys[2], size, side, augmentation)
  plain = (rigid[0], jnp.eye(2))
  chosen = jax.tree.map(
    lambda a, b, c: jnp.where(
      kind < augmentation.unchanged,
      a,
      jnp.where(kind < augmentation.unchanged + augmentation.rigid, b, c),
    ),
    *(plain, rigid, affine),
  )
  centre, matrix = chosen
  offsets = jnp.arange(side) - (side - 1) / 2
  grid = jnp.stack(jnp.meshgrid(offsets, offsets, indexing='ij'), -1)
  points = jnp.broadcast_to(centre, grid.shape) + grid @ matrix.T
  return jnp.clip(sample_cubic(image, points), 0, 1)


def _rigid(
  key: jax.Array, size: np.ndarray, side: int, turn: bool
) -> tuple[jax.Array, jax.Array]:
  """Centre in the image and matrix of a crop at whole pixels."""
  keys = jax.random.split(key, 2)
  top_left = jax.random.uniform(keys[0], (2,)) * (size - side + 1)
  centre = jnp.floor(top_left) + (side - 1) / 2
  flips = jax.random.bernoulli(keys[1], shape=(3,))
  signs = jnp.where(flips[:2], -1.0, 1.0)
  matrix = jnp.where(flips[2], jnp.eye(2)[::-1], jnp.eye(2)) * signs[None]
  return centre, matrix if turn else jnp.eye(2)


def _affine(
  key: jax.Array,
  size: np.ndarray,
  side: int,
  augmentation: Augmentation,
) -> tuple[jax.Array, jax.Array]:
  """Centre in the image and matrix, crop -> image, of an affine warp.

  The image is zoomed, sheared, turned and mirrored about its centre, and the
  crop taken uniformly within its zoomed size.
  """
  keys = jax.random.split(key, 6)
  least, most = augmentation.min_zoom, augmentation.max_zoom
  zoom = jax.random.uniform(keys[0], minval=least, maxval=most)
  difference = augmentation.zoom_difference * jax.random.normal(keys[1])
  zooms = jnp.clip(
    jnp.stack([zoom + difference / 2, zoom - difference / 2]), least / 2, most
  )
  shears = augmentation.shear * jax.random.normal(keys[2], (2,))
  angle = jax.random.uniform(keys[3], maxval=2 * jnp.pi) * augmentation.turn
  mirror = jnp.where(
    jax.random.bernoulli(keys[4]) & augmentation.turn, -1.0, 1.0
  )
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  rotation = jnp.stack([jnp.stack([cos, -sin]), jnp.stack([sin, cos])])
  shear = jnp.eye(2).at[0, 1].set(shears[0]).at[1, 0].set(shears[1])
  forward = rotation @ shear @ jnp.diag(zooms * jnp.stack([1.0, mirror]))
  matrix = jnp.linalg.inv(forward)
  room = jnp.maximum(zooms * size - side, 0)
  from_centre = (jax.random.uniform(keys[5], (2,)) - 0.5) * room
  return (size - 1) / 2 + matrix @ from_centre, matrix

"""Small losses and networks for second derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sr_jax.ops.conv import conv2d
from sr_jax.transforms import meta

RATE = 0.3


def relative_error(ours, theirs):
  """Norm of the difference of two trees over that of the second."""
  difference = jax.tree.map(lambda a, b: a - b, ours, theirs)
  return float(optax.tree.norm(difference) / optax.tree.norm(theirs))


def square_loss(w, batch):
  inputs, targets = batch
  return 0.5 * ((inputs @ w - targets) ** 2).mean()


def regression(seed, count=6, features=4):
  """Inputs and targets with their Hessian, float64."""
  rng = np.random.default_rng(seed)
  inputs, targets = rng.normal(size=(count, features)), rng.normal(size=count)
  return (inputs, targets), inputs.T @ inputs / count


def network(params, x):
  x = jnp.tanh(conv2d(x, params['first']['kernel'], params['first']['bias']))
  return conv2d(x, params['last'], None)


def mse(params, batch):
  x, y = batch
  return ((network(params, x) - y) ** 2).mean()


def network_params(dtype=jnp.float32):
  keys = jax.random.split(jax.random.key(0), 3)
  return {
    'first': {
      'kernel': jax.random.normal(keys[0], (3, 3, 1, 4), dtype) / 3,
      'bias': 0.1 * jax.random.normal(keys[1], (4,), dtype),
    },
    'last': jax.random.normal(keys[2], (3, 3, 4, 1), dtype) / 6,
  }


def image_batch(seed, dtype=jnp.float32, shape=(2, 5, 5, 1)):
  keys = jax.random.split(jax.random.key(seed), 2)
  return tuple(jax.random.normal(key, shape, dtype) for key in keys)


def outer_gradient(weights, **options):
  """Compiled `params -> gradient` of the network's outer loss."""

  def outer(params, support, query):
    options_ = {'learning_rates': RATE} | options
    return meta.meta_loss(mse, params, support, query, weights, **options_)[0]

  return jax.jit(jax.value_and_grad(outer))


def unit_directions(tree, count):
  leaves, treedef = jax.tree.flatten(tree)
  for seed in range(count):
    keys = jax.random.split(jax.random.key(100 + seed), len(leaves))
    pairs = zip(keys, leaves, strict=True)
    drawn = [jax.random.normal(key, x.shape, x.dtype) for key, x in pairs]
    norm = optax.tree.norm(drawn)
    yield treedef.unflatten([x / norm for x in drawn])


def assert_finite_differences_agree(function, at, gradient, tolerance=1e-6):
  """Central differences along random unit directions."""
  eps = 1e-4
  for direction in unit_directions(at, 3):
    ahead, behind = (
      function(optax.tree.add_scale(at, sign * eps, direction))
      for sign in (1, -1)
    )
    along = optax.tree.vdot(gradient, direction)
    assert abs((ahead - behind) / (2 * eps) / along - 1) < tolerance


WEIGHTS = np.float32([0.2, 0.3, 0.5])
OPTIMIZERS = {
  'sgd': optax.sgd(1.0),
  'momentum': optax.chain(optax.trace(0.9, nesterov=True), optax.scale(-1.0)),
  # Adam divides by its gradients, hence an epsilon of their size.
  'adam': optax.adam(0.3, eps=1e-2),
}

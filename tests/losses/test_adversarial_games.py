"""The losses of all games against BasicSR's and SPSR's code.

The golden values are PyTorch's, in float64, gradients included.
"""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax.losses import adversarial

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / 'golden/losses_gan.npz')
REAL, FAKE = (
  jnp.asarray(GOLDEN[f'in:{k}'], 'float32') for k in ('real', 'fake')
)
FULL = adversarial.relativistic_average()
DETACHED = adversarial.relativistic_average(detach_mean=True)


def _check(ours, name):
  np.testing.assert_allclose(ours, GOLDEN[f'out:{name}'], rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize(
  ('game', 'name'),
  [
    (adversarial.vanilla, 'vanilla'),
    (adversarial.least_squares, 'lsgan'),
    (adversarial.wasserstein, 'wgan'),
    (FULL, 'ragan'),
    (DETACHED, 'ragan'),
  ],
)
def test_released_losses(game, name):
  _check(game.discriminator(REAL, FAKE), f'{name}_D')
  value, slope = jax.value_and_grad(game.generator, 1)(REAL, FAKE)
  _check(value, f'{name}_G')
  _check(slope, f'{name}_G_gf')


@pytest.mark.parametrize(
  ('game', 'name'),
  [
    (adversarial.vanilla, 'vanilla_D_g{}'),
    (adversarial.least_squares, 'lsgan_D_g{}'),
    (adversarial.wasserstein, 'wgan_D_g{}'),
    (FULL, 'ragan_D_g{}_full'),
    (DETACHED, 'ragan_D_g{}_detach'),
  ],
)
def test_released_gradients_of_the_discriminator(game, name):
  of_real, of_fake = jax.grad(game.discriminator, (0, 1))(REAL, FAKE)
  _check(of_real, name.format('r'))
  _check(of_fake, name.format('f'))


def test_the_paper_lacks_the_half():
  _check(2 * FULL.discriminator(REAL, FAKE), 'ragan_paper_D')
  _check(2 * FULL.generator(REAL, FAKE), 'ragan_paper_G')


def test_means_by_group_are_those_of_smaller_batches():
  grouped = adversarial.relativistic_average(groups=3)
  for loss, whole in zip(grouped, FULL, strict=True):
    parts = [whole(REAL[i : i + 2], FAKE[i : i + 2]) for i in (0, 2, 4)]
    np.testing.assert_allclose(loss(REAL, FAKE), np.mean(parts), rtol=1e-6)
    assert abs(loss(REAL, FAKE) - whole(REAL, FAKE)) > 1e-3


def test_relativistic_game_by_hand():
  real, fake = jnp.asarray([2.0, -1.0]), jnp.asarray([0.5, 1.0])
  d = -np.log(1 / (1 + np.exp(-np.array([1.5, -2.0])))).mean()
  g = -np.log(1 / (1 + np.exp(np.array([1.5, -2.0])))).mean()
  game = adversarial.relativistic
  np.testing.assert_allclose(game.discriminator(real, fake), d, rtol=1e-6)
  np.testing.assert_allclose(game.generator(real, fake), g, rtol=1e-6)


def test_norms_of_released_gradient_penalties():
  slopes = jnp.asarray(GOLDEN['in:g'].transpose(0, 2, 3, 1), 'float32')
  _check(adversarial.unit_norm(slopes, (1, 2, 3)), 'gp_sample')
  _check(adversarial.unit_norm(slopes, (3,)), 'gp_pixel')


def test_gradient_penalty_of_a_linear_critic():
  """The gradient of a linear critic is its weight, so the penalty is known."""
  images = jax.random.normal(jax.random.key(0), (2, 3, 4, 5, 1))

  def penalty(weight):
    def critic(image):
      return weight * image.sum((1, 2, 3))

    return adversarial.gradient_penalty(critic, *images, jax.random.key(1))

  expected = (0.5 * np.sqrt(20) - 1) ** 2
  value, slope = jax.value_and_grad(penalty)(0.5)
  np.testing.assert_allclose(value, expected, rtol=1e-6)
  slope_by_hand = 2 * (0.5 * np.sqrt(20) - 1) * np.sqrt(20)
  np.testing.assert_allclose(slope, slope_by_hand, rtol=1e-6)
  # The penalty of a constant critic has a gradient without NaN.
  value, slope = jax.value_and_grad(penalty)(0.0)
  assert value == pytest.approx(1)
  assert jnp.isfinite(slope)


def test_gradient_penalty_looks_between_the_images():

  def critic(image):
    return (image**2).sum((1, 2, 3))

  real, fake = jnp.zeros((50, 1, 1, 1)), jnp.ones((50, 1, 1, 1))
  value = adversarial.gradient_penalty(critic, real, fake, jax.random.key(0))
  # Slopes are twice the point: mean of (2 t - 1)^2 over t in [0, 1) is 1 / 3.
  assert value == pytest.approx(1 / 3, abs=0.1)


def test_gradient_penalty_of_single_pixels():
  """The gradient at every pixel is the weight in each of three channels."""
  images = jax.random.normal(jax.random.key(0), (2, 2, 4, 5, 3))

  def critic(image):
    return 0.5 * image.sum((1, 2, 3))

  for per_pixel, count in ((True, 3), (False, 60)):
    value = adversarial.gradient_penalty(
      critic, *images, jax.random.key(1), per_pixel=per_pixel
    )
    expected = (0.5 * np.sqrt(count) - 1) ** 2
    np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_accuracy_counts_pairs():
  accuracy = functools.partial(
    adversarial.accuracy, jnp.asarray([[1.0], [3.0]])
  )
  assert accuracy(jnp.asarray([[0.0], [2.0]])) == 0.75
  assert accuracy(jnp.asarray([[-1.0], [0.5]])) == 1
  assert accuracy(jnp.asarray([[1.0], [3.0]])) == 0.5

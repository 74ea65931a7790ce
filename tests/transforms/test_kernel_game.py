"""KernelGAN's game: whole steps and schedules of the released code."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax.methods.kernel_game import players_of
from sr_jax.models.estimators.kernelgan import Discriminator, Model
from sr_jax.transforms import kernel_game
from tests import kernelgan_goldens

WEIGHTS = {
  'start': kernel_game.Weights(bicubic=5.0),
  'late': kernel_game.Weights(bicubic=5e-6, centre=1.0, sparse=5.0),
}
PLAYERS = players_of(Model(features=4), Discriminator(6))
PLAYERS = PLAYERS._replace(released=True)
# One program for both: the weights are arguments.
STEP = jax.jit(functools.partial(kernel_game.step, PLAYERS))


def _image(tensor):
  return jnp.asarray(tensor[0].transpose(1, 2, 0), jnp.float32)


@pytest.mark.parametrize('name', WEIGHTS)
def test_three_iterations_of_the_released_code(name):
  """Within 1e-6, but for biases before a normalisation, which are noise."""
  tensors = kernelgan_goldens.arrays(f'steps_{name}', 'sd')
  inputs = kernelgan_goldens.arrays(f'steps_{name}', 'in')
  outputs = kernelgan_goldens.arrays(f'steps_{name}', 'out')
  state = kernel_game.start(
    PLAYERS,
    kernelgan_goldens.generator(tensors, 'G.'),
    *kernelgan_goldens.discriminator(tensors, 'D.'),
  )
  weights = jax.tree.map(jnp.float32, WEIGHTS[name])
  for i in range(3):
    kernel = PLAYERS.kernel(state.generator)
    np.testing.assert_allclose(kernel, outputs[f'k_{i}'], atol=1e-6)
    noise = _image(inputs[f'noise_{i}']) / 255
    patches = [_image(inputs[f'{k}_in_{i}']) for k in 'gd']
    state, terms = STEP(weights, state, kernel_game.Patches(*patches, noise))
    expected = outputs[f'loss_bicubic_{i}']
    np.testing.assert_allclose(terms['bicubic'], expected, atol=1e-6)
    if f'after{i + 1}:D.final_layer.0.bias' in outputs:
      _check_state(state, outputs, f'after{i + 1}:')


def _check_state(state, outputs, prefix):
  theta = kernelgan_goldens.generator(outputs, f'{prefix}G.')
  phi, spectral = kernelgan_goldens.discriminator(outputs, f'{prefix}D.')
  for layer in phi:
    if layer.startswith(('patches', 'layer')):  # a normalisation follows
      phi[layer]['bias'] = state.discriminator[layer]['bias']
  ours = (state.generator, state.discriminator, state.spectral)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
    *(ours, (theta, phi, spectral)),
  )


def test_noise_stays_in_the_image_of_the_released_code():
  """It adds up where patches overlap, and nothing else changes."""
  image, key = jnp.zeros((64, 70, 3)), jax.random.key(0)
  corner = jnp.array([10, 20])
  patches = kernel_game.patches_at(image, (jnp.zeros(2, int), corner), key)
  kept = kernel_game.keep_noise(image, corner, patches.real)
  np.testing.assert_array_equal(kept[10:36, 20:46], patches.real)
  assert not kept.at[10:36, 20:46].set(0).any()
  again = kernel_game.patches_at(
    kept, (jnp.zeros(2, int), corner), jax.random.key(1)
  )
  ratio = float(again.real.std() / patches.real.std())
  assert ratio == pytest.approx(2**0.5, rel=0.05)
  assert float(patches.noise.std()) == pytest.approx(1 / 255, rel=0.05)


COURSES = {
  'low': lambda i: 0.3,
  'never': lambda i: 1.0,
  'from_431': lambda i: 0.3 if i >= 431 else 1.0,
  'alternating_from_430': lambda i: 1.0 if i < 430 or i % 2 else 0.3,
}


@pytest.mark.parametrize('name', COURSES)
def test_schedule_of_the_released_code(name):
  """Weights of the losses and learning rate, at picked iterations."""
  (picked,) = kernelgan_goldens.arrays('schedule', 'in').values()
  expected = kernelgan_goldens.arrays('schedule', 'out')[name]
  losses = jnp.asarray([COURSES[name](i) for i in range(3000)])

  def body(schedule, inputs):
    weights = schedule.weights
    return kernel_game.next_schedule(schedule, *inputs), jnp.stack(
      [weights.bicubic, weights.centre, weights.sparse]
    )

  _, seen = jax.lax.scan(
    body, kernel_game.first_schedule(), (jnp.arange(3000), losses)
  )
  np.testing.assert_allclose(seen[picked], expected[:, 1:], rtol=1e-5)
  rates = [kernel_game.learning_rate(i) for i in picked]
  np.testing.assert_allclose(rates, expected[:, 0], rtol=1e-5)

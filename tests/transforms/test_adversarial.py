"""The joint step of tiny networks that can be differentiated by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sr_jax.losses import adversarial
from sr_jax.transforms.adversarial import (
  Critic,
  generator_turn,
  joint_gradients,
  update_in_turn,
)

# G(x) = theta x, D(y) = phi y; four samples of one number.
X = jnp.asarray([0.5, -1.0, 2.0, 1.5])
Y = jnp.asarray([1.2, -1.5, 3.0, 0.3])
THETA, PHI = jnp.asarray(1.7), jnp.asarray(0.4)
GAMES = {
  'vanilla': adversarial.vanilla,
  'least_squares': adversarial.least_squares,
  'relativistic_average': adversarial.relativistic_average(),
}


def _judge(phi, outputs, sees=lambda image: image):
  return (phi * sees(Y), phi * sees(outputs)), {'seen': phi}


def _generate(theta):
  return theta * X, {'made': theta}


def _content(outputs):
  value = ((outputs - Y) ** 2).mean()
  return 0.3 * value, {'pixel': value}


def _critic(game='vanilla', weight=0.7, **options):
  return Critic(
    judge=options.pop('judge', _judge),
    game=GAMES[game],
    weight=weight,
    **options,
  )


@pytest.mark.parametrize('game', GAMES)
def test_gradients_are_those_of_two_separate_losses(game):
  """The losses are written with stop_gradient and differentiated separately."""

  def of_generator(theta):
    fake = theta * X
    logits = PHI * Y, PHI * fake
    content = 0.3 * ((fake - Y) ** 2).mean()
    return content + 0.7 * GAMES[game].generator(*logits)

  def of_discriminator(phi):
    return GAMES[game].discriminator(phi * Y, phi * THETA * X)

  gradients = joint_gradients(_generate, _content, {'d': _critic(game)})
  by_theta, by_phi, report = jax.jit(gradients)(THETA, {'d': PHI})
  value, slope = jax.value_and_grad(of_generator)(THETA)
  np.testing.assert_allclose(report.loss, value, rtol=1e-6)
  np.testing.assert_allclose(by_theta, slope, rtol=1e-5)
  value, slope = jax.value_and_grad(of_discriminator)(PHI)
  verdict = report.verdicts['d']
  np.testing.assert_allclose(verdict.discriminator, value, rtol=1e-6)
  np.testing.assert_allclose(by_phi['d'], slope, rtol=1e-5)
  np.testing.assert_allclose(verdict.real, (PHI * Y).mean(), rtol=1e-6)
  np.testing.assert_allclose(verdict.fake, (PHI * THETA * X).mean(), rtol=1e-6)
  np.testing.assert_allclose(report.outputs, THETA * X)
  assert report.aux == {'made': THETA}
  assert report.critic_aux == {'d': {'seen': PHI}}
  assert set(report.terms) == {'pixel'}


def test_several_discriminators_add_up_in_the_generator_alone():
  """A second discriminator gets squares; each learns as if it were alone."""

  def squares(phi, outputs):
    return _judge(phi, outputs, sees=lambda image: image**2)

  critics = {
    'a': _critic('vanilla', 0.7),
    'b': _critic('relativistic_average', 0.2, judge=squares),
  }
  phis = {'a': PHI, 'b': jnp.asarray(-0.3)}
  both = joint_gradients(_generate, _content, critics)(THETA, phis)
  none = joint_gradients(_generate, _content, {})(THETA, {})
  total, loss = none[0], none[2].loss
  for name, critic in critics.items():
    one = joint_gradients(_generate, _content, {name: critic})(THETA, phis)
    np.testing.assert_allclose(both[1][name], one[1][name], rtol=1e-6)
    total += one[0] - none[0]
    loss += one[2].loss - none[2].loss
  np.testing.assert_allclose(both[0], total, rtol=1e-5)
  np.testing.assert_allclose(both[2].loss, loss, rtol=1e-5)


def test_without_a_weight_the_generator_learns_from_content_alone():
  alone = joint_gradients(_generate, _content, {})(THETA, {})
  ignored = joint_gradients(_generate, _content, {'d': _critic(weight=0.0)})
  by_theta, by_phi, report = ignored(THETA, {'d': PHI})
  assert by_theta == alone[0]
  assert report.loss == alone[2].loss
  assert by_phi['d'] != 0


def test_one_pass_of_the_generator_and_of_each_discriminator():
  calls = []

  def generate(theta):
    calls.append('generate')
    return _generate(theta)

  def judge(phi, outputs):
    calls.append('judge')
    return _judge(phi, outputs)

  critics = {'a': _critic(judge=judge), 'b': _critic(judge=judge)}
  gradients = joint_gradients(generate, _content, critics)
  gradients(THETA, {'a': PHI, 'b': PHI})
  assert calls == ['generate', 'judge', 'judge']


def test_penalty_reaches_the_discriminator_alone():
  def penalty(phi, outputs):
    return phi**2 * outputs.sum()

  critics = {'d': _critic(penalty=penalty)}
  with_it = joint_gradients(_generate, _content, critics)(THETA, {'d': PHI})
  without = joint_gradients(_generate, _content, {'d': _critic()})(
    THETA, {'d': PHI}
  )
  assert with_it[0] == without[0]
  assert with_it[2].loss == without[2].loss
  more = 2 * PHI * (THETA * X).sum()
  np.testing.assert_allclose(with_it[1]['d'], without[1]['d'] + more, rtol=1e-6)


def test_real_images_outputs_and_networks_of_any_tree():
  """Outputs are a pytree; a discriminator may take a part of it."""

  def generate(theta):
    return {'sr': theta['w'] * X, 'other': theta['b'] * X}, None

  def content(outputs):
    return outputs['other'].sum(), {}

  def judge(phi, outputs):
    return _judge(phi['w'], outputs['sr'])

  theta, phi = {'w': THETA, 'b': THETA}, {'w': PHI}
  gradients = joint_gradients(generate, content, {'d': _critic(judge=judge)})
  by_theta, by_phi, _ = gradients(theta, {'d': phi})
  slope = jax.grad(
    lambda w: 0.7 * adversarial.vanilla.generator(None, PHI * w * X)
  )(THETA)
  np.testing.assert_allclose(by_theta['w'], slope, rtol=1e-6)
  np.testing.assert_allclose(by_theta['b'], X.sum(), rtol=1e-6)
  assert by_phi['d']['w'] != 0


def test_updates_wait_for_their_turn():
  """With Adam: its counts would show an update out of turn."""
  tx = optax.adam(0.1)
  params = {'w': jnp.ones(3)}
  state = tx.init(params)
  step = jax.jit(update_in_turn, static_argnums=0)
  moved, after = step(tx, params, state, params, jnp.asarray(True))
  plain = update_in_turn(tx, params, state, params)
  jax.tree.map(np.testing.assert_array_equal, (moved, after), plain)
  assert (moved['w'] != params['w']).all()
  kept = step(tx, params, after, moved, jnp.asarray(False))
  jax.tree.map(np.testing.assert_array_equal, kept, (moved, after))
  # Not even what is no number goes through.
  nan = {'w': jnp.full(3, jnp.nan)}
  kept = step(tx, nan, after, moved, jnp.asarray(False))
  jax.tree.map(np.testing.assert_array_equal, kept, (moved, after))


@pytest.mark.parametrize(
  ('every', 'first', 'turns'),
  [
    (1, 0, [True] * 7),
    (3, 0, [False, False, True, False, False, True, False]),
    (2, 3, [False, False, False, False, True, False, True]),
  ],
)
def test_turns_of_the_generator(every, first, turns):
  found = [bool(generator_turn(t, every=every, first=first)) for t in range(7)]
  assert found == turns

"""Schedules in closed form, clipping, EMA, the non-finite guard."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import common
from sr_jax import optimizers
from sr_jax.errors import UserError


def _make(steps=100, **changes):
  section = common.base().optimizer.to_dict()
  return optimizers.make(steps=steps, **(section | changes))


def _step(tx, grads, params, state):
  updates, state = tx.update(grads, state, params)
  return optax.apply_updates(params, updates), state


def test_schedules_at_known_steps():
  _, constant = _make(learning_rate=0.5)
  assert constant(77) == 0.5
  _, cosine = _make(learning_rate=2.0, schedule='cosine', warmup_steps=20)
  np.testing.assert_allclose(
    [cosine(t) for t in (0, 10, 20, 60, 100)], [0, 1, 2, 1, 0], atol=1e-6
  )
  _, again = _make(learning_rate=2.0, schedule='cosine', boundaries=(20, 60))
  np.testing.assert_allclose(
    [again(t) for t in (0, 10, 20, 40, 59, 60, 80, 100)],
    [2, 1, 2, 1, 1 + np.cos(39 * np.pi / 40), 2, 1, 0],
    atol=1e-6,
  )
  _, halved = _make(
    learning_rate=1.0, schedule='step', boundaries=(30,), warmup_steps=10
  )
  np.testing.assert_allclose([halved(t) for t in (5, 29, 31)], [0.5, 1, 0.5])


def test_unknown_names_are_refused():
  with pytest.raises(UserError, match=r'config\.optimizer\.schedule'):
    _make(schedule='linear')
  with pytest.raises(UserError, match=r'config\.optimizer\.name'):
    _make(name='adamm')


def test_sgd_with_clipping_in_closed_form():
  params = {'w': jnp.zeros(2)}
  grads = {'w': jnp.array([3.0, 4.0])}
  tx, _ = _make(name='sgd', b1=0.0, learning_rate=1.0, clip_norm=1.0)
  new, _ = _step(tx, grads, params, tx.init(params))
  np.testing.assert_allclose(new['w'], [-0.6, -0.8], rtol=1e-6)
  tx, _ = _make(name='sgd', b1=0.0, learning_rate=1.0, clip_value=3.5)
  new, _ = _step(tx, grads, params, tx.init(params))
  np.testing.assert_allclose(new['w'], [-3.0, -3.5])


def test_weight_decay_spares_constants():
  params = {'mean': {'w': jnp.ones(2)}, 'conv': {'w': jnp.ones(2)}}
  grads = {'mean': {'w': jnp.zeros(2)}, 'conv': {'w': jnp.zeros(2)}}
  options = {'name': 'sgd', 'learning_rate': 0.5, 'weight_decay': 0.1}
  tx, _ = _make(**options, constants=('mean',))
  new, _ = _step(tx, grads, params, tx.init(params))
  np.testing.assert_array_equal(new['mean']['w'], [1, 1])
  np.testing.assert_allclose(new['conv']['w'], [0.95, 0.95], rtol=1e-6)


def test_decay_of_sgd_goes_through_the_momentum():
  """As a part of the loss would: v = m v + g + d w, w = w - r v."""
  tx, _ = _make(name='sgd', b1=0.5, learning_rate=0.1, weight_decay=0.2)
  params = {'layer': {'w': jnp.array([1.0])}}
  state, w, v = tx.init(params), 1.0, 0.0
  for _ in range(3):
    grads = {'layer': {'w': jnp.array([2.0])}}
    params, state = _step(tx, grads, params, state)
    v = 0.5 * v + 2.0 + 0.2 * w
    w -= 0.1 * v
  np.testing.assert_allclose(params['layer']['w'], [w], rtol=1e-6)


@pytest.mark.parametrize(
  ('limit', 'before', 'after'),
  [
    # 0.1 / 0.5 = 0.2 bounds each element, then 0.1 / 0.05 = 2.
    ({'clip_value': 0.1}, [-0.1, 0.1, 0.0], [-0.1, 0.1, 0.0]),
    # A norm of 5 becomes 0.2, then 2.
    ({'clip_norm': 0.1}, [-0.06, 0.08, 0.0], [-0.06, 0.08, 0.0]),
  ],
)
def test_clipping_follows_the_rate(limit, before, after):
  """The bound of an update stays when the rate falls to a tenth."""
  tx, _ = _make(
    **{'name': 'sgd', 'b1': 0.0, 'learning_rate': 0.5, **limit},
    schedule='step',
    boundaries=(1,),
    factor=0.1,
    clip_follows_rate=True,
  )
  params = {'w': jnp.zeros(3)}
  state = tx.init(params)
  grads = {'w': jnp.array([3.0, -4.0, 0.0])}
  for expected in (before, after):
    new, state = _step(tx, grads, params, state)
    np.testing.assert_allclose(new['w'], expected, atol=1e-6)
  # Below the limit nothing is clipped.
  new, _ = _step(tx, {'w': jnp.full(3, 1.0)}, params, state)
  np.testing.assert_allclose(new['w'], [-0.05] * 3, rtol=1e-5)


def test_clipping_by_a_rate_of_zero_is_none():
  tx, _ = _make(
    name='sgd', warmup_steps=2, clip_value=0.1, clip_follows_rate=True
  )
  params = {'w': jnp.zeros(1)}
  new, state = _step(tx, {'w': jnp.array([9.0])}, params, tx.init(params))
  np.testing.assert_array_equal(new['w'], [0.0])
  assert int(optimizers.skipped_updates(state)[1]) == 0


def test_rates_of_single_layers():
  tx, _ = _make(
    name='sgd',
    b1=0.0,
    learning_rate=1.0,
    rate_factors=(('conv3/*', 0.5), ('*/bias', 0.1)),
  )
  ones = {'kernel': jnp.ones(1), 'bias': jnp.ones(1)}
  grads = {'conv1': ones, 'conv3': ones}
  new, _ = _step(tx, grads, grads, tx.init(grads))
  found = {
    a: {b: 1 - float(x[0]) for b, x in y.items()} for a, y in new.items()
  }
  assert found['conv1'] == pytest.approx({'kernel': 1.0, 'bias': 0.1})
  assert found['conv3'] == pytest.approx({'kernel': 0.5, 'bias': 0.05})
  tx, _ = _make(rate_factors=(('conv4/*', 0.5),))
  with pytest.raises(UserError, match=r"rate_factors: no .* 'conv4/\*'"):
    _step(tx, grads, grads, tx.init(grads))


def test_ema_follows_its_formula():
  tx, _ = _make(name='sgd', b1=0.0, learning_rate=1.0, ema_decay=0.2)
  params = {'w': jnp.zeros(1)}
  state = tx.init(params)
  expected, value = 0.0, 0.0
  for t in range(1, 4):
    params, state = _step(tx, {'w': jnp.ones(1)}, params, state)
    value -= 1.0
    decay = min(0.2, (1 + t) / (10 + t))
    expected = decay * expected + (1 - decay) * value
  average = optimizers.averaged_params(state, params)
  np.testing.assert_allclose(average['w'], expected, rtol=1e-6)


def test_without_ema_the_average_is_the_parameters():
  tx, _ = _make()
  params = {'w': jnp.ones(3)}
  assert optimizers.averaged_params(tx.init(params), params) is params


def test_non_finite_gradients_are_skipped_and_counted():
  tx, _ = _make(ema_decay=0.5)
  params = {'w': jnp.ones(2)}
  state = tx.init(params)
  for bad in (jnp.nan, jnp.inf):
    new, state = _step(tx, {'w': jnp.array([1.0, bad])}, params, state)
    np.testing.assert_array_equal(new['w'], params['w'])
  assert [int(n) for n in optimizers.skipped_updates(state)] == [2, 2]
  new, state = _step(tx, {'w': jnp.ones(2)}, params, state)
  assert (new['w'] < params['w']).all()
  assert [int(n) for n in optimizers.skipped_updates(state)] == [0, 2]

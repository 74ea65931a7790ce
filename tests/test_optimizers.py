"""Schedules in closed form, clipping, EMA, the non-finite guard."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import common
from sr_jax import optimizers
from sr_jax.errors import UserError
from sr_jax.state import TrainState


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


@pytest.mark.parametrize(
  ('key', 'values'),
  [
    ('learning_rate', [-1, 2**63]),
    ('warmup_steps', [-1, 0.5, 2**63]),
    ('boundaries', [(-1,), (0,), (2**63,), 5, (0.5,)]),
    ('factor', [0, -1]),
    ('b1', [1, 1.5, -1, 2**63]),
    ('b2', [1, 1.5, -1]),
    ('eps', [0, 1e-60, -1]),
    ('weight_decay', [-1, 2**63]),
    ('clip_norm', [-1, 2**63]),
    ('clip_value', [-1]),
    ('clip_follows_rate', [0, 1]),
    ('rate_factors', [(('*', -1),), ('*', 1), (('*',),), (1,)]),
    ('ema_decay', [1, 1.5, -1]),
    ('name', [0]),
    ('schedule', [()]),
  ],
)
def test_values_out_of_range_are_refused(key, values):
  """T5: impossible values were accepted, and some gave NaN weights."""
  others = [math.nan, math.inf, -math.inf, None, {}, 'x'] * (
    key not in ('name', 'schedule')
  )
  for value in (*values, *others):
    with pytest.raises(UserError) as caught:
      _make(**{key: value})
    line = str(caught.value)
    assert line.startswith(f'config.optimizer.{key}=')
    assert '\n' not in line


def test_a_misspelt_key_is_named():
  with pytest.raises(UserError, match=r'learnin_rate.*did you mean learning_r'):
    _make(learnin_rate=1e-4)


@pytest.mark.parametrize('schedule', ['cosine', 'step'])
def test_boundaries_come_after_the_warmup_and_rise(schedule):
  """B3: a boundary of `cosine` inside the warm-up was a traceback."""
  for boundaries, reason in (
    ((5, 30), r'boundaries=\(5, 30\): the first lies within the 10 steps'),
    ((10,), 'within the 10 steps'),
    ((40, 30), 'give each once, from the first'),
    ((30, 30), 'give each once'),
  ):
    with pytest.raises(UserError, match=reason):
      _make(schedule=schedule, warmup_steps=10, boundaries=boundaries)


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
  """Decay acts as a part of the loss: v = m v + g + d w, w = w - r v."""
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
  """The bound of an update does not change when the rate falls to a tenth."""
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


@pytest.mark.parametrize(
  ('options', 'gradient'),
  [
    # Its square overflows: Adam would never move this weight again.
    ({}, 1e30),
    ({'name': 'sgd', 'learning_rate': 1000.0}, 3e38),
    ({'name': 'sgd', 'learning_rate': 1000.0, 'ema_decay': 0.9}, 3e38),
  ],
)
def test_finite_gradients_with_other_updates_are_skipped(options, gradient):
  """T5: only gradients were checked, not the updated parameters."""
  tx, _ = _make(**options)
  params = {'w': jnp.ones(2)}
  start = tx.init(params)
  new, state = _step(tx, {'w': jnp.array([1.0, gradient])}, params, start)
  np.testing.assert_array_equal(new['w'], params['w'])
  assert [int(n) for n in optimizers.skipped_updates(state)] == [1, 1]
  for before, after in zip(
    *map(jax.tree.leaves, (start.inner_state, state.inner_state)), strict=True
  ):
    np.testing.assert_array_equal(before, after)


def test_weights_that_would_overflow_are_not_saved():
  tx, _ = _make(name='sgd', b1=0.0, learning_rate=1.0)
  params = {'w': jnp.full(1, -3e38)}
  new, state = _step(tx, {'w': jnp.full(1, 3e38)}, params, tx.init(params))
  np.testing.assert_array_equal(new['w'], params['w'])
  assert int(optimizers.skipped_updates(state)[1]) == 1


def _compiled_lines(layers):
  """Length of the compiled program of a conditional update."""
  tx, _ = _make()
  params = {f'layer_{i}': jnp.ones(4) for i in range(layers)}

  def step(params, state, turn):
    updates, moved = tx.update(params, state, params)
    after = optax.apply_updates(params, updates), moved
    return jax.tree.map(
      lambda new, old: jnp.where(turn, new, old), after, (params, state)
    )

  program = jax.jit(step).lower(params, tx.init(params), True).compile()
  return program.as_text().count('\n')


def test_the_program_of_an_update_grows_with_the_layers_alone():
  """XLA copied the check of all layers into the update of each.

  SPSR's training step took five minutes and 11 GB to compile.
  """
  few, many = (_compiled_lines(layers) for layers in (10, 40))
  assert many < 4.5 * few


def test_statistics_that_are_not_finite_are_not_kept():
  """T5: a batch with NaN changed the running statistics of the network."""
  state = TrainState(
    step=jnp.zeros((), jnp.int32),
    key=jax.random.key(0),
    params={},
    opt_state={},
    model_state={
      'a': {'mean': jnp.zeros(2), 'var': jnp.ones(2)},
      'b': {'mean': jnp.zeros(2)},
    },
  )
  bad = {'mean': jnp.ones(2), 'var': jnp.array([1.0, jnp.inf])}
  stats = state.with_statistics({'a': bad, 'b': {'mean': jnp.ones(2)}, 'c': {}})
  np.testing.assert_array_equal(stats.model_state['a']['mean'], [0, 0])
  np.testing.assert_array_equal(stats.model_state['a']['var'], [1, 1])
  np.testing.assert_array_equal(stats.model_state['b']['mean'], [1, 1])
  assert set(stats.model_state) == {'a', 'b'}


def test_the_reported_rate_is_the_one_that_was_applied():
  """Skipped updates and steps without an update do not count."""
  tx, rate = _make(name='sgd', schedule='cosine', learning_rate=1.0, b1=0.0)
  params = {'w': jnp.zeros(1)}
  state = tx.init(params)
  for gradient in (1.0, jnp.nan, 1.0):
    new, state = _step(tx, {'w': jnp.full(1, gradient)}, params, state)
  applied = optimizers.applied_rate(rate, state)
  np.testing.assert_allclose(applied, rate(1))
  np.testing.assert_allclose(-new['w'], applied)


def test_a_schedule_may_be_entered_later():
  tx, rate = _make(
    name='sgd',
    schedule='cosine',
    learning_rate=1.0,
    b1=0.0,
    boundaries=(20,),
    starts_at=30,
  )
  _, whole_run = _make(schedule='cosine', learning_rate=1.0, boundaries=(20,))
  params = {'w': jnp.zeros(1)}
  new, _ = _step(tx, {'w': jnp.ones(1)}, params, tx.init(params))
  np.testing.assert_allclose(-new['w'], whole_run(30))
  np.testing.assert_allclose(rate(10), whole_run(40))

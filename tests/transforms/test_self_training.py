"""ZSSR's training: the learning-rate policy, and random fathers."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax.transforms.self_training import (
  Augmentation,
  Policy,
  draw_crop,
  line_fit,
  train_on_fathers,
)

# The policy.


def fitted_line(values):
  """Slope and its standard error by NumPy."""
  x = np.arange(len(values))
  line, covariance = np.polyfit(x, values, 1, cov='unscaled')
  residual = values - np.polyval(line, x)
  variance = (residual**2).sum() / (len(values) - 2)
  return line[0], np.sqrt(covariance[0, 0] * variance)


@pytest.mark.parametrize('count', [3, 5, 8])
@pytest.mark.parametrize('trend', [0.0, -3.0, 0.7])
def test_line_fit_is_that_of_numpy(count, trend):
  noise = np.random.default_rng(count).normal(size=count)
  values = trend * np.arange(count) + noise
  found = line_fit(jnp.asarray(values, jnp.float32))
  np.testing.assert_allclose(found, fitted_line(values), rtol=1e-5, atol=1e-6)


def simulated(policy, error):
  """Simulates the rate of every step by the rule, in plain Python.

  Adam moves a parameter of constant gradient 1 by the rate.
  """
  position, rate, changed, rates, errors = 0.0, policy.rate, 0, [], []
  while rate >= policy.last_rate and len(rates) < policy.max_steps:
    position -= rate
    if len(rates) % policy.test_every == 0:
      errors.append(error(position))
    rates.append(rate)
    done = len(rates)
    if done % policy.decide_every == 0 and done - changed > policy.patience:
      slope, deviation = fitted_line(np.array(errors[-policy.tests :]))
      if -policy.ratio * slope < deviation:
        rate, changed = rate / 10, done
  return rates


def recorded(policy, error):
  """The rate of every step of a training, and its end."""
  positions = []

  def loss(position, father):
    del father
    jax.debug.callback(lambda x: positions.append(float(x)), position)
    return position

  @jax.jit
  def run(key):
    start = jnp.zeros(())
    return train_on_fathers(loss, error, lambda key: 0, start, key, policy)

  end = jax.block_until_ready(run(jax.random.key(0)))
  jax.effects_barrier()
  positions.append(float(end.params))
  # The callbacks may come in any order, but the parameter only falls.
  return -np.diff(sorted(positions, reverse=True)), end


# name -> error of the parameter, steps at which the rate falls
ERRORS = {
  'rises': (lambda x: -x, [300, 600, 900]),
  'falls on a line': (lambda x: 1 + x / 4, []),
  'falls, then waves': (
    lambda x: jnp.exp(9 * x) + 0.1 * jnp.sin(31 * x),
    None,
  ),
}


@pytest.mark.parametrize('name', ERRORS)
def test_rates_follow_the_rule(name):
  """Published defaults; the earliest end is after 900 steps."""
  error, falls = ERRORS[name]
  rates, end = recorded(Policy(), error)
  expected = simulated(Policy(), lambda x: float(error(x)))
  np.testing.assert_allclose(rates, expected, rtol=0.02)
  assert int(end.step) == len(expected)
  changes = np.flatnonzero(np.diff([*expected, float(end.rate)]) < 0) + 1
  if falls is None:
    assert changes[0] > 300
  else:
    assert changes.tolist() == falls
  assert (np.array(expected) >= 9e-6).all()
  assert (float(end.rate) < 9e-6) == (int(end.step) < 3000)
  assert int(end.changed) == (changes[-1] if len(changes) else 0)


def test_other_numbers_of_the_policy():
  policy = Policy(
    rate=1e-2,
    last_rate=2e-3,
    max_steps=90,
    test_every=3,
    decide_every=7,
    patience=20,
    tests=4,
    ratio=0.1,
  )
  rates, end = recorded(policy, lambda x: -x)
  assert len(rates) == 21
  np.testing.assert_allclose(rates, 1e-2, rtol=1e-3)
  np.testing.assert_allclose(end.rate, 1e-3)
  shorter = policy._replace(max_steps=20)
  assert len(recorded(shorter, lambda x: -x)[0]) == 20
  assert len(recorded(policy, lambda x: x)[0]) == 90


def test_errors_that_are_all_alike_let_the_rate_fall():
  """A flat error curve lowers the rate, although its slope has no error."""
  rates, end = recorded(Policy(), lambda x: 0 * x + 0.25)
  assert len(rates) == 900
  assert float(end.rate) < Policy().last_rate


def test_one_trace_and_a_fresh_father_from_the_key_of_every_step():
  traces, fathers = [], []

  def draw(key):
    traces.append(1)
    return jax.random.normal(key, (2,))

  def loss(params, father):
    jax.debug.callback(lambda x: fathers.append(x.tolist()), father)
    return jnp.square(params - father).sum()

  @jax.jit
  def run(key):
    start = jnp.zeros(2)
    policy = Policy(max_steps=6)
    return train_on_fathers(loss, jnp.sum, draw, start, key, policy).params

  first, again, other = (run(jax.random.key(seed)) for seed in (3, 3, 4))
  jax.effects_barrier()
  assert len(traces) == 1
  np.testing.assert_array_equal(first, again)
  assert abs(first - other).max() > 1e-4
  expected = [
    jax.random.normal(jax.random.fold_in(jax.random.key(seed), i), (2,))
    for seed in (3, 3, 4)
    for i in range(6)
  ]
  np.testing.assert_allclose(
    sorted(fathers), sorted(x.tolist() for x in expected), rtol=1e-6
  )


@pytest.mark.nightly
def test_trainings_under_vmap_end_each_on_their_own():
  """Devices other than CPUs train images of one size together."""

  def run(key, slope):
    def error(params):
      return slope * params

    def loss(params, father):
      return params * jnp.exp(father)

    return train_on_fathers(
      loss, error, jax.random.normal, jnp.zeros(()), key, Policy(max_steps=950)
    )

  keys = jax.random.split(jax.random.key(0), 2)
  slopes = jnp.array([1.0, -1.0])
  together = jax.jit(jax.vmap(run))(keys, slopes)
  assert together.step.tolist() == [950, 900]
  alone = jax.jit(run)
  for i in range(2):
    one = alone(keys[i], slopes[i])
    for a, b in zip(
      jax.tree.leaves(one), jax.tree.leaves(together), strict=True
    ):
      np.testing.assert_allclose(a, b[i], rtol=1e-5)


# Fathers.


def random_image(height, width):
  return np.random.default_rng(0).random((height, width, 2), np.float32)


@functools.cache
def program(side, turn):
  """Crops for PRNG keys; options are arguments of the compiled program."""

  def draw(key, image, options):
    return draw_crop(key, image, side, Augmentation(turn=turn, **options))

  return jax.jit(jax.vmap(draw, (0, None, None)))


def crops_of(image, side, *, turn=True, count=400, **options):
  keys = jax.random.split(jax.random.key(1), count)
  return np.asarray(program(side, turn)(keys, image, options))


def windows(image, side):
  """All crops at whole pixels in eight symmetries, by their bytes."""
  found = {}
  corners = itertools.product(*(range(n - side + 1) for n in image.shape[:2]))
  for top, left in corners:
    window = image[top : top + side, left : left + side]
    for turns, flip in itertools.product(range(4), (False, True)):
      turned = np.rot90(window[::-1] if flip else window, turns)
      found[turned.tobytes()] = (top, left, turns, flip)
  return found


@pytest.mark.parametrize(
  ('size', 'side'), [((9, 14), 9), ((8, 8), 8), ((1, 1), 1)]
)
def test_crops_of_any_side_stay_within_the_range(size, side):
  """Crops up to the whole image; cubic warps overshoot and are clipped."""
  crops = crops_of(random_image(*size), side, count=40)
  assert crops.shape == (40, side, side, 2)
  assert crops.min() >= 0
  assert crops.max() <= 1


def test_plain_crops_are_copies_from_everywhere():
  image = random_image(7, 9)
  crops = crops_of(image, 5, unchanged=1.0, rigid=0.0)
  known = windows(image, 5)
  places = [known[crop.tobytes()] for crop in crops]
  assert {p[2:] for p in places} == {(0, False)}
  counts = np.zeros((3, 5))
  for top, left, *_ in places:
    counts[top, left] += 1
  assert (abs(counts - 400 / 15) < 5 * np.sqrt(400 / 15)).all()
  assert counts.min() > 0


@pytest.mark.parametrize('turn', [True, False])
def test_rigid_crops_are_copies_under_the_eight_symmetries(turn):
  image = random_image(7, 9)
  crops = crops_of(image, 5, turn=turn, unchanged=0.0, rigid=1.0)
  known = windows(image, 5)
  places = [known[crop.tobytes()] for crop in crops]
  assert len({p[:2] for p in places}) == 15
  symmetries = {p[2:] for p in places}
  assert len(symmetries) == 8 if turn else symmetries == {(0, False)}


@pytest.mark.parametrize(('unchanged', 'rigid'), [(0.05, 0.45), (0.4, 0.2)])
def test_shares_of_the_three_kinds(unchanged, rigid):
  image = random_image(7, 9)
  crops = crops_of(image, 5, unchanged=unchanged, rigid=rigid)
  known = windows(image, 5)
  places = [known.get(crop.tobytes()) for crop in crops]
  copies = [p for p in places if p]
  same = [p for p in copies if p[2:] == (0, False)]
  assert len(copies) / 400 == pytest.approx(unchanged + rigid, abs=0.07)
  expected = unchanged + rigid / 8
  assert len(same) / 400 == pytest.approx(expected, abs=0.06)


SIZE = 64
# An image that shows where its pixels are: row and column, within [0, 1].
RAMPS = (np.stack(np.mgrid[:SIZE, :SIZE], -1) / (SIZE - 1)).astype(np.float32)


def warps_of_ramps(*, turn, zoom_difference=0.25, shear=0.1):
  """Crops that are all warped; other options keep their defaults."""
  return crops_of(
    RAMPS,
    8,
    turn=turn,
    unchanged=0.0,
    rigid=0.0,
    zoom_difference=zoom_difference,
    shear=shear,
  )


def matrices(crops):
  """Crop -> image, `[N, 2, 2]`, read off the middle of crops of ramps."""
  middle = crops.shape[1] // 2
  across = slice(middle - 1, middle + 1)
  part = crops[:, across, across] * (SIZE - 1)
  rows = part[:, 1] - part[:, 0]
  columns = part[:, :, 1] - part[:, :, 0]
  return np.stack([rows.mean(1), columns.mean(1)], -1)


@pytest.mark.parametrize('turn', [True, False])
def test_warps_turn_and_mirror_only_if_they_may(turn):
  found = matrices(warps_of_ramps(turn=turn))
  mirrored = np.linalg.det(found) < 0
  turned = found[:, 0, 0] < 0
  if turn:
    assert 0.4 < mirrored.mean() < 0.6
    assert 0.4 < turned.mean() < 0.6
    return
  assert not mirrored.any()
  assert not turned.any()
  assert (found[:, 1, 1] > 0).all()
  # Shears alone are left: 0.1 in the mean of their squares.
  along = np.abs(found[:, 0, 1] / found[:, 1, 1])
  assert 0.05 < along.mean() < 0.12


def test_zooms_lie_between_their_bounds_and_reach_the_whole_image():
  crops = warps_of_ramps(turn=False, zoom_difference=0.0, shear=0.0)
  found = matrices(crops)
  zooms = 1 / found[:, 0, 0]
  np.testing.assert_allclose(1 / found[:, 1, 1], zooms, rtol=1e-3)
  np.testing.assert_allclose(found[:, 0, 1], 0, atol=1e-3)
  assert 0.499 < zooms.min() < 0.52
  assert 0.98 < zooms.max() < 1.001
  assert zooms.mean() == pytest.approx(0.75, abs=0.04)
  # Never mirrored at a border: the ramps go on throughout, up to both ends.
  assert (np.diff(crops[..., 0], axis=1) > 0).all()
  assert (np.diff(crops[..., 1], axis=2) > 0).all()
  assert crops.min() < 0.02
  assert crops.max() > 0.98


def test_axes_zoom_apart_and_no_further_than_allowed():
  found = matrices(warps_of_ramps(turn=False, shear=0.0))
  zooms = 1 / found[:, [0, 1], [0, 1]]
  assert zooms.min() > 0.249
  assert zooms.max() < 1.001
  assert 0.1 < np.std(zooms[:, 0] - zooms[:, 1]) < 0.26

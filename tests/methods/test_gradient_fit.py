"""Meta-trained weights adapted to an image: MZSR's way."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sr_jax import models
from sr_jax.errors import UserError
from sr_jax.methods import Assumed, _gradient_fit
from sr_jax.methods._gradient_fit import gradient_fitting
from sr_jax.ops.degrade import degrade
from sr_jax.ops.resize import imresize
from sr_jax.transforms import meta
from tests.methods.fit_images import (
  KERNEL,
  RATES,
  fit_alone,
  meta_config,
  meta_weights,
  smooth,
)


def by_hand(image, rates, *, kernel=KERNEL, scale=2, degradation='direct'):
  """MZSR's Algorithm 2 in a plain loop; `rates` may hold one tree per step."""
  height, width = (n - n % scale for n in image.shape[:2])
  target = image[:height, :width]
  son = degrade(
    None, target, scale=scale, degradation=degradation, kernel=kernel
  )
  enlarged = imresize(son, scale=scale, shape=(height, width))
  network = models.create(meta_config(scale=scale)['model'])

  @jax.jit
  def value_and_grad(params):
    def loss(params):
      given = jnp.asarray(enlarged, jnp.float32)[None]
      refined = network.apply({'params': params}, given, method='refine')
      return jnp.abs(refined[0] - target).mean()

    return jax.value_and_grad(loss)(params)

  params, errors = meta_weights(), []
  for rate in rates:
    error, grads = value_and_grad(params)
    errors.append(float(error))
    if not isinstance(rate, dict):
      rate = jax.tree.map(lambda _, r=rate: r, params)
    params = jax.tree.map(lambda p, g, r: p - r * g, params, grads, rate)
  return params, errors


def relative_error(ours, theirs):
  """Difference of two results, relative to the change by the steps."""
  start = meta_weights()
  moved = optax.tree.norm(optax.tree.sub(theirs, start))
  assert moved > 0
  return float(optax.tree.norm(optax.tree.sub(ours, theirs)) / moved)


@pytest.mark.parametrize(
  ('size', 'scale', 'degradation', 'steps'),
  [
    ((14, 12), 2, 'direct', None),
    ((15, 13), 2, 'blur-bicubic', 7),
    ((14, 11), 3, 'direct', 1),
  ],
)
def test_gradient_fitting_is_plain_descent_on_the_son(
  size, scale, degradation, steps
):
  """Further steps use the last rate; a row that is too much is cut off."""
  config = meta_config(scale=scale, degradation=degradation)
  fitting = gradient_fitting(config, Assumed(degradation, KERNEL), steps)
  image = smooth(*size)
  fitted, taken = fit_alone(fitting, {'generator': meta_weights()}, image)
  count = 3 if steps is None else steps
  assert taken == count
  rates = (*RATES, 0.005, 0.005)[:count]
  expected, _ = by_hand(image, rates, scale=scale, degradation=degradation)
  assert relative_error(fitted['generator'], expected) < 1e-4
  other, _ = by_hand(image, [0.01] * count, scale=scale)
  assert relative_error(fitted['generator'], other) > 1e-2


@pytest.mark.parametrize('per', ['layer', 'weight'])
@pytest.mark.nightly
def test_learned_rates_take_the_place_of_given_ones(per):
  start = meta_weights()
  rng = np.random.default_rng(0)
  learned = jax.tree.map(
    lambda leaf: rng.uniform(0.005, 0.03, leaf.shape).astype(np.float32),
    meta.learned_rates(start, 2, 0.01, per=per),
  )
  params = {'generator': start, 'rates': learned}
  fitting = gradient_fitting(meta_config(), Assumed('direct', KERNEL), 4)
  image = smooth(12, 12)
  fitted, taken = fit_alone(fitting, params, image)
  assert taken == 4
  jax.tree.map(np.testing.assert_array_equal, fitted['rates'], learned)
  rates = [
    jax.tree.map(lambda leaf, i=i: leaf[i], learned) for i in (0, 1, 1, 1)
  ]
  expected, _ = by_hand(image, rates)
  assert relative_error(fitted['generator'], expected) < 1e-4


@pytest.mark.nightly
def test_auto_keeps_the_best_and_stops_when_it_gains_no_more():
  config = meta_config(rates=[0.1])
  image = smooth(14, 12)
  _, errors = by_hand(image, [0.1] * 50)
  least, best, gained = np.inf, 0, 0
  for step, error in enumerate(errors):  # before each step
    if step - gained > 5:  # patience
      break
    if error < (1 - 0.005) * least:
      gained = step
    if error < least:
      least, best = error, step
  assert 3 < best < 49
  fitting = gradient_fitting(config, Assumed(None, KERNEL), 'auto')
  fitted, taken = fit_alone(fitting, {'generator': meta_weights()}, image)
  assert taken == best
  expected, _ = by_hand(image, [0.1] * best)
  assert relative_error(fitted['generator'], expected) < 1e-3


@pytest.mark.nightly
def test_noise_of_the_son_is_drawn_from_the_key():
  params = {'generator': meta_weights()}
  image = smooth(12, 12)
  results = {}
  for sigma in (0.0, 20.0):
    assumed = Assumed('direct', KERNEL, sigma)
    fitting = gradient_fitting(meta_config(), assumed, 1)
    for seed in (0, 1):
      results[sigma, seed] = fit_alone(fitting, params, image, seed)[0]
  leaves = {k: jax.tree.leaves(v)[0] for k, v in results.items()}
  np.testing.assert_array_equal(leaves[0.0, 0], leaves[0.0, 1])
  assert abs(leaves[20.0, 0] - leaves[20.0, 1]).max() > 0
  assert abs(leaves[20.0, 0] - leaves[0.0, 0]).max() > 0


def test_the_assumed_degradation_is_that_of_the_training():
  for name in ('direct', 'blur-bicubic'):
    config = meta_config(degradation=name)
    fitting = gradient_fitting(config, Assumed(None, KERNEL), None)
    assert fitting.degradation == name
    assert fitting.kernel is KERNEL
    assert (fitting.ensemble, fitting.back_project) == (False, 0)
  # The config of imported weights has no section `adapt`.
  config = {k: v for k, v in meta_config().items() if k != 'degradation'}
  for name in (None, 'direct', 'blur-bicubic'):
    fitting = gradient_fitting(config, Assumed(name, KERNEL), None)
    assert fitting.degradation == (name or 'direct')


@pytest.mark.parametrize(
  ('assumed', 'reason'),
  [
    (Assumed(), r"blur by 'direct' sampling: give kernel=SPEC"),
    (Assumed('direct'), r'or no adapt steps \(adapt_steps=0\)'),
    (Assumed('blur-bicubic', KERNEL), "'direct' images, not 'blur-bicubic'"),
    (Assumed('bicubic', KERNEL), "'direct' images, not 'bicubic'"),
  ],
)
def test_gradient_fitting_refuses_other_degradations(assumed, reason):
  with pytest.raises(UserError, match=reason) as error:
    gradient_fitting(meta_config(), assumed, 3)
  assert '\n' not in str(error.value)


def test_another_fit_needs_no_other_program():
  """Weights, images and kernels of one size are arguments of one program."""
  fittings = [
    gradient_fitting(meta_config(), Assumed(None, kernel), 2)
    for kernel in (KERNEL, KERNEL.T)
  ]
  assert fittings[0].predict is fittings[1].predict
  assert fittings[0].fit.func is fittings[1].fit.func


@pytest.mark.parametrize(
  'adapt',
  [
    {'steps': 10**9, 'rates': (0.1,)},
    {'steps': -1, 'rates': (0.1,)},
    {'steps': 5, 'rates': ()},
    {'steps': 5, 'rates': (float('nan'),)},
  ],
)
def test_a_checkpoint_cannot_ask_for_endless_steps(adapt):
  """The number of steps of a checkpoint's config had no bound."""
  config = meta_config()
  config = {**config, 'method': {**config['method'], 'adapt': adapt}}
  with pytest.raises(UserError, match=r'config.method.adapt.(steps|rates)='):
    gradient_fitting(config, Assumed(None, KERNEL), None)


def test_a_checkpoint_without_settings_to_adapt_is_one_line():
  """It was a KeyError."""
  config = meta_config()
  method = {k: v for k, v in config['method'].items() if k != 'adapt'}
  with pytest.raises(UserError) as error:
    gradient_fitting({**config, 'method': method}, Assumed(None, KERNEL), None)
  assert str(error.value) == (
    'config.method.adapt is missing: give a section with the keys rates, steps'
  )


def test_the_way_of_several_images_is_chosen_when_a_program_is_lowered():
  """A program for a TPU got the loop that is fast on this CPU."""

  def fit_one(params, image, key):
    return image * params + jax.random.uniform(key, image.shape)

  def fit(lr, keys):
    return _gradient_fit._each_image(fit_one, jnp.float32(2), lr, keys)

  lr, keys = jnp.ones((3, 2, 2)), jax.random.split(jax.random.key(0), 3)
  traced = jax.jit(fit).trace(lr, keys)
  texts = {
    platform: traced.lower(lowering_platforms=(platform,)).as_text()
    for platform in ('cpu', 'tpu')
  }
  # The random bits of one image are no loop on either.
  assert 'dynamic_slice' in texts['cpu']
  assert 'dynamic_slice' not in texts['tpu']
  results = jax.jit(fit)(lr, keys)
  expected = [fit_one(2.0, *pair) for pair in zip(lr, keys, strict=True)]
  np.testing.assert_allclose(results, jnp.stack(expected), rtol=1e-6)

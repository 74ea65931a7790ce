"""The dual regression loss on functions that can be computed by hand."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax.losses import pixel
from sr_jax.transforms.dual_regression import closed_loop

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden'
# Three samples of one value; P multiplies by p, D by d.
X, Y = np.array([0.5, -1.0, 2.0]), np.array([1.2, -1.5, 3.0])
P, D = 1.7, 0.4
KNOWN = np.array([True, False, True])


def test_loss_of_the_released_code():
  """Outputs and images as stored; the sums are those of DRN's trainer."""
  data = np.load(GOLDEN / 'losses_pixel.npz')
  outputs = [data[f'in:y{i}'] for i in range(3)]
  targets = [data['in:lr0'], data['in:lr1'], data['in:hr']]
  smaller = [data['in:dual0'], data['in:dual1']]
  loss = closed_loop(
    lambda lr: outputs,
    [lambda large, i=i: jnp.asarray(smaller[i]) for i in range(2)],
    distance=pixel.l1,
  )
  total, terms = loss(targets)
  assert total == pytest.approx(float(data['out:drn_total']), rel=1e-6)
  assert terms.primary == pytest.approx(
    float(data['out:drn_primary']), rel=1e-6
  )
  assert terms.dual == pytest.approx(float(data['out:drn_dual']), rel=1e-6)
  assert terms.cycle == 0


def _images(values):
  return jnp.asarray(values, jnp.float32).reshape(-1, 1, 1, 1)


def _scalar_loss(p, d, targets=(X, Y), labelled=None, **options):
  loss = closed_loop(
    lambda lr: (p * lr,), [lambda sr: d * sr], distance=pixel.l2, **options
  )
  return loss([_images(t) for t in targets], labelled)


@pytest.mark.parametrize('known', [None, KNOWN])
@pytest.mark.parametrize('hr_cycle', [False, True])
@pytest.mark.parametrize('weight', [0.0, 0.3])
def test_value_and_gradients_by_hand(weight, hr_cycle, known):
  """Equation 2 for P(x) = p x, D(z) = d z and squared distances."""
  options = {'dual_weight': weight, 'hr_cycle': hr_cycle, 'labelled': known}
  (total, terms), (to_p, to_d) = jax.value_and_grad(
    lambda p, d: _scalar_loss(p, d, **options), (0, 1), has_aux=True
  )(P, D)
  paired = np.ones(3) if known is None else known
  cycle = weight * hr_cycle
  loss = paired * (P * X - Y) ** 2 + weight * (D * P * X - X) ** 2
  loss += cycle * paired * (P * D * Y - Y) ** 2
  by_p = paired * 2 * X * (P * X - Y) + weight * 2 * D * X * (D * P * X - X)
  by_p += cycle * paired * 2 * D * Y * (P * D * Y - Y)
  by_d = weight * 2 * P * X * (D * P * X - X)
  by_d += cycle * paired * 2 * P * Y * (P * D * Y - Y)
  np.testing.assert_allclose(total, loss.mean(), rtol=1e-5)
  np.testing.assert_allclose(to_p, by_p.mean(), rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(to_d, by_d.mean(), rtol=1e-5, atol=1e-6)
  primary = (paired * (P * X - Y) ** 2).mean()
  np.testing.assert_allclose(terms.primary, primary, rtol=1e-5)


@pytest.mark.parametrize('compose', [False, True])
def test_levels_by_hand(compose):
  """Three levels and two dual networks; unlabelled samples lack the middle."""
  middle = np.array([0.9, 9.9, 2.4])
  factors, d0, d1 = (1.1, 1.6, 1.3), 0.7, 0.5
  loss = closed_loop(
    lambda lr: [f * lr for f in factors],
    [lambda z: d0 * z, lambda z: d1 * z],
    distance=pixel.l2,
    dual_weight=1.0,
    compose=compose,
  )
  _, terms = loss([_images(t) for t in (X, middle, Y)], KNOWN)
  primary = sum(
    (KNOWN * (f * X - t) ** 2).mean()
    for f, t in zip(factors, (X, middle, Y), strict=True)
  )
  dual = ((d0 * 1.6 * X - X) ** 2).mean()
  if compose:
    dual += ((d0 * d1 * 1.3 * X - X) ** 2).mean()
  else:
    dual += (KNOWN * (d1 * 1.3 * X - middle) ** 2).mean()
  np.testing.assert_allclose(terms.primary, primary, rtol=1e-5)
  np.testing.assert_allclose(terms.dual, dual, rtol=1e-5)


def test_samples_without_hr_join_the_dual_term_alone():
  other = np.where(KNOWN, Y, np.nan)
  for options in ({}, {'hr_cycle': True}):
    one, two = (
      jax.value_and_grad(
        lambda p, y=y, o=options: _scalar_loss(p, D, (X, y), KNOWN, **o)[0]
      )(P)
      for y in (Y, np.where(KNOWN, Y, 77.0))
    )
    np.testing.assert_array_equal(one, two)
  # Not even what is no number enters the sums.
  assert jnp.isfinite(_scalar_loss(P, D, (X, other), KNOWN)[0])
  none = np.zeros(3, bool)
  total, terms = _scalar_loss(P, D, labelled=none)
  assert terms.primary == 0
  np.testing.assert_allclose(
    total, 0.1 * ((D * P * X - X) ** 2).mean(), rtol=1e-5
  )


def test_the_dual_term_alone_reaches_the_primal():
  none = np.zeros(3, bool)
  slope = jax.grad(lambda p: _scalar_loss(p, D, labelled=none)[0])(P)
  expected = 0.1 * (2 * D * X * (D * P * X - X)).mean()
  np.testing.assert_allclose(slope, expected, rtol=1e-5)
  assert slope != 0


def test_all_labelled_is_paired_training():
  all_known = np.ones(3, bool)
  for options in ({}, {'compose': True}, {'hr_cycle': True}):
    with_flags = _scalar_loss(P, D, labelled=all_known, **options)
    np.testing.assert_array_equal(
      jax.tree.leaves(with_flags),
      jax.tree.leaves(_scalar_loss(P, D, **options)),
    )


def test_duals_must_reach_from_hr_to_lr():
  loss = closed_loop(lambda lr: (lr,), [], distance=pixel.l1)
  with pytest.raises(ValueError, match='0 dual maps for 1 level'):
    loss([_images(X), _images(Y)])

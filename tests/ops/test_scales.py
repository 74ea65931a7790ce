"""Sizes at whole and other scales, against exact fractions."""

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sr_jax.ops import scales


def test_decimals_stand_for_their_fractions():
  for hundredths in range(100, 801):
    assert scales.rational(hundredths / 100) == Fraction(hundredths, 100)
  assert scales.rational(8 / 3) == Fraction(8, 3)


@settings(max_examples=200, deadline=None)
@given(size=st.integers(1, 5000), tenths=st.integers(10, 80))
def test_sizes_are_those_of_exact_arithmetic(size, tenths):
  scale = tenths / 10
  assert scales.covered_size(size, scale) == size * tenths // 10
  assert scales.enlarged_size(size, scale) == math.ceil(
    Fraction(size * tenths, 10)
  )
  kept = scales.reduced_size(size, scale)
  # The most LR pixels that fit, and reducing what they cover gives as many.
  assert kept * tenths <= size * 10 < (kept + 1) * tenths
  covered = scales.covered_size(kept, scale)
  assert math.ceil(Fraction(covered * 10, tenths)) == kept


def test_sizes_that_floating_point_rounds_wrongly():
  assert math.floor(2.3 * 50) == 114
  assert scales.covered_size(50, 2.3) == 115


@pytest.mark.parametrize(
  ('scale', 'kind'), [(2.0, int), (3, int), (2.5, float)]
)
def test_whole_scales_are_ints(scale, kind):
  assert scales.whole(scale) == scale
  assert type(scales.whole(scale)) is kind

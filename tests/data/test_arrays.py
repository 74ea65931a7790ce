"""Value ranges of arrays mapped to [0, 1] and back, and zeros kept."""

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sr_jax.data.arrays import from_unit, keep_zeros, to_unit
from sr_jax.ops.resize import imresize

RANGES = ((0.0, 1.0), (np.zeros(2), np.array([1.0, 1e-6])), (-0.3, 0.7))


def per_channel(values):
  axes = (0, 1)
  low, high = values.min(axes), values.max(axes)
  return low.astype(np.float64), high.astype(np.float64)


@st.composite
def channels(draw):
  """float64 `[H, W, C]`: any offset and span by channel, zeros, constants."""
  height, width = draw(st.integers(1, 6)), draw(st.integers(1, 6))
  rng = np.random.default_rng(draw(st.integers(0, 2**32)))
  planes = []
  for _ in range(draw(st.integers(1, 5))):
    offset, sign = draw(st.sampled_from([(0, 1), (0, -1), (1, 1), (-1, 1)]))
    offset *= 10.0 ** draw(st.integers(-6, 3))
    span = 10.0 ** draw(st.integers(-9, 3)) * draw(st.integers(0, 1))
    plane = offset + sign * span * rng.random((height, width))
    planes.append(np.where(rng.random((height, width)) < 0.3, 0, plane))
  return np.stack(planes, -1)


@settings(max_examples=300, deadline=None)
@given(values=channels(), dtype=st.sampled_from(['f2', 'f4', 'f8', 'i4', 'u4']))
def test_channels_come_back_to_the_precision_of_the_type(values, dtype):
  dtype = np.dtype(dtype)
  values = abs(values) if dtype.kind == 'u' else values
  values = values.astype(dtype)
  low, high = per_channel(values)
  unit = to_unit(values, low, high)
  assert unit.dtype == np.float32
  assert unit.min() >= 0
  assert unit.max() <= 1
  back = from_unit(unit, low, high, dtype)
  assert back.dtype == dtype
  exact, got = values.astype(np.float64), back.astype(np.float64)
  step = 0 if dtype.kind in 'iu' else np.spacing(abs(values)).astype(np.float64)
  # Half a step of float32 below 1, times the span, is all that is lost.
  assert (abs(got - exact) <= (high - low) * 2.0**-25 * 1.001 + step).all()
  assert (got[exact == 0] == 0).all()
  constant = low == high
  np.testing.assert_array_equal(back[..., constant], values[..., constant])


@pytest.mark.parametrize('offset', [1e3, -1e3, 1e-6])
def test_a_small_span_on_a_large_offset_is_exact(offset):
  rng = np.random.default_rng(0)
  values = offset * (1 + 1e-9 * rng.random((5, 6, 2)))
  low, high = per_channel(values)
  back = from_unit(to_unit(values, low, high), low, high, values.dtype)
  np.testing.assert_array_equal(back, values)


@pytest.mark.parametrize('value', [0.0, 5.0, -1e-6, 3e37])
def test_a_constant_channel_stays_whatever_the_model_makes_of_it(value):
  constant = np.array([value])
  noise = np.random.default_rng(0).random((3, 4, 1), np.float32)
  back = from_unit(noise, constant, constant, np.dtype(np.float64))
  np.testing.assert_array_equal(back, np.full((3, 4, 1), value))


@pytest.mark.parametrize(
  ('dtype', 'expected'),
  [
    ('f2', [-65504, 0, 65504]),
    ('f4', [-1e20, 0, 1e20]),
    ('i4', [-(2**31), 0, 2**31 - 1]),
    ('u4', [0, 0, 2**32 - 1]),
    ('i8', [-(2**63), 0, 2**63 - 2**10]),
    ('u8', [0, 0, 2**64 - 2**11]),
  ],
)
def test_overflow_of_the_type_is_clipped(dtype, expected):
  unit = np.array([0, 0.5, 1], np.float32).reshape(1, 3, 1)
  back = from_unit(unit, -1e20, 1e20, np.dtype(dtype))
  np.testing.assert_array_equal(back.ravel(), np.array(expected, dtype))


def test_integers_are_rounded_and_ranges_may_be_left():
  unit = np.array([0.26, 0.24, 1.5, -0.5], np.float32).reshape(1, 4, 1)
  back = from_unit(unit, 0.0, 10.0, np.dtype(np.int64))
  assert back.ravel().tolist() == [3, 2, 15, -5]
  back = from_unit(unit, 0.0, 10.0, np.dtype(np.float64))
  np.testing.assert_allclose(back.ravel(), [2.6, 2.4, 15, -5], rtol=1e-7)


def brute_force(sr, zeros, scale):
  """Mask of the output pixels whose 4x4 support is zero, in a plain loop."""

  def mirrored(i, size):
    while not 0 <= i < size:
      i = -1 - i if i < 0 else 2 * size - 1 - i
    return i

  height, width = zeros.shape[:2]
  kept = np.zeros(sr.shape, bool)
  for i, j, c in np.ndindex(sr.shape):
    y, x = (math.floor((k + 0.5) / scale - 0.5) for k in (i, j))
    kept[i, j, c] = all(
      zeros[mirrored(y + a, height), mirrored(x + b, width), c]
      for a in (-1, 0, 1, 2)
      for b in (-1, 0, 1, 2)
    )
  return kept


@settings(max_examples=150, deadline=None)
@given(
  size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
  scale=st.one_of(st.sampled_from([1, 1.5, 2, 3, 8]), st.floats(1, 4)),
  sparsity=st.floats(0.5, 1),
  bounds=st.sampled_from(RANGES),
  rounded=st.sampled_from([math.floor, math.ceil]),
  seed=st.integers(0, 2**32),
)
def test_zeros_against_a_search_of_every_support(
  size, scale, sparsity, bounds, rounded, seed
):
  rng = np.random.default_rng(seed)
  values = rng.uniform(0.1, 0.7, (*size, 2)) * bounds[1]
  values[rng.random(values.shape) < sparsity] = 0
  values[rng.random(size) < sparsity] = 0
  lr = to_unit(values, *bounds)
  sr = rng.random((*(rounded(n * scale) for n in size), 2), np.float32)
  before, expected = sr.copy(), brute_force(sr, values == 0, scale)
  kept = keep_zeros(sr, lr, scale, *bounds)
  np.testing.assert_array_equal(sr, before)
  back = from_unit(kept, *bounds, np.dtype(np.float64))
  assert (back[expected] == 0).all()
  np.testing.assert_array_equal(kept[~expected], sr[~expected])


def test_zeros_in_source_units():
  values = np.zeros((8, 9, 2), np.float32)
  values[2, 3, 0] = 7
  sr = np.ones((16, 18, 2), np.float32)
  expected = np.zeros_like(sr)
  expected[1:9, 3:11, 0] = 1
  np.testing.assert_array_equal(keep_zeros(sr, values, 2), expected)


@pytest.mark.parametrize('scale', [2, 2.7])
def test_bicubic_of_sparse_data_stays_sparse(scale):
  rng = np.random.default_rng(0)
  values = rng.normal(size=(12, 14, 4)) * [1e-6, 1, 1e3, 0]
  values[3:10, 2:9] = 0
  low, high = per_channel(values)
  lr = to_unit(values, low, high)
  sr = np.float32(imresize(lr, scale=scale))
  dtype = np.dtype(np.float32)
  plain = from_unit(sr, low, high, dtype)
  sparse = from_unit(keep_zeros(sr, lr, scale, low, high), low, high, dtype)
  zeros = brute_force(sr, values == 0, scale)
  assert not sparse[zeros].any()
  assert zeros[..., 1].sum() > 50
  np.testing.assert_array_equal(sparse[~zeros], plain[~zeros])
  # Nothing but rounding noise went.
  assert (abs(plain - sparse) <= 1e-6 * (high - low)).all()


def test_dense_data_are_not_copied():
  sr = np.ones((8, 8, 1), np.float32)
  assert keep_zeros(sr, np.ones((4, 4, 1), np.float32), 2) is sr
  assert from_unit(sr, 0.0, 1.0, sr.dtype) is sr


def test_memory_is_that_of_the_result():
  sr = np.ones((400, 100, 50), np.float32)
  lr = np.zeros((200, 50, 50), np.float32)
  low, high = np.full(50, -1.0), np.full(50, 2.0)
  lr[...] = to_unit(lr, low, high)

  def convert():
    kept = keep_zeros(sr, lr, 2, low, high)
    from_unit(kept, low, high, np.dtype(np.float32))

  convert()
  tracemalloc.start()
  convert()
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert peak < 2.2 * sr.nbytes

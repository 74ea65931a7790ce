"""The shapes to which images of many sizes are padded."""

import hypothesis
import numpy as np
from hypothesis import strategies as st

from sr_jax.inference.shapes import shared_shapes

sizes = st.lists(
  st.tuples(st.integers(1, 400), st.integers(1, 400)), min_size=1, max_size=120
)


@hypothesis.given(sizes=sizes, count=st.integers(1, 10))
@hypothesis.settings(max_examples=30, deadline=None)
def test_shared_shapes_hold_every_size(sizes, count):
  shapes = shared_shapes(sizes, count)
  assert shapes.keys() == set(sizes)
  assert len(set(shapes.values())) <= count
  top = np.max(sizes, axis=0)
  for (h, w), (height, width) in shapes.items():
    assert h <= height <= top[0]
    assert w <= width <= top[1]
  if len(shapes) <= count:
    assert all(size == shape for size, shape in shapes.items())


def test_shared_shapes_waste_little():
  """Clusters of sizes and their orientations get shapes of their own."""
  rng = np.random.default_rng(0)
  centres = [(321, 481), (481, 321), (128, 128), (200, 300)]
  sizes = [
    (h - int(a), w - int(b))
    for h, w in centres
    for a, b in rng.integers(0, 12, (25, 2))
  ]
  shapes = shared_shapes(sizes, 4)
  computed = sum(np.prod(shapes[size]) for size in sizes)
  assert computed < 1.15 * sum(np.prod(size) for size in sizes)

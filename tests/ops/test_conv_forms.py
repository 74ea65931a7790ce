"""The forms of a convolution's roles against JAX's own derivatives."""

import jax
import numpy as np
import pytest

from sr_jax.ops import conv_forms
from sr_jax.ops.conv_forms import Geometry

# Size of the kernel, of the image, channels, and geometry.
CASES = {
  'plain': ((3, 3), (5, 6), (2, 3), Geometry(((1, 1), (1, 1)))),
  'narrowing': ((3, 3), (5, 6), (3, 2), Geometry(((1, 1), (1, 1)))),
  'dilated': ((3, 1), (7, 5), (2, 3), Geometry(((2, 2), (0, 0)), dilation=2)),
  'uneven': ((4, 2), (5, 6), (3, 2), Geometry(((0, 3), (1, 0)))),
  'strided': ((6, 6), (6, 8), (2, 3), Geometry(((2, 2), (2, 2)), 2)),
  'odd': ((3, 3), (6, 8), (3, 2), Geometry(((1, 1), (1, 1)), 2)),
  'gaps': ((3, 3), (6, 9), (2, 3), Geometry(((0, 0), (0, 0)), 3)),
}


@pytest.mark.parametrize('forms', ['PLAIN', 'CPU'])
@pytest.mark.parametrize('case', CASES)
def test_every_role_is_a_derivative_of_the_convolution(case, forms):
  size, image, (narrow, wide), geometry = CASES[case]
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, *image, narrow))
  kernel = rng.normal(size=(*size, narrow, wide))

  def value(x, kernel):
    return jax.lax.conv_general_dilated(
      x,
      kernel,
      (geometry.stride,) * 2,
      geometry.padding,
      rhs_dilation=(geometry.dilation,) * 2,
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )

  def all_roles(x, kernel, y):
    of = getattr(conv_forms, forms)
    return [
      *of['value']((x, kernel), (y.shape,), geometry),
      *of['image']((kernel, y), (x.shape,), geometry),
      *of['kernel']((x, y), (kernel.shape,), geometry),
    ]

  with jax.enable_x64(True):
    expected, transpose = jax.vjp(value, x, kernel)
    y = rng.normal(size=expected.shape)
    results = jax.jit(all_roles)(x, kernel, y)
    for ours, theirs in zip(results, (expected, *transpose(y)), strict=True):
      np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-10)

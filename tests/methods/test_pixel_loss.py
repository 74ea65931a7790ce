"""The pixel loss that a config describes."""

import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax.errors import UserError
from sr_jax.losses import pixel
from sr_jax.methods import _losses


def _images():
  rng = np.random.default_rng(0)
  return jnp.asarray(rng.random((2, 2, 12, 10, 3)), jnp.float32)


@pytest.mark.parametrize('name', ['l1', 'euclidean'])
def test_a_border_is_left_out(name):
  sr, hr = _images()
  loss = _losses.pixel_loss({'loss': name, 'loss_border': 3})
  inside = getattr(pixel, name)(sr[:, 3:9, 3:7], hr[:, 3:9, 3:7])
  np.testing.assert_array_equal(loss(sr, hr), inside)
  assert loss(sr.at[:, 2].set(9.0), hr) == inside
  assert _losses.pixel_loss({'loss': name})(sr, hr) != inside


def test_a_border_that_leaves_nothing_is_refused():
  loss = _losses.pixel_loss({'loss': 'l1', 'loss_border': 5})
  with pytest.raises(UserError, match='leaves nothing of crops of 10x12'):
    loss(*_images())

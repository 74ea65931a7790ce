"""The operations of realistic degradations, their order, and both backends."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax.data.degradation import Degradation
from sr_jax.errors import UserError
from sr_jax.ops import noise, per_image
from sr_jax.ops.jpeg import jpeg_planes
from sr_jax.ops.kernel_families import kernels
from sr_jax.ops.realistic import SHUFFLED

PHOTO = np.random.default_rng(0).random((1, 24, 24, 3)).cumsum(1) % 1
QUIET = {'gaussian': (0, 1, 1), 'poisson': (0, 1, 1)}


def _linear(preset):
  """A preset without noise and JPEG."""
  off = (0, 1, 1)
  changes = {'first': {**QUIET, 'jpeg': off}, 'last': {'jpeg': off}}
  return Degradation(
    'real', real={'preset': preset, 'second': QUIET, **changes}
  )


def _by_hand(operations, parameters, photo, scale):
  """Applies the operations one after the other, in the order of the list."""
  planes = np.moveaxis(photo, -1, 1)
  sizes = np.array([planes.shape[2:]])
  lr = tuple(-(-n // scale) for n in planes.shape[2:])
  p = parameters
  blurs = {'blur_1': p.first.blur, 'blur_2': p.second.blur}
  for kind, names in itertools.groupby(operations, lambda n: n[:4]):
    *_, name = both = list(names)
    if kind == 'blur':  # neighbouring blurs extend the image once
      taps = [kernels(blurs[n], 25) for n in both]
      planes = per_image.correlate(planes, sizes, taps)
    elif name == 'noise':
      u = noise.uniform(np.random.default_rng(5), (1, 3, 24, 24))
      height, width = planes.shape[2:]
      planes = noise.add(planes, u[..., :height, :width], p.first.noise)
    elif name == 'jpeg' and p.quality[0]:
      planes = jpeg_planes(planes, p.quality)
    elif name in ('resize', 'last_resize'):
      shape, method = lr, p.last.method
      if name == 'resize':
        factor, method = p.first.resize.factor[0], p.first.resize.method
        shape = tuple(int(max(1, np.rint(n * factor))) for n in sizes[0])
      planes = per_image.resize(
        *(planes, sizes, np.array([shape]), method, p.first.resize.sigma, shape)
      )
      sizes = np.array([shape])
  planes = jpeg_planes(planes, p.last.quality)
  return np.moveaxis(planes, 1, -1)


ORDERS = [
  order
  for order in itertools.permutations(range(6))
  if order.index(2) < order.index(3)
]


@pytest.mark.parametrize('order', ORDERS[::45])
def test_a_shuffled_image_takes_its_operations_in_its_order(order):
  """Each order is embedded in one fixed sequence of operations."""
  made = Degradation(
    'real', real={'preset': 'bsrgan', 'first': {'jpeg': (1, 50, 60)}}
  )
  parameters = made._drawn_for(f'{order}', 2)
  ranks = np.argsort(order)[None]
  parameters = parameters._replace(ranks=ranks)
  found = made._apply(np.random.default_rng(5), PHOTO, parameters, 2)
  names = [SHUFFLED[i] for i in order]
  expected = _by_hand(names, parameters, PHOTO, 2)
  np.testing.assert_allclose(found, expected, atol=1e-9)
  # Noise and JPEG in each other's place give another image.
  swap = {'noise': 'jpeg', 'jpeg': 'noise'}
  other = _by_hand([swap.get(n, n) for n in names], parameters, PHOTO, 2)
  assert np.abs(found - other).max() > 1 / 255


def _agrees(preset, scale, count):
  """The device makes what the host makes, where no random numbers are added.

  All images of a batch run through one program of fixed shapes.
  """
  made = _linear(preset)
  photos = np.concatenate([np.roll(PHOTO, i, 2) for i in range(count)])
  degrade = jax.jit(lambda key, hr: made.on_device(key, hr, scale))
  key, hr = jax.random.key(3), jnp.asarray(photos, jnp.float32)
  lr = np.asarray(degrade(key, hr))
  draw = jax.jit(functools.partial(made._draw, count=count, scale=scale))
  drawn = draw(jax.random.split(key)[0])
  for i in range(count):
    one = jax.tree.map(lambda v, i=i: np.asarray(v[i : i + 1]), drawn)
    rng = np.random.default_rng(0)
    host = made._apply(rng, photos[i : i + 1], one, scale)[0]
    assert host.shape == lr[i].shape
    np.testing.assert_allclose(lr[i], host, atol=0.51 / 255)
  # LR is a function of the key, on the levels of 8 bits.
  np.testing.assert_array_equal(lr, degrade(key, hr))
  assert np.abs(lr - degrade(jax.random.key(4), hr)).max() > 1 / 255
  np.testing.assert_allclose(lr * 255, np.rint(lr * 255), atol=1e-3)


@pytest.mark.nightly
def test_device_equals_host():
  _agrees('realesrgan', 2, 6)


@pytest.mark.nightly
def test_device_equals_host_in_shuffled_order():
  _agrees('bsrgan', 4, 12)


@pytest.mark.parametrize(
  'preset',
  [
    'realesrgan',
    pytest.param('bsrgan', marks=pytest.mark.nightly),
    pytest.param('camera-mild', marks=pytest.mark.nightly),
  ],
)
@pytest.mark.parametrize(
  ('shape', 'scale'), [((1, 1, 3), 2), ((13, 40, 1), 3), ((30, 17, 3), 2.5)]
)
def test_images_of_any_size_and_grey_ones(preset, shape, scale):
  made = Degradation('real', real={'preset': preset})
  photo = np.random.default_rng(1).random(shape)
  for seed in range(3):
    lr = Degradation('real', real=made.real, seed=seed).of_file(
      photo, 'a.png', scale
    )
    expected = [-(-n // scale) for n in shape[:2]]
    assert [*lr.shape] == [*expected, shape[2]]
    assert np.isfinite(lr).all()
    assert lr.min() >= 0
    assert lr.max() <= 1


def test_a_degradation_without_operations_is_a_plain_resize():
  off = (0, 1, 1)
  made = Degradation(
    'real',
    real={
      'preset': 'realesrgan',
      'first': {**QUIET, 'families': (0,) * 7, 'up': off, 'down': off}
      | {'jpeg': off},
      'second': {**QUIET, 'families': (0,) * 7, 'up': off, 'down': off}
      | {'methods': (1, 0, 0, 0)},
      'last': {'sinc': off, 'jpeg': off},
    },
  )
  lr = made.of_file(PHOTO[0], 'a', 2)
  expected = PHOTO[0].reshape(12, 2, 12, 2, 3).mean((1, 3))
  np.testing.assert_allclose(lr, expected, atol=0.51 / 255)


def test_images_of_other_channels_are_refused():
  with pytest.raises(UserError, match='has 4'):
    Degradation('real').of_file(np.zeros((8, 8, 4)), 'a', 2)

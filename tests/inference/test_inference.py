"""Enlarging images of any size with a model."""

from __future__ import annotations

import dataclasses
import logging

import hypothesis
import jax
import numpy as np
import pytest
import skimage.data
from hypothesis import strategies as st

from sr_jax import models
from sr_jax.errors import UserError
from sr_jax.inference import loading, memory
from sr_jax.inference.automatic import upscale
from sr_jax.inference.loading import load
from sr_jax.inference.options import UpscaleOptions
from sr_jax.inference.upscaler import Upscaler
from sr_jax.ops.blur_kernels import Kernel, gaussian_kernel
from sr_jax.ops.color import rgb_to_y
from sr_jax.ops.degrade import degrade
from sr_jax.ops.resize import imresize
from sr_jax.transforms.ensemble import self_ensemble
from tests.nightly import first_by_default
from tests.tiny_models import counting, random_image, tiny

PHOTO = skimage.data.astronaut()[:80, 180:290]


def predicted(model, image, border=6):
  """The output of a compiled network for an image with a mirrored border."""
  sides = ((border, border), (border, border), (0, 0))
  lr = np.pad(np.float32(image), sides, 'symmetric')[None]
  sr = np.asarray(jax.jit(model.predict)(model.params, lr))[0]
  cut = model.scale * border
  return sr[cut : sr.shape[0] - cut, cut : sr.shape[1] - cut]


# Bicubic


@pytest.mark.parametrize('scale', [2, 3, 4])
@pytest.mark.parametrize('channels', [1, 2, 3, 4, 7])
def test_bicubic_is_the_baseline_of_the_field(scale, channels):
  image = random_image(23, 31, channels)
  sr = upscale(load('bicubic', scale=scale), image)
  assert sr.dtype == np.float32
  expected = imresize(image, scale=scale).clip(0, 1)
  np.testing.assert_array_equal(sr, expected.astype(np.float32))


def test_bicubic_tiles_without_a_trace(monkeypatch):
  monkeypatch.setattr(memory, '_HOST_SIDE', 128)
  image = random_image(150, 140)
  for scale in (2, 3):
    model = load('bicubic', scale=scale)
    np.testing.assert_allclose(
      upscale(model, image), upscale(model, image, tile='off'), atol=6e-8
    )


def test_a_kernel_given_as_an_array_is_checked():
  """W9: kernels of zeros or NaN gave black or NaN images."""
  model, image = load('bicubic', scale=2), random_image(9, 9)
  box = upscale(model, image, back_project=1, kernel=np.ones((3, 3)))
  mean = upscale(model, image, back_project=1, kernel=np.full((3, 3), 1 / 9))
  np.testing.assert_allclose(box, mean, atol=1e-6)
  for kernel in (np.zeros((3, 3)), np.full((3, 3), np.nan), np.ones((3, 3, 2))):
    with pytest.raises(UserError, match='kernel: '):
      upscale(model, image, back_project=1, kernel=kernel)


# Networks

# Windows of another shape are another program, which may add the products of a
# convolution in another order where its vector loops end: one float32 ulp.
ULP = 1e-7


@pytest.mark.nightly
@hypothesis.given(
  height=st.integers(1, 70),
  width=st.integers(1, 70),
  scale=st.sampled_from([2, 3, 4, 8]),
  channels=st.sampled_from([1, 3, 4]),
  as_bytes=st.booleans(),
)
@hypothesis.settings(max_examples=12, deadline=None)
def test_any_size_scale_and_channel_count(
  height, width, scale, channels, as_bytes
):
  image = random_image(height, width, channels)
  image = (image * 255).astype(np.uint8) if as_bytes else image
  model = tiny(scale, channels)
  sr = upscale(model, image, tile=20)
  assert sr.shape == (scale * height, scale * width, channels)
  assert sr.dtype == np.float32
  assert sr.min() >= 0
  assert sr.max() <= 1
  whole = predicted(model, image / 255 if as_bytes else image)
  np.testing.assert_allclose(sr, whole, atol=1e-6)


@pytest.mark.parametrize(
  'options',
  [
    {},
    {'self_ensemble': True},
    {'back_project': 1},
    {'back_project': 2, 'kernel': 'gaussian:2.0'},
    {'self_ensemble': True, 'back_project': 1, 'kernel': 'gaussian:1.0'},
  ],
)
@pytest.mark.parametrize('scale', first_by_default([2, 3]))
def test_tiles_leave_no_trace(options, scale):
  """Tiles change at most the last digit of float32, with any options."""
  image = PHOTO[:70, :96]
  whole = upscale(tiny(scale), image, tile='off', **options)
  tiles = upscale(tiny(scale), image, tile=60, **options)
  np.testing.assert_allclose(tiles, whole, rtol=0, atol=ULP)


def test_long_strip_runs_in_tiles():
  model, traced = counting(tiny())
  sr = upscale(model, random_image(3, 20_000), tile=512)
  assert sr.shape == (6, 40_000, 3)
  assert traced == [(15, 512)]


def test_self_ensemble_is_the_mean_of_eight():
  image = random_image(9, 12)
  model = tiny()
  total = 0
  for k in range(4):
    for flip in (1, -1):
      turned = np.rot90(image[:, ::flip], k)
      total = total + np.rot90(upscale(model, turned), -k)[:, ::flip]
  sr = upscale(model, image, self_ensemble=True)
  np.testing.assert_allclose(sr, total / 8, atol=1e-6)


@pytest.mark.parametrize('kernel', [None, 'gaussian:2.0'])
def test_back_projection_agrees_with_the_input(kernel):
  def residual(sr):
    degradation = 'direct' if kernel else 'bicubic'
    taps = gaussian_kernel(2.0) if kernel else None
    lr = degrade(None, sr, scale=2, degradation=degradation, kernel=taps)
    return np.abs(lr - PHOTO / 255).mean()

  model = load('bicubic', scale=2)
  before = residual(upscale(model, PHOTO))
  after = residual(upscale(model, PHOTO, back_project=5, kernel=kernel))
  assert after < 0.6 * before


def test_kernels_of_all_kinds_mean_the_same():
  taps = gaussian_kernel(2.0)
  model = tiny()
  results = [
    Upscaler(
      model, UpscaleOptions(back_project=1, kernel=kernel, degradation='direct')
    )(PHOTO)
    for kernel in ('gaussian:2.0', taps, Kernel(taps))
  ]
  np.testing.assert_array_equal(results[0], results[1])
  np.testing.assert_array_equal(results[0], results[2])


def test_grey_image_through_a_colour_model():
  """The Y of the grey result equals the Y of the colour result."""
  grey = PHOTO[..., :1]
  sr = upscale(tiny(), grey)
  colour = upscale(tiny(), grey.repeat(3, axis=-1))
  assert sr.shape == (160, 220, 1)
  np.testing.assert_allclose(
    rgb_to_y(sr.repeat(3, axis=-1)), rgb_to_y(colour), atol=1e-6
  )


# Shapes and memory


def test_hundred_sizes_compile_a_handful_of_shapes():
  rng = np.random.default_rng(0)
  sizes = [(int(h), int(w)) for h, w in rng.integers(10, 75, (100, 2))]
  model, traced = counting(tiny())
  upscaler = Upscaler(model, sizes=sizes)
  worst = 0.0
  for i, size in enumerate(sizes):
    image = random_image(*size)
    sr = upscaler(image)
    if i % 20 == 0:
      alone = predicted(tiny(), image)
      worst = max(worst, float(np.abs(sr - alone).max()))
  assert len(traced) <= 8
  assert worst < 1e-6


def test_few_sizes_keep_their_own_shapes():
  model, traced = counting(tiny())
  sizes = [(10 + i, 12) for i in range(8)] * 3
  upscaler = Upscaler(model, sizes=sizes)
  for size in sizes:
    upscaler(random_image(*size))
  assert sorted({(h + 12, w + 12) for h, w in sizes}) == sorted(traced)


def test_padded_and_turned():
  """Self-ensemble turns padded images together with their padding."""
  sizes = [(10 + i, 30 - 2 * i) for i in range(10)]
  upscaler = Upscaler(tiny(), UpscaleOptions(self_ensemble=True), sizes=sizes)
  for size in (sizes[0], sizes[7]):
    image = random_image(*size)
    alone = upscale(tiny(), image, self_ensemble=True)
    np.testing.assert_allclose(upscaler(image), alone, atol=1e-6)


def test_weights_share_the_compiled_program():
  """A new `Upscaler` with new weights, as in training, compiles nothing."""
  model, traced = counting(tiny())
  upscale(model, random_image(9, 8))
  new = jax.tree.map(lambda x: 0 * x, model.params)
  upscale(dataclasses.replace(model, params=new), random_image(9, 8))
  assert traced == [(21, 20)]


def test_weights_that_lie_on_all_devices():
  mesh = jax.sharding.Mesh(jax.devices(), 'data')
  spec = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  params = jax.device_put(tiny().params, spec)
  spread = dataclasses.replace(tiny(), params=params)
  np.testing.assert_array_equal(upscale(spread, PHOTO), upscale(tiny(), PHOTO))


def test_auto_tile_follows_the_memory(monkeypatch):
  image = random_image(130, 140)
  whole = upscale(tiny(), image, tile='off')
  needed = []

  def plan_side(density, device):
    needed.append(density)
    return 90

  monkeypatch.setattr(memory, 'plan_side', plan_side)
  model, traced = counting(tiny())
  np.testing.assert_allclose(upscale(model, image), whole, rtol=0, atol=ULP)
  # The probe of the memory, then tiles of one shape.
  assert traced == [(128, 128), (90, 90)]
  upscaler = Upscaler(model)
  assert upscaler.tile_for(image) is None
  upscaler(image)
  assert upscaler.tile_for(image) == 90
  assert upscaler.tile_for(image[:40, :40]) is None
  # At least the SR image itself, in float32.
  assert needed[0] >= 4 * 3 * 4


def out_of_memory_above(model, limit):
  def predict(params, lr, mask=None):
    if max(lr.shape[1:3]) > limit:
      raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory')
    return model.predict(params, lr, mask)

  return dataclasses.replace(model, predict=predict)


def test_tiles_are_halved_when_memory_runs_out(caplog):
  image = random_image(88, 49)  # with its border 100x61
  model = out_of_memory_above(tiny(), 30)
  with caplog.at_level(logging.WARNING):
    sr = upscale(model, image)
  assert [r.getMessage()[-2:] for r in caplog.records] == ['50', '25']
  whole = upscale(tiny(), image, tile='off')
  np.testing.assert_allclose(sr, whole, rtol=0, atol=ULP)


@pytest.mark.parametrize(
  ('tile', 'halo', 'message'),
  [
    ('off', 6, 'tile=auto'),
    ('chop', 6, 'tile chop; let model tiny tile: tile=auto'),
    ('auto', 6, 'tiles of 25 pixels, the smallest that model tiny allows'),
    ('auto', None, 'give tile=N'),
  ],
)
def test_no_memory_at_all_is_told(tile, halo, message):
  model = dataclasses.replace(out_of_memory_above(tiny(), 4), halo=halo)
  with pytest.raises(UserError, match=message):
    upscale(model, random_image(88, 49), tile=tile)


def test_other_errors_are_not_swallowed():
  def predict(params, lr, mask=None):
    raise jax.errors.JaxRuntimeError('INTERNAL: broken')

  with pytest.raises(jax.errors.JaxRuntimeError, match='broken'):
    upscale(dataclasses.replace(tiny(), predict=predict), PHOTO)


def test_global_models_are_tiled_on_demand_only(monkeypatch, caplog):
  model, traced = counting(dataclasses.replace(tiny(), halo=None))
  image = random_image(130, 140)
  upscale(model, image)
  assert set(traced) == {(162, 172)}
  with caplog.at_level(logging.WARNING):
    assert upscale(model, image, tile=64).shape == (260, 280, 3)
  assert 'may show seams' in caplog.text
  monkeypatch.setattr(memory, 'available_bytes', lambda device: 1000)
  with pytest.raises(UserError, match='cannot be tiled exactly; give tile=N'):
    upscale(model, image)


def test_chopping_a_local_model_changes_nothing():
  """The halo of the model, 6, is smaller than the overlap of 10."""
  model, traced = counting(tiny())
  image = random_image(61, 50)
  sr = upscale(model, image, tile='chop')
  np.testing.assert_allclose(sr, upscale(tiny(), image), atol=5e-7)
  assert traced == [(46, 41)]


def global_model():
  """An untrained RCAN, whose output depends on the whole image."""
  model = {'name': 'rcan', 'scale': 2, 'groups': 1, 'blocks': 1, 'features': 4}
  config = {
    'method': {'name': 'supervised'},
    'model': {**model, 'reduction': 1},
  }
  network = models.create(config['model'])
  init = jax.jit(network.init)
  params = init(jax.random.key(1), np.ones((1, 8, 8, 3)))['params']
  return loading.from_params(config, {'generator': params}, name='global')


@pytest.mark.nightly
def test_chopping_a_global_model_under_self_ensemble():
  """Each turned image is chopped, as in the test scripts, at odd sizes too."""
  model = global_model()
  # Its parts have unlike means.
  image = random_image(41, 50) * np.linspace(0, 1, 50)[:, None]
  whole = upscale(model, image)
  parts = upscale(model, image, tile='chop')
  assert np.abs(parts - whole).max() > 1e-4
  expected = self_ensemble(lambda lr: upscale(model, lr[0], tile='chop')[None])(
    image[None].astype(np.float64)
  )
  both = upscale(model, image, tile='chop', self_ensemble=True)
  np.testing.assert_allclose(both, expected[0], atol=1e-6)


@pytest.mark.nightly
def test_tiles_keep_to_the_cells_of_a_model():
  """With a pixel-unshuffle, windows begin at the border of its cells."""
  config = {
    'method': {'name': 'supervised'},
    'model': {'name': 'rrdbnet', 'scale': 2, 'blocks': 1, 'features': 4},
  }
  config['model']['growth'] = 2
  network = models.create(config['model'])
  variables = network.init(jax.random.key(0), np.ones((1, 8, 8, 3)))
  params = {'generator': variables['params']}
  model = loading.from_params(config, params, name='cells')
  image = random_image(97, 100)
  for options in ({}, {'self_ensemble': True}):
    whole = upscale(model, image, tile='off', **options)
    tiles = upscale(model, image, tile=90, **options)
    np.testing.assert_allclose(tiles, whole, atol=5e-7)
  sizes = [(n, 50) for n in range(40, 50)]
  announced = Upscaler(model, sizes=sizes)
  np.testing.assert_allclose(
    announced(image[:41, :50]), upscale(model, image[:41, :50]), atol=5e-7
  )


# What is refused


@pytest.mark.parametrize(
  ('image', 'message'),
  [
    (np.full((4, 4, 3), np.nan), 'values from nan'),
    (np.full((4, 4, 3), np.inf), 'values from inf'),
    (np.full((4, 4, 3), 255.0), 'values from 255'),
    (np.zeros((4, 4, 3), np.uint16), 'not uint16'),
    (np.zeros(4), 'must be'),
    (np.zeros((0, 4, 3)), 'must be'),
    (np.zeros((4, 4, 2)), 'takes 3 channels, the image has 2'),
    (np.zeros((4, 4, 4)), 'takes 3 channels, the image has 4'),
  ],
)
def test_bad_images(image, message):
  with pytest.raises(UserError, match=message) as error:
    upscale(tiny(), image)
  assert '\n' not in str(error.value)


def test_one_nan_among_many_values():
  image = random_image(20, 20)
  image[3, 4, 1] = np.nan
  with pytest.raises(UserError, match='finite'):
    upscale(tiny(), image)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'scale': 3}, 'enlarges by 2, not by 3'),
    ({'tile': 12}, 'tile 12 is too small for model tiny: give more than 12'),
    ({'tile': 0}, 'tile 0 is too small'),
    ({'tile': 'big'}, "not 'big'"),
    ({'back_project': -1}, '0 or more, not -1'),
    ({'kernel': 'gaussian:2.0'}, 'only for back-projection'),
    ({'kernel': 'none.mat', 'back_project': 1}, 'no such kernel file'),
  ],
)
def test_bad_options(options, message):
  with pytest.raises(UserError, match=message):
    upscale(tiny(), PHOTO, **options)


def test_plain_options_are_taken():
  sr = upscale(tiny(), PHOTO, scale=2, kernel='bicubic', tile='auto')
  np.testing.assert_array_equal(sr, upscale(tiny(), PHOTO))

"""Loading models, and enlarging images of any size with them."""

from __future__ import annotations

import dataclasses
import functools
import logging
import subprocess
import sys

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.data
from hypothesis import strategies as st

import sr_jax
from sr_jax import checkpoints, inference, models
from sr_jax.errors import UserError
from sr_jax.inference import Upscaler, load, upscale
from sr_jax.methods import supervised
from sr_jax.models import common, zssr
from sr_jax.ops.blur_kernels import Kernel, gaussian_kernel
from sr_jax.ops.color import rgb_to_y
from sr_jax.ops.resize import imresize
from sr_jax.transforms import tiling

PHOTO = skimage.data.astronaut()[:80, 180:290]
SMALL_ZSSR = common.Variant({'depth': 2, 'features': 4}, {})


def tiny_config(scale=2, channels=3):
  model = {'name': 'edsr', 'scale': scale, 'variant': 'small', 'blocks': 1}
  return {
    'method': {'name': 'supervised'},
    'model': {**model, 'features': 4, 'channels': channels},
  }


@functools.cache
def tiny(scale=2, channels=3):
  """An untrained EDSR; halo 6."""
  config = tiny_config(scale, channels)
  network = models.create(config['model'])
  variables = network.init(jax.random.key(0), jnp.ones((1, 8, 8, channels)))
  return inference.SRModel(
    name='tiny',
    scale=scale,
    channels=channels,
    halo=network.halo,
    config=config,
    params={'generator': variables['params']},
    predict=supervised.predictor(config),
  )


def counting(model):
  """The model, and the list of LR shapes that were traced with it."""
  traced = []

  def predict(params, lr, mask=None):
    traced.append(lr.shape[1:3])
    return model.predict(params, lr, mask)

  return dataclasses.replace(model, predict=predict), traced


def random_image(height, width, channels=3):
  rng = np.random.default_rng(0)
  return rng.random((height, width, channels), np.float32)


# Loading


def test_checkpoint_comes_back(tmp_path):
  model = tiny()
  checkpoints.save_params(tmp_path / 'new', model.params, model.config)
  loaded = load(tmp_path / 'new', scale=2)
  assert (loaded.scale, loaded.channels, loaded.halo) == (2, 3, model.halo)
  assert loaded.config == model.config
  np.testing.assert_array_equal(upscale(loaded, PHOTO), upscale(model, PHOTO))
  with pytest.raises(UserError, match='enlarges by 2, not by 3'):
    load(tmp_path / 'new', scale=3)


@pytest.mark.parametrize(
  ('section', 'message'),
  [
    (
      {'features': 5},
      r'body_0/conv1/bias is \(4,\), not \(5,\);.* and 8 more',
    ),
    ({'blocks': 2}, r'body_1/conv1/bias is missing, not \(4,\);.*and 1 more'),
    ({'blocks': 0}, r'body_0/conv1/bias is \(4,\), not there;'),
    ({'scale': 4}, r'upsample/conv_1/bias is missing'),
    ({'scale': 5}, 'scale 5 is not supported'),
    ({'dtype': 'float33'}, "config.model.dtype: unknown 'float33'"),
    ({'features': 'many'}, 'its options make no network'),
    ({'name': 'edsrr'}, 'did you mean'),
    (None, 'names no method and model'),
  ],
)
def test_parameters_of_another_config_are_refused(tmp_path, section, message):
  config = tiny_config()
  config['model'] = section and {**config['model'], **section}
  checkpoints.save_params(tmp_path / 'a', tiny().params, config)
  with pytest.raises(UserError, match=message) as error:
    load(tmp_path / 'a')
  assert str(tmp_path / 'a') in str(error.value)
  assert '\n' not in str(error.value)


def test_pretrained_weights_are_found_by_name(tmp_path, monkeypatch):
  root = tmp_path / 'pretrained'
  checkpoints.save_params(root / 'tiny-x2', tiny().params, tiny_config())
  monkeypatch.setattr(
    inference.importlib.resources, 'files', lambda _: tmp_path
  )
  assert load('tiny-x2').name == 'tiny-x2'
  with pytest.raises(UserError, match=r'did you mean tiny-x2\?.*gradual, tiny'):
    load('tinny-x2')


@pytest.mark.parametrize(
  ('name', 'scale', 'message'),
  [
    ('bicubik', None, r"no model 'bicubik'; did you mean bicubic\?"),
    ('zzz', None, 'give one of these or a path'),
    ('no/such/folder', None, 'no/such/folder: no such checkpoint'),
    ('bicubic', None, 'needs a scale'),
    ('bicubic', 1, 'scale must be above 1 and at most 100, not 1'),
    ('bicubic', float('nan'), 'scale must be above 1 and at most 100, not nan'),
    ('zssr', None, 'needs a scale'),
    ('zssr', 1.0, 'scale must be above 1 and at most 100, not 1'),
    (
      'zssr-gradual',
      float('inf'),
      'scale must be above 1 and at most 100, not inf',
    ),
  ],
)
def test_unknown_models_are_refused_in_one_line(name, scale, message):
  with pytest.raises(UserError, match=message) as error:
    load(name, scale=scale)
  assert '\n' not in str(error.value)


def test_package_is_light_until_used():
  code = (
    'import sys, sr_jax;'
    'assert not {"jax", "numpy", "flax"} & set(sys.modules);'
    'sr_jax.load("bicubic", scale=2); assert "jax" in sys.modules'
  )
  subprocess.run([sys.executable, '-c', code], check=True)
  assert sr_jax.upscale is upscale
  with pytest.raises(AttributeError, match='no attribute'):
    _ = sr_jax.nothing


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
  monkeypatch.setattr(inference, '_HOST_SIDE', 128)
  image = random_image(150, 140)
  for scale in (2, 3):
    model = load('bicubic', scale=scale)
    np.testing.assert_allclose(
      upscale(model, image), upscale(model, image, tile='off'), atol=6e-8
    )


# Networks


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
  lr = np.float32(image / 255 if as_bytes else image)
  whole = jax.jit(model.predict)(model.params, lr[None])[0]
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
@pytest.mark.parametrize('scale', [2, 3])
def test_tiles_leave_no_trace(options, scale):
  """Exactly none, whatever is composed."""
  image = PHOTO[:70, :96]
  whole = upscale(tiny(scale), image, tile='off', **options)
  tiles = upscale(tiny(scale), image, tile=60, **options)
  # 1/3 is no binary number: sample positions may differ in the last digit.
  tolerance = 6e-8 if scale == 3 and 'back_project' in options else 0
  np.testing.assert_allclose(tiles, whole, rtol=0, atol=tolerance)


def test_long_strip_runs_in_tiles():
  model, traced = counting(tiny())
  sr = upscale(model, random_image(3, 20_000), tile=512)
  assert sr.shape == (6, 40_000, 3)
  assert traced == [(3, 512)]


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
    lr = inference.degrade(
      None, sr, scale=2, degradation=degradation, kernel=taps
    )
    return np.abs(lr - PHOTO / 255).mean()

  model = load('bicubic', scale=2)
  before = residual(upscale(model, PHOTO))
  after = residual(upscale(model, PHOTO, back_project=5, kernel=kernel))
  assert after < 0.6 * before


def test_kernels_of_all_kinds_mean_the_same():
  taps = gaussian_kernel(2.0)
  model = tiny()
  results = [
    Upscaler(model, back_project=1, kernel=kernel, degradation='direct')(PHOTO)
    for kernel in ('gaussian:2.0', taps, Kernel(taps))
  ]
  np.testing.assert_array_equal(results[0], results[1])
  np.testing.assert_array_equal(results[0], results[2])


def test_grey_image_through_a_colour_model():
  """Y of the grey result is Y of the colour result, as tables have it."""
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
      alone = model.predict(model.params, image[None])[0]
      traced.pop()
      worst = max(worst, float(np.abs(sr - alone).max()))
  assert len(traced) <= 8
  assert worst < 1e-6


def test_few_sizes_keep_their_own_shapes():
  model, traced = counting(tiny())
  sizes = [(10 + i, 12) for i in range(8)] * 3
  upscaler = Upscaler(model, sizes=sizes)
  for size in sizes:
    upscaler(random_image(*size))
  assert sorted(set(sizes)) == sorted(traced)


def test_padded_and_turned():
  """Self-ensemble of padded images: the padding turns with them."""
  sizes = [(10 + i, 30 - 2 * i) for i in range(10)]
  upscaler = Upscaler(tiny(), sizes=sizes, self_ensemble=True)
  for size in (sizes[0], sizes[7]):
    image = random_image(*size)
    alone = upscale(tiny(), image, self_ensemble=True)
    np.testing.assert_allclose(upscaler(image), alone, atol=1e-6)


def test_weights_share_the_compiled_program():
  """A new `Upscaler` of new weights, as in training, traces nothing."""
  model, traced = counting(tiny())
  upscale(model, random_image(9, 8))
  new = jax.tree.map(lambda x: 0 * x, model.params)
  upscale(dataclasses.replace(model, params=new), random_image(9, 8))
  assert traced == [(9, 8)]


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

  monkeypatch.setattr(tiling, 'plan_side', plan_side)
  model, traced = counting(tiny())
  np.testing.assert_array_equal(upscale(model, image), whole)
  # The probe of the memory, then tiles of one shape.
  assert traced == [(128, 128), (90, 90)]
  upscaler = Upscaler(model)
  assert upscaler.tile is None
  upscaler(image)
  assert upscaler.tile == 90
  # At least the SR image itself, in float32.
  assert needed[0] >= 4 * 3 * 4


def out_of_memory_above(model, limit):
  def predict(params, lr, mask=None):
    if max(lr.shape[1:3]) > limit:
      raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory')
    return model.predict(params, lr, mask)

  return dataclasses.replace(model, predict=predict)


def test_tiles_are_halved_when_memory_runs_out(caplog):
  image = random_image(100, 61)
  model = out_of_memory_above(tiny(), 30)
  with caplog.at_level(logging.WARNING):
    sr = upscale(model, image)
  assert [r.getMessage()[-2:] for r in caplog.records] == ['50', '25']
  np.testing.assert_array_equal(sr, upscale(tiny(), image, tile='off'))


@pytest.mark.parametrize(
  ('tile', 'halo', 'message'),
  [
    ('off', 6, '--tile auto'),
    ('auto', 6, 'tiles of 25 pixels, the smallest that model tiny allows'),
    ('auto', None, 'give --tile N'),
  ],
)
def test_no_memory_at_all_is_told(tile, halo, message):
  model = dataclasses.replace(out_of_memory_above(tiny(), 4), halo=halo)
  with pytest.raises(UserError, match=message):
    upscale(model, random_image(100, 61), tile=tile)


def test_other_errors_are_not_swallowed():
  def predict(params, lr, mask=None):
    raise jax.errors.JaxRuntimeError('INTERNAL: broken')

  with pytest.raises(jax.errors.JaxRuntimeError, match='broken'):
    upscale(dataclasses.replace(tiny(), predict=predict), PHOTO)


def test_global_models_are_tiled_on_demand_only(monkeypatch, caplog):
  model, traced = counting(dataclasses.replace(tiny(), halo=None))
  image = random_image(130, 140)
  upscale(model, image)
  assert set(traced) == {(130, 140)}
  with caplog.at_level(logging.WARNING):
    assert upscale(model, image, tile=64).shape == (260, 280, 3)
  assert 'may show seams' in caplog.text
  monkeypatch.setattr(tiling, 'available_bytes', lambda device: 1000)
  with pytest.raises(UserError, match='cannot be tiled exactly; give --tile N'):
    upscale(model, image)


# What is refused


@pytest.mark.parametrize(
  ('image', 'message'),
  [
    (np.full((4, 4, 3), np.nan), 'values from nan'),
    (np.full((4, 4, 3), np.inf), 'values from inf'),
    (np.full((4, 4, 3), 255.0), 'values from 255'),
    (np.zeros((4, 4, 3), np.uint16), 'not uint16'),
    (np.zeros((4, 4)), 'must be'),
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


# Models that fit themselves to the image


def adaptive_config(**changes):
  method = {
    'name': 'meta_transfer',
    'scales': (2.0,),
    'adapt': {'steps': 2, 'rates': (0.05, 0.02)},
  }
  return {
    'method': {**method, **changes},
    'model': {'name': 'mzsr', 'scale': 2, 'depth': 2, 'features': 4},
    'degradation': {'name': 'direct'},
  }


@functools.cache
def adaptive_params():
  """Weights of `adaptive_config`, whatever the scale."""
  network = models.create(adaptive_config()['model'])
  return network.init(jax.random.key(0), jnp.ones((1, 8, 8, 3)))['params']


def adaptive(folder, *, rates=None, **changes):
  """A tiny MZSR's checkpoint, loaded by its path."""
  params = {'generator': adaptive_params()}
  if rates is not None:
    params['rates'] = rates
  checkpoints.save_params(folder / 'a', params, adaptive_config(**changes))
  return folder / 'a'


def test_adaptive_checkpoint_by_path(tmp_path):
  model = load(adaptive(tmp_path))
  image = PHOTO[:20, :22]
  results = {
    steps: upscale(model, image, kernel='gaussian:2.0', adapt_steps=steps)
    for steps in (None, 1, 2)
  }
  plain = upscale(model, image, adapt_steps=0)
  assert plain.shape == (40, 44, 3)
  whole = model.predict(model.params, np.float32(image / 255)[None])[0]
  np.testing.assert_allclose(plain, whole, atol=1e-6)
  # The checkpoint's own number of steps.
  np.testing.assert_array_equal(results[None], results[2])
  assert np.abs(results[2] - results[1]).max() > 1e-4
  assert np.abs(results[1] - plain).max() > 1e-4


def test_fit_without_a_kernel_is_refused(tmp_path):
  model = load(adaptive(tmp_path))
  for steps in (None, 2, 'auto'):
    with pytest.raises(UserError, match='give the kernel') as error:
      upscale(model, PHOTO, adapt_steps=steps)
    assert '\n' not in str(error.value)
    assert str(tmp_path) in str(error.value)


def test_auto_ends_by_itself(tmp_path):
  model = load(adaptive(tmp_path))
  upscaler = Upscaler(model, kernel='gaussian:2.0', adapt_steps='auto')
  flat = np.zeros((16, 16, 3), np.float32)  # nothing to gain
  photo = np.float32(PHOTO[:16, :16] / 255)
  none, some = (one.steps for one in upscaler.fit([flat, photo]))
  assert none == 0
  assert 0 < some <= 50


def test_learned_rates_of_a_checkpoint(tmp_path):
  """Zero rates leave the weights alone, whatever the config's rates are."""
  still = jax.tree.map(
    lambda leaf: np.zeros((2,) + (1,) * leaf.ndim, np.float32),
    adaptive_params(),
  )
  model = load(adaptive(tmp_path, rates=still))
  image = PHOTO[:16, :18]
  fitted = upscale(model, image, kernel='gaussian:2.0', adapt_steps=2)
  unfitted = upscale(model, image, adapt_steps=0)
  np.testing.assert_allclose(fitted, unfitted, atol=1e-6)
  moving = jax.tree.map(lambda leaf: leaf + 0.05, still)
  model = dataclasses.replace(model, params={**model.params, 'rates': moving})
  fitted = upscale(model, image, kernel='gaussian:2.0', adapt_steps=2)
  assert np.abs(fitted - unfitted).max() > 1e-4


def test_multi_scale_checkpoint(tmp_path):
  path = adaptive(tmp_path, scales=(2.0, 2.6, 3.0, 4.0))
  model = load(path, scale=2.6)
  assert model.scale == 2.6
  image = PHOTO[:15, :17]
  sr = upscale(model, image, kernel='gaussian:2.0', adapt_steps=1)
  assert sr.shape == (39, 45, 3)  # 17 * 2.6 = 44.2
  assert load(path).scale == 2
  for scale in (5, 1.5):
    with pytest.raises(UserError, match='enlarges by 2 to 4, not by') as error:
      load(path, scale=scale)
    assert '\n' not in str(error.value)
  with pytest.raises(UserError, match=r'2\.6 cannot be tiled'):
    upscale(model, image, kernel='gaussian:2.0', adapt_steps=1, tile=64)


def test_tiles_of_a_fitted_model_leave_no_trace(tmp_path):
  model = load(adaptive(tmp_path))
  options = {'kernel': 'gaussian:2.0', 'adapt_steps': 2}
  image = PHOTO[:45, :50]
  whole = upscale(model, image, tile='off', **options)
  tiles = upscale(model, image, tile=24, **options)
  np.testing.assert_allclose(tiles, whole, rtol=0, atol=1e-6)
  # Not for want of a fit.
  unfitted = upscale(model, image, tile=24, adapt_steps=0)
  assert np.abs(tiles - unfitted).max() > 1e-4


def test_adapt_steps_of_other_models_are_refused():
  for steps in (3, 'auto'):
    with pytest.raises(UserError, match='does not fit itself'):
      upscale(tiny(), PHOTO, adapt_steps=steps)
  np.testing.assert_array_equal(
    upscale(tiny(), PHOTO, adapt_steps=0), upscale(tiny(), PHOTO)
  )


def test_zssr_at_a_scale_that_is_not_whole(monkeypatch):
  monkeypatch.setitem(zssr.VARIANTS, 'released', SMALL_ZSSR)
  model = load('zssr', scale=2.37)
  image = random_image(9, 10, 1)
  sr = upscale(model, image, adapt_steps=2)
  assert sr.shape == (22, 24, 1)  # 21.33, 23.7
  assert sr.dtype == np.float32
  np.testing.assert_array_equal(sr, upscale(model, image, adapt_steps=2))
  assert (sr != upscale(model, image, adapt_steps=2, seed=1)).any()
  with pytest.raises(UserError, match='has no weights without adapt steps'):
    upscale(model, image, adapt_steps=0)


def grey_of(rgb):
  """What a grey result is of an RGB one: its luma from black to white."""
  return (rgb_to_y(rgb.astype(np.float64)) * 255 - 16) / 219


def test_grey_image_through_an_adaptive_colour_model(tmp_path):
  model = load(adaptive(tmp_path))
  grey = PHOTO[:20, :22, :1]
  options = {'kernel': 'gaussian:2.0', 'adapt_steps': 2}
  sr = upscale(model, grey, **options)
  colour = upscale(model, grey.repeat(3, axis=-1), **options)
  assert sr.shape == (40, 44, 1)
  np.testing.assert_allclose(sr, grey_of(colour).clip(0, 1), atol=1e-6)
  unfitted = upscale(model, grey, adapt_steps=0)
  assert np.abs(sr - unfitted).max() > 1e-4


@pytest.mark.parametrize('degradation', ['direct', 'blur-bicubic'])
def test_fitted_model_back_projects_as_its_images_were_made(
  tmp_path, degradation
):
  """As its weights say, where the user does not."""
  config = adaptive_config() | {'degradation': {'name': degradation}}
  params = {'generator': adaptive_params()}
  model = inference.from_params(config, params, name='a')
  lr = imresize(PHOTO[:40, :40] / 255, scale=0.5).clip(0, 1)
  taps = gaussian_kernel(2.0)
  residuals = []
  for times in (0, 8):
    sr = upscale(model, lr, kernel='gaussian:2.0', back_project=times)
    made = inference.degrade(
      None, sr, scale=2, degradation=degradation, kernel=taps
    )
    residuals.append(np.abs(made - lr).mean())
  assert residuals[1] < 0.2 * residuals[0]


@pytest.mark.parametrize('scale', [2.37, 2.5, 1.2])
@pytest.mark.parametrize('kernel', [None, 'gaussian:1.0'])
def test_back_projection_at_a_scale_that_is_not_whole(scale, kernel):
  model = load('bicubic', scale=scale)
  # What bicubic cannot restore: edges.
  lr = imresize(PHOTO[:48, :52] / 255, scale=0.5).clip(0, 1)
  taps = kernel and gaussian_kernel(1.0)
  residuals = []
  for times in (0, 5):
    sr = Upscaler(model, kernel=kernel, back_project=times)(lr)
    assert sr.shape == (*(int(np.ceil(n * scale)) for n in (24, 26)), 3)
    made = inference.degrade(
      None,
      sr,
      scale=scale,
      degradation='direct' if kernel else 'bicubic',
      kernel=taps,
      shape=(24, 26),
    )
    residuals.append(np.abs(made - lr).mean())
  assert residuals[1] < 0.7 * residuals[0]


def test_shapes_of_an_enlarging_network_are_shared(tmp_path):
  """Its enlargement mirrors the border, which the padding has to go on."""
  model, traced = counting(load(adaptive(tmp_path)))
  sizes = [(9 + i, 31 - 2 * i) for i in range(11)]
  upscaler = Upscaler(model, sizes=sizes, adapt_steps=0, self_ensemble=True)
  worst = 0.0
  for size in sizes:
    image = random_image(*size)
    sr = upscaler(image)
    alone = Upscaler(model, adapt_steps=0, self_ensemble=True)
    if size in (sizes[0], sizes[4], sizes[9]):
      count = len(traced)
      worst = max(worst, float(np.abs(sr - alone(image)).max()))
      del traced[count:]
  assert worst < 1e-6
  # A shape and the same turned.
  assert len({frozenset(shape) for shape in traced}) <= 8


def test_ensemble_would_turn_a_kernel(tmp_path, monkeypatch):
  monkeypatch.setitem(zssr.VARIANTS, 'released', SMALL_ZSSR)
  for model in (load(adaptive(tmp_path)), load('zssr', scale=2)):
    with pytest.raises(UserError, match='would turn the image') as error:
      upscale(model, PHOTO, kernel='gaussian:2.0', self_ensemble=True)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('noise', [-1.0, float('nan'), float('inf')])
def test_noise_that_is_none(tmp_path, noise):
  model = load(adaptive(tmp_path))
  with pytest.raises(UserError, match='noise must be 0 or more'):
    Upscaler(model, kernel='gaussian:2.0', noise_sigma=noise)


def test_no_memory_for_a_fit_or_at_a_scale_that_is_not_whole(tmp_path):
  def exhausted(*unused):
    raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory')

  upscaler = Upscaler(load(adaptive(tmp_path)), kernel='gaussian:2.0')
  upscaler.fitting = upscaler.fitting._replace(fit=exhausted)
  with pytest.raises(UserError, match='fits itself to 2 images at once'):
    upscaler.fit([PHOTO, PHOTO])
  model = dataclasses.replace(tiny(), scale=2.5, halo=None, predict=exhausted)
  with pytest.raises(UserError, match='choose a whole scale'):
    upscale(model, PHOTO)

"""Models that adapt to the images that they enlarge."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.data

from sr_jax import checkpoints, models
from sr_jax.errors import UserError
from sr_jax.inference import loading
from sr_jax.inference.automatic import upscale
from sr_jax.inference.loading import load
from sr_jax.inference.options import UpscaleOptions
from sr_jax.inference.upscaler import Upscaler
from sr_jax.models import zssr
from sr_jax.models.parts import common
from sr_jax.ops.blur_kernels import gaussian_kernel
from sr_jax.ops.color import rgb_to_y
from sr_jax.ops.degrade import degrade
from sr_jax.ops.resize import imresize
from tests.tiny_models import counting, random_image, tiny

PHOTO = skimage.data.astronaut()[:80, 180:290]
SMALL_ZSSR = common.Variant({'depth': 2, 'features': 4}, {})


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
  bare = Upscaler(model, UpscaleOptions(adapt_steps=0, mirror_border=False))(
    image
  )
  whole = model.predict(model.params, np.float32(image / 255)[None])[0]
  np.testing.assert_allclose(bare, whole, atol=1e-6)
  # The checkpoint's own number of steps.
  np.testing.assert_array_equal(results[None], results[2])
  assert np.abs(results[2] - results[1]).max() > 1e-4
  assert np.abs(results[1] - plain).max() > 1e-4


def test_fit_without_a_kernel_estimates_it(tmp_path, caplog):
  """What was assumed is said once, with how to override it."""
  model = load(adaptive(tmp_path))
  sr = upscale(model, PHOTO, adapt_steps=2)
  (line,) = caplog.messages
  assert 'gaussian:' in line
  assert 'override it by kernel=SPEC' in line
  np.testing.assert_array_equal(
    sr, upscale(model, PHOTO, adapt_steps=2, kernel='auto')
  )
  with pytest.raises(UserError, match='too few to estimate a blur') as error:
    upscale(model, PHOTO[:30, :30], adapt_steps=2)
  assert '\n' not in str(error.value)


def test_auto_ends_by_itself(tmp_path):
  model = load(adaptive(tmp_path))
  upscaler = Upscaler(
    model, UpscaleOptions(kernel='gaussian:2.0', adapt_steps='auto')
  )
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
    with pytest.raises(UserError, match='does not adapt'):
      upscale(tiny(), PHOTO, adapt_steps=steps)
  np.testing.assert_array_equal(
    upscale(tiny(), PHOTO, adapt_steps=0), upscale(tiny(), PHOTO)
  )


@pytest.mark.nightly
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
  """Converts an RGB result to the expected grey one: luma in [0, 1]."""
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
  """Without an option the degradation is that of the weights' training."""
  config = adaptive_config() | {'degradation': {'name': degradation}}
  params = {'generator': adaptive_params()}
  model = loading.from_params(config, params, name='a')
  lr = imresize(PHOTO[:40, :40] / 255, scale=0.5).clip(0, 1)
  taps = gaussian_kernel(2.0)
  residuals = []
  for times in (0, 8):
    sr = upscale(model, lr, kernel='gaussian:2.0', back_project=times)
    made = degrade(None, sr, scale=2, degradation=degradation, kernel=taps)
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
    sr = Upscaler(model, UpscaleOptions(kernel=kernel, back_project=times))(lr)
    assert sr.shape == (*(int(np.ceil(n * scale)) for n in (24, 26)), 3)
    made = degrade(
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
  """The network mirrors the border, so that padding must continue it."""
  model, traced = counting(load(adaptive(tmp_path)))
  sizes = [(9 + i, 31 - 2 * i) for i in range(11)]
  upscaler = Upscaler(
    model, UpscaleOptions(adapt_steps=0, self_ensemble=True), sizes=sizes
  )
  worst = 0.0
  for size in sizes:
    image = random_image(*size)
    sr = upscaler(image)
    alone = Upscaler(model, UpscaleOptions(adapt_steps=0, self_ensemble=True))
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
    with pytest.raises(UserError, match='would rotate the image') as error:
      upscale(model, PHOTO, kernel='gaussian:2.0', self_ensemble=True)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('noise', [-1.0, float('nan'), float('inf')])
def test_noise_that_is_none(tmp_path, noise):
  model = load(adaptive(tmp_path))
  with pytest.raises(UserError, match='noise must be 0 or more'):
    Upscaler(model, UpscaleOptions(kernel='gaussian:2.0', noise_sigma=noise))


def test_no_memory_for_a_fit_or_at_a_scale_that_is_not_whole(tmp_path):
  def exhausted(*unused):
    raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory')

  upscaler = Upscaler(
    load(adaptive(tmp_path)), UpscaleOptions(kernel='gaussian:2.0')
  )
  upscaler.fitting = upscaler.fitting._replace(fit=exhausted)
  with pytest.raises(UserError, match='adapts to 2 images at once'):
    upscaler.fit([PHOTO, PHOTO])
  model = dataclasses.replace(tiny(), scale=2.5, halo=None, predict=exhausted)
  with pytest.raises(UserError, match='choose a whole scale'):
    upscale(model, PHOTO)

"""Networks trained on the image that they enlarge: ZSSR's way."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax import models
from sr_jax.errors import UserError
from sr_jax.methods import Assumed, zero_shot
from sr_jax.methods._gradient_fit import _gradient_program, gradient_fitting
from sr_jax.ops.blur_kernels import gaussian_kernel
from sr_jax.ops.degrade import degrade, lr_offset, sample_indices
from sr_jax.ops.resize import imresize, resized_size
from tests.methods.fit_images import (
  KERNEL,
  fit_alone,
  meta_config,
  meta_weights,
  off_centre,
  smooth,
)
from tests.tiny_models import random_image


def config(*, scale=2, gradual=False, channels='together', depth=2, features=4):
  return {
    'model': {
      'name': 'zssr',
      'scale': scale,
      'depth': depth,
      'features': features,
    },
    'method': {
      'name': 'zero_shot',
      'gradual': gradual,
      'channels': channels,
    },
  }


def recipe_of(monkeypatch, *arguments):
  """The recipe by which `fitting` trains, without training."""
  made = []

  def program(model, recipe):
    made.append((dict(model), recipe))
    return lambda *unused: None

  monkeypatch.setattr(zero_shot, '_training_program', program)
  fitting = zero_shot.fitting(*arguments)
  return fitting, *made[0]


def test_without_a_kernel_all_turns_are_used(monkeypatch):
  fitting, model, recipe = recipe_of(monkeypatch, config(), Assumed(), None)
  assert fitting.degradation == recipe.degradation == 'bicubic'
  assert recipe.augmentation.turn
  assert fitting.ensemble
  assert fitting.back_project == 10
  assert fitting.kernel is None
  assert 'offset' not in model
  assert recipe.policy.max_steps == 3000
  assert recipe.scales == ()


@pytest.mark.parametrize('degradation', [None, 'direct', 'blur-bicubic'])
@pytest.mark.parametrize('scale', [2, 3, 2.4])
def test_a_kernel_turns_nothing_and_sets_the_offset(
  monkeypatch, degradation, scale
):
  kernel = off_centre()
  assumed = Assumed(degradation, kernel, 3.0)
  fitting, _, recipe = recipe_of(
    monkeypatch, config(scale=scale), assumed, 'auto'
  )
  assert recipe.degradation == fitting.degradation
  assert recipe.degradation == (degradation or 'direct')
  assert not recipe.augmentation.turn
  assert recipe.noise_sigma == 3.0
  assert recipe.policy.max_steps == 3000
  assert not fitting.ensemble
  assert fitting.back_project == 2
  assert (fitting.halo is None) == (scale == 2.4)
  # A network that corrects nothing shows where the image is laid.
  lr = random_image(9, 7)
  network = models.create(config(scale=scale)['model'])
  zeros = jax.tree.map(
    jnp.zeros_like, network.init(jax.random.key(0), lr[None])['params']
  )
  sr = fitting.predict({'generator': zeros}, jnp.asarray(lr)[None])[0]
  offset = lr_offset(scale, degradation or 'direct', kernel)
  expected = imresize(lr, scale=scale, offset=offset).clip(0, 1)
  np.testing.assert_allclose(sr, expected, atol=1e-5)
  assert abs(imresize(lr, scale=scale).clip(0, 1) - sr).max() > 0.05


def test_another_kernel_needs_no_other_program():
  """Kernels of one size are arguments, even if rounding moves their centre."""
  kernels = [gaussian_kernel(*k) for k in ((1.0,), (2.0,), (3.0, 0.7, 0.3))]
  fits = [
    zero_shot.fitting(config(), Assumed(None, kernel), 1) for kernel in kernels
  ]
  for fit in fits[1:]:
    assert fit.predict is fits[0].predict
    assert fit.fit.func is fits[0].fit.func
  off = zero_shot.fitting(config(), Assumed(None, off_centre()), 1)
  assert off.predict is not fits[0].predict


@pytest.mark.parametrize(
  ('scale', 'stages'), [(1.5, 0), (1.6, 1), (2, 1), (3, 2), (4, 3)]
)
def test_gradual_scales_grow_by_equal_ratios(monkeypatch, scale, stages):
  gradual = config(scale=scale, gradual=True)
  _, _, recipe = recipe_of(monkeypatch, gradual, Assumed(), 5)
  assert len(recipe.scales) == stages
  ratios = np.diff(np.log([1, *recipe.scales, scale]))
  np.testing.assert_allclose(ratios, ratios[0])
  assert ratios[0] <= np.log(1.5) + 1e-9
  assert recipe.policy.max_steps == 5


@pytest.mark.parametrize(
  ('gradual', 'assumed', 'reason'),
  [
    (False, Assumed('direct'), "'direct' needs a kernel"),
    (False, Assumed('bicubic', KERNEL), "'bicubic' takes no kernel"),
    (True, Assumed(None, KERNEL), 'gradual ZSSR needs a kernel for every'),
  ],
)
def test_fitting_refuses_what_does_not_suit(gradual, assumed, reason):
  with pytest.raises(UserError, match=reason) as error:
    zero_shot.fitting(config(gradual=gradual), assumed, None)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('key', ['gradual', 'channels'])
def test_a_missing_key_is_one_line(key):
  """It was a KeyError."""
  lacking = config()
  del lacking['method'][key]
  with pytest.raises(UserError) as error:
    zero_shot.fitting(lacking, Assumed(), None)
  assert str(error.value).startswith(f'config.method.{key} is missing: give')


# name -> size, channels, config, assumption
CASES = {
  'one pixel': ((1, 1), 3, config(), Assumed()),
  'strip, kernel larger than it': (
    (1, 7), 1, config(scale=3), Assumed(None, gaussian_kernel(2.0)),
  ),
  'even kernel, five channels': (
    (9, 7),
    5,
    config(scale=4),
    Assumed('blur-bicubic', gaussian_kernel(1.0, size=4)),
  ),
  'off-centre kernel, scale not whole': (
    (13, 11), 3, config(scale=2.6), Assumed(None, off_centre()),
  ),
  'gradual, noise': (
    (8, 10), 1, config(gradual=True), Assumed(None, None, 5.0),
  ),
  'receptive field larger than the image': (
    (5, 5), 3, config(depth=6), Assumed(),
  ),
  'one network for each of many channels': (
    (9, 8), 11, config(channels='shared'), Assumed(),
  ),
  'the same in two scales': (
    (9, 8), 2, config(channels='shared', gradual=True), Assumed(),
  ),
  'a network for each channel': (
    (7, 9), 3, config(channels='each'), Assumed(None, KERNEL),
  ),
}  # fmt: skip


@pytest.mark.parametrize('name', CASES)
@pytest.mark.nightly
def test_any_image_is_fitted(name):
  size, channels, settings, assumed = CASES[name]
  fitting = zero_shot.fitting(settings, assumed, 3)
  images = np.stack([smooth(*size, channels, seed=i) for i in (0, 1)])
  keys = jax.random.split(jax.random.key(0), 2)
  params, report = fitting.fit({}, images, keys)
  stages = 2 if settings['method']['gradual'] else 1
  assert report['steps'].tolist() == [3 * stages] * 2
  scale = settings['model']['scale']
  predict = jax.jit(fitting.predict)
  for i, image in enumerate(images):
    own = jax.tree.map(lambda leaf, i=i: leaf[i], params)
    sr = np.asarray(predict(own, image[None])[0])
    sizes = (resized_size(n, scale) for n in size)
    assert sr.shape == (*sizes, channels)
    assert np.isfinite(sr).all()
    assert sr.min() >= 0
    assert sr.max() <= 1
  # Each image has weights of its own.
  leaf = jax.tree.leaves(params)[0]
  assert abs(leaf[0] - leaf[1]).max() > 0


@pytest.mark.nightly
def test_shared_weights_restore_every_channel_alone():
  """One network with one channel, trained on all channels."""
  image = smooth(32, 32, 9)
  shared = zero_shot.fitting(
    config(channels='shared', depth=3, features=16), Assumed(), 300
  )
  assert not shared.ensemble
  params, _ = fit_alone(shared, {}, image)
  assert params['generator']['conv1']['kernel'].shape == (3, 3, 1, 16)
  lr = imresize(image, scale=1 / 2).astype(np.float32)[None]
  restored = np.asarray(shared.predict(params, lr))
  for c in (0, 8):
    alone = shared.predict(params, lr[..., c : c + 1])
    np.testing.assert_allclose(restored[..., c], alone[..., 0], atol=1e-6)
  enlarged = imresize(lr, scale=2)
  before, after = (np.abs(x - image).mean() for x in (enlarged, restored))
  assert after < 0.8 * before


@pytest.mark.nightly
def test_each_channel_may_have_weights_of_its_own():
  image = smooth(12, 10, 3)
  each = zero_shot.fitting(config(channels='each'), Assumed(), 5)
  params, steps = fit_alone(each, {}, image)
  assert steps == 5
  (kernel,) = (params['generator']['conv1']['kernel'],)
  assert kernel.shape == (3, 3, 3, 1, 4)
  changed = image.copy()
  changed[..., 2] = 1 - changed[..., 2]
  others, _ = fit_alone(each, {}, changed)
  other = others['generator']['conv1']['kernel']
  np.testing.assert_array_equal(kernel[:2], other[:2])
  assert abs(kernel[2] - other[2]).max() > 0
  sr = each.predict(params, jnp.asarray(image)[None])
  first = jax.tree.map(lambda leaf: leaf[:1], params)
  alone = each.predict(first, jnp.asarray(image)[None, ..., :1])
  np.testing.assert_allclose(sr[..., :1], alone, atol=1e-6)


def test_many_channels_in_one_network_give_a_warning(caplog):
  fitting = zero_shot.fitting(config(), Assumed(), 1)
  fit_alone(fitting, {}, smooth(8, 8, 5))
  assert 'one network for 5 channels at once' in caplog.text


def test_an_empty_image_ends_as_early_as_the_policy_allows():
  fitting = zero_shot.fitting(config(), Assumed(), None)
  _, steps = fit_alone(fitting, {}, np.zeros((8, 8, 1), np.float32))
  assert steps == 900


@pytest.mark.nightly
def test_training_restores_the_image_from_its_son():
  """The result is better than the initial enlargement, and repeatable."""
  settings = config(depth=3, features=8)
  network = models.create(settings['model'])
  image = smooth(24, 20)
  fitting = zero_shot.fitting(settings, Assumed(), 250)
  params, steps = fit_alone(fitting, {}, image)
  assert steps == 250
  son = zero_shot.make_son(
    network,
    jnp.asarray(image)[None],
    jax.random.key(0),
    degradation='bicubic',
    kernel=None,
    noise_sigma=0.0,
  )
  refined = network.apply({'params': params['generator']}, son, method='refine')
  before, after = (float(jnp.abs(x[0] - image).mean()) for x in (son, refined))
  assert after < 0.8 * before
  again, _ = fit_alone(fitting, {}, image)
  jax.tree.map(np.testing.assert_array_equal, params, again)
  other, _ = fit_alone(fitting, {}, image, seed=1)
  assert abs(jax.tree.leaves(params)[0] - jax.tree.leaves(other)[0]).max() > 0


@pytest.mark.nightly
def test_images_together_as_on_other_devices(monkeypatch):
  """Other devices fit a batch in one program, CPUs one image at a time."""
  images = np.stack([smooth(10, 8, 1, seed=i) for i in range(2)])
  keys = jax.random.split(jax.random.key(0), 2)
  kernel = np.asarray(KERNEL, np.float32)
  weights = {'generator': meta_weights()}
  rgb = images.repeat(3, -1)
  found = []
  for backend in ('cpu', 'gpu'):
    monkeypatch.setattr(jax, 'default_backend', lambda b=backend: b)
    zero_shot._training_program.cache_clear()
    _gradient_program.cache_clear()
    made = [
      zero_shot.fitting(config(), Assumed(), 3).fit({}, images, keys),
      gradient_fitting(meta_config(), Assumed(None, kernel), 'auto').fit(
        weights, rgb, keys
      ),
    ]
    found.append(made)
  zero_shot._training_program.cache_clear()
  _gradient_program.cache_clear()
  for one, other in zip(*map(jax.tree.leaves, found), strict=True):
    np.testing.assert_allclose(one, other, atol=1e-5)


def centroid(image):
  y, x = np.mgrid[: image.shape[0], : image.shape[1]]
  weights = np.asarray(image, np.float64)[..., 0]
  weights = weights / weights.sum()
  return np.array([(weights * y).sum(), (weights * x).sum()])


@pytest.mark.parametrize('scale', [2, 3, 2.2, 2.37, 2.6])
def test_sons_lie_where_their_fathers_do(scale):
  """Up to the rounding of direct sampling to whole pixels."""
  kernel = off_centre()
  made = {'degradation': 'direct', 'kernel': kernel}
  model = config(scale=scale)['model']
  offset = lr_offset(scale, 'direct', kernel)
  network = models.create({**model, 'offset': offset})
  for place in (30, 64, 80):
    y, x = np.mgrid[:128, :130] - place
    father = np.exp(-(y**2 + x**2) / (2 * 5**2))[..., None]
    father = zero_shot.whole_sons(father.astype(np.float32), scale)
    assert min(father.shape[:2]) > 128 - 16 * scale
    son = zero_shot.make_son(
      network,
      jnp.asarray(father)[None],
      jax.random.key(0),
      noise_sigma=0.0,
      **made,
    )
    assert son.shape[1:] == father.shape
    # Row i is laid at s * i, and was taken at the whole pixel next to it.
    lr = degrade(None, father, scale=scale, **made)[..., 0]
    taken_at = []
    for axis, size in enumerate(father.shape[:2]):
      taken = sample_indices(size, scale)
      assert abs(scale * np.arange(len(taken)) - taken).max() < 0.5 + 0.1
      weights = lr.sum(1 - axis)
      taken_at.append((weights * taken).sum() / weights.sum() + offset[axis])
    whole = scale == int(scale)
    np.testing.assert_allclose(
      centroid(son[0]), taken_at, atol=1e-2 if whole else 0.1
    )
    if whole:
      np.testing.assert_allclose(centroid(father), taken_at, atol=1e-2)


@pytest.mark.parametrize('scale', [2, 3, 4, 2.6, 1.5])
def test_whole_sons_leave_out_little(scale):
  for size in range(1, 40):
    kept, _, _ = zero_shot.whole_sons(np.zeros((size, 1, 1)), scale).shape
    assert 1 <= kept <= size
    if scale == int(scale):
      assert kept == max(size - size % scale, min(size, scale))
    else:
      assert kept > 3 / 4 * (size - scale) - scale

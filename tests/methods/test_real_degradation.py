"""Every method trains on the degradation `real`, drawn in its step."""

import functools

import jax
import numpy as np
import pytest

from configs import common, mzsr
from sr_jax import experiment, methods
from sr_jax.data.degradation import Degradation
from sr_jax.errors import UserError
from sr_jax.evaluation.benchmark import evaluate_folder
from sr_jax.methods import meta_transfer, supervised
from tests.methods.test_contract import CONFIGS

TRAINED = (
  *('supervised', 'meta_transfer'),
  *(
    pytest.param(name, marks=pytest.mark.nightly)
    for name in ('gan', 'dual_regression', 'reference', 'ranking', 'warping')
  ),
)


@functools.cache
def _plain(name):
  config = CONFIGS[name]()
  config.degradation.name = 'real'
  config.degradation.real.preset = 'camera-mild'
  config.degradation.kernel = 'bicubic'
  return experiment.complete(experiment.to_plain(config))


@pytest.mark.parametrize('name', TRAINED)
def test_a_step_of_every_method_draws_it(name):
  """The step is traced: shapes, and that a key is there for the draws."""
  config = _plain(name)
  method, scale = methods.make(config), config['model']['scale']
  margin = method.margin(scale)
  side = round((config['data']['patch'] + 2 * margin) * scale)
  shape = (config['data']['batch_size'], side, side, 3)
  batch = {'hr': jax.ShapeDtypeStruct(shape, np.uint8)}
  if name in ('reference', 'warping'):
    side = config['data']['patch'] * scale  # references have no margin
    shape = (shape[0], side, side, 3)
    batch['ref'] = jax.ShapeDtypeStruct(shape, np.uint8)
  init = functools.partial(method.init, scale=scale)
  frozen = jax.eval_shape(method.frozen)
  state = jax.eval_shape(init, jax.random.key(0), batch, frozen)
  step = functools.partial(method.train_step, scale=scale)
  after, metrics = jax.eval_shape(step, state, batch)
  assert jax.tree.structure(after) == jax.tree.structure(state)
  assert 'loss' in metrics or 'generator_loss' in metrics


def test_the_margin_is_removed():
  """A margin of LR pixels that are a whole number of HR pixels."""
  degrader = supervised.Degrader(Degradation('real'), wide=True)
  assert degrader.margin(2) == 4
  assert Degradation('real').margin(2.5) == 4
  assert Degradation('real').margin(7 / 3) == 6


@pytest.mark.nightly
def test_images_of_a_task_share_their_operations():
  """Without noise equal images of a task stay equal; tasks differ."""
  config = mzsr.get_config('smoke')
  config.degradation.name, config.degradation.kernel = 'real', 'bicubic'
  quiet = {'gaussian': (0, 1, 1), 'poisson': (0, 1, 1)}
  for name in ('first', 'second'):
    config.degradation.real[name].update(quiet)
  plain = experiment.complete(experiment.to_plain(config))
  tasks, _, _ = meta_transfer._sections(plain)
  hr = np.random.default_rng(0).random((1, 16, 16, 3), np.float32)
  draw = jax.jit(lambda key, hr: meta_transfer.draw_task(key, hr, tasks))
  both = np.concatenate([hr, hr])
  one, two = (np.asarray(draw(jax.random.key(k), both)) for k in (1, 2))
  assert one.shape == both.shape
  np.testing.assert_allclose(one[0], one[1], atol=1e-5)
  assert np.abs(one - two).max() > 1e-2


def test_the_curriculum_refuses_it():
  config = _plain('supervised')
  config = {**config, 'method': {**config['method'], 'outputs': 'curriculum'}}
  with pytest.raises(UserError, match=r'curriculum.*one blur for all images'):
    methods.make(config)


def test_ranges_without_their_degradation_are_refused():
  """A preset without name='real' would have no effect."""
  config = common.base()
  config.degradation.real.preset = 'bsrgan'
  section = experiment.to_plain(config)['degradation']
  with pytest.raises(UserError, match="name='real' uses it"):
    Degradation.from_config(section)


def test_a_preset_is_chosen_by_one_key():
  config = common.base()
  config.degradation.name = 'real'
  config.degradation.real.preset = 'bsrgan'
  made = Degradation.from_config(experiment.to_plain(config)['degradation'])
  assert str(made) == 'real, preset bsrgan, seed 0'


def test_crops_and_folders_are_evaluated_on_it(tmp_path):
  """An evaluation degrades each file by its own draw, always the same."""
  from sr_jax.data.image_io import Picture, write_image
  from sr_jax.inference import loading

  photos = np.random.default_rng(0).random((2, 24, 24, 3))
  for i, photo in enumerate(photos):
    write_image(tmp_path / f'{i}.png', Picture(photo))
  made = Degradation('real', real={'preset': 'camera-mild'}, seed=2)
  model = loading.load('bicubic', scale=2)
  one, again, other = (
    evaluate_folder(model, hr_dir=tmp_path, degradation=d)
    for d in (made, made, Degradation('real', real=made.real, seed=3))
  )
  assert one['mean'] == again['mean']
  assert one['mean'] != other['mean']
  assert one['real'] == {'preset': 'camera-mild'}

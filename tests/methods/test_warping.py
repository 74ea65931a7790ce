"""Training with references that are warped: inputs, slots and refusals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax import checkpoints, experiment, methods, models, train_loop
from sr_jax.cli.main import main
from sr_jax.errors import UserError
from sr_jax.inference import loading
from sr_jax.inference.options import UpscaleOptions
from sr_jax.inference.upscaler import Upscaler
from sr_jax.methods import supervised, warping
from sr_jax.ops.compilation import jit
from tests import tiny, tiny_models

MODEL = {
  'name': 'crossnet',
  'variant': 'crossnet',
  'scale': 4,
  'features': 4,
}
BICUBIC = {'name': 'bicubic', 'variant': ''}
EDSR = {'name': 'edsr', 'variant': 'small', 'blocks': 1, 'features': 4}


def _config(sisr=BICUBIC, sisr_from='', **sections):
  config = tiny.config(**sections)
  with config.unlocked():
    config.method = {
      'name': 'warping',
      'warp_weight': 0.0,
      'sisr': sisr,
      'sisr_from': sisr_from,
    }
    config.model = MODEL
  return config


def _make(**options):
  config = experiment.to_plain(_config(**options))
  return methods.make(config)


@pytest.fixture(scope='module')
def edsr(tmp_path_factory):
  """A checkpoint of a small network that enlarges by 4."""
  path = tmp_path_factory.mktemp('edsr') / 'x4'
  config = tiny_models.tiny_config(scale=4)
  network = models.create(config['model'])
  params = jit(network.init)(jax.random.key(3), jnp.ones((1, 8, 8, 3)))
  checkpoints.save_params(path, {'generator': params['params']}, config)
  return path


@pytest.mark.nightly
def test_a_step_does_not_change_the_enlarging_network(edsr):
  sgd = {'name': 'sgd', 'learning_rate': 1.0, 'ema_decay': 0.0}
  method = _make(sisr=EDSR, sisr_from=str(edsr), optimizer=sgd)
  rng = np.random.default_rng(0)
  batch = {
    k: rng.integers(0, 256, (1, 64, 64, 3), np.uint8) for k in ('hr', 'ref')
  }
  init = functools.partial(method.init, scale=4)
  state = jit(init)(jax.random.key(0), batch, method.frozen())
  step = jit(functools.partial(method.train_step, scale=4))
  after, metrics = step(state, batch)
  _, other = step(state, batch | {'ref': 255 - batch['ref']})
  assert metrics['loss'] != other['loss']
  # What enlarges LR is part of what is seen.
  darker = jax.tree.map(lambda x: 0 * x, state.frozen)
  _, third = step(state.replace(frozen=darker), batch)
  assert metrics['loss'] != third['loss']
  moved = jax.tree.map(
    lambda a, b: bool((a != b).any()), state.params, after.params
  )
  assert all(jax.tree.leaves(moved)), moved
  same = jax.tree.map(
    lambda a, b: bool((a == b).all()), state.frozen, after.frozen
  )
  assert same['sisr']
  assert all(jax.tree.leaves(same))
  assert set(method.averaged(after)) == {'generator', 'sisr'}


@pytest.mark.nightly
def test_the_train_loop_and_its_checkpoint(tmp_path):
  config = _config(
    data={'patch': 8, 'batch_size': 8, 'reference': 'shifted'},
    eval={'reference': 'shifted'},
  )
  config.steps = config.eval.every = config.checkpoint.every = 1
  train_loop.train_and_evaluate(config, tmp_path)
  model = loading.load(tmp_path)
  assert model.halo is None
  lr = tiny_models.random_image(4, 5)[None]
  predict, similarity = (
    jit(function) for function in (model.predict, model.referring.similarity)
  )
  alone = predict(model.params, lr)
  assert alone.shape == (1, 16, 20, 3)
  reference = tiny_models.random_image(17, 18)[None]  # mirrored and cut
  held = model.referring.look(model.params, [reference])
  assert (predict(held, lr) != alone).any()
  found = similarity(held, lr)
  assert found.shape == (1, 4, 5)
  assert ((found >= 0) & (found < 1)).all()
  itself = model.referring.itself(model.params, lr)
  assert (similarity(itself, lr) == 1).all()
  with pytest.raises(UserError, match=r'self-ensemble.*leave it out'):
    Upscaler(model, UpscaleOptions(self_ensemble=True))


def test_the_loss_of_warped_references():
  hr = jnp.asarray(tiny_models.random_image(18, 21))[None]
  moved = jnp.roll(hr, 2, 2)  # each pixel lies two columns further right
  loss = functools.partial(
    warping._loss, lambda a, b: jnp.abs(a - b)[:, 2:-2, 4:-4].mean()
  )
  right, wrong = (
    [jnp.broadcast_to(jnp.array([x, 0.0]), (1, 18, 21, 2))] for x in (2, -2)
  )
  assert loss(1.0, hr, hr, moved, right) == 0
  assert loss(1.0, hr, hr, moved, wrong) > 0.1
  assert loss(0.0, hr, hr, moved, wrong) == 0
  assert loss(1.0, hr, hr, None, wrong) == 0
  halved = [*right, jnp.zeros((1, 9, 11, 2))]
  assert loss(1.0, hr, hr, moved, halved) > 0.01
  config = experiment.to_plain(_config())
  config['method']['warp_weight'] = -1.0
  with pytest.raises(UserError, match=r'warp_weight=-1: give a number from 0'):
    warping.make(config)


def test_references_of_other_sizes_or_several_are_refused():
  lr = jnp.zeros((1, 8, 8, 3))
  with pytest.raises(UserError, match='reference has 28x32 pixels, but SR 32'):
    warping._fitted(jnp.zeros((1, 32, 28, 3)), lr, 4)
  with pytest.raises(UserError, match='one reference, not 2'):
    warping.look({}, [lr, lr])


def test_a_reference_that_is_less_than_an_lr_pixel_off_is_fitted():
  image = jnp.asarray(tiny_models.random_image(35, 29))[None]
  fitted = warping._fitted(image, jnp.zeros((2, 8, 8, 3)), 4)
  mirrored = jnp.concatenate([image, image[:, :, :-4:-1]], 2)[:, :32]
  np.testing.assert_array_equal(fitted, mirrored.repeat(2, 0))


def test_correlation():
  image = jnp.asarray(tiny_models.random_image(12, 13))[None]
  same, darker, inverted = (
    warping._correlation(image, other)
    for other in (image, 0.5 * image + 0.1, 1 - image)
  )
  np.testing.assert_allclose(same, 1, atol=1e-4)
  np.testing.assert_allclose(darker, 1, atol=1e-2)
  assert (inverted < 1e-2).all()


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'sisr': EDSR}, 'sisr_from: give the checkpoint'),
    ({'sisr_from': 'x'}, 'sisr_from: bicubic has no weights'),
    ({'sisr': {'name': 'edsrr'}}, "method.sisr: unknown model 'edsrr'"),
    ({'data': {'reference_size': 32}}, 'data.reference_size'),
  ],
)
def test_sections_that_cannot_be(options, message):
  with pytest.raises(UserError, match=message):
    _make(**options).frozen()


def test_a_checkpoint_of_another_network_is_refused(edsr):
  wider = {**EDSR, 'features': 8}
  with pytest.raises(UserError, match='of another network than'):
    _make(sisr=wider, sisr_from=str(edsr)).frozen()


@pytest.mark.nightly
def test_an_import_warps_onto_the_result_of_a_model(edsr, tmp_path, capsys):
  network = models.create(MODEL)
  params = jit(network.init)(jax.random.key(1), jnp.ones((1, 8, 8, 3)))
  ours, file = tmp_path / 'ours', str(tmp_path / 'crossnet.safetensors')
  config = {'method': {'name': 'warping', 'sisr': BICUBIC}, 'model': MODEL}
  checkpoints.save_params(ours, {'generator': params['params']}, config)
  assert main(['export', str(ours), '--to', 'safetensors', '-o', file]) == 0
  base = ['import', file, '--model', 'crossnet', '--scale', '4']
  for name, more in (('plain', []), ('on', ['--sisr', str(edsr)])):
    assert main([*base, *more, '-o', str(tmp_path / name)]) == 0
  assert f'on what {edsr} enlarges' in capsys.readouterr().out
  lr = np.random.default_rng(0).random((16, 16, 3), np.float32)
  by_hand = models.create({**EDSR, 'scale': 4})
  slots = checkpoints.load_params(edsr).params
  enlarged = supervised.predict(by_hand, slots, jnp.asarray(lr)[None])
  sr, _ = network.apply(params, jnp.asarray(lr)[None], None, enlarged)
  found = Upscaler(loading.load(tmp_path / 'on'))(lr)
  assert np.abs(found - np.clip(sr[0], 0, 1)).max() < 1e-4
  plain = Upscaler(loading.load(tmp_path / 'plain'))(lr)
  assert np.abs(found - plain).max() > 1e-3
  for wrong, reason in (
    (['--sisr', str(ours)], 'of a network that enlarges by itself'),
    (['--sisr', 'edsr-small-x2'], 'scale'),
  ):
    assert main([*base, *wrong, '-o', str(tmp_path / 'no')]) == 2
    assert reason in capsys.readouterr().err
  assert not (tmp_path / 'no').exists()

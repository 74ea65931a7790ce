"""Both trainings of IKC, and inference with a known or an estimated kernel."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import ikc, ikc_sftmd
from sr_jax import experiment, methods
from sr_jax.data.degradation import Degradation
from sr_jax.errors import UserError
from sr_jax.inference.loading import from_params
from sr_jax.inference.options import UpscaleOptions
from sr_jax.inference.upscaler import Upscaler
from sr_jax.methods import _kernel_codes, kernel_correction
from sr_jax.methods._kernel_codes import Blurs
from sr_jax.ops.blur_kernels import gaussian_kernel
from sr_jax.ops.degrade import correlate, degrade
from sr_jax.ops.kernel_codes import encode
from sr_jax.state import TrainState
from tests.methods import ikc_files
from tests.nightly import first_by_default
from tests.tiny_models import waves

SMALL = {'blocks': 1, 'features': 4, 'condition': 4, 'codes': 3}


def small(module, **method):
  """A config with tiny networks."""
  config = module.get_config('smoke')
  with config.unlocked():
    config.model.update(SMALL)
    config.method.update(method)
    if 'predictor_features' in config.method:
      config.method.update({'predictor_features': 2, 'corrector_features': 2})
  config.data.update({'batch_size': 2, 'patch': 6})
  return experiment.to_plain(config)


@pytest.mark.nightly
def test_a_step_of_the_released_code(tmp_path):
  """One update of the predictor and seven of the corrector, SFTMD frozen."""
  golden = ikc_files.arrays('train_step')
  model, generator = ikc_files.sftmd(tmp_path, 2)
  config = small(ikc)
  config['model'] = model
  config['optimizer']['b2'] = 0.99
  params = {'generator': generator}
  for slot in ('predictor', 'corrector'):
    letter = slot[0].upper()
    tensors = {
      key.removeprefix(f'sd:{letter}.'): array
      for key, array in golden.items()
      if key.startswith(f'sd:{letter}.')
    }
    path = ikc_files.written(tmp_path / f'{letter}.pth', tensors)
    params[slot], _ = ikc_files.import_companion(path, 'ikc', slot)
  config['method'] |= {'predictor_features': 6, 'corrector_features': 6}
  training = kernel_correction.training_of(config)
  state = TrainState(
    step=jnp.zeros((), jnp.int32),
    key=jax.random.key(0),
    params=params,
    opt_state={
      slot: training.optimizers[slot].tx.init(params[slot])
      for slot in ('predictor', 'corrector')
    },
  )
  lr = golden['in:x'].transpose(0, 2, 3, 1)
  update = jax.jit(functools.partial(kernel_correction.update, training))
  after, metrics = update(state, lr, golden['in:code'])
  near = functools.partial(pytest.approx, rel=1e-4)
  assert metrics['predicted'] == near(golden['out:loss_P'])
  assert metrics['corrected_first'] == near(golden['out:loss_C_0'])
  assert metrics['corrected_last'] == near(golden['out:loss_C_6'])
  losses = [golden[f'out:loss_C_{i}'] for i in range(7)]
  assert metrics['loss'] == near(np.mean(losses))
  np.testing.assert_array_equal(
    after.params['generator']['tail']['kernel'], generator['tail']['kernel']
  )
  for slot in ('predictor', 'corrector'):
    letter = slot[0].upper()
    tensors = {
      key.removeprefix(f'out:after:{letter}.'): array
      for key, array in golden.items()
      if key.startswith(f'out:after:{letter}.')
    }
    path = ikc_files.written(tmp_path / f'after{letter}.pth', tensors)
    expected, _ = ikc_files.import_companion(path, 'ikc', slot)
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6),
      after.params[slot],
      expected,
    )


@pytest.mark.nightly
def test_seven_corrections_of_the_released_code(tmp_path):
  golden = ikc_files.arrays('loop_x4_formula')
  config, params = ikc_files.released(tmp_path)
  network = _kernel_codes.network_of(config)
  lr = golden['in:x'].transpose(0, 2, 3, 1)

  enlarge = jax.jit(functools.partial(_kernel_codes.enlarge, network))
  correct = jax.jit(functools.partial(kernel_correction.corrected, network))
  codes = [jax.jit(kernel_correction.predicted)(params, lr)]
  for _ in range(7):
    codes.append(correct(params, lr, codes[-1]))
  near = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=2e-5)
  near(np.concatenate(codes), golden['out:codes'])
  for name, code in (('first', codes[0]), ('last', codes[6])):
    expected = golden[f'out:sr_{name}'].transpose(0, 2, 3, 1)
    np.testing.assert_allclose(enlarge(params, lr, code), expected, atol=1e-5)
  # What images are enlarged with.
  fit = kernel_correction.estimation(network, 3, auto=False)
  found, report = fit(params, lr, None)
  near(found['code'], codes[3])
  assert report['steps'].tolist() == [3]


@pytest.mark.parametrize(
  'degradation', first_by_default(['blur-bicubic', 'direct'])
)
def test_random_blurs_are_those_of_files(degradation):
  """LR of a crop equals a crop of the photograph's LR, made as for files."""
  blurs = Blurs(0.3, 1.7, 9, degradation, 0.0, True)
  margin = blurs.margin(2)
  photo = np.rint(255 * waves(60, 52, period=2)).astype(np.uint8)
  side = 2 * (8 + 2 * margin)
  starts = (6, 2)
  crops = np.stack([photo[s : s + side, s : s + side] for s in starts])
  basis = jnp.asarray(blurs.basis(4))
  key = jax.random.key(5)
  lr, hr, code = jax.jit(lambda key, hr: blurs.draw(key, {'hr': hr}, 2, basis))(
    key, crops
  )
  assert lr.shape == (2, 8, 8, 3)
  assert hr.shape == (2, 16, 16, 3)
  sigma_key, _ = jax.random.split(key)
  sigmas = jax.random.uniform(sigma_key, (2,), minval=0.3, maxval=1.7)
  assert abs(sigmas[0] - sigmas[1]) > 0.05
  for i, (start, sigma) in enumerate(zip(starts, sigmas, strict=True)):
    kernel = gaussian_kernel(float(sigma) ** 2, size=9)
    np.testing.assert_allclose(
      code[i], encode(kernel, np.asarray(basis)), atol=1e-5
    )
    made = Degradation(degradation, 'gaussian:1.0')
    made.__dict__['taps'] = kernel
    whole = made.of_file(photo / 255, '', 2)
    first = start // 2 + margin
    wanted = whole[first : first + 8, first : first + 8]
    # A level may round to its neighbour.
    assert np.abs(lr[i] - wanted).max() <= 1.01 / 255
    assert np.mean(np.abs(lr[i] - wanted) > 0.5 / 255) < 0.02
    inner = slice(start + 2 * margin, start + 2 * margin + 16)
    np.testing.assert_allclose(hr[i], photo[inner, inner] / 255, atol=1e-6)


def fresh(config):
  """Parameters of inference at the start of a training."""
  method = methods.make(config)
  shapes = {'hr': jax.ShapeDtypeStruct((2, 12, 12, 3), np.uint8)}
  init = jax.jit(lambda key: method.init(key, shapes, {}, 2))
  return method.averaged(init(jax.random.key(0)))


@pytest.mark.nightly
def test_a_known_kernel_becomes_a_code():
  config = small(ikc_sftmd)
  params = fresh(config)
  model = from_params(config, params, name='tiny')
  assert model.needs_kernel
  lr = waves(7, 6).astype(np.float32)
  kernel = gaussian_kernel(1.5, size=33)
  with pytest.raises(UserError, match=r'give kernel=SPEC'):
    Upscaler(model)
  upscaler = Upscaler(
    model, UpscaleOptions(kernel=kernel, degradation='blur-bicubic')
  )
  (fitted,) = upscaler.fit([lr])
  basis = np.asarray(params['codes']['basis'], np.float64)
  expected = gaussian_kernel(1.5, size=21).reshape(-1) @ basis
  np.testing.assert_allclose(fitted.params['code'], expected, atol=1e-6)
  network = _kernel_codes.network_of(config)
  sr, _ = network.apply(
    {'params': params['generator']}, lr[None], expected[None]
  )
  plain = Upscaler(
    model,
    UpscaleOptions(
      kernel=kernel, degradation='blur-bicubic', mirror_border=False
    ),
  )
  np.testing.assert_allclose(plain(lr, fitted), sr[0].clip(0, 1), atol=1e-5)
  other = Upscaler(
    model,
    UpscaleOptions(
      kernel='sigma:0.3', degradation='blur-bicubic', mirror_border=False
    ),
  )
  assert np.abs(other(lr) - sr[0].clip(0, 1)).max() > 1e-6
  # A padded image, as where images of many sizes share a program.
  pad = ((0, 0), (0, 3), (0, 2), (0, 0))
  mask = np.pad(np.ones((1, 7, 6, 1), np.float32), pad)
  padded = model.predict(
    fitted.params, np.pad(lr[None], pad, 'symmetric'), mask
  )
  np.testing.assert_allclose(padded[0, :14, :12], sr[0].clip(0, 1), atol=1e-5)
  for options, reason in (
    ({'degradation': 'direct'}, "trained for 'blur-bicubic' images"),
    ({'adapt_steps': 2}, 'takes no gradient steps'),
    ({'iterations': 2}, 'estimates no kernel that it could correct'),
    ({'noise_sigma': 3.0}, 'trained for noise of 0 grey levels'),
  ):
    with pytest.raises(UserError, match=reason):
      Upscaler(model, UpscaleOptions(kernel=kernel, **options))


def test_corrections_stop_when_the_code_hardly_changes(monkeypatch):
  """Without HR: after a change of less than 2 %, at the latest at the end."""
  network = _kernel_codes.network_of(small(ikc))

  def predicted(params, lr):
    return params['start'] * jnp.ones((1, 3))

  def corrected(network, params, lr, code):
    return code + params['share'] * (1 - code)

  monkeypatch.setattr(kernel_correction, 'predicted', predicted)
  monkeypatch.setattr(kernel_correction, 'corrected', corrected)
  lr = np.zeros((1, 4, 4, 3), np.float32)
  kernel_correction.estimation.cache_clear()
  try:
    auto = kernel_correction.estimation(network, 7, auto=True)
    exact = kernel_correction.estimation(network, 7, auto=False)
  finally:
    kernel_correction.estimation.cache_clear()

  def steps(fit, start, share):
    params = {'start': jnp.float32(start), 'share': jnp.float32(share)}
    found, report = fit(params, lr, None)
    return int(report['steps'][0]), float(found['code'][0, 0])

  # Codes 0.5, 0.9, 0.98, 0.996: changes of 44, 8 and 1.6 %.
  assert steps(auto, 0.5, 0.8) == (3, pytest.approx(0.996))
  assert steps(auto, 0.99, 0.8) == (1, pytest.approx(0.998))
  # Codes 0.5, 0.55, 0.595, ...: seven corrections do not reach the end.
  assert steps(auto, 0.5, 0.1) == (7, pytest.approx(1 - 0.5 * 0.9**7))
  assert steps(exact, 0.99, 0.8)[0] == 7


@pytest.mark.parametrize('scale', [2, 3, 4])
def test_lr_of_the_released_code(scale):
  """It mirrors without the edge, rounds down to 8 bit and reduces by PIL.

  Ours mirrors with the edge and rounds once, to the nearest level. Inside the
  image LR is therefore half a level brighter than the released one.
  """
  golden = ikc_files.arrays('degrade')
  images = golden[f'in:hr_x{scale}'].transpose(0, 2, 3, 1)
  blurred = golden[f'out:blur_x{scale}'].transpose(0, 2, 3, 1)
  released = golden[f'out:lr_x{scale}'].transpose(0, 2, 3, 1)
  for i, kernel in enumerate(golden[f'in:k_x{scale}']):
    sides = ((10, 10), (10, 10), (0, 0))
    wide = correlate(np.pad(images[i], sides, 'reflect'), kernel)
    np.testing.assert_allclose(wide[10:-10, 10:-10], blurred[i], atol=2e-6)
    ours = degrade(
      None,
      images[i].astype(np.float64),
      scale=scale,
      degradation='blur-bicubic',
      kernel=kernel,
    )
    border = 10 // scale + 2
    inside = slice(border, -border), slice(border, -border)
    off = 255 * ours[inside] - released[i][inside]
    assert off.size >= 3
    assert abs(off.mean() - 0.5) < 0.35
    assert np.abs(off).max() < 2

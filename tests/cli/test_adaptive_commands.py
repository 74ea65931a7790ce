"""The commands upscale and evaluate with models that adapt to each image."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import texture

from sr_jax import checkpoints, models
from sr_jax.data.image_io import Picture, read_image, write_image
from sr_jax.data.kernel_files import load_kernel
from sr_jax.inference import loading
from sr_jax.inference.automatic import upscale
from sr_jax.models import zssr
from sr_jax.models.parts import common
from sr_jax.ops.blur_kernels import gaussian_kernel

MODEL = {'name': 'mzsr', 'scale': 2, 'depth': 2, 'features': 4}


@pytest.fixture(scope='module')
def adaptive(tmp_path_factory):
  """A checkpoint of a tiny MZSR x2 for direct sampling."""
  network = models.create(MODEL)
  params = network.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))['params']
  adapt = {'steps': 2, 'rates': (0.05, 0.02)}
  config = {
    'method': {'name': 'meta_transfer', 'scales': (2.0,), 'adapt': adapt},
    'model': MODEL,
    'degradation': {'name': 'direct'},
  }
  path = tmp_path_factory.mktemp('adaptive') / 'mzsr-tiny'
  checkpoints.save_params(path, {'generator': params}, config)
  return path


@pytest.fixture
def tiny_zssr(monkeypatch):
  """ZSSR's network of two layers."""
  small = common.Variant({'depth': 2, 'features': 4}, {})
  monkeypatch.setitem(zssr.VARIANTS, 'released', small)


def test_kernel_is_printed_and_saved(run, adaptive, photos, tmp_path):
  out, spec = tmp_path / 'out', 'gaussian:2.0,1.0,0.5'
  command = ('upscale', photos, '--model', adaptive)
  done = run(*command, '-o', out, '--kernel', spec)
  assert done.status == 0, done
  (saved,) = out.glob('kernel_*.npy')
  first, *_ = done.out.splitlines()
  assert first == f'kernel: {spec}, 21x21 taps, direct, saved as {saved}'
  taps = gaussian_kernel(2.0, 1.0, 0.5)
  np.testing.assert_allclose(load_kernel(saved), taps, atol=1e-15)
  assert done.out.count(f'({adaptive}, 2 steps, ') == 2
  # The saved file means the same.
  again = tmp_path / 'again.png'
  done = run(
    *('upscale', photos / 'one.png', '-o', again, '--model', adaptive),
    *('--kernel', saved),
  )
  assert done.status == 0, done
  assert (tmp_path / saved.name).exists()
  one, other = (read_image(p).color for p in (out / 'one_x2.png', again))
  np.testing.assert_array_equal(one, other)


def test_pixels_are_those_of_the_fitted_model(run, adaptive, photos, tmp_path):
  command = ('upscale', photos / 'one.png', '--model', adaptive)
  command += ('--kernel', 'gaussian:2.0', '--adapt-steps')
  lr = read_image(photos / 'one.png').color
  model = loading.load(adaptive)
  written = {}
  for steps in (1, 5):
    file = tmp_path / f'{steps}.png'
    done = run(*command, steps, '-o', file)
    assert f', {steps} step' in done.out
    written[steps] = read_image(file).color
    expected = upscale(model, lr, kernel='gaussian:2.0', adapt_steps=steps)
    np.testing.assert_allclose(written[steps], expected, atol=0.5 / 255 + 1e-5)
  assert np.abs(written[1] - written[5]).max() > 1.5 / 255


def test_no_steps_ask_for_no_blur(run, adaptive, photos, tmp_path):
  command = ('upscale', photos / 'one.png', '-o', tmp_path, '--model', adaptive)
  done = run(*command, '--adapt-steps', 0)
  assert done.status == 0, done
  assert 'kernel:' not in done.out
  assert not list(tmp_path.glob('kernel_*'))


def test_saved_kernels_are_no_images_of_a_later_run(run, adaptive, photos):
  command = ('upscale', photos, '-o', photos, '--model', adaptive)
  first = run(*command, '--kernel', 'gaussian:2.0')
  assert first.out.endswith('2 enlarged\n')
  assert len(list(photos.glob('kernel_*.npy'))) == 1
  second = run(*command, '--kernel', 'gaussian:2.0')
  assert second.out.splitlines()[-1].startswith('0 enlarged, 2 already there')
  assert not list(photos.glob('kernel_*_x2*'))


@pytest.mark.nightly
def test_folder_as_file_by_file(run, adaptive, tiny_zssr, tmp_path):
  """Images of one size are fitted together, with the same results as alone."""
  folder = tmp_path / 'in'
  for i in range(3):
    write_image(folder / f'{i}.png', Picture(texture(12, 14, seed=i)))
  write_image(folder / 'grey.png', Picture(texture(12, 14, 1, seed=7)))
  mzsr = ('--model', adaptive, '--kernel', 'gaussian:2.0', '--noise', 3)
  zssr = ('--model', 'zssr', '--scale', 2, '--adapt-steps', 2, '--seed', 9)
  for name, options in {'mzsr': mzsr, 'zssr': zssr}.items():
    together = tmp_path / name
    done = run('upscale', folder, '-o', together, *options)
    assert done.status == 0, done
    for path in (folder / '1.png', folder / 'grey.png'):
      alone = tmp_path / f'{name}_{path.name}'
      run('upscale', path, '-o', alone, *options)
      one, other = (
        read_image(p).color for p in (alone, together / f'{path.stem}_x2.png')
      )
      # Half-way values may be rounded either way.
      assert np.abs(one - other).max() < 1.01 / 255
      assert (one != other).mean() < 1e-2
    first, second = (read_image(together / f'{i}_x2.png').color for i in (0, 1))
    assert np.abs(first - second).max() > 0.1


@pytest.mark.parametrize(
  ('model', 'scale'),
  [
    ('zssr-shared', '2.5'),
    *(
      pytest.param(*case, marks=pytest.mark.nightly)
      for case in (('zssr', '2'), ('zssr', '2.5'), ('zssr-each', '2'))
    ),
  ],
)
def test_array_of_seven_channels(run, tiny_zssr, tmp_path, model, scale):
  """Each channel keeps its range and zeros; constant channels stay constant."""
  rng = np.random.default_rng(0)
  values = np.zeros((14, 12, 7))
  values[..., 1] = -3.25  # constant
  values[..., 2] = 1e-4 * rng.random((14, 12))
  values[..., 3] = 40 * rng.random((14, 12)) - 90
  values[1:4, 1:3, 4] = 7 * rng.random((3, 2)) + 1  # sparse
  values[2, 10, 5] = -1e3  # sparse, negative
  values[..., 6] = texture(14, 12, 1)[..., 0]
  np.save(tmp_path / 'a.npy', values)
  out = tmp_path / 'out'
  done = run(
    *('upscale', tmp_path / 'a.npy', '-o', out, '--model', model),
    *('--scale', scale, '--adapt-steps', 3),
  )
  assert done.status == 0, done
  assert done.out.startswith('kernel: none, the input is taken for a bicubic')
  assert '3 steps' in done.out
  result = np.load(out / f'a_x{scale}.npy')
  assert result.dtype == np.float64
  sizes = [int(n * float(scale)) for n in (14, 12)]
  assert result.shape == (*sizes, 7)
  low, high = values.min((0, 1)), values.max((0, 1))
  slack = 1e-6 * (high - low)
  assert (result >= low - slack).all()
  assert (result <= high + slack).all()
  assert (result[..., 0] == 0).all()
  assert (result[..., 1] == -3.25).all()
  at = [((np.arange(n) + 0.5) / float(scale)).astype(int) for n in sizes]
  for channel in (4, 5):
    near = np.zeros((14, 12), bool)
    for y, x in np.argwhere(values[..., channel]):
      near[max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3] = True
    # Beyond the reach of cubic interpolation.
    far = ~near[np.ix_(*at)]
    assert far.mean() > 0.4
    assert (result[far, channel] == 0).all()
    assert (result[..., channel] != 0).any()
  spread = result.std((0, 1))[[2, 3, 6]] / values.std((0, 1))[[2, 3, 6]]
  assert (abs(spread - 1) < 0.4).all()


def test_kernel_with_another_sum_and_negative_taps(
  run, adaptive, photos, tmp_path, caplog
):
  kernel = 3 * gaussian_kernel(2.0, size=7)
  kernel[0, 0] = kernel[6, 1] = -0.02
  np.save(tmp_path / 'k.npy', kernel)
  done = run(
    *('upscale', photos / 'one.png', '-o', tmp_path / 'out'),
    *('--model', adaptive, '--kernel', tmp_path / 'k.npy'),
  )
  assert done.status == 0, done
  warnings = '\n'.join(caplog.messages)  # on standard error
  assert 'k.npy: the taps sum to 2.9' in warnings
  assert 'k.npy: 2 taps below zero; kept' in warnings
  (saved,) = (tmp_path / 'out').glob('kernel_*.npy')
  np.testing.assert_allclose(np.load(saved), kernel / kernel.sum())


@pytest.mark.parametrize(
  ('model', 'options', 'words'),
  [
    ('adaptive', ('--kernel', 'gaussian:1;;auto'), ('semicolons is empty',)),
    ('adaptive', ('--kernel', 'auto;auto'), ('auto is given twice',)),
    ('adaptive', ('--kernel', 'auto;gaussian:0'), ('variances',)),
    ('checkpoint', ('--kernel', 'auto'), ('edsr-tiny', 'uses a kernel only')),
    ('bicubic', ('--scale', '2', '--kernel', 'auto'), ('uses a kernel only',)),
    ('zssr-gradual', ('--scale', '2', '--kernel', 'auto'), ('gradual',)),
    ('adaptive', ('--kernel', 'none.npy'), ('none.npy', 'no such kernel')),
    ('adaptive', ('--kernel', 'BROKEN'), ('k.npy', 'damaged header')),
    ('adaptive', ('--kernel', 'gaussian:0'), ('gaussian:0', 'variances')),
    ('adaptive', ('--scale', '3'), ('mzsr-tiny', 'by 2, not by 3')),
    ('adaptive', ('--scale', '2.6'), ('by 2, not by 2.6',)),
    ('adaptive', ('--kernel', 'gaussian:2.0', '--noise', '-1'), ('noise',)),
    ('adaptive', ('--kernel', 'gaussian:2', '--self-ensemble'), ('rotate',)),
    ('checkpoint', ('--adapt-steps', '5'), ('edsr-tiny', '--adapt-steps')),
    ('checkpoint', ('--adapt-steps', 'auto'), ('does not adapt',)),
    ('checkpoint', ('--noise', '5'), ('--noise', 'does not adapt')),
    ('zssr', ('--adapt-steps', '3'), ('zssr needs a scale',)),
    ('zssr', ('--scale', '2', '--adapt-steps', '0'), ('no weights',)),
    ('zssr', ('--scale', '2.5', '--tile', '64'), ('2.5 cannot be tiled',)),
    ('zssr-gradual', ('--scale', '2', '--kernel', 'gaussian:2'), ('gradual',)),
  ],
)
def test_what_is_refused(
  run, adaptive, checkpoint, photos, tmp_path, model, options, words
):
  known = {'adaptive': adaptive, 'checkpoint': checkpoint}
  (tmp_path / 'k.npy').write_bytes(b'no array')
  options = [str(tmp_path / 'k.npy') if o == 'BROKEN' else o for o in options]
  done = run(
    *('upscale', photos, '-o', tmp_path / 'out'),
    *('--model', known.get(model, model), *options),
  )
  assert done.refused(*words)
  assert done.out == ''
  assert not (tmp_path / 'out').exists()


def test_fault_of_one_file_leaves_the_others_fitted(
  run, adaptive, photos, tmp_path
):
  np.save(photos / 'a.npy', texture(26, 31, 5))  # the size of one.png
  done = run(
    *('upscale', photos, '-o', tmp_path / 'out', '--model', adaptive),
    *('--kernel', 'gaussian:2.0'),
  )
  assert done.refused('a.npy', '5')
  assert '2 enlarged, 1 failed' in done.out


# evaluate


def scores(path):
  result = json.loads(path.read_text())
  return result, result['mean']['psnr']


def test_evaluate_fits_each_image(run, adaptive, photos, tmp_path):
  command = ('evaluate', '--model', adaptive, '--hr', photos)
  blur = ('--degradation', 'direct', '--kernel', 'gaussian:2.0')
  found = {}
  for steps in (0, 3, None):
    file = tmp_path / f'{steps}.json'
    given = () if steps is None else ('--adapt-steps', steps)
    done = run(*command, *blur, *given, '--json', file)
    assert done.status == 0, done
    result, found[steps] = scores(file)
    assert result['adapt_steps'] == steps
    assert result['kernel'] == 'gaussian:2.0'
  # The checkpoint's own number lies between.
  assert found[3] > found[None] > found[0] + 0.1


def test_evaluate_of_given_lr_images_needs_their_kernel(
  run, adaptive, photos, tmp_path
):
  lr = tmp_path / 'lr'
  blur = ('--degradation', 'direct', '--kernel', 'gaussian:2.0')
  run('degrade', '--hr', photos, '-o', lr, '--scale', 2, *blur)
  command = ('evaluate', '--model', adaptive, '--hr', photos)
  made, given = tmp_path / 'made.json', tmp_path / 'given.json'
  assert run(*command, *blur, '--json', made).status == 0
  done = run(*command, '--lr', lr, '--kernel', 'gaussian:2.0', '--json', given)
  assert done.status == 0, done
  result, psnr = scores(given)
  assert result['degradation'] == 'given'
  assert psnr == pytest.approx(scores(made)[1], abs=1e-4)
  assert run(*command, '--lr', lr, *blur, '--jpeg', 90).refused('--jpeg')


@pytest.mark.nightly
def test_evaluate_of_given_lr_images_heeds_noise_and_seed(
  run, tiny_zssr, photos, tmp_path
):
  (photos / 'sub/two.png').unlink()
  lr = tmp_path / 'lr'
  run('degrade', '--hr', photos, '-o', lr, '--scale', 2)
  command = ('evaluate', '--model', 'zssr', '--scale', 2, '--adapt-steps', 3)
  command += ('--hr', photos, '--lr', lr, '--back-project', 0, '--json')
  found = set()
  for i, options in enumerate([(), (), ('--noise', 20), ('--seed', 5)]):
    file = tmp_path / f'{i}.json'
    done = run(*command, file, *options)
    assert done.status == 0, done
    found.add(scores(file)[1])
  assert len(found) == 3


def test_evaluate_with_other_models_takes_no_steps(run, checkpoint, photos):
  command = ('evaluate', '--hr', photos, '--adapt-steps', 2)
  done = run(*command, '--model', checkpoint)
  assert done.refused('edsr-tiny', 'does not adapt')
  done = run(*command, '--model', 'bicubic', '--scale', 2)
  assert done.refused('bicubic', 'does not adapt')

"""The train loop: files of a run, exact resume, faults during training."""

import contextlib
import io
import json
import re
import shutil

import jax
import ml_collections
import numpy as np
import pytest
import skimage.data
import skimage.io

from configs import mzsr
from sr_jax import checkpoints, experiment, methods, train_loop
from sr_jax.data import batches, sources
from sr_jax.errors import UserError
from sr_jax.inference import loading
from sr_jax.methods import supervised
from tests import tiny


def lines_of(workdir):
  """The records of `metrics.jsonl`."""
  text = (workdir / 'metrics.jsonl').read_text()
  return [json.loads(line) for line in text.splitlines()]


def kept(workdir):
  """Steps of the checkpoints that a run left."""
  return sorted(int(p.name) for p in (workdir / 'checkpoints').iterdir())


def equal(a, b):
  """Whether two states hold the same numbers, bit for bit."""
  plain = (jax.tree.leaves(_plain(tree)) for tree in (a, b))
  return all(np.array_equal(x, y) for x, y in zip(*plain, strict=True))


def _plain(state):
  return jax.device_get(state.replace(key=jax.random.key_data(state.key)))


def said(out):
  """The lines of an output, without signs of life, which depend on speed."""
  lines = out.getvalue().splitlines()
  return [line for line in lines if not re.search(r' \(\d+ s\)$', line)]


def _save(path, image):
  path.parent.mkdir(parents=True, exist_ok=True)
  skimage.io.imsave(path, image, check_contrast=False)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """A finished run: its folder, final state and output, read by many tests."""
  folder = tmp_path_factory.mktemp('run')
  _save(folder / 'Set1' / 'face.png', skimage.data.astronaut()[:40, :44])
  # Evaluations fall between the checkpoints.
  config = tiny.config(
    eval={'every': 3, 'folders': (str(folder / 'Set1'),)},
    checkpoint={'every': 2, 'keep': 1},
    profile=2,
  )
  with contextlib.redirect_stdout(io.StringIO()) as out:
    state = train_loop.train_and_evaluate(config, folder / 'run')
  return folder / 'run', config, state, said(out)


def test_a_run_writes_logs_and_strips(run):
  folder, _, state, _ = run
  assert int(state.step) == 4
  losses = [line for line in lines_of(folder) if 'loss' in line]
  assert [line['step'] for line in losses] == [2, 4]
  assert {'gradient_norm', 'learning_rate', 'skipped'} <= set(losses[0])
  scores = [line for line in lines_of(folder) if 'crops/psnr' in line]
  assert [line['step'] for line in scores] == [3, 4]
  assert list((folder / 'images').glob('step_00000004_crop_0.png'))
  # Nothing of the start is left.
  assert not list(folder.glob('.*'))


def test_a_run_says_what_it_does(run):
  """Runs used to print nothing at their start and end."""
  folder, _, state, out = run
  size = sum(leaf.size for leaf in jax.tree.leaves(state.params))
  assert out[0] == (
    f'6 images of embedded, {size:,} parameters, 8 x cpu, workdir {folder}'
  )
  steps = [line for line in out if line.startswith('step ')]
  assert steps[0].startswith('step 2/4  loss ')
  assert 'psnr' in steps[-1]
  assert out[-1] == (
    f'done: weights in {folder}; enlarge with: sr-jax upscale PHOTO -o OUT'
    f' --model {folder}'
  )


def test_the_best_score_is_saved_where_it_is_measured(run):
  """B6: the best step was not saved unless `checkpoint.every` met it."""
  folder, *_ = run
  scores = {
    line['step']: line['crops/psnr']
    for line in lines_of(folder)
    if 'crops/psnr' in line
  }
  assert set(kept(folder)) == {max(scores, key=scores.get), 4}


def test_benchmark_folders_are_measured(run):
  scores = [line for line in lines_of(run[0]) if 'Set1/psnr' in line]
  assert [line['step'] for line in scores] == [3, 4]
  assert 0 < scores[-1]['Set1/psnr'] < 60
  assert -1 < scores[-1]['Set1/ssim'] < 1


def test_steps_are_traced_where_asked(run):
  assert list((run[0] / 'profile').rglob('*.xplane.pb'))


def test_a_checkpoint_opens_for_inference(run):
  folder, config, state, _ = run
  loaded = checkpoints.load_params(folder)
  assert loaded.step == 4
  assert loaded.config == experiment.complete(config)
  assert loaded.protocol['name'] == 'y-uint8'
  method = methods.make(loaded.config)
  average = jax.device_get(method.averaged(state))
  jax.tree.map(np.testing.assert_array_equal, loaded.params, average)


@pytest.fixture(scope='module')
def again(run, tmp_path_factory):
  """Starts the finished run again; returns its output."""
  folder = tmp_path_factory.mktemp('again') / 'run'
  shutil.copytree(run[0], folder)
  with contextlib.redirect_stdout(io.StringIO()) as out:
    state = train_loop.train_and_evaluate(run[1], folder)
  return folder, state, said(out)


def test_a_finished_run_is_left_as_it_is(run, again):
  """F10: starting a finished run printed nothing."""
  folder, state, out = again
  assert equal(run[2], state)
  assert lines_of(folder) == lines_of(run[0])
  assert kept(folder) == kept(run[0])
  assert out[1] == 'already at step 4 of 4'
  assert out[2].startswith('done: weights in ')


def test_resume_is_exact_and_other_experiments_are_refused(
  run, tmp_path, capsys
):
  config = tiny.config(steps=2, checkpoint={'every': 2, 'keep': 1})
  train_loop.train_and_evaluate(config, tmp_path)
  before = {p: p.read_bytes() for p in tmp_path.rglob('*') if p.is_file()}
  other = tiny.config(optimizer={'learning_rate': 0.5}, seed=3)
  with pytest.raises(UserError) as error:
    train_loop.train_and_evaluate(other, tmp_path)
  message = str(error.value)
  assert 'optimizer.learning_rate is 0.001 there, 0.5 here' in message
  assert 'seed is 0 there, 3 here' in message
  assert 'new workdir' in message
  assert all(path.read_bytes() == data for path, data in before.items())
  # A line that a full disk broke off (T12), and remains of a kill (T13).
  with (tmp_path / 'metrics.jsonl').open('a') as file:
    file.write('{"step": 3, "lo')
  (tmp_path / 'config.tmp').write_text('{')
  capsys.readouterr()
  resumed = train_loop.train_and_evaluate(run[1], tmp_path)
  assert equal(run[2], resumed)
  assert 'resuming at step 2 of 4' in capsys.readouterr().out
  assert lines_of(tmp_path)[-1]['step'] == 4
  assert not (tmp_path / 'config.tmp').exists()


def test_init_from_starts_with_the_given_weights(run, tmp_path):
  config = tiny.config(
    steps=1,
    seed=9,
    optimizer={'learning_rate': 0.0},
    checkpoint={'init_from': str(run[0])},
  )
  state = train_loop.train_and_evaluate(config, tmp_path / 'a')
  average = checkpoints.load_params(run[0]).params
  jax.tree.map(
    np.testing.assert_array_equal, jax.device_get(state.params), average
  )
  config.update({'model': {'features': 16}})
  with pytest.raises(UserError, match=r'only .* parameters fit'):
    train_loop.train_and_evaluate(config, tmp_path / 'b')
  assert not (tmp_path / 'b').exists()


def _folder_of_photos(folder, count=3):
  for i in range(count):
    _save(folder / f'{i}.png', skimage.data.astronaut()[i * 50 :][:60, :70])
  return {'source': f'folder:{folder}', 'cache_dir': str(folder / '.cache')}


def test_changed_data_are_refused_on_resume(tmp_path):
  """T3: files added or replaced between stop and resume went unnoticed."""
  photos = tmp_path / 'photos'
  data = _folder_of_photos(photos)
  run = tmp_path / 'run'
  train_loop.train_and_evaluate(tiny.config(steps=1, data=data), run)
  moved = tmp_path / 'moved'
  photos.rename(moved)
  data = {'source': f'folder:{moved}', 'cache_dir': str(moved / '.cache')}
  train_loop.train_and_evaluate(tiny.config(steps=2, data=data), run)
  _save(moved / '9.png', skimage.data.astronaut()[:60, :70])
  with pytest.raises(UserError, match=r'another experiment: data\.source'):
    train_loop.train_and_evaluate(
      tiny.config(steps=3, data=_folder_of_photos(photos, 4)), run
    )
  with pytest.raises(UserError, match='the training data changed'):
    train_loop.train_and_evaluate(tiny.config(steps=3, data=data), run)


def test_a_fault_of_data_in_mid_run_saves_first(tmp_path, monkeypatch):
  """T2: when a photograph was removed, steps since the last save were lost."""
  sample = batches.sample

  def broken(source, spec, step):
    if step == 2:
      raise UserError('photos/3.png: it is gone')
    return sample(source, spec, step)

  monkeypatch.setattr(batches, 'sample', broken)
  config = tiny.config(checkpoint={'every': 100}, eval={'every': 100})
  with pytest.raises(UserError) as error:
    train_loop.train_and_evaluate(config, tmp_path)
  assert str(error.value) == 'photos/3.png: it is gone; step 2 is saved'
  assert checkpoints.load_params(tmp_path).step == 2


def test_a_diverging_run_stops_with_advice(tmp_path):
  config = tiny.config(
    steps=30,
    optimizer={'learning_rate': 1000.0, 'name': 'sgd', 'ema_decay': 0.0},
    eval={'every': 100},
    checkpoint={'every': 5},
  )
  with pytest.raises(UserError, match='finite'):
    train_loop.train_and_evaluate(config, tmp_path)
  assert checkpoints.load_params(tmp_path).step < 30


def test_memory_that_runs_out_is_one_line(tmp_path, monkeypatch):
  """B9: when memory ran out, training ended in a traceback of XLA."""

  def train_step(state, batch, scale):
    raise jax.errors.JaxRuntimeError(
      'RESOURCE_EXHAUSTED: Out of memory allocating 17179869184 bytes.'
    )

  monkeypatch.setattr(train_loop, '_compiled', lambda run: train_step)
  with pytest.raises(UserError) as error:
    train_loop.train_and_evaluate(tiny.config(), tmp_path)
  assert str(error.value) == (
    'out of memory on cpu: 16 GiB were asked for at once; lower'
    ' config.data.batch_size or config.data.patch'
  )


def test_real_pairs_are_trained_on_and_scored_as_they_are(tmp_path):
  """Not with LR images made from HR."""
  hr = skimage.data.astronaut()[:48, :64]
  for name, image in (('hr', hr), ('lr', 255 - hr[::2, ::2])):
    _save(tmp_path / name / 'a.png', image)
  pairs = {
    'source': f'folder:{tmp_path / "hr"}',
    'lr_folder': str(tmp_path / 'lr'),
  }
  config = tiny.config(steps=1, data=pairs, eval=pairs)
  train_loop.train_and_evaluate(config, tmp_path / 'run')
  (strip,) = (tmp_path / 'run' / 'images').glob('*.png')
  image = skimage.io.imread(strip)
  # Bicubic enlargement | SR | HR of the middle, two pixels between them.
  shown = image[:32, :32].astype(float), image[:32, 68:].astype(float)
  assert np.corrcoef(*(x.ravel() for x in shown))[0, 1] < -0.9
  config.eval.scales = (2, 3)
  with pytest.raises(UserError, match=r'config\.eval\.scales: .* of scale 2'):
    train_loop.train_and_evaluate(config, tmp_path / 'other')


@pytest.mark.nightly
def test_meta_training_is_scored_by_kernels_and_steps(tmp_path):
  """The mean PSNR of fixed crops after adapting chooses the best checkpoint."""
  config = mzsr.get_config('smoke')
  with config.unlocked():
    config.model.update({'depth': 2, 'features': 4})
  config.method.kernel_size = 5
  config.method.inner.update({'steps': 1, 'rate': 0.05})
  config.method.adapt.rates = (0.05, 0.02)
  kernels = ('gaussian:0.5', 'gaussian:2.0')
  config.method.test.update({'steps': (3, 0, 1), 'kernels': kernels})
  config.data.patch = 8
  config.eval.update({'every': 1, 'crops': 1, 'crop_size': 32})
  config.checkpoint.update({'every': 1, 'keep': 1})
  config.update({'steps': 2, 'log_every': 1})
  train_loop.train_and_evaluate(config, tmp_path)
  scores = [line for line in lines_of(tmp_path) if 'crops/psnr' in line]
  assert [line['step'] for line in scores] == [1, 2]
  names = {f'crops/{k}@{n}' for k in kernels for n in (0, 1, 3)}
  for line in scores:
    assert {key for key in line if '@' in key} == names
    last = [line[f'crops/{kernel}@3'] for kernel in kernels]
    assert line['crops/psnr'] == pytest.approx(np.mean(last))
    assert -1 < line['crops/ssim'] < 1
    for kernel in kernels:
      values = [line[f'crops/{kernel}@{n}'] for n in (0, 1, 3)]
      assert len(set(values)) == 3
  # Another training step is another score, and the best one is known.
  assert scores[0]['crops/psnr'] != scores[1]['crops/psnr']
  best = max(scores, key=lambda line: line['crops/psnr'])
  assert set(kept(tmp_path)) == {best['step'], 2}
  assert list((tmp_path / 'images').glob('step_00000002_crop_0.png'))
  loaded = checkpoints.load_params(tmp_path)
  assert loaded.config['method']['adapt']['rates'] == [0.05, 0.02]


def _any_scale(steps, **evaluation):
  """A tiny run that draws one of several scales for each batch."""
  config = tiny.config(
    steps=steps,
    data={'scales': (1.5, 2.0, 2.3), 'patch': 10},
    eval={'crops': 1, 'crop_size': 32, 'every': 6, **evaluation},
  )
  config.model = ml_collections.ConfigDict(
    {
      'name': 'metasr',
      'variant': 'edsr-small',
      'scale': 2,
      'blocks': 1,
      'features': 4,
    }
  )
  return config


@pytest.mark.nightly
def test_batches_of_several_scales_are_trained_on_and_scored(
  tmp_path, monkeypatch
):
  traced = []
  train_step = supervised._train_step

  def counted(*args, scale):
    traced.append(scale)
    return train_step(*args, scale)

  monkeypatch.setattr(supervised, '_train_step', counted)
  _save(tmp_path / 'Set1' / 'face.png', skimage.data.astronaut()[:40, :44])
  folders = {'scales': (1.5, 2.2), 'folders': (str(tmp_path / 'Set1'),)}
  train_loop.train_and_evaluate(_any_scale(3, **folders), tmp_path / 'run')
  # One program for each scale that was drawn.
  spec = batches.BatchSpec(8, 10, (1.5, 2.0, 2.3), seed=0)
  source = sources.embedded_source(23)
  drawn = [batches.sample(source, spec, step)[1] for step in range(3)]
  assert len(set(drawn)) > 1
  assert sorted(traced) == sorted(set(drawn))

  found = {}
  for line in lines_of(tmp_path / 'run'):
    found |= line
  for key in ('psnr', 'ssim'):
    each = [found[f'crops_x{scale}/{key}'] for scale in (1.5, 2.2)]
    assert each[0] != each[1]
    assert found[f'crops/{key}'] == pytest.approx(np.mean(each))
  assert all(f'Set1_x{scale}/psnr' in found for scale in (1.5, 2.2))
  strips = (tmp_path / 'run' / 'images').glob('step_00000003_crop_0_x*.png')
  assert len(list(strips)) == 2
  # What it was trained for is what the checkpoint enlarges by.
  assert loading.load(tmp_path / 'run', scale=2.17).scale == 2.17
  with pytest.raises(UserError, match=r'by 1\.5 to 2\.3, not by 2\.4'):
    loading.load(tmp_path / 'run', scale=2.4)


@pytest.mark.nightly
def test_a_scale_per_batch_resumes_exactly(tmp_path):
  whole = train_loop.train_and_evaluate(_any_scale(6), tmp_path / 'whole')
  train_loop.train_and_evaluate(_any_scale(4), tmp_path / 'parts')
  resumed = train_loop.train_and_evaluate(_any_scale(6), tmp_path / 'parts')
  assert equal(whole, resumed)


@pytest.mark.nightly
def test_the_best_by_several_scores_is_kept(tmp_path):
  config = tiny.config(
    steps=3,
    eval={'every': 1, 'crop_size': 208, 'metrics': 'psnr,niqe'},
    checkpoint={'every': 1, 'keep': 1, 'best_by': 'psnr,niqe'},
  )
  train_loop.train_and_evaluate(config, tmp_path)
  psnr, niqe = (
    {line['step']: line[key] for line in lines_of(tmp_path) if key in line}
    for key in ('crops/psnr', 'crops/niqe')
  )
  best = {max(psnr, key=psnr.get), min(niqe, key=niqe.get)}
  assert set(kept(tmp_path)) == best | {3}


@pytest.mark.parametrize(
  ('sections', 'reason'),
  [
    ({'model': {'name': 'edsrr'}}, 'did you mean'),
    ({'data': {'source': 'folder:/nowhere/at/all'}}, '/nowhere/at/all'),
    ({'eval': {'folders': ('/nowhere', '.')}}, '/nowhere'),
    ({'model': {'dtype': 'float33'}}, 'float33'),
    ({'multihost': True}, 'JAX_COORDINATOR_ADDRESS'),
    ({'eval': {'protocol': 'y-unit8'}}, 'y-uint8'),
    ({'method': {'name': 'supervized'}}, 'supervised'),
    ({'checkpoint': {'best_by': 'niqe'}}, "'niqe' is not measured; choose"),
    ({'eval': {'metrics': 'psnr,niqe'}}, 'eval.crop_size=32: NIQE needs'),
    ({'eval': {'metrics': 'ssim'}}, 'eval.metrics=ssim: add psnr'),
    ({'eval': {'metrics': 'psnr,ma'}}, 'eval.metrics: ma and pi need'),
  ],
)
def test_a_wrong_value_is_answered_in_one_line(tmp_path, sections, reason):
  with pytest.raises(UserError) as error:
    train_loop.train_and_evaluate(tiny.config(**sections), tmp_path)
  assert reason in str(error.value)
  assert '\n' not in str(error.value)


@pytest.mark.nightly
def test_tasks_take_no_scales_of_the_batches(tmp_path):
  config = mzsr.get_config('smoke')
  config.data.scales = (2.0, 3.0)
  with pytest.raises(UserError, match=r'config\.method\.scales; leave it'):
    train_loop.train_and_evaluate(config, tmp_path)

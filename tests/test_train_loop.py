"""The loop: exact resume, kills, signals, other workdirs, bad values."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

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

ROOT = pathlib.Path(__file__).parent.parent
# The same tiny experiment through train.py's flags.
FLAGS = (
  '--config.data.batch_size=8',
  '--config.data.patch=8',
  '--config.eval.crop_size=32',
  '--config.eval.crops=1',
  '--config.optimizer.ema_decay=0.9',
)


def _lines(workdir):
  text = (workdir / 'metrics.jsonl').read_text()
  return [json.loads(line) for line in text.splitlines()]


def _equal(a, b):
  leaves = zip(*(jax.tree.leaves(_plain(tree)) for tree in (a, b)), strict=True)
  return all(np.array_equal(x, y) for x, y in leaves)


def _plain(state):
  return jax.device_get(state.replace(key=jax.random.key_data(state.key)))


def _train_py(workdir, *flags):
  config = f'{ROOT / "configs/edsr_small.py"}:smoke'
  command = [sys.executable, ROOT / 'train.py', '--config', config]
  return [*command, '--workdir', workdir, *FLAGS, *flags]


def _start(workdir, *flags):
  return subprocess.Popen(
    _train_py(workdir, *flags),
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    env=os.environ | {'JAX_DISABLE_MOST_OPTIMIZATIONS': '1'},
  )


def test_a_run_writes_checkpoints_logs_and_strips(tmp_path, capsys):
  state = train_loop.train_and_evaluate(tiny.config(), tmp_path)
  assert int(state.step) == 4
  steps = sorted(int(p.name) for p in (tmp_path / 'checkpoints').iterdir())
  assert steps == [2, 4]
  losses = [line for line in _lines(tmp_path) if 'loss' in line]
  assert [line['step'] for line in losses] == [2, 4]
  assert {'gradient_norm', 'learning_rate', 'skipped'} <= set(losses[0])
  assert any('crops/psnr' in line for line in _lines(tmp_path))
  assert list((tmp_path / 'images').glob('step_00000004_crop_0.png'))
  out = capsys.readouterr().out.splitlines()
  assert out[0].startswith('step 2/4  loss ')
  assert 'psnr' in out[-1]

  loaded = checkpoints.load_params(tmp_path)
  assert loaded.step == 4
  assert loaded.config['model']['name'] == 'edsr'
  assert loaded.protocol['name'] == 'y-uint8'
  method = methods.make(loaded.config)
  average = jax.device_get(method.averaged(state))
  jax.tree.map(np.testing.assert_array_equal, loaded.params, average)


def test_benchmark_folders_are_measured(tmp_path):
  photo = skimage.data.astronaut()[:40, :44]
  skimage.io.imsave(tmp_path / 'face.png', photo, check_contrast=False)
  config = tiny.config(steps=1, eval={'folders': (str(tmp_path),)})
  train_loop.train_and_evaluate(config, tmp_path / 'run')
  scores = _lines(tmp_path / 'run')[-1]
  assert 0 < scores[f'{tmp_path.name}/psnr'] < 60
  assert -1 < scores[f'{tmp_path.name}/ssim'] < 1


def test_real_pairs_are_trained_on_and_scored_as_they_are(tmp_path):
  """Not against LR images that are made of HR."""
  hr = skimage.data.astronaut()[:48, :64]
  lr = 255 - hr[::2, ::2]
  for name, image in (('hr', hr), ('lr', lr)):
    (tmp_path / name).mkdir()
    skimage.io.imsave(tmp_path / name / 'a.png', image, check_contrast=False)
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


def test_meta_training_is_scored_by_kernels_and_steps(tmp_path):
  """PSNR on the fixed crops after fits, and the means choose what is kept."""
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
  scores = [line for line in _lines(tmp_path) if 'crops/psnr' in line]
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
  kept = {int(path.name) for path in (tmp_path / 'checkpoints').iterdir()}
  assert kept == {best['step'], 2}
  assert list((tmp_path / 'images').glob('step_00000002_crop_0.png'))
  loaded = checkpoints.load_params(tmp_path)
  assert loaded.config['method']['adapt']['rates'] == [0.05, 0.02]


def test_resume_is_exact(tmp_path):
  whole = train_loop.train_and_evaluate(tiny.config(), tmp_path / 'whole')
  parts = tmp_path / 'parts'
  train_loop.train_and_evaluate(tiny.config(steps=2), parts)
  resumed = train_loop.train_and_evaluate(tiny.config(), parts)
  assert _equal(whole, resumed)


def _any_scale(**sections):
  """A tiny run over scales of which one is drawn for each batch."""
  config = tiny.config(
    steps=6,
    data={'scales': (1.5, 2.0, 2.3), 'patch': 10},
    eval={'scales': (1.5, 2.2), 'crops': 1, 'crop_size': 32, 'every': 6},
    **sections,
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


def test_a_scale_per_batch_resumes_exactly(tmp_path, monkeypatch):
  traced = []
  train_step = supervised._train_step

  def counted(*args, scale):
    traced.append(scale)
    return train_step(*args, scale)

  monkeypatch.setattr(supervised, '_train_step', counted)
  config = _any_scale()
  whole = train_loop.train_and_evaluate(config, tmp_path / 'whole')
  # One program for each scale that was drawn.
  spec = batches.BatchSpec(8, 10, (1.5, 2.0, 2.3), seed=0)
  source = sources.embedded_source(23)
  drawn = [batches.sample(source, spec, step)[1] for step in range(6)]
  assert len(set(drawn)) > 1
  assert sorted(traced) == sorted(set(drawn))

  parts = tmp_path / 'parts'
  config.steps = 4
  train_loop.train_and_evaluate(config, parts)
  resumed = train_loop.train_and_evaluate(_any_scale(), parts)
  assert _equal(whole, resumed)


def test_the_best_by_several_scores_is_kept(tmp_path):
  config = tiny.config(
    steps=3,
    eval={'every': 1, 'crop_size': 208, 'metrics': 'psnr,niqe'},
    checkpoint={'every': 1, 'keep': 1, 'best_by': 'psnr,niqe'},
  )
  train_loop.train_and_evaluate(config, tmp_path)
  lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  scores = {}
  for record in map(json.loads, lines):
    if 'crops/niqe' in record:
      scores[record['step']] = record['crops/psnr'], record['crops/niqe']
  best = {
    max(scores, key=lambda step: scores[step][0]),
    min(scores, key=lambda step: scores[step][1]),
  }
  kept = {int(p.name) for p in (tmp_path / 'checkpoints').iterdir()}
  assert kept == best | {3}


@pytest.mark.parametrize(
  ('sections', 'reason'),
  [
    ({'checkpoint': {'best_by': 'niqe'}}, "'niqe' is not measured; choose"),
    ({'eval': {'metrics': 'psnr,niqe'}}, r'eval\.crop_size=32: NIQE needs'),
    ({'eval': {'metrics': 'ssim'}}, r'eval\.metrics=ssim: add psnr'),
    ({'eval': {'metrics': 'psnr,ma'}}, r'eval\.metrics: ma and pi need'),
  ],
)
def test_scores_that_cannot_be_measured_are_refused(tmp_path, sections, reason):
  with pytest.raises(UserError, match=reason) as error:
    train_loop.train_and_evaluate(tiny.config(**sections), tmp_path)
  assert '\n' not in str(error.value)


def test_evaluations_report_each_scale(tmp_path):
  photo = skimage.data.astronaut()[:40, :44]
  skimage.io.imsave(tmp_path / 'face.png', photo, check_contrast=False)
  config = _any_scale()
  config.eval.folders = (str(tmp_path),)
  config.update({'steps': 1})
  train_loop.train_and_evaluate(config, tmp_path / 'run')
  found = {}
  for line in _lines(tmp_path / 'run'):
    found |= line
  name = tmp_path.name
  for key in ('psnr', 'ssim'):
    each = [found[f'crops_x{scale}/{key}'] for scale in (1.5, 2.2)]
    assert each[0] != each[1]
    assert found[f'crops/{key}'] == pytest.approx(np.mean(each))
  assert all(f'{name}_x{scale}/psnr' in found for scale in (1.5, 2.2))
  strips = (tmp_path / 'run' / 'images').glob('step_00000001_crop_0_x*.png')
  assert len(list(strips)) == 2
  # What it was trained for is what the checkpoint enlarges by.
  assert loading.load(tmp_path / 'run', scale=2.17).scale == 2.17
  with pytest.raises(UserError, match=r'by 1\.5 to 2\.3, not by 2\.4'):
    loading.load(tmp_path / 'run', scale=2.4)


def test_tasks_take_no_scales_of_the_batches(tmp_path):
  config = mzsr.get_config('smoke')
  config.data.scales = (2.0, 3.0)
  with pytest.raises(UserError, match=r'config\.method\.scales; leave it'):
    train_loop.train_and_evaluate(config, tmp_path)


def test_a_finished_run_is_left_as_it_is(tmp_path):
  first = train_loop.train_and_evaluate(tiny.config(steps=2), tmp_path)
  written = _lines(tmp_path)
  again = train_loop.train_and_evaluate(tiny.config(steps=2), tmp_path)
  assert _equal(first, again)
  assert _lines(tmp_path) == written


def test_another_experiment_is_refused(tmp_path):
  train_loop.train_and_evaluate(tiny.config(steps=2), tmp_path)
  other = tiny.config(optimizer={'learning_rate': 0.5}, seed=3)
  with pytest.raises(UserError) as error:
    train_loop.train_and_evaluate(other, tmp_path)
  message = str(error.value)
  assert 'optimizer.learning_rate is 0.001 there, 0.5 here' in message
  assert 'seed is 0 there, 3 here' in message
  assert 'new --workdir' in message


@pytest.mark.parametrize(
  ('sections', 'reason'),
  [
    ({'eval': {'protocol': 'rgb'}}, 'unlike protocols'),
    ({'optimizer': {'schedule': 'cosine'}}, 'optimizer.schedule'),
  ],
)
def test_what_binds_a_resumed_run(tmp_path, sections, reason):
  train_loop.train_and_evaluate(tiny.config(steps=1), tmp_path)
  with pytest.raises(UserError, match=reason):
    train_loop.train_and_evaluate(tiny.config(steps=1, **sections), tmp_path)


def test_cosine_decay_binds_the_number_of_steps(tmp_path):
  cosine = {'optimizer': {'schedule': 'cosine'}}
  train_loop.train_and_evaluate(tiny.config(steps=1, **cosine), tmp_path)
  with pytest.raises(UserError, match='steps is 1 there, 2 here'):
    train_loop.train_and_evaluate(tiny.config(steps=2, **cosine), tmp_path)


def test_init_from_another_architecture_is_refused(tmp_path):
  train_loop.train_and_evaluate(tiny.config(steps=1), tmp_path / 'a')
  other = tiny.config(
    model={'features': 16}, checkpoint={'init_from': str(tmp_path / 'a')}
  )
  with pytest.raises(UserError, match=r'only .* parameters fit'):
    train_loop.train_and_evaluate(other, tmp_path / 'b')


def test_a_start_that_failed_claims_no_workdir(tmp_path):
  wrong = tiny.config(data={'source': 'folder:/nowhere/at/all'})
  with pytest.raises(UserError, match='/nowhere/at/all'):
    train_loop.train_and_evaluate(wrong, tmp_path)
  state = train_loop.train_and_evaluate(tiny.config(steps=1), tmp_path)
  assert int(state.step) == 1


def test_a_diverging_run_stops_with_advice(tmp_path):
  config = tiny.config(
    steps=30,
    optimizer={'learning_rate': 1e30, 'name': 'sgd'},
    eval={'every': 100},
    checkpoint={'every': 1},
  )
  with pytest.raises(UserError, match='updates in a row were not finite'):
    train_loop.train_and_evaluate(config, tmp_path)
  assert checkpoints.load_params(tmp_path).step < 30


def test_a_jump_of_the_loss_is_told_once(tmp_path, caplog):
  config = tiny.config(
    steps=3,
    log_every=1,
    optimizer={'learning_rate': 10.0, 'name': 'sgd'},
  )
  train_loop.train_and_evaluate(config, tmp_path)
  told = [r.message for r in caplog.records if 'the loss jumped' in r.message]
  assert len(told) == 1
  assert 'lower config.optimizer.learning_rate' in told[0]


def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(tmp_path):
  """In a process of its own: Orbax's other reads outlive the failed one."""
  train_loop.train_and_evaluate(tiny.config(), tmp_path)
  newest = tmp_path / 'checkpoints' / '4'
  for path in newest.rglob('*'):
    if path.is_file() and path.parent.name == 'd':
      path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  code = """
import json, logging, sys
from sr_jax import train_loop
logging.basicConfig()
config = json.load(open(sys.argv[1] + '/config.json')) | {'steps': 6}
print(int(train_loop.train_and_evaluate(config, sys.argv[1]).step))
"""
  result = subprocess.run(
    [sys.executable, '-c', code, tmp_path],
    capture_output=True,
    text=True,
    timeout=120,
    check=False,
  )
  assert result.stdout.split()[-1] == '6', result.stderr
  assert 'resuming from step 2 instead' in result.stderr
  # Done anew, it replaces the damaged one.
  assert checkpoints.load_params(newest).step == 4


def test_init_from_starts_with_the_given_weights(tmp_path):
  donor = train_loop.train_and_evaluate(tiny.config(steps=2), tmp_path / 'a')
  config = tiny.config(
    steps=1,
    seed=9,
    optimizer={'learning_rate': 0.0},
    checkpoint={'init_from': str(tmp_path / 'a')},
  )
  state = train_loop.train_and_evaluate(config, tmp_path / 'b')
  plain = experiment.to_plain(config)
  method = methods.make(plain)
  jax.tree.map(
    np.testing.assert_array_equal,
    jax.device_get(state.params),
    jax.device_get(method.averaged(donor)),
  )


@pytest.mark.parametrize(
  ('sections', 'reason'),
  [
    ({'model': {'name': 'edsrr'}}, 'did you mean'),
    ({'data': {'source': 'folder:/nowhere/at/all'}}, '/nowhere/at/all'),
    ({'data': {'batch_size': 0}}, 'batch_size'),
    ({'data': {'workers': -1}}, 'config.data.workers=-1: give 0 or more'),
    ({'log_every': 0}, 'config.log_every=0: give 1 or more'),
    ({'eval': {'every': 0}}, 'config.eval.every=0: give 1 or more'),
    ({'eval': {'crops': 0}}, 'config.eval.crops=0'),
    ({'eval': {'folders': ('/nowhere', '.')}}, '/nowhere'),
    ({'checkpoint': {'every': 0}}, 'config.checkpoint.every=0'),
    ({'checkpoint': {'keep': 0}}, 'config.checkpoint.keep=0'),
    ({'model': {'dtype': 'float33'}}, 'float33'),
    ({'multihost': True}, 'JAX_COORDINATOR_ADDRESS'),
    ({'checkpoint': {'init_from': '/nowhere'}}, '/nowhere'),
    ({'eval': {'protocol': 'y-unit8'}}, 'y-uint8'),
    ({'eval': {'crop_size': 33}}, '33'),
    ({'method': {'name': 'supervized'}}, 'supervised'),
  ],
)
def test_a_wrong_value_is_answered_in_one_line(tmp_path, sections, reason):
  with pytest.raises(UserError) as error:
    train_loop.train_and_evaluate(tiny.config(**sections), tmp_path)
  assert reason in str(error.value)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  ('flag', 'reason'),
  [
    ('--config.modle.scale=2', '\'modle\' Did you mean "model"'),
    ('--config.steps=many', 'steps'),
    ('--config.data.source=folder:/nowhere/at/all', '/nowhere/at/all'),
  ],
)
def test_train_py_answers_a_wrong_flag_in_one_line(tmp_path, flag, reason):
  with _start(tmp_path / 'run', flag) as process:
    _, err = process.communicate(timeout=120)
  lines = [line for line in err.splitlines() if line.strip()]
  assert process.returncode == 2
  assert len(lines) == 1
  assert lines[0].startswith('train.py: error: ')
  assert reason in lines[0]


def test_train_py_names_the_files_it_skips(tmp_path):
  photo = skimage.data.astronaut()
  for name, side in (('large', 80), ('small', 9)):
    path = tmp_path / 'photos' / f'{name}.png'
    path.parent.mkdir(exist_ok=True)
    skimage.io.imsave(path, photo[:side, :side], check_contrast=False)
  source = f'--config.data.source=folder:{path.parent}'
  with _start(tmp_path / 'run', source, '--config.steps=1') as process:
    _, err = process.communicate(timeout=120)
  assert process.returncode == 0, err
  assert 'small.png does not serve: 9x9 is smaller' in err
  assert len(err.splitlines()) == 2


def test_sigterm_saves_and_exits_with_status_0(tmp_path):
  flags = ('--config.steps=100000', '--config.log_every=1')
  with _start(tmp_path, *flags) as process:
    begun = _first_step(process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
  assert process.returncode == 0
  step = checkpoints.load_params(tmp_path).step
  assert step >= begun
  assert f'stopped by a signal; step {step} is saved' in err


def _first_step(process):
  """Waits for the first logged step of a run and returns its number."""
  for line in process.stdout:
    if line.startswith('step'):
      return int(line.split()[1].split('/')[0])
  raise AssertionError(process.stderr.read())


def kill_and_resume(folder, kills, seed=0):
  """Kills a run at random moments; it must end as one never killed."""
  flags = (
    '--config.steps=60',
    '--config.checkpoint.every=1',
    '--config.log_every=1',
  )
  whole, killed = folder / 'whole', folder / 'killed'
  with _start(whole, *flags) as process:
    process.communicate(timeout=120)
  moments = random.Random(seed)
  reached = 0
  for _ in range(kills):
    with _start(killed, *flags) as process:
      begun = _first_step(process)
      time.sleep(moments.uniform(0, 0.3))
      process.kill()
      rest = process.stdout.read().splitlines()
    # The first step after a resume: at most one checkpoint was lost, the one
    # that was being written, and the step that was being done.
    assert begun >= reached - 1
    done = [int(s.split()[1].split('/')[0]) for s in rest if s[:5] == 'step ']
    reached = max([begun, *done])
  with _start(killed, *flags) as process:
    process.communicate(timeout=120)
  ours, theirs = (checkpoints.load_params(p) for p in (killed, whole))
  assert ours.step == theirs.step == 60
  jax.tree.map(np.testing.assert_array_equal, ours.params, theirs.params)


@pytest.mark.slow
def test_kill_9_at_random_moments_always_resumes(tmp_path):
  kill_and_resume(tmp_path, kills=2)

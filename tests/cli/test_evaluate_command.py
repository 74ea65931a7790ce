"""sr-jax evaluate and sr-jax degrade."""

import json

import jax
import numpy as np
import pytest
from conftest import texture

from sr_jax.cli.main import main
from sr_jax.data.image_io import Picture, read_image, write_image
from sr_jax.evaluation.benchmark import evaluate_folder
from sr_jax.inference.loading import load
from sr_jax.inference.options import UpscaleOptions
from sr_jax.metrics.protocol import PROTOCOLS
from sr_jax.ops.degrade import DEGRADATIONS


def test_table_json_and_images_agree(run, photos, tmp_path):
  file, images = tmp_path / 'sub' / 'r.json', tmp_path / 'images'
  done = run(
    *('evaluate', '--model', 'bicubic', '--hr', photos, '--scale', 2),
    *('--json', file, '--save-images', images),
  )
  assert done.status == 0, done
  result = json.loads(file.read_text())
  assert list(result) == [
    *('model', 'scale', 'degradation', 'kernel', 'noise_sigma'),
    *('jpeg_quality', 'seed', 'protocol', 'images', 'mean'),
    *('left_out', 'compile_seconds', 'others', 'adapt_steps'),
    *('assumed_kernel', 'tile', 'reference_dir', 'reference_level'),
  ]
  assert [row['name'] for row in result['images']] == ['one.png', 'sub/two.png']
  assert set(result['images'][0]) == {'name', 'psnr', 'ssim', 'seconds'}
  assert result['protocol']['name'] == 'y-uint8'
  assert result['adapt_steps'] is None
  for key in ('psnr', 'ssim'):
    mean = np.mean([row[key] for row in result['images']])
    assert result['mean'][key] == pytest.approx(mean)
  mean = result['mean']
  last = done.out.splitlines()[-1].split()
  assert last == ['mean', f'{mean["psnr"]:.4f}', f'{mean["ssim"]:.5f}']
  assert 'y-uint8: Y of BT.601 rounded to 8 bit' in done.out
  assert read_image(images / 'one.png').color.shape == (26, 30, 3)
  assert read_image(images / 'sub/two.png').color.shape == (24, 24, 1)


def test_psnr_by_the_formula(run, tmp_path):
  hr = texture(24, 26, 1)
  write_image(tmp_path / 'hr.png', Picture(hr))
  file, images = tmp_path / 'r.json', tmp_path / 'images'
  run(
    *('evaluate', '--model', 'bicubic', '--hr', tmp_path / 'hr.png'),
    *('--scale', 2, '--protocol', 'rgb', '--crop', 3, '--json', file),
    *('--save-images', images),
  )
  a, b = (
    255 * read_image(path).color.astype(float)[3:-3, 3:-3]
    for path in (tmp_path / 'hr.png', images / 'hr.png')
  )
  expected = 10 * np.log10(255**2 / ((a - b) ** 2).mean())
  result = json.loads(file.read_text())
  assert result['mean']['psnr'] == pytest.approx(expected, abs=1e-4)
  assert result['protocol']['crop'] == 3


def test_all_protocols_at_once(run, photos, tmp_path):
  command = ('evaluate', '--model', 'bicubic', '--hr', photos, '--scale', 2)
  run(*command, '--protocol', 'all', '--json', tmp_path / 'all.json')
  both = json.loads((tmp_path / 'all.json').read_text())
  parts = [both, *both['others']]
  assert [p['protocol']['name'] for p in parts] == list(PROTOCOLS)
  for part in parts:
    name = part['protocol']['name']
    run(*command, '--protocol', name, '--json', tmp_path / 'one.json')
    single = json.loads((tmp_path / 'one.json').read_text())
    assert single['mean'] == part['mean']
    assert single['others'] == []
  assert len({part['mean']['psnr'] for part in parts}) == 3


def test_degraded_folder_scores_as_the_same_degradation(run, photos, tmp_path):
  options = ('--degradation', 'direct', '--kernel', 'gaussian:2.0')
  options += ('--noise', 4, '--jpeg', 90, '--seed', 5)
  lr = tmp_path / 'lr'
  done = run('degrade', '--hr', photos, '-o', lr, '--scale', 2, *options)
  assert done.status == 0, done
  assert read_image(lr / 'one.png').color.shape == (13, 15, 3)
  assert json.loads((lr / 'degradation.json').read_text()) == {
    'scale': 2,
    'degradation': 'direct',
    'kernel': 'gaussian:2.0',
    'noise_sigma': 4.0,
    'jpeg_quality': 90,
    'seed': 5,
    'images': ['one.png', 'sub/two.png'],
  }
  (lr / 'one.png').rename(lr / 'one_x2.png')
  command = ('evaluate', '--model', 'bicubic', '--hr', photos, '--scale', 2)
  given, made = tmp_path / 'given.json', tmp_path / 'made.json'
  assert run(*command, '--lr', lr, '--json', given).status == 0
  assert run(*command, *options, '--json', made).status == 0
  given, made = (json.loads(path.read_text()) for path in (given, made))
  assert given['mean'] == pytest.approx(made['mean'], abs=1e-6)
  assert given['degradation'] == 'given'
  assert given['kernel'] is None
  assert made['kernel'] == 'gaussian:2.0'


def test_single_files_need_no_common_name(run, photos, tmp_path):
  small = read_image(photos / 'one.png').color[:26:2, :30:2]
  write_image(tmp_path / 'small.png', Picture(small))
  done = run(
    *('evaluate', '--model', 'bicubic', '--scale', 2, '--protocol', 'all'),
    *('--hr', photos / 'one.png', '--lr', tmp_path / 'small.png'),
  )
  assert done.status == 0, done
  assert f'LR: read from {tmp_path / "small.png"}' in done.out


def test_lr_images_without_hr_are_named(run, photos, tmp_path, caplog):
  lr = tmp_path / 'lr'
  run('degrade', '--hr', photos, '-o', lr, '--scale', 2)
  done = run(
    *('evaluate', '--model', 'bicubic', '--scale', 2),
    *('--hr', photos / 'one.png', '--lr', lr),
  )
  assert done.status == 0, done
  assert 'sub/two.png' in caplog.text


def test_equal_images_stay_valid_json(run, tmp_path):
  flat = np.full((24, 24, 3), 0.2, np.float32)
  write_image(tmp_path / 'flat.png', Picture(flat))
  file = tmp_path / 'r.json'
  run(
    *('evaluate', '--model', 'bicubic', '--hr', tmp_path / 'flat.png'),
    *('--scale', 2, '--json', file),
  )

  def refuse(constant):
    raise AssertionError(constant)

  result = json.loads(file.read_text(), parse_constant=refuse)
  assert result['mean']['psnr'] == 'Infinity'
  assert float(result['images'][0]['psnr']) == np.inf
  assert result['mean']['ssim'] == 1.0


def test_grey_image_of_a_colour_model(run, checkpoint, tmp_path):
  grey = texture(24, 26, 1)
  for name, color in {'grey': grey, 'rgb': np.repeat(grey, 3, -1)}.items():
    write_image(tmp_path / name / 'a.png', Picture(color))
    done = run(
      *('evaluate', '--model', checkpoint, '--hr', tmp_path / name),
      *('--protocol', 'all', '--json', tmp_path / f'{name}.json'),
    )
    assert done.status == 0, done
  one, two = (
    json.loads((tmp_path / f'{name}.json').read_text())
    for name in ('grey', 'rgb')
  )
  assert one['mean'] == two['mean']
  assert one['others'][-1]['mean'] == two['others'][-1]['mean']


def test_seconds_do_not_count_compiling(photos, checkpoint):
  jax.clear_caches()  # another test may have compiled the same
  lines = []
  result = evaluate_folder(
    load(checkpoint),
    options=UpscaleOptions(tile=20),
    hr_dir=photos,
    report=lines.append,
  )
  slowest = max(row['seconds'] for row in result['images'])
  assert 0 <= slowest < result['compile_seconds']
  assert lines[-1].startswith('mean')


def test_upscaler_options_change_the_score(photos, checkpoint):
  model = load(checkpoint)
  plain = evaluate_folder(model, hr_dir=photos)
  tiled = evaluate_folder(model, options=UpscaleOptions(tile=24), hr_dir=photos)
  projected = evaluate_folder(
    model, options=UpscaleOptions(back_project=3), hr_dir=photos
  )
  ensemble = evaluate_folder(
    model, options=UpscaleOptions(self_ensemble=True), hr_dir=photos
  )
  scores = [r['mean']['psnr'] for r in (plain, tiled, projected, ensemble)]
  assert scores[1] == pytest.approx(scores[0], abs=1e-3)
  assert scores[2] > scores[0] + 1
  assert abs(scores[3] - scores[0]) > 1e-3


def test_chopping_is_told(run, photos, checkpoint, tmp_path):
  file = tmp_path / 'scores.json'
  done = run(
    *('evaluate', '--model', checkpoint, '--hr', photos),
    *('--json', file, '--tile', 'chop'),
  )
  assert done.status == 0, done
  assert json.loads(file.read_text())['tile'] == 'chop'
  assert 'tiles: four overlapping parts' in done.out


def test_degradations_of_the_command_line(capsys):
  with pytest.raises(SystemExit):
    main(['evaluate', '--help'])
  choices = '{' + ','.join((*DEGRADATIONS, 'real', 'gaussian8')) + '}'
  assert choices in capsys.readouterr().out


@pytest.mark.parametrize('metrics', ['psnr,ssim', 'psnr,niqe'])
def test_image_too_small_for_a_metric_is_left_out(run, tmp_path, metrics):
  """F7: an image too small for a metric ended the evaluation, without JSON."""
  folder, path = tmp_path / 'hr', tmp_path / 'scores.json'
  write_image(folder / 'a.png', Picture(texture(12, 12)))
  write_image(folder / 'b.png', Picture(texture(200, 104)))
  command = ('evaluate', '--model', 'bicubic', '--scale', 2, '--hr', folder)
  done = run(*command, '--metrics', metrics, '--json', path)
  assert done.refused('left out, and in no mean: 1 image:', f'{folder}/a.png')
  assert 'a.png  left out: ' in done.out
  result = json.loads(path.read_text())
  assert [row['name'] for row in result['images']] == ['b.png']
  assert result['mean']['psnr'] == result['images'][0]['psnr']
  assert list(result['left_out']) == ['a.png']
  (folder / 'b.png').unlink()
  path.unlink()
  assert run(*command, '--metrics', metrics, '--json', path).refused('a.png')
  assert not path.exists()


def test_lr_at_a_scale_that_is_not_whole(run, photos, tmp_path):
  """F8: degrade refused x2.5, at which evaluate makes LR images."""
  out, path = tmp_path / 'lr', tmp_path / 'scores.json'
  done = run('degrade', '--hr', photos, '-o', out, '--scale', '2.5')
  assert done.status == 0, done
  assert '2 images at 1/2.5: bicubic' in done.out
  assert json.loads((out / 'degradation.json').read_text())['scale'] == 2.5
  assert read_image(out / 'one.png').color.shape == (10, 12, 3)
  command = ('evaluate', '--model', 'bicubic', '--scale', '2.5', '--hr', photos)
  means = []
  for lr in ((), ('--lr', out)):
    assert run(*command, *lr, '--json', path).status == 0
    means.append(json.loads(path.read_text())['mean'])
  assert means[0] == means[1]

"""Which results `upscale` regards as finished, and which files it keeps."""

import jax
import numpy as np
import pytest
from conftest import texture, visible
from PIL import Image

from sr_jax import checkpoints
from sr_jax.cli import _results
from sr_jax.data.image_io import Picture, write_image

BICUBIC = ('--model', 'bicubic', '--scale', 2)


@pytest.fixture
def out(tmp_path):
  return tmp_path / 'out'


def contents(folder):
  return {name: (folder / name).read_bytes() for name in visible(folder)}


def test_files_of_one_stem_are_all_enlarged(run, tmp_path, out):
  """F1: photo.jpg was skipped as finished because photo.png was."""
  for suffix in ('png', 'jpg', 'bmp'):
    write_image(tmp_path / f'photo.{suffix}', Picture(texture(8, 9)))
    done = run('upscale', tmp_path / f'photo.{suffix}', '-o', out, *BICUBIC)
    assert done.status == 0, done
    assert f'photo_x2.{suffix} 18x16' in done.out
  assert visible(out) == ['photo_x2.bmp', 'photo_x2.jpg', 'photo_x2.png']


def test_other_options_make_a_result_beside_the_first(
  run, photos, out, checkpoint
):
  """F2: a second model or option was skipped if the folder had a result."""
  command = ('upscale', photos / 'one.png', '-o', out)
  projected = (*BICUBIC, '--back-project', 2)
  name = 'one_x2_bicubic_back-project-2'
  runs = {
    'one_x2.png': BICUBIC,
    f'one_x2_{checkpoint.name}.png': ('--model', checkpoint),
    f'{name}.png': projected,
    f'{name}_gaussian-1.0.png': (*projected, '--kernel', 'gaussian:1.0'),
    f'{name}_gaussian-2.0.png': (*projected, '--kernel', 'gaussian:2.0'),
    f'one_x2_{checkpoint.name}_self-ensemble.png': (
      *('--model', checkpoint, '--self-ensemble'),
    ),
  }
  for i, (name, options) in enumerate(runs.items(), 1):
    before = contents(out) if out.exists() else {}
    done = run(*command, *options)
    assert done.status == 0, done
    assert f'-> {out / name} ' in done.out
    after = contents(out)
    assert len(after) == i
    assert before.items() <= after.items()
  assert len(set(contents(out).values())) == len(runs)
  for options in runs.values():
    assert '1 already there' in run(*command, *options).out
  assert len(visible(out)) == len(runs)


def test_weights_that_were_trained_further_are_another_model(
  run, photos, tmp_path, out, checkpoint
):
  """F2: after its weights changed a checkpoint counted as the same model."""
  loaded = checkpoints.load_params(checkpoint)
  names = []
  for factor in (1.0, 0.5):
    path = tmp_path / f'{factor}' / 'run'
    params = jax.tree.map(lambda x, f=factor: f * x, dict(loaded.params))
    checkpoints.save_params(path, params, loaded.config)
    done = run('upscale', photos / 'one.png', '-o', out, '--model', path)
    assert done.status == 0, done
    names.append(visible(out))
  assert names == [['one_x2.png'], ['one_x2.png', 'one_x2_run.png']]


def test_result_of_another_input_is_not_replaced(run, tmp_path, out):
  """F1: a changed input counted as finished because of its name."""
  source = tmp_path / 'a.png'
  write_image(source, Picture(texture(8, 9)))
  command = ('upscale', source, '-o', out, *BICUBIC)
  assert run(*command).status == 0
  before = contents(out)
  write_image(source, Picture(texture(9, 8, seed=1)))
  assert run(*command).refused('a.png', 'another input', '--overwrite')
  assert contents(out) == before
  assert run(*command, '--overwrite').status == 0
  assert contents(out) != before
  assert 'already there' in run(*command).out


def test_named_file_of_other_options_is_not_replaced(run, photos, tmp_path):
  """F2: `-o FILE` with another option was skipped as finished."""
  target = tmp_path / 'big.png'
  command = ('upscale', photos / 'one.png', '-o', target)
  assert run(*command, *BICUBIC).status == 0
  before = target.read_bytes()
  other = (*command, *BICUBIC, '--back-project', 3)
  assert run(*other).refused('big.png', 'exists already', '--overwrite')
  assert target.read_bytes() == before
  assert run(*other, '--overwrite').status == 0
  assert target.read_bytes() != before


@pytest.mark.parametrize('overwrite', [(), ('--overwrite',)])
def test_input_is_never_replaced(run, tmp_path, overwrite):
  """F3: the result of 0001.png replaced the input 0001_x2.png."""
  folder = tmp_path / 'photos'
  write_image(folder / '0001.png', Picture(texture(8, 9)))
  write_image(folder / '0001_x2.png', Picture(texture(12, 10, seed=1)))
  before = contents(folder)
  command = ('upscale', folder, '-o', folder, *BICUBIC, *overwrite)
  for _ in range(2):
    assert run(*command).status == 0
    assert visible(folder) == [
      *('0001.png', '0001_x2.png', '0001_x2_bicubic.png', '0001_x2_x2.png'),
    ]
    assert before.items() <= contents(folder).items()


def test_foreign_file_is_not_replaced(run, photos, out):
  """F2: any file with the name of a result counted as a result."""
  write_image(out / 'one_x2.png', Picture(texture(5, 5)))
  before = contents(out)
  command = ('upscale', photos / 'one.png', '-o', out, *BICUBIC)
  assert run(*command).status == 0
  assert visible(out) == ['one_x2.png', 'one_x2_bicubic.png']
  assert before.items() <= contents(out).items()


def test_result_that_became_png_is_found_and_replaced(run, tmp_path, out):
  """F1: a result that became a PNG, as JPEG has no alpha, was made again."""
  pixels = (texture(8, 9, 4) * 255).astype(np.uint8)
  Image.fromarray(pixels).save(tmp_path / 'a.png')
  (tmp_path / 'a.png').rename(tmp_path / 'a.jpg')
  command = ('upscale', tmp_path / 'a.jpg', '-o', out, *BICUBIC)
  assert run(*command).status == 0
  assert 'already there' in run(*command).out
  first = contents(out)
  assert run(*command, '--back-project', 1).status == 0
  assert visible(out) == ['a_x2.png', 'a_x2_bicubic_back-project-1.png']
  assert first.items() <= contents(out).items()
  assert run(*command, '--overwrite').status == 0
  assert len(visible(out)) == 2


@pytest.mark.parametrize('line', ['{"file": ', '[1, 2]', '{"file": 3}', '\x00'])
def test_damaged_record_is_no_fault(run, photos, out, line):
  """A kill in the middle of a line leaves half of it."""
  command = ('upscale', photos / 'one.png', '-o', out, *BICUBIC)
  run(*command)
  with (out / _results.RECORD).open('a') as file:
    file.write(line + '\n')
  assert 'already there' in run(*command).out


@pytest.mark.parametrize('name', ['x.avif', 'x.HEIC', 'x.gif', 'x.xyz'])
def test_format_that_cannot_be_written(run, photos, tmp_path, name):
  """F4: `-o x.avif` made a folder of that name."""
  target = tmp_path / name
  done = run('upscale', photos / 'one.png', '-o', target, *BICUBIC)
  assert done.refused(f'cannot write {target.suffix.lower()}', '.webp')
  assert not target.exists()


def test_a_version_in_a_folder_name_is_no_suffix(run, photos, tmp_path):
  folder = tmp_path / 'model_1.5'
  done = run('upscale', photos / 'one.png', '-o', folder, *BICUBIC)
  assert done.status == 0, done
  assert visible(folder) == ['one_x2.png']
  command = ('degrade', '--hr', photos, '--scale', 2, '-o', tmp_path / 'x.png')
  assert run(*command).refused('x.png: is the name of a file: name a folder')


@pytest.mark.parametrize('command', ['upscale', 'degrade', 'evaluate'])
def test_links_to_folders_are_not_followed(run, photos, tmp_path, out, command):
  """W11: results were written through a link out of the output folder."""
  elsewhere = tmp_path / 'elsewhere'
  elsewhere.mkdir()
  out.mkdir()
  (out / 'sub').symlink_to(elsewhere)
  arguments = {
    'upscale': ('upscale', photos, '-o', out, *BICUBIC),
    'degrade': ('degrade', '--hr', photos, '-o', out, '--scale', 2),
    'evaluate': ('evaluate', '--hr', photos, *BICUBIC, '--save-images', out),
  }
  done = run(*arguments[command])
  assert done.refused(str(out / 'sub'), 'is a link')
  assert not list(elsewhere.iterdir())

"""Mistakes of users: an error of one line, status 2, and no output files."""

import errno
import os
import pickle
import shutil
import struct

import numpy as np
import pytest
import safetensors.numpy
from conftest import texture
from PIL import Image

from sr_jax import checkpoints
from sr_jax.data.image_io import Picture, write_image
from sr_jax.inference.upscaler import Upscaler
from tests.weights import torch_files


@pytest.fixture
def out(tmp_path):
  """An output folder that commands must not make or fill."""
  folder = tmp_path / 'out'
  yield folder
  left = [p for p in folder.rglob('*') if p.is_file()]
  assert left == []


@pytest.fixture
def photo(photos):
  return photos / 'one.png'


def bicubic(scale=2):
  return ('--model', 'bicubic', '--scale', scale)


@pytest.mark.parametrize('command', ['upscale', 'evaluate'])
def test_scale_of_another_checkpoint(run, command, photos, checkpoint, out):
  if command == 'upscale':
    arguments = (photos, '-o', out)
  else:
    arguments = ('--hr', photos, '--save-images', out)
  done = run(command, *arguments, '--model', checkpoint, '--scale', 3)
  assert done.refused(str(checkpoint), 'by 2', '3')


def test_bicubic_without_scale(run, photo, out):
  assert run('upscale', photo, '-o', out, '--model', 'bicubic').refused(
    '--scale'
  )


@pytest.mark.parametrize(
  'arguments',
  [
    ('upscale', 'none', '-o', 'out', *bicubic()),
    ('evaluate', '--hr', 'none', *bicubic()),
    ('degrade', '--hr', 'none', '-o', 'out', '--scale', 2),
  ],
  ids=lambda arguments: arguments[0],
)
def test_missing_folder(run, arguments):
  assert run(*arguments).refused('none', 'check the path')


def test_folder_without_images(run, tmp_path, out):
  (tmp_path / 'empty').mkdir()
  done = run('upscale', tmp_path / 'empty', '-o', out, *bicubic())
  assert done.refused('no images')


def test_truncated_file_alone(run, photo, out):
  photo.write_bytes(photo.read_bytes()[:-200])
  done = run('upscale', photo, '-o', out, *bicubic())
  assert done.refused(str(photo))
  assert done.out == ''


def test_truncated_file_among_others(run, photos, tmp_path):
  (photos / 'bad.png').write_bytes((photos / 'one.png').read_bytes()[:-200])
  done = run('upscale', photos, '-o', tmp_path / 'out', *bicubic())
  assert done.refused(str(photos / 'bad.png'))
  assert done.out.endswith(f'2 enlarged, 1 failed ({photos / "bad.png"})\n')
  assert len(list((tmp_path / 'out').rglob('*.png'))) == 2


@pytest.mark.parametrize('command', ['evaluate', 'degrade'])
def test_truncated_file_is_not_left_out_of_scores(run, command, photos, out):
  bad = photos / 'sub/two.png'
  bad.write_bytes(bad.read_bytes()[:-200])
  if command == 'evaluate':
    done = run('evaluate', '--hr', photos, *bicubic(), '--json', out / 'r.json')
    assert done.out == ''
  else:
    (photos / 'one.png').unlink()
    done = run('degrade', '--hr', photos, '-o', out, '--scale', 2)
  assert done.refused(str(bad))


def test_nan_in_an_array(run, tmp_path, out):
  values = texture(9, 9)
  values[4, 4, 1] = np.nan
  np.save(tmp_path / 'a.npy', values)
  done = run('upscale', tmp_path / 'a.npy', '-o', out, *bicubic())
  assert done.refused('a.npy', 'NaN')


def test_channels_that_the_model_does_not_take(run, checkpoint, tmp_path, out):
  np.save(tmp_path / 'a.npy', texture(9, 9, 5))
  done = run('upscale', tmp_path / 'a.npy', '-o', out, '--model', checkpoint)
  assert done.refused('a.npy', '5')


class _Code:
  def __reduce__(self):
    return os.mkdir, ('made-by-the-pickle',)


def test_weights_that_carry_code(run, tmp_path, out, monkeypatch):
  monkeypatch.chdir(tmp_path)
  weights = tmp_path / 'evil.pth'
  weights.write_bytes(pickle.dumps({'state_dict': _Code()}, protocol=2))
  done = run('import', weights, '--model', 'edsr', '-o', out)
  assert done.refused('evil.pth')
  assert not (tmp_path / 'made-by-the-pickle').exists()
  assert not out.exists()


WEIGHTS = {
  'zip': torch_files.state_dict({'a': np.ones(9, np.float32)}),
  'legacy': torch_files.state_dict({'a': np.ones(9, np.float32)}, legacy=True),
  'safetensors': safetensors.numpy.save({'a': np.ones(9, np.float32)}),
  'MATLAB': b'MATLAB 5.0 MAT-file'.ljust(124)
  + struct.pack('<HHIIII', 256, 0x4D49, 14, 8, 1, 0),
  'nothing': b'no weights at all',
}


@pytest.mark.parametrize('kind', WEIGHTS)
def test_broken_weights(run, tmp_path, out, kind):
  """Truncated or hostile files: one line, and no output is left."""
  path, data = tmp_path / 'broken.pth', WEIGHTS[kind]
  for length in (0, 5, len(data) // 2, len(data) - 1):
    path.write_bytes(data[:length])
    done = run('import', path, '--model', 'edsr', '-o', out / 'x')
    assert done.refused(str(path))
    assert list(tmp_path.iterdir()) == [path]
  path.write_bytes(data)
  done = run('import', path, '--model', 'lapsrn', '-o', out / 'x')
  assert done.refused(str(path))
  assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
  ('value', 'reason'),
  [
    (torch_files.call('posix.system', torch_files.text('x')), 'posix.system'),
    (torch_files.call('builtins.eval', torch_files.text('1')), 'builtins.eval'),
    (torch_files.tensor('0', (2**40,), length=2**40), 'declares 1099511627776'),
    (b']' * 100_000 + b'a' * 99_999, 'nests containers'),
  ],
)
def test_hostile_weights(run, tmp_path, out, value, reason):
  path = tmp_path / 'hostile.pth'
  contents = torch_files.mapping({'head.0.weight': value})
  path.write_bytes(torch_files.zip_file(contents, {'0': bytes(4)}))
  done = run('import', path, '--model', 'edsr', '-o', out)
  assert done.refused(str(path), reason)
  assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize('damage', ['truncated', 'lacking', 'empty'])
@pytest.mark.parametrize('command', ['upscale', 'info', 'export'])
def test_checkpoint_cut_off(
  run, command, damage, checkpoint, photo, tmp_path, out
):
  broken = tmp_path / 'broken'
  shutil.copytree(checkpoint, broken)
  if damage == 'truncated':
    for file in (broken / 'params').rglob('*'):
      if file.is_file():
        os.truncate(file, file.stat().st_size // 2)
  elif damage == 'lacking':
    shutil.rmtree(broken / 'params')
  else:
    shutil.rmtree(broken)
    broken.mkdir()
  arguments = {
    'upscale': (photo, '-o', out, '--model', broken),
    'info': (broken,),
    'export': (broken, '--to', 'safetensors', '-o', out / 'w.safetensors'),
  }
  assert run(command, *arguments[command]).refused(str(broken))


def test_unknown_model(run, photo, out):
  done = run('upscale', photo, '-o', out, '--model', 'bicubik', '--scale', 2)
  assert done.refused("'bicubik'", 'did you mean bicubic')


def test_kernel_that_nothing_uses(run, photo, out):
  options = (*bicubic(), '--kernel', 'gaussian:2.0')
  done = run('upscale', photo, '-o', out, *options)
  assert done.refused('--back-project')
  done = run('evaluate', '--hr', photo, *options)
  assert done.refused('direct or blur-bicubic')


def test_two_inputs_of_one_output(run, photos, tmp_path, out):
  other = tmp_path / 'other'
  write_image(other / 'one.png', Picture(texture(8, 8)))
  done = run('upscale', photos, other, '-o', out, *bicubic())
  assert done.refused(str(photos / 'one.png'), str(other / 'one.png'))


def test_output_that_is_no_folder(run, photos, photo, tmp_path, out):
  (tmp_path / 'file').write_text('')
  done = run('upscale', photos, '-o', tmp_path / 'file', *bicubic())
  assert done.refused('file', 'give a folder')
  done = run('upscale', photos, '-o', out / 'big.png', *bicubic())
  assert done.refused('big.png', 'give a folder')
  done = run('degrade', '--hr', photo, '-o', tmp_path / 'file', '--scale', 2)
  assert done.refused('file')
  done = run('upscale', photo, '-o', photo, *bicubic(), '--overwrite')
  assert done.refused('one.png', 'another name')


@pytest.mark.parametrize('command', ['upscale', 'degrade'])
def test_full_disk(run, command, photos, out, monkeypatch):
  replace = os.replace

  def full(source, target):
    if str(target).startswith(str(out)):
      raise OSError(errno.ENOSPC, 'No space left on device')
    replace(source, target)

  monkeypatch.setattr(os, 'replace', full)
  if command == 'upscale':
    done = run('upscale', photos, '-o', out, *bicubic())
  else:
    done = run('degrade', '--hr', photos, '-o', out, '--scale', 2)
  assert done.refused('No space left on device')


def test_too_little_memory_for_one_file(run, photos, tmp_path, monkeypatch):
  call = Upscaler.__call__

  def limited(self, image, *fitted, **options):
    if image.shape[0] == 26:
      raise MemoryError
    return call(self, image, *fitted, **options)

  monkeypatch.setattr(Upscaler, '__call__', limited)
  done = run('upscale', photos, '-o', tmp_path / 'out', *bicubic())
  assert done.refused('one.png', 'memory')
  assert '1 enlarged, 1 failed' in done.out


@pytest.mark.parametrize(
  ('arguments', 'word'),
  [
    ((), 'COMMAND'),
    (('uscale',), 'uscale'),
    (('upscale', 'a.png'), '-o'),
    (('upscale', 'a.png', '-o', 'b', '--tile', '0'), '--tile'),
    (('upscale', 'a.png', '-o', 'b', '--scale', '1'), '--scale'),
    (('upscale', 'a.png', '-o', 'b', '--scale', 'nan'), '--scale'),
    (('evaluate', '--model', 'zssr', '--hr', 'a', '--scale', '1'), '--scale'),
    (('degrade', '--hr', 'a', '-o', 'b', '--scale', '1'), '--scale'),
    (('upscale', 'a.png', '-o', 'b', '--back-project', '-1'), '-1'),
    (('upscale', 'a.png', '-o', 'b', '--adapt-steps', '-1'), '--adapt-steps'),
    (('upscale', 'a.png', '-o', 'b', '--adapt-steps', 'all'), 'neither auto'),
    (('evaluate', '--model', 'bicubic', '--hr', 'a', '--jpeg', 'x'), '--jpeg'),
    (('export', 'a', '--to', 'onnx', '-o', 'b'), 'stablehlo'),
  ],
)
def test_wrong_usage(run, arguments, word):
  assert run(*arguments).refused(word, '--help')


@pytest.mark.parametrize(
  ('options', 'words'),
  [
    (('--protocol', 'ycbcr'), ('ycbcr', 'y-uint8')),
    (('--crop', '-1'), ('border crop',)),
    (('--crop', '13'), ('one.png', 'border crop')),
    (('--crop', '9'), ('one.png', '11x11')),
    (('--scale', '40'), ('one.png', 'scale 40')),
    (('--degradation', 'direct'), ('direct', 'kernel')),
    (('--degradation', 'direct', '--kernel', 'no.mat'), ('no.mat',)),
    (('--noise', '-3'), ('noise', '-3')),
    (('--jpeg', '101'), ('JPEG', '101')),
    (('--lr', 'PHOTO', '--jpeg', '9'), ('--lr', '--jpeg')),
    (('--lr', 'PHOTO'), ('one.png', '31x26', '15x13')),
  ],
)
def test_evaluation_that_cannot_be_done(run, photo, out, options, words):
  options = [str(photo) if o == 'PHOTO' else o for o in options]
  save = ('--save-images', out, '--json', out / 'result.json')
  model = () if '--scale' in options else ('--scale', 2)
  model = ('--model', 'bicubic', *model)
  done = run('evaluate', '--hr', photo, *model, *save, *options)
  assert done.refused(*words)


def test_array_of_another_range_is_not_scored(run, tmp_path):
  np.save(tmp_path / 'a.npy', 255 * texture(30, 30))
  done = run('evaluate', '--hr', tmp_path / 'a.npy', *bicubic())
  assert done.refused('a.npy', '[0, 1]')


def test_lr_image_that_is_missing_or_ambiguous(run, photos, tmp_path):
  lr = tmp_path / 'lr'
  small = Picture(texture(13, 15))
  write_image(lr / 'one.png', small)
  command = ('evaluate', '--hr', photos, '--lr', lr, *bicubic())
  assert run(*command).refused('two.png', 'sub/two_x2')
  write_image(lr / 'onex2.png', small)
  assert run(*command).refused('one.png', 'onex2.png')


def test_evaluation_does_not_replace_its_inputs(run, photos, tmp_path):
  lr = tmp_path / 'lr'
  command = ('--scale', 2, '--hr', photos)
  assert run('degrade', *command, '-o', lr).status == 0
  command = ('evaluate', '--model', 'bicubic', *command)
  before = [p.read_bytes() for p in (photos / 'one.png', lr / 'one.png')]
  done = run(*command, '--save-images', photos)
  assert done.refused('one.png', 'is an input')
  done = run(*command, '--lr', lr, '--save-images', lr)
  assert done.refused('one.png', 'is an input')
  after = [p.read_bytes() for p in (photos / 'one.png', lr / 'one.png')]
  assert after == before


def test_checkpoint_that_gives_nan(run, checkpoint, photos, tmp_path, out):
  loaded = checkpoints.load_params(checkpoint)
  loaded.params['generator']['tail']['bias'][:] = np.nan
  checkpoints.save_params(tmp_path / 'nan', loaded.params, loaded.config)
  model = ('--model', tmp_path / 'nan')
  done = run('evaluate', '--hr', photos, *model, '--json', out / 'r.json')
  assert done.refused('one.png', 'NaN', 'check its checkpoint')
  done = run('upscale', photos / 'one.png', '-o', out, *model)
  assert done.refused('NaN')


def test_degrade_does_not_mix_with_what_is_there(run, photos, out, tmp_path):
  first = tmp_path / 'first'
  assert run('degrade', '--hr', photos, '-o', first, '--scale', 2).status == 0
  before = (first / 'one.png').read_bytes()
  done = run('degrade', '--hr', photos, '-o', first, '--scale', 3)
  assert done.refused('one.png', 'exists')
  assert (first / 'one.png').read_bytes() == before


def test_huge_width_is_no_fault(run, tmp_path):
  Image.fromarray(np.zeros((3, 20000), np.uint8)).save(tmp_path / 'wide.png')
  done = run('upscale', tmp_path / 'wide.png', '-o', tmp_path, *bicubic())
  assert done.status == 0, done
  with Image.open(tmp_path / 'wide_x2.png') as image:
    assert image.size == (40000, 6)

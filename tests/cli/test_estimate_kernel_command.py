"""`sr-jax estimate-kernel`: what it prints and writes."""

import json

import numpy as np
from PIL import Image
from skimage import data as photographs

from sr_jax.cli.main import main
from sr_jax.data.kernel_files import load_kernel
from sr_jax.data.spectra import motion_kernel
from sr_jax.ops.degrade import degrade


def test_estimates_are_printed_and_written(tmp_path, capsys):
  folder = tmp_path / 'in'
  (folder / 'sub').mkdir(parents=True)
  photo = Image.fromarray(photographs.astronaut()[:200:2, :240:2])
  photo.save(folder / 'a.png')
  photo.convert('L').save(folder / 'sub' / 'b.jpg')
  Image.new('RGB', (20, 20)).save(folder / 'small.png')
  out = tmp_path / 'out'
  assert main(['estimate-kernel', str(folder), '-o', str(out)]) == 2
  printed = capsys.readouterr()
  lines = printed.out.splitlines()
  assert [line.split(': ')[0] for line in lines] == [
    str(folder / 'a.png'),
    str(folder / 'sub' / 'b.jpg'),
  ]
  assert 'gaussian:' in lines[0]
  assert printed.err.splitlines() == [
    f'sr-jax: error: {folder / "small.png"}: 20x20 pixels are too few to'
    ' estimate a blur from: give 36 or more a side, or name the kernel'
  ]
  records = json.loads((out / 'kernels.json').read_text())
  assert [record['image'] for record in records] == ['a.png', 'sub/b.jpg']
  assert records[0]['kernel'] in lines[0]
  taps = load_kernel(out / 'a_kernel.npy')
  np.testing.assert_allclose(taps.sum(), 1)
  with Image.open(out / 'sub' / 'b_kernel.png') as picture:
    assert picture.size[0] >= 21 * 8


def test_files_without_output_folder(tmp_path, capsys):
  path = tmp_path / 'photo.png'
  Image.fromarray(photographs.camera()[:160, :160]).save(path)
  assert main(['estimate-kernel', str(path), '--by', 'spectrum']) == 0
  assert capsys.readouterr().out.startswith(f'{path}: gaussian:')
  assert list(tmp_path.iterdir()) == [path]


def test_floats_are_fitted_as_upscale_does(tmp_path, capsys):
  """The network took them, which was trained on whole grey levels."""
  path = tmp_path / 'a.npy'
  np.save(path, np.float32(photographs.astronaut()[:160, :160] / 255))
  assert main(['estimate-kernel', str(path), '-o', str(tmp_path)]) == 0
  (record,) = json.loads((tmp_path / 'kernels.json').read_text())
  assert record['origins'] == {}
  assert 'widths within' not in capsys.readouterr().out


def test_kernelgan_is_offered_where_it_is_possible(tmp_path, capsys):
  """A small image was sent to KernelGAN, which then refused it."""
  hr = photographs.astronaut()[:320, 100:420] / 255
  kernel = motion_kernel(10.0, 0.4)
  lr = degrade(None, hr, scale=2, degradation='direct', kernel=kernel)
  for side in (160, 80):
    pixels = np.uint8(np.round(255 * np.asarray(lr)[:side, :side]))
    Image.fromarray(pixels).save(tmp_path / f'{side}.png')
  assert main(['estimate-kernel', *map(str, sorted(tmp_path.iterdir()))]) == 0
  large, small = capsys.readouterr().out.splitlines()
  assert 'which no Gaussian fits: --by kernelgan assumes no shape' in large
  assert small.endswith('which no Gaussian fits)')
  assert main(['estimate-kernel', str(tmp_path / '160.png'), '--scale=3']) == 0
  assert '--by kernelgan' not in capsys.readouterr().out

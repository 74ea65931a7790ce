"""`sr-jax estimate-kernel`: what it prints and writes."""

import json

import numpy as np
from PIL import Image
from skimage import data as photographs

from sr_jax.cli.main import main
from sr_jax.data.kernel_files import load_kernel


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

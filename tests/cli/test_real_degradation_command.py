"""sr-jax degrade and evaluate with --degradation real."""

import json

import numpy as np

from sr_jax.data.folders import list_images
from sr_jax.data.image_io import read_image


def _degrade(run, photos, out, *options):
  command = ('degrade', '--hr', photos, '-o', out, '--scale', 2)
  return run(*command, '--degradation', 'real', *options)


def _options(seed):
  return ('--preset', 'bsrgan', '--seed', seed)


def test_every_image_has_a_record_of_its_draw(run, photos, tmp_path):
  first, again, other = (tmp_path / name for name in 'abc')
  done = _degrade(run, photos, first, *_options(3))
  assert done.status == 0, done
  assert 'real, preset bsrgan, seed 3' in done.out
  assert _degrade(run, photos, again, *_options(3)).status == 0
  assert _degrade(run, photos, other, *_options(4)).status == 0
  names = ('one', 'sub/two')
  draws = []
  for name in names:
    paths = [f / f'{name}.degradation.json' for f in (first, again, other)]
    records = [json.loads(path.read_text()) for path in paths]
    assert records[0] == records[1] != records[2]
    assert records[0]['hr'] == f'{name}.png'
    assert len(records[0]['order']) == 7
    draws.append(records[0]['blur_1'])
    images = [
      read_image(f / f'{name}.png').color for f in (first, again, other)
    ]
    np.testing.assert_array_equal(images[0], images[1])
    assert (images[0] != images[2]).any()
  assert draws[0] != draws[1]
  whole = json.loads((first / 'degradation.json').read_text())
  assert whole['degradation'] == 'real'
  assert whole['real'] == {'preset': 'bsrgan'}
  assert whole['images'] == ['one.png', 'sub/two.png']


def test_a_degraded_folder_can_be_read_as_images(run, photos, tmp_path):
  """The records beside the images are no images that cannot be read."""
  out = tmp_path / 'lr'
  assert _degrade(run, photos, out, '--preset', 'camera-mild').status == 0
  images, bad = list_images(out)
  assert sorted(images) == ['one.png', 'sub/two.png']
  assert not bad
  options = ('evaluate', '--model', 'bicubic', '--hr', photos, '--scale', 2)
  given, made = tmp_path / 'given.json', tmp_path / 'made.json'
  assert run(*options, '--lr', out, '--json', given).status == 0
  real = ('--degradation', 'real', '--preset', 'camera-mild')
  assert run(*options, *real, '--json', made).status == 0
  given, made = (json.loads(path.read_text()) for path in (given, made))
  assert np.isclose(given['mean']['psnr'], made['mean']['psnr'], atol=1e-6)
  assert made['real'] == {'preset': 'camera-mild'}


def test_contradictions_are_refused(run, photos, tmp_path):
  out = tmp_path / 'out'
  command = ('degrade', '--hr', photos, '-o', out, '--scale', 2)
  assert run(*command, '--preset', 'bsrgan').refused('--degradation real')
  assert _degrade(run, photos, out, '--preset', 'x').refused('camera-mild')
  assert _degrade(run, photos, out, '--noise', 3).refused("'real' draws")
  assert _degrade(run, photos, out, '--jpeg', 30).refused("'real' draws")
  evaluated = ('evaluate', '--model', 'bicubic', '--hr', photos, '--scale', 2)
  lr = ('--lr', photos, '--degradation', 'real')
  assert run(*evaluated, *lr).refused('--degradation')
  assert not out.exists()
  # A record of a former run is not overwritten.
  out.mkdir()
  (out / 'one.degradation.json').write_text('{}')
  done = _degrade(run, photos, out)
  assert done.refused('one.degradation.json', 'exists already')

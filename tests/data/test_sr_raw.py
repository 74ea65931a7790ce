"""Preparing SR-RAW sequences of a known scene, and faulty sequences."""

import numpy as np
import pytest
from PIL import Image

from sr_jax.cli.main import main
from sr_jax.data import sr_raw
from sr_jax.errors import UserError
from sr_jax.metrics.psnr import psnr
from sr_jax.ops.resize import imresize

FOCALS = (240.0, 150.0, 100.0, 70.0, 50.0, 35.0, 24.0)
HEIGHT, WIDTH = 352, 480
# Affine maps from view 1 to each of the views: some pixels, little else.
TFORMS = {
  1: ((1, 0, 0), (0, 1, 0)),
  2: ((1.002, -0.003, 5), (0.002, 0.999, -7)),
  5: ((0.998, 0.004, -9), (-0.003, 1.001, 6)),
  6: ((1, 0.002, 8), (0.001, 1, 4)),
}
CAMERA, FOCAL, ORIENTATION = 0x8769, 37386, 274


def _scene(x, y):
  """uint8 `[H, W, 3]` of a smooth scene in pixels of view 1."""
  waves = [
    np.sin(x / 23 + y / 61 + c) + np.sin(y / 19 - x / 83 + 2 * c)
    for c in range(3)
  ]
  return np.rint(127.5 + 55 * np.stack(waves, -1)).astype(np.uint8)


def _matrix(view):
  return np.array([*TFORMS.get(view, TFORMS[1]), (0, 0, 1)])


def _seen(view, columns, rows):
  """The scene in a view's frame, whose size and zoom are those of view 1."""
  x, y = np.meshgrid(columns, rows)
  points = np.linalg.inv(_matrix(view)) @ [
    x.ravel(),
    y.ravel(),
    np.ones(x.size),
  ]
  return _scene(points[0].reshape(x.shape), points[1].reshape(x.shape))


def _photograph(view):
  """The photograph that the camera stores at a view's focal length."""
  zoom = FOCALS[0] / FOCALS[view - 1]
  axes = [
    (np.arange(n) - (n - 1) / 2) * zoom + (n - 1) / 2 for n in (WIDTH, HEIGHT)
  ]
  return _seen(view, *axes)


def _save(path, pixels, focal, orientation=1):
  image = Image.fromarray(pixels)
  exif = image.getexif()
  exif[ORIENTATION] = orientation
  if focal:
    exif.get_ifd(CAMERA)[FOCAL] = focal
  path.parent.mkdir(parents=True, exist_ok=True)
  image.save(path, quality=98, subsampling=0, exif=exif)


def _sequence(folder, views=(1, 2, 5, 6), *, turned=False):
  for view in views:
    pixels = _photograph(view)
    pixels = pixels[::-1, ::-1] if turned else pixels
    _save(
      folder / f'{view:05}.JPG',
      pixels,
      FOCALS[view - 1],
      3 if turned and view == 1 else 1,
    )
  text = ''
  for view in range(1, 8):
    rows = [' '.join(f'{x:.4f}' for x in row) for row in _matrix(view)[:2]]
    text += f'00001-{view:05}:\n' + '\n'.join(rows) + '\n'
  (folder / 'tform.txt').write_text(f'{text}corner:\n00010 00300 00010 00400')
  return folder


@pytest.fixture(scope='module')
def sequences(tmp_path_factory):
  """A folder of two sequences; the second is stored upside down."""
  folder = tmp_path_factory.mktemp('sr_raw')
  _sequence(folder / '00100')
  _sequence(folder / '00101', turned=True)
  return folder


@pytest.mark.parametrize('sequence', ['00100', '00101'])
@pytest.mark.parametrize(
  ('scale', 'hr', 'lr'), [(4, 1, 5), (4, 2, 6), (8, 1, 6)]
)
def test_pairs_show_the_same_scene(sequences, sequence, scale, hr, lr):
  small, large = sr_raw.make_pair(sequences / sequence, hr, lr, scale)
  zoom = FOCALS[0] / FOCALS[lr - 1]
  shape = tuple(2 * int(n / zoom / 2 - 20) for n in (HEIGHT, WIDTH))
  assert small.dtype == large.dtype == np.uint8
  assert small.shape == (*shape, 3)
  assert large.shape == (scale * shape[0], scale * shape[1], 3)
  # HR pixels in the frame of the LR view, whose middle they are.
  rows, columns = (
    (full - int(n * zoom)) // 2
    + (np.arange(scale * n) + 0.5) * int(n * zoom) / (scale * n)
    - 0.5
    for full, n in zip((HEIGHT, WIDTH), shape, strict=True)
  )
  expected = _seen(lr, columns, rows)
  assert psnr(large.astype(float), expected.astype(float)) > 40
  reduced = imresize(large, scale=1 / scale)
  assert psnr(reduced, small.astype(float)) > 42


def test_images_match_because_of_the_alignment(
  sequences, tmp_path, monkeypatch
):
  folder = _sequence(tmp_path / '00100')
  monkeypatch.setattr(sr_raw, '_read_tform', lambda sequence, view: np.eye(3))
  small, large = sr_raw.make_pair(folder, 1, 5, 4)
  reduced = imresize(large, scale=1 / 4)
  assert psnr(reduced, small.astype(float)) < 25


def test_folders_as_the_release_has_them(sequences, tmp_path, capsys):
  done = sr_raw.prepare(sequences, tmp_path, 4)
  names = [f'{s}_{v}' for s in ('00100', '00101') for v in ('00005', '00006')]
  assert done.written == names
  # Views 3 and 7 are not there.
  assert done.skipped == [
    (f'{s}_00007', '00003.JPG is missing') for s in ('00100', '00101')
  ]
  told = capsys.readouterr().err.splitlines()
  assert told == [f'skipped {name}: {why}' for name, why in done.skipped]
  for kind in ('LR', 'HR'):
    files = sorted(path.name for path in (tmp_path / 'X4' / kind).iterdir())
    assert files == [f'{name}.png' for name in names]
  small, _ = sr_raw.make_pair(sequences / '00100', 1, 5, 4)
  with Image.open(tmp_path / 'X4' / 'LR' / '00100_00005.png') as image:
    np.testing.assert_array_equal(np.asarray(image), small)


def test_pairs_that_are_there_are_not_made_again(tmp_path):
  folder = _sequence(tmp_path / 'in' / '00100').parent
  out = tmp_path / 'out'
  first = sr_raw.prepare(folder, out, 8)
  path = out / 'X8' / 'HR' / '00100_00006.png'
  before = path.stat().st_mtime_ns
  assert sr_raw.prepare(folder, out, 8) == first
  assert path.stat().st_mtime_ns == before
  path.unlink()
  assert sr_raw.prepare(folder, out, 8) == first
  assert path.exists()


def _rewrite(pattern, replacement):
  def spoil(folder):
    text = (folder / 'tform.txt').read_text()
    assert pattern in text
    (folder / 'tform.txt').write_text(text.replace(pattern, replacement))

  return spoil


def _cut(folder):
  content = (folder / '00006.JPG').read_bytes()
  (folder / '00006.JPG').write_bytes(content[: len(content) // 3])


def _refocus(focal):
  return lambda folder: _save(folder / '00006.JPG', _photograph(6), focal)


@pytest.mark.parametrize(
  ('spoil', 'reason'),
  [
    (lambda f: (f / 'tform.txt').unlink(), r'tform\.txt .*run_align\.sh'),
    (
      lambda f: (f / 'tform.txt').write_bytes(b'\xff\xfe'),
      r'tform\.txt cannot',
    ),
    (
      _rewrite('00001-00006:', '00001-00016:'),
      r'tform\.txt has no 00001-00006:',
    ),
    (_rewrite('1.0000 0.0020 8.0', '1.0 x 8.0'), 'no two rows of numbers'),
    (_rewrite('1.0000 0.0020 8.0000', '1.0 8.0'), 'no two rows of numbers'),
    (_rewrite('1.0000 0.0020 8.0000', 'nan 0.0 8.0'), 'no affine map'),
    (_rewrite('1.0000 0.0020 8.0000', '0.0 0.0 8.0'), 'no affine map'),
    (_rewrite('0.0020 8.0000', '0.0020 300.0'), 'beyond its border'),
    (lambda f: (f / '00006.JPG').unlink(), r'00006\.JPG is missing'),
    (lambda f: (f / '00001.JPG').unlink(), r'00001\.JPG is missing'),
    (
      lambda f: (f / '00006.JPG').write_bytes(b'no'),
      r'00006\.JPG cannot be read',
    ),
    (_cut, r'00006\.JPG cannot be read'),
    (_refocus(None), r'00006\.JPG does not give its focal length'),
    (_refocus(2.0), '00006 shows too little'),
  ],
)
def test_unsuitable_images_give_errors_of_one_line(
  tmp_path, capsys, spoil, reason
):
  good = _sequence(tmp_path / 'in' / '00100', views=(1, 6))
  bad = _sequence(tmp_path / 'in' / '00200', views=(1, 6))
  spoil(bad)
  done = sr_raw.prepare(good.parent, tmp_path / 'out', 8)
  assert done.written == ['00100_00006']
  (told,) = capsys.readouterr().err.splitlines()
  assert told.startswith('skipped 00200_00006: ')
  assert not list((tmp_path / 'out').rglob('00200*'))
  good.rename(tmp_path / 'elsewhere')
  message = f'no pair can be made; 00200_00006: .*{reason}'
  with pytest.raises(UserError, match=message):
    sr_raw.prepare(bad.parent, tmp_path / 'out', 8)


def test_known_bad_sequences_are_skipped(tmp_path, capsys):
  for name in ('00004', '00350', '00560', '00561'):
    _sequence(tmp_path / 'in' / name, views=(1, 6))
  done = sr_raw.prepare(tmp_path / 'in', tmp_path / 'out', 8)
  assert done.written == ['00561_00006']
  assert dict(done.skipped) == {
    '00004_00006': '00001 cannot be aligned',
    '00350_00006': '00006 is a damaged file',
    '00560_00006': '00006 is of the next sequence (its 00001)',
  }
  assert len(capsys.readouterr().err.splitlines()) == 3


def test_folders_that_are_none_of_sequences(tmp_path, capsys):
  out = tmp_path / 'out'
  with pytest.raises(UserError, match='no such folder'):
    sr_raw.prepare(tmp_path / 'in', out, 4)
  (tmp_path / 'in' / 'notes').mkdir(parents=True)
  (tmp_path / 'in' / 'list.txt').touch()
  with pytest.raises(UserError, match='it has no sequences'):
    sr_raw.prepare(tmp_path / 'in', out, 4)
  assert capsys.readouterr().err == 'skipped notes: has no photographs\n'
  sequence = _sequence(tmp_path / '00100', views=(1,))
  with pytest.raises(UserError, match='give the folder of the sequences'):
    sr_raw.prepare(sequence, out, 4)
  with pytest.raises(UserError, match='scale 2: SR-RAW has pairs for 4 and 8'):
    sr_raw.prepare(tmp_path / 'in', out, 2)
  assert not out.exists()


def test_command(sequences, tmp_path, capsys):
  def run(*arguments):
    return main(['prepare', 'sr-raw', *map(str, arguments)])

  assert run(sequences, '-o', tmp_path, '--scale', 8) == 0
  assert capsys.readouterr().out == (
    f'2 pairs in {tmp_path / "X8"}, 0 skipped\n'
  )
  assert run(tmp_path / 'none', '-o', tmp_path, '--scale', 8) == 2
  assert capsys.readouterr().err.count('\n') == 1

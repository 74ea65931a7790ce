"""Label maps: accepted files, ids, and matching with images."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from sr_jax.data import cache, label_maps, labelled, sources
from sr_jax.data.label_maps import made_up, read_label_map
from sr_jax.errors import UserError

LABELS = np.array([[0, 1, 157], [91, 92, 182]], np.uint8)


def _png(values, depth, kind):
  """Bytes of a PNG written by hand; values are whole bytes, row by row."""

  def chunk(name, data):
    check = zlib.crc32(name + data)
    return struct.pack('>I', len(data)) + name + data + struct.pack('>I', check)

  height, width = values.shape[0], values.shape[1] * 8 // depth
  header = struct.pack('>IIBBBBB', width, height, depth, kind, 0, 0, 0)
  rows = b''.join(b'\0' + row.tobytes() for row in values)
  return b''.join(
    [
      b'\x89PNG\r\n\x1a\n',
      chunk(b'IHDR', header),
      chunk(b'IDAT', zlib.compress(rows)),
      chunk(b'IEND', b''),
    ]
  )


@pytest.fixture
def path(tmp_path):
  return tmp_path / 'map.png'


def test_grey_levels_are_ids(path):
  Image.fromarray(LABELS).save(path)
  found = read_label_map(path, 'coco-stuff')
  assert found.dtype == np.uint8
  np.testing.assert_array_equal(found, LABELS[..., None])


@pytest.mark.parametrize('bits', [8, 4])
def test_indices_of_a_palette_are_ids_whatever_the_colours(path, bits):
  labels = LABELS % 16 if bits == 4 else LABELS
  image = Image.fromarray(labels)
  image = Image.frombytes('P', image.size, image.tobytes())
  image.putpalette(np.random.default_rng(0).bytes(3 * 2**bits))
  image.save(path, bits=bits)
  assert path.read_bytes()[24:26] == bytes([bits, 3])
  found = read_label_map(path, 'coco-stuff')
  np.testing.assert_array_equal(found[..., 0], labels)


def test_stuffthingmaps_are_one_less(path):
  """In stuffthingmaps person is 0, sky-other 156, and 255 means no label."""
  Image.fromarray(np.array([[0, 156, 181, 255]], np.uint8)).save(path)
  found = read_label_map(path, 'stuffthingmaps')
  assert found.ravel().tolist() == [1, 157, 182, 0]


@pytest.mark.parametrize(
  ('ids', 'values', 'reason'),
  [
    ('coco-stuff', [183, 7, 200], r'unknown ids 183, 200: .* 0 to 182'),
    ('coco-stuff', [255], r'unknown ids 255: .* or label_ids=stuffthingmaps'),
    ('coco-stuff', range(183, 193), r'unknown ids 183, 184, 185, 186, 187: '),
    ('stuffthingmaps', [182, 254], r'unknown ids 182, 254: .* 181 and 255'),
  ],
)
def test_unknown_ids_are_named(path, ids, values, reason):
  Image.fromarray(np.array([[*values, 5]], np.uint8)).save(path)
  with pytest.raises(UserError, match=reason) as caught:
    read_label_map(path, ids)
  assert str(caught.value).startswith(f'{path}: ')
  assert '\n' not in str(caught.value)


def _of_mode(mode):
  stream = io.BytesIO()
  Image.new(mode, (3, 2)).save(stream, 'png')
  return stream.getvalue()


def _jpeg():
  stream = io.BytesIO()
  Image.fromarray(LABELS).save(stream, 'jpeg')
  return stream.getvalue()


@pytest.mark.parametrize(
  ('content', 'reason'),
  [
    (_of_mode('RGB'), 'is 8-bit RGB: give labels as an 8-bit PNG of one'),
    (_of_mode('RGBA'), 'is 8-bit RGBA'),
    (_of_mode('LA'), r'is 8-bit grey \+ alpha'),
    (_of_mode('I;16'), 'is 16-bit grey'),
    (_of_mode('1'), 'is 1-bit grey'),
    # Pillow would make 17 of 1.
    (_png(np.array([[0x12]], np.uint8), 4, 0), 'is 4-bit grey'),
    (_jpeg(), 'is no PNG file'),
    (b'', 'is no PNG file'),
    (_png(LABELS, 8, 0)[:48], 'damaged, cut off'),
  ],
  ids=lambda value: value if isinstance(value, str) else '',
)
def test_other_files_are_refused(path, content, reason):
  path.write_bytes(content)
  with pytest.raises(UserError, match=reason) as caught:
    read_label_map(path, 'coco-stuff')
  assert '\n' not in str(caught.value)


def test_made_up_labels_are_thirds_by_brightness():
  image = np.zeros((70, 96, 3), np.uint8)
  image[:, 32:64] = 100
  image[:, 64:] = 200
  found = made_up(image)
  assert found.shape == (70, 96, 1)
  assert found.dtype == np.uint8
  np.testing.assert_array_equal(found[:, ::32, 0], [[1, 124, 157]] * 70)
  assert (found[:, 31] == 1).all()


# Beside their images


@pytest.fixture
def folders(tmp_path):
  """Three images with label maps; one is in a subfolder and a JPEG."""
  rng = np.random.default_rng(0)
  for i, name in enumerate(('a.png', 'b.jpg', 'deep/c.png')):
    size = (20 + i, 24, 3)
    for folder in ('hr', 'maps'):
      (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
    image = rng.integers(0, 256, size, np.uint8)
    Image.fromarray(image).save(tmp_path / 'hr' / name)
    labels = rng.integers(0, 183, size[:2], np.uint8)
    Image.fromarray(labels).save((tmp_path / 'maps' / name).with_suffix('.png'))
  return tmp_path


def _open(folders, on_bad='refuse', ids='coco-stuff', labels=None):
  options = {'on_bad': on_bad, 'cache_dir': folders / 'cache'}
  source = sources.folder_source(folders / 'hr', min_size=16, **options)
  labels = labels or str(folders / 'maps')
  return labelled.with_labels(source, labels, ids, **options)


def test_maps_are_found_by_name_and_kept(folders, monkeypatch):
  source = _open(folders)
  assert source.names == ('a.png', 'b.jpg', 'deep/c.png')
  for name, image, opener in zip(
    source.names, source, source.labels, strict=True
  ):
    file = (folders / 'maps' / name).with_suffix('.png')
    np.testing.assert_array_equal(opener()[..., 0], Image.open(file))
    assert opener().shape == (*image.shape[:2], 1)
  monkeypatch.setattr(label_maps, 'read_label_map', lambda *a: 1 / 0)
  assert isinstance(_open(folders).labels[0](), np.memmap)


def test_ids_are_kept_apart(folders):
  """A folder that was opened with the wrong ids first is read again."""
  Image.fromarray(np.full((20, 24), 7, np.uint8)).save(folders / 'maps/a.png')
  for file in ('b.png', 'deep/c.png'):
    shape = np.asarray(Image.open(folders / 'maps' / file)).shape
    Image.new('L', shape[::-1]).save(folders / 'maps' / file)
  found = [
    _open(folders, ids=ids).labels[0]()[0, 0, 0] for ids in label_maps.IDS
  ]
  assert found == [7, 8]


def test_pictures_and_maps_of_one_file_are_kept_apart(folders):
  """The same grey PNG is opened as an image and as a label map."""
  file = folders / 'maps' / 'a.png'
  _open(folders)
  assert cache.image_file(file, folders / 'cache')().shape == (20, 24, 3)
  assert _open(folders).labels[0]().shape == (20, 24, 1)


def _missing(folders):
  (folders / 'maps' / 'b.png').unlink()
  return r'b\.jpg: no label map \(looked for b\.png\)'


def _of_another_size(folders):
  Image.fromarray(np.zeros((24, 21), np.uint8)).save(folders / 'maps/b.png')
  return r'b\.jpg: its label map is 21x24, the image 24x21'


def _unknown(folders):
  Image.fromarray(np.full((21, 24), 190, np.uint8)).save(folders / 'maps/b.png')
  return r'b\.jpg: .*maps/b\.png: unknown ids 190'


def _colour(folders):
  Image.new('RGB', (24, 21)).save(folders / 'maps/b.png')
  return r'b\.jpg: .*maps/b\.png: is 8-bit RGB'


@pytest.mark.parametrize(
  'spoil', [_missing, _of_another_size, _unknown, _colour]
)
def test_maps_that_do_not_serve(folders, spoil):
  reason = spoil(folders)
  with pytest.raises(UserError, match=reason) as caught:
    _open(folders)
  assert '\n' not in str(caught.value)
  source = _open(folders, on_bad='skip')
  assert source.names == ('a.png', 'deep/c.png')
  assert [name for name, _ in source.skipped] == ['b.jpg']
  for image, opener in zip(source, source.labels, strict=True):
    assert opener().shape[:2] == image.shape[:2]


def test_wrong_settings_are_told(folders):
  with pytest.raises(UserError, match=r"label_ids='voc': choose from .*stuff"):
    _open(folders, ids='voc')
  with pytest.raises(UserError, match=r'labels .*/gone: no such folder'):
    _open(folders, labels=f'folder:{folders / "gone"}')


def test_pairs_may_have_maps(folders):
  (folders / 'lr' / 'deep').mkdir(parents=True)
  for i, name in enumerate(('a.png', 'b.png', 'deep/c.png')):
    size = ((20 + i) // 2, 12, 3)
    Image.fromarray(np.zeros(size, np.uint8)).save(folders / 'lr' / name)
  (folders / 'maps' / 'a.png').unlink()
  options = {'on_bad': 'skip', 'cache_dir': folders / 'cache'}
  pairs = sources.paired_source(
    folders / 'lr', folders / 'hr', 2, min_size=16, **options
  )
  source = labelled.with_labels(
    pairs, str(folders / 'maps'), 'coco-stuff', **options
  )
  assert source.names == ('b.jpg', 'deep/c.png')
  assert source.lr.names == ('b.png', 'deep/c.png')
  assert [name for name, _ in source.skipped] == ['a.png']
  shapes = [labels().shape for labels in source.hr.labels]
  assert shapes == [(21, 24, 1), (22, 24, 1)]


def test_any_source_may_make_them_up(tmp_path):
  source = sources.embedded_source(192, cache_dir=tmp_path)
  with_maps = labelled.with_labels(source, 'brightness', 'coco-stuff')
  assert with_maps.names == source.names
  for image, opener in zip(with_maps, with_maps.labels, strict=True):
    assert opener().shape == (*image.shape[:2], 1)
    assert set(np.unique(opener())) == {1, 124, 157}

"""References of training images.

They are found by their names or made from the images themselves, and cropped
into batches.
"""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from sr_jax.data import batches, opening, references, sources
from sr_jax.errors import UserError


def _photo(height, width, seed=0):
  """Makes an image that is smooth enough to be rotated and scaled."""
  rng = np.random.default_rng(seed)
  small = rng.integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), np.uint8)
  return np.asarray(Image.fromarray(small).resize((width, height)))


def _source(*images):
  return sources.ImageSource(
    names=tuple(f'{i}.png' for i in range(len(images))),
    openers=tuple(lambda image=image: image for image in images),
  )


def _spec(**options):
  return batches.BatchSpec(
    **{'batch_size': 4, 'patch': 8, 'scales': (4,), 'seed': 1, **options}
  )


def _save(folder, names, size=(40, 36)):
  for i, name in enumerate(names):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(_photo(*size, seed=i)).save(path)
  return folder


def _open(name, folder, tmp_path, on_bad='refuse'):
  options = {'on_bad': on_bad, 'cache_dir': tmp_path / 'cache'}
  source = opening.open_source(folder, min_size=32, **options)
  return references.with_references(source, name, folder=folder, **options)


def test_references_with_the_names_of_their_images():
  """In the training set CUFED both folders have the same names."""
  matched = references.match_references(
    ['a/1.png', 'b/2.png'], ['a/1.jpg', 'b/2.png', 'c/3.png']
  )
  assert matched.pairs == {'a/1.png': ['a/1.jpg'], 'b/2.png': ['b/2.png']}
  assert matched.faults == {}


def test_references_with_numbers_after_the_name():
  """In CUFED5 the image 001_0 has references 001_1, 001_2 and so on.

  The number is the level of similarity, which can be chosen.
  """
  files = [f'{n}_{k}.png' for n in ('001', '002') for k in (0, 1, 10, 2)]
  matched = references.match_references(files, files, together=True)
  assert matched.pairs == {
    f'{n}_0.png': [f'{n}_{k}.png' for k in (1, 2, 10)] for n in ('001', '002')
  }
  assert matched.faults == {}
  second = references.match_references(files, files, together=True, level=2)
  assert second.pairs['002_0.png'] == ['002_2.png']
  missing = references.match_references(files, files, together=True, level=3)
  assert missing.pairs == {}
  assert '001_3' in missing.faults['001_0.png']


def test_numbered_references_are_added_to_one_of_the_same_name():
  """y_3 is a name here, not the third reference of y, which does not exist."""
  matched = references.match_references(
    ['x.png', 'y_3.png'], ['x.png', 'x_2.png', 'x_1.png', 'y_3.png', 'z.png']
  )
  assert matched.pairs == {
    'x.png': ['x.png', 'x_1.png', 'x_2.png'],
    'y_3.png': ['y_3.png'],
  }


def test_folders_of_images_and_of_references(tmp_path):
  images = _save(tmp_path / 'input', ['a.png', 'b.png'])
  others = _save(tmp_path / 'ref', ['a.png', 'b_1.png', 'b_2.png'], (37, 50))
  source = _open(f'folder:{others}', str(images), tmp_path)
  assert source.names == ('a.png', 'b.png')
  assert [len(refs) for refs in source.references] == [1, 2]
  batch, _ = batches.sample(source, _spec(), 0)
  assert batch['hr'].shape == batch['ref'].shape == (4, 32, 32, 3)
  assert not (batch['hr'] == batch['ref']).all()


def test_one_folder_of_images_and_their_references(tmp_path):
  folder = _save(tmp_path / 'cufed5', ['1_0.png', '1_1.png', '1_2.png'])
  source = _open(str(folder), str(folder), tmp_path)
  assert source.names == ('1_0.png',)
  assert len(source.references[0]) == 2


def test_images_without_reference(tmp_path):
  images = _save(tmp_path / 'input', ['a.png', 'b.png'])
  others = _save(tmp_path / 'ref', ['b.png'])
  with pytest.raises(UserError, match=r'a\.png: no reference .*a_1'):
    _open(str(others), str(images), tmp_path)
  source = _open(str(others), str(images), tmp_path, on_bad='skip')
  assert source.names == ('b.png',)
  assert [name for name, _ in source.skipped] == ['a.png']
  empty = _save(tmp_path / 'other', ['c.png'])
  with pytest.raises(UserError, match='none belongs to any image'):
    _open(str(empty), str(images), tmp_path, on_bad='skip')
  with pytest.raises(UserError, match='no such folder'):
    _open(str(tmp_path / 'missing'), str(images), tmp_path)


def test_image_and_reference_are_cropped_at_the_same_place():
  rows, columns = np.mgrid[:64, :64]
  photo = np.stack([rows, columns, rows], -1).astype(np.uint8)
  source = references.ReferencedSource(_source(photo), ((lambda: photo,),))
  batch, _ = batches.sample(source, _spec(augment=False), 3)
  np.testing.assert_array_equal(batch['ref'], batch['hr'])
  small, _ = batches.sample(source, _spec(augment=False, reference_size=16), 3)
  np.testing.assert_array_equal(small['ref'], batch['hr'][:, 8:24, 8:24])


def test_augmentation_of_image_and_reference_is_independent():
  photo = _photo(32, 32)
  source = references.ReferencedSource(_source(photo), ((lambda: photo,),))
  spec = _spec(batch_size=64)
  batch, _ = batches.sample(source, spec, 0)
  same = (batch['ref'] == batch['hr']).all((1, 2, 3)).mean()
  # Flips and transposes give eight results, so one in eight pairs is equal.
  assert 0.01 < same < 0.35
  assert len({crop.tobytes() for crop in batch['ref']}) == 8


def test_a_small_reference_is_extended_by_its_mirror_image():
  small = _photo(24, 30)
  source = references.ReferencedSource(
    _source(_photo(40, 40)), ((lambda: small,),)
  )
  batch, _ = batches.sample(source, _spec(augment=False), 0)
  padded = np.pad(small, ((0, 8), (0, 2), (0, 0)), 'symmetric')
  np.testing.assert_array_equal(batch['ref'][0], padded)


def test_references_made_from_the_image_itself():
  """They depend on the step alone, and differ from the crop of the image."""
  photo = _photo(120, 130)
  source = references.with_references(
    _source(photo), 'self', folder='', on_bad='refuse'
  )
  spec = _spec(batch_size=16)
  first, second = (batches.sample(source, spec, step)[0] for step in (0, 1))
  again, _ = batches.sample(source, spec, 0)
  np.testing.assert_array_equal(first['ref'], again['ref'])
  assert (first['ref'] != second['ref']).any()
  assert not (first['ref'] == first['hr']).all((1, 2, 3)).any()


def test_a_made_reference_without_any_change_is_the_crop():
  photo = _photo(64, 64)
  # With these random bits shift, rotation, scale and change of colour are 0.
  still = [2**63 | 2**31] * 4
  crop = references._remade(photo, (0.5, 0.5), 32, still)
  np.testing.assert_array_equal(crop, photo[16:48, 16:48])
  moved = references._remade(photo, (0.5, 0.5), 32, [2**62 | 2**31, *still[1:]])
  np.testing.assert_array_equal(moved, photo[8:40, 16:48])


@pytest.mark.parametrize(('name', 'most'), [('shifted', 14), ('shifted:4', 4)])
def test_shifted_references_are_crops_from_nearby(name, most):
  photo = _photo(120, 130)
  source = references.with_references(
    _source(photo), name, folder='', on_bad='refuse'
  )
  shifts = set()
  for seed in range(40):
    words = np.random.default_rng(seed).integers(0, 2**63, 4).tolist()
    crop = source.reference(0, (0.5, 0.5), 32, words)
    (found,) = (
      (row, column)
      for row in range(-most, most + 1)
      for column in range(-most, most + 1)
      if (photo[44 + row : 76 + row, 49 + column : 81 + column] == crop).all()
    )
    shifts.add(found)
  rows, columns = (set(axis) for axis in zip(*shifts, strict=True))
  assert min(len(rows), len(columns)) > most + 1
  # The crop stays within the image.
  corner = source.reference(0, (16 / 120, 16 / 130), 32, [0, 0, 0, 0])
  np.testing.assert_array_equal(corner, photo[:32, :32])


def test_the_embedded_reference_is_the_second_view_of_a_stereo_pair(tmp_path):
  options = {'cache_dir': tmp_path / 'cache'}
  source = references.with_references(
    sources.embedded_source(160, **options),
    'embedded',
    folder='embedded',
    on_bad='refuse',
    **options,
  )
  assert source.names == ('motorcycle_left.png',)
  crops = batches.fixed_crops(source, size=160, count=2, scale=4)
  assert crops['hr'].shape == crops['ref'].shape == (1, 160, 160, 3)
  right = sources.embedded_file('motorcycle_right.png', **options)()
  top, left = ((n - 160) // 2 for n in right.shape[:2])
  expected = right[top : top + 160, left : left + 160]
  assert abs(crops['ref'][0].astype(int) - expected).max() == 0
  with pytest.raises(UserError, match='only to the source embedded'):
    references.with_references(
      source.images, 'embedded', folder='photos', on_bad='refuse'
    )


def test_images_with_lr_files_keep_them_beside_references(tmp_path):
  hr = _save(tmp_path / 'hr', ['a.png', 'b.png'], (64, 64))
  lr = _save(tmp_path / 'lr', ['a.png', 'b.png'], (16, 16))
  refs = _save(tmp_path / 'ref', ['b.png'], (64, 64))
  options = {'on_bad': 'skip', 'cache_dir': tmp_path / 'cache'}
  pairs = opening.open_labelled(str(hr), str(lr), 4, min_size=32, **options)
  source = references.with_references(
    pairs, str(refs), folder=str(hr), **options
  )
  assert source.names == ('b.png',)
  batch, _ = batches.sample(source, _spec(augment=False), 0)
  assert batch['lr'].shape == (4, 8, 8, 3)
  made = references.with_references(pairs, 'self', folder='', **options)
  assert dataclasses.replace(made).references == ()
  batch, _ = batches.sample(made, _spec(), 0)
  assert batch['ref'].shape == (4, 32, 32, 3)

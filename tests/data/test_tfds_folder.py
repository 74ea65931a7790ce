"""TFDS data sets: prepared from a folder and read, both without TensorFlow."""

import json
import shutil
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from sr_jax.cli.main import main
from sr_jax.data import opening, sources, tfds_folder, tfds_records
from sr_jax.errors import UserError

SIZES = [(20, 24), (31, 17), (16, 16), (40, 20)]


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  """A folder `photos` and the data set prepared from it under `tfds`."""
  root = tmp_path_factory.mktemp('tfds_folder')
  (root / 'photos' / 'sub').mkdir(parents=True)
  for index, size in enumerate(SIZES):
    pixels = np.random.default_rng(index).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(root / 'photos' / 'sub' / f'{index}.png')
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('SR_JAX_CACHE', str(root / 'cache'))
    name = tfds_folder.prepare(
      root / 'photos', name='mine', data_dir=root / 'tfds'
    )
  assert name == 'image_folder_sr/mine'
  return root


def _open(root, name, **options):
  return opening.open_source(
    f'tfds:{name}',
    cache_dir=root / 'cache',
    data_dir=root / 'tfds',
    **{'min_size': 8, **options},
  )


def test_records_hold_the_images_of_the_folder(root):
  folder = sources.folder_source(
    root / 'photos', min_size=8, cache_dir=root / 'cache'
  )
  source = _open(root, 'image_folder_sr/mine')
  assert len(source) == len(SIZES)
  for ours, original in zip(source, folder, strict=True):
    assert isinstance(ours, np.memmap)
    np.testing.assert_array_equal(ours, original)
  assert 'tensorflow' not in sys.modules


def test_examples_carry_the_names_of_the_files(root):
  builder = tfds.builder('image_folder_sr/mine', data_dir=root / 'tfds')
  names = [example['name'] for example in builder.as_data_source('train')]
  assert names == [f'sub/{index}.png'.encode() for index in range(len(SIZES))]


@pytest.mark.parametrize(
  ('suffix', 'count', 'first'),
  [
    ('', 4, 'train#0'),
    (':train', 4, 'train#0'),
    (':1.0.0', 4, 'train#0'),
    (':1.0.0:train[:50%]', 2, 'train[:50%]#0'),
    (':train[1:]', 3, 'train[1:]#0'),
  ],
)
def test_name_may_carry_version_and_split(root, suffix, count, first):
  source = _open(root, f'image_folder_sr/mine{suffix}')
  assert len(source) == count
  assert source.names[0] == first


def test_small_images_are_named(root):
  source = _open(root, 'image_folder_sr/mine', min_size=20, on_bad='skip')
  assert source.names == ('train#0', 'train#3')
  assert dict(source.skipped) == {
    'train#1': '17x31 is smaller than the crop of 20x20',
    'train#2': '16x16 is smaller than the crop of 20x20',
  }
  with pytest.raises(UserError, match=r'train#1: 17x31'):
    _open(root, 'image_folder_sr/mine', min_size=20)


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('image_folder_sr/other', 'not found.*prepare it: pip install'),
    ('no_such_set', 'not found.*prepare it: pip install'),
    ('div2k/bicubic_x2', 'div2k/bicubic_x2/2.0.0; prepare it: .* tfds build'),
    ('image_folder_sr/mine:test', "Unknown split 'test'"),
    ('image_folder_sr/mine:train[:', 'Error parsing split'),
  ],
)
def test_missing_files_give_errors_of_one_line(root, name, message):
  with pytest.raises(UserError, match=message) as caught:
    _open(root, name)
  assert '\n' not in str(caught.value)


def test_features(root):
  options = {'min_size': 8, 'data_dir': root / 'tfds'}
  with pytest.raises(UserError, match="no feature 'hr'; it has image, name"):
    tfds_records.tfds_source(
      'image_folder_sr/mine', 'train', feature='hr', **options
    )
  with pytest.raises(UserError, match=r"'name' is .* only 8-bit grey and RGB"):
    tfds_records.tfds_source(
      'image_folder_sr/mine', 'train', feature='name', **options
    )


class GreyPairs(tfds.core.GeneratorBasedBuilder):
  """Grey images under the key `hr`, in a chosen file format."""

  VERSION = tfds.core.Version('1.0.0')

  def _info(self):
    image = tfds.features.Image(shape=(None, None, 1))
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict({'lr': image, 'hr': image}),
    )

  def _split_generators(self, dl_manager):
    return {'validation': self._generate_examples()}

  def _generate_examples(self):
    for index in range(3):
      lr, hr = (
        tfds_folder.png_bytes(np.full((size, size), index, np.uint8))
        for size in (8, 16)
      )
      yield index, {'lr': lr, 'hr': hr}


def test_hr_is_the_second_choice_and_grey_is_repeated(root):
  GreyPairs(
    data_dir=root / 'tfds', file_format='array_record'
  ).download_and_prepare()
  source = _open(root, 'grey_pairs:validation')
  assert sorted(int(image[0, 0, 0]) for image in source) == [0, 1, 2]
  for image in source:
    assert image.shape == (16, 16, 3)
    assert np.all(image == image[0, 0, 0])


@pytest.mark.parametrize('key', ['type', 'pythonClassName'])
def test_a_data_set_imports_no_modules_of_its_own(root, tmp_path, key):
  """W11: TFDS imported the module of any class that a file names."""
  shutil.copytree(root / 'tfds', tmp_path / 'tfds')
  (file,) = (tmp_path / 'tfds' / 'image_folder_sr' / 'mine').rglob(
    'features.json'
  )
  content = json.loads(file.read_text())
  content['featuresDict']['features']['name'] = {
    key: 'this.Class',  # importing `this` prints a poem
    'content': {},
  }
  file.write_text(json.dumps(content))
  with pytest.raises(UserError, match=r"features\.json: names .*'this\.Class'"):
    _open(tmp_path, 'image_folder_sr/mine')
  assert 'this' not in sys.modules


def test_prepare_refuses_to_overwrite(root, monkeypatch):
  monkeypatch.setenv('SR_JAX_CACHE', str(root / 'cache'))
  with pytest.raises(UserError, match='exists already'):
    tfds_folder.prepare(root / 'photos', name='mine', data_dir=root / 'tfds')


def test_command_line(root, tmp_path, monkeypatch, capsys):
  monkeypatch.setenv('SR_JAX_CACHE', str(root / 'cache'))
  arguments = ['prepare', 'tfds', str(root / 'photos'), '--name', 'second']
  arguments += ['--data-dir', str(tmp_path)]
  assert main(arguments) == 0
  assert capsys.readouterr().out.endswith('tfds:image_folder_sr/second\n')
  assert main(arguments) == 2
  assert 'exists already' in capsys.readouterr().err

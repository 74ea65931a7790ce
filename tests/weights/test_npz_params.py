"""TensorLayer's `.npz` files, and refused `.npz` files."""

import pickle
import tracemalloc
import zipfile

import numpy as np
import pytest

from sr_jax.errors import UserError
from sr_jax.weights.formats.npz_params import holds_params, read_params
from tests.weights import npz_files

ARRAYS = [
  np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4) / 7,
  np.float32([-1.5, 2.5]),
]


def _written(folder, content):
  path = folder / 'weights.npz'
  path.write_bytes(content)
  return path


@pytest.mark.parametrize(
  'write', [npz_files.tensorlayer, npz_files.tensorlayer_of_python_2]
)
def test_arrays_in_their_order(tmp_path, write):
  path = _written(tmp_path, write(ARRAYS))
  assert holds_params(path)
  found = read_params(path)
  assert len(found) == len(ARRAYS)
  for ours, theirs in zip(found, ARRAYS, strict=True):
    assert ours.dtype == np.float32
    np.testing.assert_array_equal(ours, theirs)


def test_written_files_are_what_numpy_reads(tmp_path):
  path = _written(tmp_path, npz_files.tensorlayer_of_python_2(ARRAYS))
  with np.load(path, allow_pickle=True, encoding='latin1') as data:
    for ours, theirs in zip(data['params'], ARRAYS, strict=True):
      np.testing.assert_array_equal(ours, theirs)


def test_columns_first(tmp_path):
  arrays = [np.asfortranarray(ARRAYS[0])]
  found = read_params(_written(tmp_path, npz_files.tensorlayer(arrays)))
  np.testing.assert_array_equal(found[0], ARRAYS[0])


class _Evil:
  def __reduce__(self):
    return print, ('run',)


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (npz_files.archive(pickle.dumps(_Evil(), 2)), 'refers to'),
    (npz_files.archive(pickle.dumps([1.0], 2)), 'no array'),
    (npz_files.archive(pickle.dumps(None, 2)[:-1]), 'damaged'),
    (npz_files.archive(b'', dtype='<f4'), 'one array of float32'),
    (npz_files.tensorlayer([np.int32([1])]), 'of numbers|unusual'),
    (npz_files.tensorlayer(ARRAYS)[:-30], 'damaged'),
  ],
)
def test_anything_else_is_refused(tmp_path, content, message, capsys):
  path = _written(tmp_path, content)
  with pytest.raises(UserError, match=rf'weights\.npz: .*({message})'):
    read_params(path)
  assert 'run' not in capsys.readouterr().out


def test_one_array_many_times_takes_no_more_than_the_file(tmp_path):
  """A pickle can repeat an array with a few bytes."""
  large = np.zeros(10_000, np.float32)
  path = _written(tmp_path, npz_files.tensorlayer([large] * 100))
  with pytest.raises(UserError, match='more numbers than bytes'):
    read_params(path)


def test_contents_must_have_the_size_of_their_shape(tmp_path):
  content = npz_files.tensorlayer_of_python_2(ARRAYS)
  # The number of rows of the second array.
  changed = content.replace(b'K\x02\x85', b'K\x03\x85')
  assert changed != content
  with pytest.raises(UserError, match=r'size differs|damaged'):
    read_params(_written(tmp_path, changed))


def test_other_archives_are_not_taken_for_it(tmp_path):
  path = tmp_path / 'other.npz'
  np.savez(path, weights=ARRAYS[0])
  assert not holds_params(path)
  assert not holds_params(tmp_path / 'missing.npz')


def test_members_that_unpack_to_more_than_they_declare(tmp_path):
  """W3: an archive that understates the size of an array filled the memory."""
  path = tmp_path / 'a.npz'
  with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
    archive.writestr('params.npy', bytes(10**8))
    archive.getinfo('params.npy').file_size = 400
  tracemalloc.start()
  with pytest.raises(UserError, match='damaged'):
    read_params(path)
  assert tracemalloc.get_traced_memory()[1] < 2**24
  tracemalloc.stop()


def test_damaged_headers_are_refused_in_one_line(tmp_path):
  """W6: a damaged header of an array was a tokenize.TokenError."""
  path = tmp_path / 'a.npz'
  header = b'\x93NUMPY\x01\x00\x10\x00' + b'(' * 16
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('params.npy', header)
  with pytest.raises(UserError, match='damaged') as error:
    read_params(path)
  assert '\n' not in str(error.value)

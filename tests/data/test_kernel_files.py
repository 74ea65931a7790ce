"""Files of blur kernels, and the specs that name kernels."""

import h5py
import numpy as np
import pytest
import scipy.io

from sr_jax.data import kernel_files
from sr_jax.errors import UserError
from sr_jax.ops import blur_kernels


@pytest.mark.parametrize('name', ['k.npy', 'k.mat'])
def test_saved_kernel_loads_normalised(tmp_path, name):
  kernel = np.array([[1.0, -0.5, 2.0], [0.0, 3.0, 1.0]])
  kernel_files.save_kernel(tmp_path / name, kernel)
  loaded = kernel_files.load_kernel(tmp_path / name)
  np.testing.assert_allclose(loaded, kernel / 6.5, atol=1e-15)
  assert [p.name for p in tmp_path.iterdir()] == [name]
  (tmp_path / 'other').write_bytes(b'')
  modes = {p.stat().st_mode for p in tmp_path.iterdir()}
  assert len(modes) == 1


@pytest.mark.parametrize('key', ['kernel', 'Kernel'])
def test_reads_both_mat_versions_and_keys(tmp_path, key):
  kernel = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]) / 21
  scipy.io.savemat(tmp_path / 'v5.mat', {key: kernel})
  with h5py.File(tmp_path / 'v73.mat', 'w') as file:
    file[key] = kernel.T  # MATLAB stores columns first
  for name in ('v5.mat', 'v73.mat'):
    loaded = kernel_files.load_kernel(tmp_path / name)
    np.testing.assert_allclose(loaded, kernel, atol=1e-15)


BAD = {
  'nan': (np.full((3, 3), np.nan), 'NaN'),
  'zero': (np.zeros((3, 3)), 'sums to 0'),
  'negative': (-np.ones((3, 3)), 'positive sum'),
  'line': (np.ones(3), r'shape \(3,\)'),
  'colour': (np.ones((3, 3, 3)), r'shape \(3, 3, 3\)'),
  'empty': (np.zeros((0, 3)), 'two-dimensional'),
  'complex': (np.ones((3, 3), complex), 'real'),
}


@pytest.mark.parametrize('name', BAD)
def test_refuses_unusable_arrays(tmp_path, name):
  array, reason = BAD[name]
  path = tmp_path / f'{name}.npy'
  np.save(path, array)
  with pytest.raises(UserError, match=reason) as refusal:
    kernel_files.load_kernel(path)
  assert str(path) in str(refusal.value)
  path.unlink()
  with pytest.raises(UserError, match=reason):
    kernel_files.save_kernel(path, array)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('suffix', ['.mat', '.npy'])
@pytest.mark.parametrize(
  'content',
  [b'', b'not a kernel\nat all', b'\x89HDF\r\n\x1a\n broken', b'\x93NUMPY'],
)
def test_refuses_damaged_files_in_one_line(tmp_path, suffix, content):
  path = tmp_path / f'damaged{suffix}'
  path.write_bytes(content)
  with pytest.raises(UserError, match='damaged') as refusal:
    kernel_files.load_kernel(path)
  assert '\n' not in str(refusal.value)


def test_refuses_a_truncated_mat_file(tmp_path):
  path = tmp_path / 'k.mat'
  scipy.io.savemat(path, {'kernel': np.ones((9, 9))})
  path.write_bytes(path.read_bytes()[:-100])
  with pytest.raises(UserError, match=r'k\.mat'):
    kernel_files.load_kernel(path)


def test_refuses_cell_arrays_and_other_variables(tmp_path):
  cells = np.empty((1, 2), object)
  cells[0, 0] = cells[0, 1] = np.ones((3, 3))
  scipy.io.savemat(tmp_path / 'cells.mat', {'kernels': cells})
  with pytest.raises(UserError, match='holds 2 kernels'):
    kernel_files.load_kernel(tmp_path / 'cells.mat')
  scipy.io.savemat(tmp_path / 'other.mat', {'psf': np.ones((3, 3))})
  with pytest.raises(UserError, match='found: psf'):
    kernel_files.load_kernel(tmp_path / 'other.mat')


def test_refuses_missing_files_and_other_suffixes(tmp_path):
  with pytest.raises(UserError, match='no such'):
    kernel_files.load_kernel(tmp_path / 'k.mat')
  (tmp_path / 'k.png').touch()
  with pytest.raises(UserError, match=r'\.mat or \.npy'):
    kernel_files.load_kernel(tmp_path / 'k.png')
  with pytest.raises(UserError, match=r'\.mat or \.npy'):
    kernel_files.save_kernel(tmp_path / 'k.txt', np.ones((3, 3)))


def test_kernel_specs(tmp_path):
  assert kernel_files.parse_kernel_spec('bicubic') is None
  np.testing.assert_array_equal(
    kernel_files.parse_kernel_spec('gaussian:2.0'),
    blur_kernels.gaussian_kernel(2.0),
  )
  np.testing.assert_array_equal(
    kernel_files.parse_kernel_spec('gaussian:4.0,1.0,-0.5'),
    blur_kernels.gaussian_kernel(4.0, 1.0, -0.5),
  )
  path = tmp_path / 'k.npy'
  kernel_files.save_kernel(path, np.ones((3, 3)))
  np.testing.assert_allclose(
    kernel_files.parse_kernel_spec(str(path)), np.full((3, 3), 1 / 9)
  )


@pytest.mark.parametrize(
  'spec',
  [
    '',
    'gauss',
    'gaussian:',
    'gaussian:x',
    'gaussian:1,2',
    'gaussian:1,2,3,4',
    'gaussian:0',
    'gaussian:-1',
    'gaussian:nan',
    'gaussian:1e9',
    'gaussian:1,1,inf',
    'missing.mat',
  ],
)
def test_refuses_other_specs(spec):
  with pytest.raises(UserError, match=r'gaussian:|missing\.mat'):
    kernel_files.parse_kernel_spec(spec)

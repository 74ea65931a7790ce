"""Files of blur kernels, and the specs that name kernels."""

import io
import tracemalloc
import zlib

import h5py
import numpy as np
import pytest
import scipy.io
import scipy.sparse

from sr_jax.data import kernel_files
from sr_jax.errors import UserError
from sr_jax.ops import blur_kernels
from tests.weights import mutations
from tests.weights.mat_files import cells


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
  # A stack of 15 x 15 taps is two kernels, not 450 (F11).
  stack = np.ones((15, 15, 2))
  scipy.io.savemat(tmp_path / 'stack.mat', {'kernels': stack})
  with h5py.File(tmp_path / 'stack73.mat', 'w') as file:
    file['kernels'] = stack.T
  for name in ('stack.mat', 'stack73.mat'):
    with pytest.raises(UserError, match='holds 2 kernels'):
      kernel_files.load_kernel(tmp_path / name)
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


@pytest.mark.parametrize(
  ('spec', 'suggested'),
  [
    ('gausian:1', 'gaussian:1'),
    ('Gaussian:2,1,0.5', 'gaussian:2,1,0.5'),
    ('gauss(2.0)', 'gaussian:2.0'),
    ('gaussian=1.5', 'gaussian:1.5'),
    ('bicubik', 'bicubic'),
    ('BD', 'bd'),
    ('Auto', 'auto'),
  ],
)
def test_misspelled_kernels_get_a_suggestion(spec, suggested):
  with pytest.raises(UserError) as error:
    kernel_files.as_kernel(spec)
  assert str(error.value) == (
    f'no kernel {spec!r}; did you mean {suggested}? (bicubic, gaussian:VAR,'
    ' gaussian:V1,V2,THETA, sigma:S, bd, FILE.npy, FILE.mat, auto,'
    ' kernelgan)'
  )


@pytest.mark.parametrize('spec', ['Auto', 'auto', 'gaussian', 'k.tif', ':', ''])
def test_kernels_that_do_not_exist_get_the_list(spec):
  """LR images are never made by an estimated kernel, so no word of `auto`."""
  with pytest.raises(UserError) as error:
    kernel_files.parse_kernel_spec(spec)
  assert str(error.value) == (
    f'no kernel {spec!r}; give one of these (bicubic, gaussian:VAR,'
    ' gaussian:V1,V2,THETA, sigma:S, bd, FILE.npy, FILE.mat)'
  )


def test_sparse_kernels_and_upper_case_suffixes(tmp_path):
  """F11: a sparse kernel was a traceback, and a file `K.NPY` was refused."""
  kernel = np.array([[0.0, 0.5, 0.0], [0.25, 0.0, 0.25]])
  sparse = scipy.sparse.csc_array(kernel)
  scipy.io.savemat(tmp_path / 'sparse.MAT', {'kernel': sparse})
  kernel_files.save_kernel(tmp_path / 'K.NPY', kernel)
  for name in ('sparse.MAT', 'K.NPY'):
    loaded = kernel_files.parse_kernel_spec(str(tmp_path / name))
    np.testing.assert_array_equal(loaded, kernel)


def test_a_file_is_warned_of_once_until_it_changes(tmp_path, caplog):
  """F11: a command printed the same warning three times."""
  path = tmp_path / 'k.npy'
  np.save(path, np.ones((3, 3)))
  first = kernel_files.load_kernel(path)
  np.testing.assert_array_equal(kernel_files.load_kernel(path), first)
  assert len(caplog.messages) == 1
  assert 'the taps sum to 9' in caplog.messages[0]
  np.save(path, 2 * np.ones((5, 5)))
  assert kernel_files.load_kernel(path).shape == (5, 5)
  assert len(caplog.messages) == 2


def _mat73(path, **options):
  with h5py.File(path, 'w', userblock_size=512) as file:
    file.create_dataset('kernel', **options)
  with path.open('r+b') as file:
    file.write(b'MATLAB 7.3 MAT-file'.ljust(124) + b'\0\2IM')
  return path


@pytest.mark.parametrize(
  'options',
  [
    {},
    {'chunks': (2, 2)},
    {'chunks': (2, 2), 'compression': 'gzip'},
    {'chunks': (3, 2), 'compression': 'gzip', 'shuffle': True},
    {'chunks': (2, 3), 'compression': 'gzip', 'fletcher32': True},
    {'chunks': (9, 9), 'maxshape': (None, None), 'shuffle': True},
  ],
)
@pytest.mark.parametrize('dtype', ['<f8', '>f4', 'u2'])
def test_mat73_in_every_layout_that_matlab_and_others_write(
  tmp_path, options, dtype
):
  kernel = np.arange(1, 16).reshape(3, 5)
  data = kernel.T.astype(dtype)
  path = _mat73(tmp_path / 'k.mat', data=data, **options)
  np.testing.assert_array_equal(kernel_files.load_kernel(path), kernel / 120)


def _secret(folder):
  """A private file whose bytes could be read as a kernel."""
  secret = folder / 'secret.bin'
  secret.write_bytes(np.arange(1.0, 10.0).tobytes())
  with h5py.File(folder / 'secret.h5', 'w') as file:
    file['kernel'] = np.ones((3, 3))
  return secret


def _external_storage(file, folder):
  file.create_dataset(
    'kernel', (3, 3), 'f8', external=[(str(_secret(folder)), 0, 72)]
  )


def _external_link(file, folder):
  _secret(folder)
  file['kernel'] = h5py.ExternalLink(str(folder / 'secret.h5'), '/kernel')


def _soft_link(file, folder):
  _external_link(file, folder)
  file['other'] = file.get('kernel', getlink=True)
  del file['kernel']
  file['kernel'] = h5py.SoftLink('/other')


def _virtual(file, folder):
  _secret(folder)
  layout = h5py.VirtualLayout((3, 3), 'f8')
  layout[...] = h5py.VirtualSource(
    str(folder / 'secret.h5'), 'kernel', shape=(3, 3)
  )
  file.create_virtual_dataset('kernel', layout)


@pytest.mark.parametrize(
  'refer', [_external_storage, _external_link, _soft_link, _virtual]
)
def test_mat73_reads_no_other_file(tmp_path, refer):
  """W2: a kernel file could read the numbers of any local file."""
  with h5py.File(tmp_path / 'k.mat', 'w') as file:
    refer(file, tmp_path)
  with pytest.raises(UserError, match=r'refers to other files|no variable'):
    kernel_files.load_kernel(tmp_path / 'k.mat')


def test_mat73_loads_no_filter(tmp_path):
  """W2: filters that MATLAB does not use, such as LZF, could load plugins."""
  data = np.ones((30, 30))
  path = _mat73(tmp_path / 'k.mat', data=data, compression='lzf')
  with pytest.raises(UserError, match='the HDF5 filter 32000'):
    kernel_files.load_kernel(path)


def _peak_of_refusal(path):
  """Peak memory in MiB of refusing a kernel file in this process."""
  tracemalloc.start()
  with pytest.raises(UserError) as refusal:
    kernel_files.load_kernel(path)
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert '\n' not in str(refusal.value)
  return peak / 2**20


def test_sizes_are_bounded_before_reading(tmp_path):
  """W3: a kernel file of 1 MB took 3 GiB of memory."""
  zeros = np.zeros((20_000, 1_000))
  scipy.io.savemat(tmp_path / 'v5.mat', {'kernel': zeros}, do_compression=True)
  _mat73(tmp_path / 'v73.mat', data=zeros, compression='gzip')
  # A chunk that unpacks to a thousand times its own size.
  with h5py.File(tmp_path / 'chunk.mat', 'w') as file:
    kernel = file.create_dataset(
      'kernel', (8, 8), 'f8', chunks=(8, 8), compression='gzip'
    )
    kernel.id.write_direct_chunk((0, 0), zlib.compress(bytes(10**8)))
  # Chunks that are far larger than the dataset.
  with h5py.File(tmp_path / 'wide.mat', 'w') as file:
    file.create_dataset(
      'kernel', (8, 8), 'f8', chunks=(8192, 8192), maxshape=(None, None)
    )
  with (tmp_path / 'header.npy').open('wb') as file:
    header = {'descr': '<f8', 'fortran_order': False, 'shape': (1 << 20, 4096)}
    np.lib.format.write_array_header_1_0(file, header)
  scipy.io.savemat(
    tmp_path / 'sparse.mat',
    {'kernel': scipy.sparse.csc_array((1 << 20, 1 << 10))},
  )
  for path in tmp_path.iterdir():
    assert _peak_of_refusal(path) < 64, path


def test_mat73_reads_only_the_kernel(tmp_path):
  """W3: a dataset of 4 GiB beside the kernel was read too."""
  path = _mat73(tmp_path / 'k.mat', data=np.ones((3, 3)))
  with h5py.File(path, 'r+') as file:
    file.create_dataset('other', (1 << 29,), 'f8', chunks=(1 << 20,))
  tracemalloc.start()
  assert kernel_files.load_kernel(path).shape == (3, 3)
  assert tracemalloc.get_traced_memory()[1] < 2**24
  tracemalloc.stop()


def _small_files():
  """Small kernel files of every format, to be damaged."""
  rng = np.random.default_rng(0)
  kernel = rng.random((5, 5))
  v5, packed, v73, plain = (io.BytesIO() for _ in range(4))
  scipy.io.savemat(v5, {'kernel': kernel})
  sparse = {'kernel': scipy.sparse.csc_array(kernel), 'cells': cells([kernel])}
  scipy.io.savemat(packed, sparse, do_compression=True)
  with h5py.File(v73, 'w') as file:
    file.create_dataset('kernel', data=kernel, compression='gzip')
  np.save(plain, kernel)
  return {
    'v5.mat': v5,
    'packed.mat': packed,
    'v73.mat': v73,
    'plain.npy': plain,
  }


def test_a_chunk_larger_than_it_should_be(tmp_path):
  """HDF5 wrote behind the buffer of a chunk whose filter had been erased."""
  data = bytearray(_small_files()['v73.mat'].getvalue())
  name = data.index(b'deflate')  # within the description of the filter
  data[name - 15 : name + 9] = bytes(24)
  path = tmp_path / 'k.mat'
  path.write_bytes(data)
  with pytest.raises(UserError, match=r'a chunk of \d+ bytes, not 200'):
    kernel_files.load_kernel(path)


def _fuzz(folder, count):
  """Counts how many damaged files of each format are refused."""
  refused = 0
  for name, buffer in _small_files().items():
    rng = np.random.default_rng(0)
    for i in range(count):
      path = folder / f'{i}{name}'
      damaged = mutations.mutated(buffer.getvalue(), rng)
      reason = mutations.refusal(kernel_files.load_kernel, path, damaged)
      refused += reason != ''
      path.unlink()
  return refused


def test_damaged_files_are_read_or_refused(tmp_path):
  """W1: a damaged `.mat` file crashed the reader of scipy."""
  assert _fuzz(tmp_path, 60) > 100


@pytest.mark.nightly
def test_damaged_files_are_read_or_refused_at_length(tmp_path):
  assert _fuzz(tmp_path, 2000) > 3000

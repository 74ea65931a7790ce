"""TensorLayer's `.npz` files, as Python 2 and Python 3 wrote them."""

import io
import pickle
import struct
import zipfile

import numpy as np


def tensorlayer(arrays):
  """The bytes of a file of Python 3: one array of objects, `params`."""
  objects = np.empty(len(arrays), object)
  objects[:] = arrays
  file = io.BytesIO()
  np.savez(file, params=objects)
  return file.getvalue()


def tensorlayer_of_python_2(arrays):
  """The bytes of a file of Python 2, which stores bytes as latin-1 text."""
  return archive(b'\x80\x02' + _objects(arrays) + b'.')


def archive(pickled, dtype='|O', shape=(1,), name='params.npy'):
  """A `.npz` around a pickle."""
  header = repr({'descr': dtype, 'fortran_order': False, 'shape': shape})
  header += ' ' * (63 - (len(header) + 10) % 64) + '\n'
  length = struct.pack('<H', len(header))
  content = b'\x93NUMPY\x01\x00' + length + header.encode() + pickled
  file = io.BytesIO()
  with zipfile.ZipFile(file, 'w') as zipped:
    # Without the time of writing: it would be part of a case's name.
    zipped.writestr(zipfile.ZipInfo(name), content)
  return file.getvalue()


def _array(shape, dtype, data):
  """Instructions that make an array; `data` are instructions too."""
  return (
    b'cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n'
    + _plain((0,))
    + b'U\x01b\x87R('
    + _plain(1)
    + _plain(shape)
    + dtype
    + b'\x89'
    + data
    + b'tb'
  )


def _objects(arrays):
  items = b''.join(
    _array(
      array.shape,
      _dtype(b'f4', b'<'),
      b'T' + struct.pack('<i', array.nbytes) + array.tobytes(),
    )
    for array in arrays
  )
  return _array((len(arrays),), _dtype(b'O8', b'|'), b'](' + items + b'e')


def _dtype(code, order):
  name = b'U' + bytes([len(code)]) + code
  flags = 63 if order == b'|' else 0  # of objects
  state = _plain(3) + b'U\x01' + order + b'NNN' + _plain(-1) * 2 + _plain(flags)
  return b'cnumpy\ndtype\n' + name + b'K\x00K\x01\x87R(' + state + b'tb'


def _plain(value):
  """Instructions that make numbers and tuples of numbers."""
  return pickle.dumps(value, 2)[2:-1]

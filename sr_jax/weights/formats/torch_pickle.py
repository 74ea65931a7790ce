"""Reads tensors from PyTorch's `.pth` and `.pt` files, without PyTorch.

The zip format (PyTorch 1.6 and later) and the older legacy format can be read.
No code of the file is run (see `pickle_machine`), and the sizes that the file
declares are compared with its bytes before memory is allocated.
"""

from __future__ import annotations

import io
import math
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any, Literal

import numpy as np

from sr_jax.errors import UserError
from sr_jax.weights.formats import pickle_machine as pm
from sr_jax.weights.formats import pickle_values as pv

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_MAGIC = LEGACY_MAGIC.to_bytes(10, 'little')
# The magic number must begin within this number of bytes: the instructions
# before it take more bytes in pickle protocol 4.
_MAGIC_WITHIN = 32
# Largest size in bytes of a pickle; real ones are far smaller.
_PICKLE_LIMIT = 1 << 24
_DIRECTORY_LIMIT = 1 << 23
_DEPTH_LIMIT = 100
# Beginnings of files that a failed download leaves in place of the weights.
_NOT_DOWNLOADED = {
  b'version https://git-lfs': 'a pointer of Git LFS',
  b'<!doctype html': 'a web page',
  b'<html': 'a web page',
}
_LONGEST_NAME = 1000

_BFLOAT16 = 'BFloat16Storage'
_DTYPES = {
  'DoubleStorage': 'f8',
  'FloatStorage': 'f4',
  'HalfStorage': 'f2',
  _BFLOAT16: 'u2',
  'LongStorage': 'i8',
  'IntStorage': 'i4',
  'ShortStorage': 'i2',
  'CharStorage': 'i1',
  'ByteStorage': 'u1',
  'BoolStorage': 'b1',
  'ComplexFloatStorage': 'c8',
  'ComplexDoubleStorage': 'c16',
}
_DAMAGE = (
  ValueError,
  LookupError,
  TypeError,
  AttributeError,
  ArithmeticError,
  EOFError,
  RuntimeError,
  struct.error,
  zipfile.BadZipFile,
)


def read_tensors(path: str | os.PathLike[str]) -> Any:
  """Reads a `.pth` file as nested dicts and lists of NumPy arrays.

  Numbers, strings and None are kept, bfloat16 becomes float32, and a pickled
  module becomes its flat state_dict. Other objects beside tensors, such as the
  options of a training, become None. Arrays may be read-only views of shared
  memory.

  Raises:
    UserError: The file is missing, damaged, of another format, calls other
      functions, or holds objects but no tensors.
  """
  try:
    with open(path, 'rb', buffering=0) as raw, _BoundedReader(raw) as file:
      return _read(file)
  except UserError as error:
    raise UserError(f'{path}: {_one_line(error)}') from None
  except OSError as error:
    raise UserError(f'{path}: {error.strerror or error}') from None
  except _DAMAGE as error:
    raise UserError(f'{path}: damaged: {_one_line(error)}') from None


def _one_line(error: Exception) -> str:
  """The error's message on one line, without control characters."""
  text = ' '.join(str(error).split())[:500]
  return ''.join(c if c.isprintable() else '?' for c in text)


class _BoundedReader(io.BufferedReader):
  """A file that refuses reads of more than `limit` bytes.

  zipfile reads the directory of an archive at once, and takes ten times its
  bytes in memory.
  """

  limit = _DIRECTORY_LIMIT

  def read(self, size: int | None = -1, /) -> bytes:
    if size is not None and size > self.limit:
      raise UserError('has a zip directory of impossible size')
    return super().read(size)


def _read(file: _BoundedReader) -> Any:
  size = os.fstat(file.fileno()).st_size
  start = file.read(512)
  file.seek(0)
  if start.startswith(b'PK\x03\x04'):
    return _read_zip(file, size)
  if _MAGIC in start[:_MAGIC_WITHIN]:
    return _read_legacy(file, size)
  if start[257:262] == b'ustar':
    raise UserError(
      'is in the tar format of PyTorch 0.1; save it again with a newer PyTorch'
    )
  for mark, kind in _NOT_DOWNLOADED.items():
    if start.lstrip().lower().startswith(mark):
      raise UserError(f'is {kind}, not the weights: download them again')
  raise UserError('is no PyTorch file: neither the zip nor the legacy format')


def _members(archive: zipfile.ZipFile, size: int) -> dict[str, int]:
  """Sizes by name of an archive's members, which must be uncompressed."""
  members: dict[str, int] = {}
  for info in archive.infolist():
    name = info.orig_filename
    parts = PurePosixPath(name).parts
    if '..' in parts or name.startswith('/') or '\\' in name or '\0' in name:
      raise UserError(f'has a zip member outside its folder: {name[:80]!r}')
    if name in members:
      raise UserError(f'has the zip member {name[:80]!r} twice')
    stored = info.compress_type == zipfile.ZIP_STORED
    if not stored or info.compress_size != info.file_size:
      raise UserError(f'has the compressed zip member {name[:80]!r}')
    members[name] = info.file_size
  if sum(members.values()) > size:
    raise UserError('has zip members that declare more bytes than the file has')
  return members


def _read_zip(file: _BoundedReader, size: int) -> Any:
  with zipfile.ZipFile(file) as archive:
    file.limit = size
    members = _members(archive, size)
    pickles = [name for name in members if name.endswith('/data.pkl')]
    if len(pickles) != 1:
      raise UserError('is a zip file without a data.pkl: no PyTorch weights')
    folder = pickles[0].removesuffix('data.pkl')
    if f'{folder}constants.pkl' in members:
      raise UserError('is a TorchScript program; save its state_dict() alone')
    if members[pickles[0]] > _PICKLE_LIMIT:
      raise UserError('has a data.pkl of impossible size')
    big_endian = (
      f'{folder}byteorder' in members
      and archive.read(f'{folder}byteorder') == b'big'
    )

    def read_storage(storage: pv.Storage) -> bytes:
      member = f'{folder}data/{storage.key}'
      if member not in members:
        raise UserError(f'lacks the zip member {member[:80]!r}')
      _check_length(storage, members[member])
      return archive.read(member)

    stream = io.BytesIO(archive.read(pickles[0]))
    value = pm.interpret(stream, pm.Allowance(size)).value
    order = '>' if big_endian else '<'
    return _Resolver(read_storage, order, size).contents(value)


def _read_legacy(file: _BoundedReader, size: int) -> Any:
  file.limit = max(size, _PICKLE_LIMIT)
  stream = io.BytesIO(file.read(min(size, _PICKLE_LIMIT)))
  allowance = pm.Allowance(size)
  magic, protocol, system, content, keys = (
    pm.interpret(stream, allowance) for _ in range(5)
  )
  if magic.value != LEGACY_MAGIC or protocol.value != 1001:
    raise UserError('has an unknown version of the legacy format')
  # Numbers are little-endian on all machines; counts have the machine's order.
  count = '<q' if system.value['little_endian'] else '>q'
  starts: dict[str, int] = {}
  position = stream.tell()
  stream.close()
  for key in keys.value:
    if not isinstance(key, str):
      raise UserError('damaged: a storage whose key is no string')
    if key in starts:
      raise UserError(f'has storage {key[:80]!r} twice')
    storage = content.storages[key]
    file.seek(position)
    (length,) = struct.unpack(count, file.read(8))
    _check_length(storage, length * _itemsize(storage))
    starts[key] = position + 8
    position += 8 + length * _itemsize(storage)
  if position > size:
    raise UserError(f'is cut short: {size} of at least {position} bytes')

  def read_storage(storage: pv.Storage) -> bytes:
    file.seek(starts[storage.key])
    return file.read(storage.length * _itemsize(storage))

  return _Resolver(read_storage, '<', size).contents(content.value)


def _code(storage: pv.Storage) -> str:
  """NumPy type code of a storage."""
  root, _, name = storage.type_name.rpartition('.')
  if root not in ('torch', 'torch.cuda') or name not in _DTYPES:
    raise pv.refuse(storage.type_name)
  return _DTYPES[name]


def _itemsize(storage: pv.Storage) -> int:
  return np.dtype(_code(storage)).itemsize


def _check_length(storage: pv.Storage, size: int) -> None:
  if storage.length != size // _itemsize(storage):
    raise UserError(
      f'damaged: storage {storage.key[:80]!r} declares {storage.length}'
      f' numbers and has {size} bytes'
    )


def _joined(prefix: str, name: Any) -> str:
  """Joins a state_dict name; refuses long ones, which could fill the memory."""
  if not isinstance(name, str) or len(prefix) + len(name) > _LONGEST_NAME:
    raise UserError('damaged: a module with an impossible name')
  return prefix + name


def _module_parts(value: pv.Object) -> list[dict[Any, Any]] | None:
  """Parameters, buffers, children of a `torch.nn.Module`; None for others."""
  state = value.state
  if not isinstance(state, dict):
    return None
  names = ('_parameters', '_buffers', '_modules')
  parts = [p for name in names if isinstance(p := state.get(name), dict)]
  return parts if len(parts) == len(names) else None


class _Resolver:
  """Replaces tensors and modules by arrays, within a limit of memory."""

  def __init__(
    self,
    read: Callable[[pv.Storage], bytes],
    order: Literal['<', '>'],
    size: int,
  ) -> None:
    self._read = read
    self._order = order
    self._arrays: dict[pv.Storage, np.ndarray] = {}
    self._views: dict[pv.Tensor, np.ndarray] = {}
    self._containers: dict[int, Any] = {}
    self._bytes_left = 2 * size
    self._modules_left = 100_000
    self._ignored: str | None = None

  def contents(self, value: Any) -> Any:
    """Resolves the value of a whole file.

    Raises:
      UserError: The file holds objects that are no modules, but no tensors.
    """
    result = self.resolve(value)
    if self._ignored and not self._arrays:
      raise pv.refuse(self._ignored)
    return result

  def resolve(self, value: Any, depth: int = 0) -> Any:
    """Returns the value with arrays in place of tensors."""
    if isinstance(value, pv.Tensor):
      return self._tensor(value)
    if isinstance(value, pv.Name):
      return self._ignore(value.name)
    if isinstance(value, pv.View):
      raise pv.refuse(value.storage.type_name)
    if isinstance(value, pv.Object):
      if isinstance(value.state, pv.Tensor):
        return self._tensor(value.state)
      if _module_parts(value) is None:
        return self._ignore(value.name)
      flat: dict[str, np.ndarray] = {}
      self._module(value, '', depth, flat)
      return flat
    if isinstance(value, dict | list | tuple):
      return self._container(value, depth)
    if value is None or isinstance(value, bool | int | float | str | bytes):
      return value
    raise pv.refuse(f'{type(value).__module__}.{type(value).__qualname__}')

  def _ignore(self, name: str) -> None:
    """Leaves out an object, or a class, that holds no weights."""
    self._ignored = self._ignored or name

  def _container(self, value: Any, depth: int) -> Any:
    if depth > _DEPTH_LIMIT:
      raise UserError(f'nests containers more than {_DEPTH_LIMIT} deep')
    # Each container is resolved once: a few shared lists can have 2^40 paths.
    if id(value) in self._containers:
      return self._containers[id(value)]
    if isinstance(value, dict):
      result = {k: self.resolve(v, depth + 1) for k, v in value.items()}
    else:
      result = [self.resolve(v, depth + 1) for v in value]
    self._containers[id(value)] = result
    return result

  def _module(
    self, module: pv.Object, prefix: str, depth: int, flat: dict[str, Any]
  ) -> None:
    """Collects a pickled module's tensors under their state_dict names."""
    parts = _module_parts(module)
    if parts is None:
      raise pv.refuse(module.name)
    parameters, buffers, children = parts
    self._modules_left -= 1
    if depth > _DEPTH_LIMIT or self._modules_left < 0:
      raise UserError('nests too many modules')
    for name, tensor in [*parameters.items(), *buffers.items()]:
      if isinstance(tensor, pv.Object):
        tensor = tensor.state
      if isinstance(tensor, pv.Tensor):
        flat[_joined(prefix, name)] = self._tensor(tensor)
      elif tensor is not None:
        raise UserError(f'damaged: {_joined(prefix, name)} is no tensor')
    for name, child in children.items():
      if isinstance(child, pv.Object):
        self._module(child, f'{_joined(prefix, name)}.', depth + 1, flat)

  def _tensor(self, tensor: pv.Tensor) -> np.ndarray:
    if tensor not in self._views:
      self._views[tensor] = self._view(tensor)
    return self._views[tensor]

  def _view(self, tensor: pv.Tensor) -> np.ndarray:
    storage, start, shape, strides = tensor
    count = math.prod(shape)
    steps = zip(shape, strides, strict=True)
    stop = start + sum((n - 1) * stride for n, stride in steps) + 1
    if count and stop > storage.length:
      raise UserError(
        f'damaged: a tensor of shape {shape} in a storage of '
        f'{storage.length} numbers'
      )
    if storage not in self._arrays:
      self._arrays[storage] = self._array(storage)
    array = self._arrays[storage]
    self._bytes_left -= count * array.itemsize
    if self._bytes_left < 0:
      raise UserError('has overlapping tensors far larger than the file')
    return np.lib.stride_tricks.as_strided(
      array[start if count else 0 :],
      shape,
      [stride * array.itemsize for stride in strides],
      writeable=False,
    )

  def _array(self, storage: pv.Storage) -> np.ndarray:
    dtype = np.dtype(_code(storage))
    raw = np.frombuffer(self._read(storage), dtype.newbyteorder(self._order))
    if raw.size != storage.length:
      raise UserError(f'damaged: storage {storage.key[:80]!r} is cut short')
    if not storage.type_name.endswith(_BFLOAT16):
      return raw.astype(dtype, copy=False)
    # A bfloat16 is the upper half of a float32.
    wide = raw.astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)

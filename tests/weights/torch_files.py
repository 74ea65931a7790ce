"""A writer of PyTorch's two file formats, made independently of the reader.

Pickles are spelt opcode by opcode, so that hostile ones can be written too.
Real files of PyTorch are in tests/golden/torch.
"""

from __future__ import annotations

import io
import struct
import zipfile

import numpy as np

STORAGES = {
  'float64': 'DoubleStorage',
  'float32': 'FloatStorage',
  'float16': 'HalfStorage',
  'int64': 'LongStorage',
  'int32': 'IntStorage',
  'uint8': 'ByteStorage',
  'bool': 'BoolStorage',
}


def text(value: str) -> bytes:
  """A string."""
  data = value.encode()
  return b'X' + struct.pack('<I', len(data)) + data


def integer(value: int) -> bytes:
  """A number of any size."""
  data = value.to_bytes(value.bit_length() // 8 + 1, 'little', signed=True)
  return b'\x8a' + bytes([len(data)]) + data


def name(full: str) -> bytes:
  """A reference to `module.attribute`."""
  module, _, attribute = full.rpartition('.')
  return b'c' + f'{module}\n{attribute}\n'.encode()


def sequence(items: list[bytes]) -> bytes:
  """A tuple."""
  return b'(' + b''.join(items) + b't'


def mapping(items: dict[str, bytes]) -> bytes:
  """A dictionary with string keys."""
  return b'}(' + b''.join(text(k) + v for k, v in items.items()) + b'u'


def call(function: str, *args: bytes) -> bytes:
  """A call of a named function."""
  return name(function) + sequence(list(args)) + b'R'


def storage(
  key: str,
  *,
  length: int,
  kind: str = 'torch.FloatStorage',
  view: bytes | None = None,
) -> bytes:
  """A reference to stored numbers; legacy files add a view or None."""
  parts = [text('storage'), name(kind), text(key), text('cpu')]
  parts += [integer(length), *([] if view is None else [view])]
  return sequence(parts) + b'Q'


def tensor(
  key: str,
  shape: tuple[int, ...],
  *,
  length: int,
  kind: str = 'torch.FloatStorage',
  offset: int = 0,
  strides: tuple[int, ...] | None = None,
  legacy: bool = False,
) -> bytes:
  """A view of a storage as `_rebuild_tensor_v2` makes it."""
  if strides is None:
    strides = tuple(int(np.prod(shape[i + 1 :])) for i in range(len(shape)))
  view = b'N' if legacy else None
  return call(
    'torch._utils._rebuild_tensor_v2',
    storage(key, length=length, kind=kind, view=view),
    integer(offset),
    sequence([integer(n) for n in shape]),
    sequence([integer(n) for n in strides]),
    b'\x89',
    call('collections.OrderedDict'),
  )


def pickled(value: bytes) -> bytes:
  """A whole pickle stream of protocol 2."""
  return b'\x80\x02' + value + b'.'


def zip_file(
  value: bytes,
  storages: dict[str, bytes] | None = None,
  *,
  extra: dict[str, bytes] | None = None,
  compression: int = zipfile.ZIP_STORED,
) -> bytes:
  """The format of PyTorch 1.6 and later."""
  members = [('archive/data.pkl', pickled(value))]
  members += [(f'archive/data/{k}', v) for k, v in (storages or {}).items()]
  members += (extra or {}).items()
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, 'w') as archive:
    for name, data in members:
      # Without the time of writing: pytest names cases by their bytes, and
      # pytest-xdist's processes must agree on the names.
      info = zipfile.ZipInfo(name)
      info.compress_type = compression
      archive.writestr(info, data)
  return buffer.getvalue()


def legacy_file(
  value: bytes, storages: dict[str, tuple[int, bytes]] | None = None
) -> bytes:
  """The format before 1.6; storages are (count, bytes) by key."""
  system = mapping(
    {'protocol_version': integer(1001), 'little_endian': b'\x88'}
  )
  keys = sequence([text(key) for key in storages or {}])
  parts = [integer(0x1950A86A20F9469CFC6C), integer(1001), system, value, keys]
  data = b''.join(pickled(part) for part in parts)
  for count, raw in (storages or {}).values():
    data += struct.pack('<q', count) + raw
  return data


def list_of_state_dicts(dicts: list[dict[str, np.ndarray]]) -> bytes:
  """A zip file that holds contiguous tensors in a list of dictionaries."""
  values, raw = [], {}
  for tensors in dicts:
    items = {
      key: _whole(str(len(raw) + i), array)
      for i, (key, array) in enumerate(tensors.items())
    }
    arrays = enumerate(tensors.values(), len(raw))
    raw |= {str(i): array.tobytes() for i, array in arrays}
    values.append(mapping(items))
  return zip_file(b'](' + b''.join(values) + b'e', raw)


def _whole(key: str, array: np.ndarray, *, legacy: bool = False) -> bytes:
  """A tensor that is all of its storage."""
  return tensor(
    key,
    array.shape,
    length=array.size,
    kind=f'torch.{STORAGES[array.dtype.name]}',
    legacy=legacy,
  )


def state_dict(
  tensors: dict[str, np.ndarray], *, legacy: bool = False
) -> bytes:
  """A file of either format that holds contiguous tensors."""
  items = {
    key: _whole(str(i), array, legacy=legacy)
    for i, (key, array) in enumerate(tensors.items())
  }
  raw = {str(i): a.tobytes() for i, a in enumerate(tensors.values())}
  if not legacy:
    return zip_file(mapping(items), raw)
  sizes = [array.size for array in tensors.values()]
  counted = dict(zip(raw, zip(sizes, raw.values(), strict=True), strict=True))
  return legacy_file(mapping(items), counted)


def tensor_alone(array: np.ndarray) -> bytes:
  """A file that holds one tensor and no dictionary."""
  return zip_file(_whole('0', array), {'0': array.tobytes()})

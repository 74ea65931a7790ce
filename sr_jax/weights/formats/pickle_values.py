"""The values of a pickle, and the few functions that may make them.

Names of classes and functions are not resolved. The few functions that rebuild
a tensor or a plain value have an equivalent here, objects of other classes
become inert records of their state, and all other uses of a name are refused.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from sr_jax.errors import UserError

# Largest number of arguments of a call. A call copies them, and a few bytes of
# the file can repeat it many times.
SHORT = 64
_LONGEST_NAME = 200
_LARGEST = 2**63


class Name(NamedTuple):
  """A name to which the file refers, such as `torch.FloatStorage`."""

  name: str


class Storage(NamedTuple):
  """An array of numbers that is stored elsewhere in the file, under `key`."""

  type_name: str
  key: str
  length: int


class View(NamedTuple):
  """The part of a storage from element `offset` on, as in old PyTorch files."""

  storage: Storage
  offset: int


class Tensor(NamedTuple):
  """A view into a storage; offset and strides count elements."""

  storage: Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]


class Array(NamedTuple):
  """The state of a NumPy array; `data` are bytes, text or a list."""

  shape: tuple[int, ...]
  dtype: np.dtype[Any]
  columns_first: bool
  data: Any


class Encoded(NamedTuple):
  """Bytes that Python 2 stored as a latin-1 text, which is not yet encoded."""

  text: str


class Object:
  """A record in place of an object of any class: its class name and state."""

  __slots__ = ('name', 'state')

  def __init__(self, name: str) -> None:
    """Makes a record without state; a BUILD instruction may set it later."""
    self.name = name
    self.state: dict[Any, Any] | Tensor | Array | None = None


def refuse(name: str) -> UserError:
  """Makes the error for names that a file of weights must not use."""
  return UserError(
    f'refers to {name}, which is neither a tensor nor a plain container; '
    'nothing of the file was run; save its state_dict() alone'
  )


def tensor(
  view: Any, offset: Any, shape: Any, strides: Any, *rest: Any
) -> Tensor:
  del rest  # requires_grad, hooks, metadata
  shape, strides = short_tuple(shape), short_tuple(strides)
  if (
    not isinstance(view, View)
    or len(shape) != len(strides)
    or not all(is_size(n) for n in (offset, *shape, *strides))
  ):
    raise UserError('damaged: a tensor with impossible sizes')
  return Tensor(view.storage, view.offset + offset, shape, strides)


def is_size(value: Any) -> bool:
  return isinstance(value, int) and 0 <= value < _LARGEST


def _first(value: Any, *rest: Any) -> Any:
  del rest
  return value


def _nothing(*args: Any) -> None:
  del args


def pairs_to_dict(items: list[Any]) -> dict[Any, Any]:
  """Makes a dictionary of pairs; empties the list, so that it is not copied."""
  result: dict[Any, Any] = {}
  while items:
    key, value = items.pop()
    set_item(result, key, value)
  return dict(reversed(result.items()))


def _ordered_dict(*args: Any) -> dict[Any, Any]:
  return pairs_to_dict(*args) if args else {}


def _counter(counts: Any = None) -> dict[Any, Any]:
  return {} if counts is None else counts


def _empty_dict(*args: Any) -> dict[Any, Any]:
  del args  # the factory of a defaultdict
  return {}


def short_tuple(items: Any = ()) -> tuple[Any, ...]:
  if len(items) > SHORT:
    raise UserError('damaged: a shape of too many sizes')
  return tuple(items)


def _unread_array(*args: Any) -> Object:
  """Replaces an array that is not needed, such as the history of a loss."""
  del args
  return Object('numpy array')


def _new_array(cls: Any, *rest: Any) -> Object:
  del rest  # an empty shape; a BUILD instruction sets the state
  if not isinstance(cls, Name) or cls.name != NDARRAY:
    raise UserError('damaged: an array of an unusual class')
  return Object(NDARRAY)


def array(
  version: Any, shape: Any, dtype: Any, columns_first: Any, data: Any
) -> Array:
  shape = short_tuple(shape)
  if (
    version != 1
    or not isinstance(dtype, np.dtype)
    or not isinstance(columns_first, bool | int)
    or not all(is_size(n) for n in shape)
  ):
    raise UserError('damaged: an array with impossible sizes')
  return Array(shape, dtype, bool(columns_first), data)


def _long_text(text: Any, encoding: Any) -> Encoded:
  if encoding != 'latin1' or not isinstance(text, str):
    raise UserError('holds bytes of an unusual kind')
  return Encoded(text)


def _array_dtype(code: Any, *rest: Any) -> np.dtype[Any]:
  if code in ('O', 'O8'):
    return np.dtype(object)
  dtype = _dtype(code, *rest)
  if not isinstance(dtype, np.dtype):
    raise UserError('holds NumPy numbers of an unusual type')
  return dtype


def _encode(text: str, encoding: str) -> bytes | Object:
  if encoding != 'latin1':
    raise UserError('holds bytes that are no single number')
  # Longer bytes are the numbers of an array, such as the history of a loss,
  # which is not needed.
  return text.encode('latin-1') if len(text) <= SHORT else Object('bytes')


def _dtype(code: str, *rest: Any) -> np.dtype[Any] | Object:
  del rest
  if code not in ('b1', 'u1', 'i4', 'i8', 'f2', 'f4', 'f8'):
    return Object('numpy.dtype')
  return np.dtype(code).newbyteorder('<')


def _scalar(dtype: np.dtype[Any] | Object, data: Any) -> Any:
  if not isinstance(dtype, np.dtype):
    raise UserError('holds a NumPy number of an unusual type')
  if not isinstance(data, bytes | str):
    raise UserError('holds bytes that are no single number')
  # Python 2 stores bytes as strings.
  raw = data if isinstance(data, bytes) else data.encode('latin-1')
  if len(raw) != dtype.itemsize:
    raise UserError('damaged: a NumPy number of the wrong length')
  return np.frombuffer(raw, dtype)[0].item()


FUNCTIONS: dict[str, Callable[..., Any]] = {
  'collections.OrderedDict': _ordered_dict,
  # Training code stores the milestones of a learning rate in it.
  'collections.Counter': _counter,
  'collections.defaultdict': _empty_dict,
  'torch._utils._rebuild_tensor': tensor,
  'torch._utils._rebuild_tensor_v2': tensor,
  'torch._utils._rebuild_parameter': _first,
  'torch._utils._rebuild_parameter_with_state': _first,
  'torch.nn.parameter.Parameter': _first,
  'torch.autograd.variable.Variable': _first,
  'torch.Size': short_tuple,
  'torch.nn.backends.thnn._get_thnn_function_backend': _nothing,
  'torch.device': _nothing,
  'builtins.set': _first,
  '__builtin__.set': _first,
  '_codecs.encode': _encode,
  'numpy.dtype': _dtype,
  'numpy.core.multiarray._reconstruct': _unread_array,
  'numpy._core.multiarray._reconstruct': _unread_array,
  'numpy.core.multiarray.scalar': _scalar,
  'numpy._core.multiarray.scalar': _scalar,
}
NDARRAY = 'numpy.ndarray'
# Functions for files of NumPy arrays.
ARRAY_FUNCTIONS: dict[str, Callable[..., Any]] = {
  'numpy.core.multiarray._reconstruct': _new_array,
  'numpy._core.multiarray._reconstruct': _new_array,
  'numpy.dtype': _array_dtype,
  '_codecs.encode': _long_text,
}
_RECONSTRUCTORS = (
  'copyreg._reconstructor',
  'copy_reg._reconstructor',
  'copyreg.__newobj__',
  'copy_reg.__newobj__',
)
# PyTorch of early 2017 creates an empty tensor, whose storage BUILD sets later.
EMPTY_TENSOR = re.compile(r'torch(\.cuda)?\.[A-Z][a-z]+Tensor')
# Classes of the standard library whose objects training code often saves. The
# objects become inert records; the classes are neither called nor imported.
_HARMLESS = frozenset(
  {
    'argparse.Namespace',
    'collections.deque',
    'datetime.date',
    'datetime.datetime',
    'datetime.timedelta',
    'datetime.timezone',
    'functools.partial',
    'types.SimpleNamespace',
    'typing.Any',
    'uuid.UUID',
    *(
      f'{module}.{name}'
      for module in ('pathlib', 'pathlib._local')
      for name in ('Path', 'PosixPath', 'PurePosixPath', 'WindowsPath')
    ),
    *(
      f'{module}.{name}'
      for module in ('builtins', '__builtin__')
      for name in (
        *('bool', 'bytearray', 'complex', 'dict', 'float', 'frozenset'),
        *('int', 'list', 'object', 'range', 'set', 'slice', 'str', 'tuple'),
      )
    ),
  }
)
_KNOWN = {*FUNCTIONS, *_RECONSTRUCTORS, *_HARMLESS}
_FORBIDDEN_ROOTS = {*sys.stdlib_module_names, '__builtin__', 'copy_reg'}


def known_name(module: str, name: str) -> Name:
  if len(module) + len(name) > _LONGEST_NAME:
    raise UserError('damaged: a name of impossible length')
  full = f'{module}.{name}'
  if full not in _KNOWN and module.split('.')[0] in _FORBIDDEN_ROOTS:
    raise refuse(full)
  return Name(full)


def call(
  function: Any, args: Any, functions: Mapping[str, Callable[..., Any]]
) -> Any:
  if not isinstance(function, Name) or not isinstance(args, tuple):
    raise UserError('damaged: a call of something that is not a function')
  if len(args) > SHORT:
    raise UserError('damaged: a call with too many arguments')
  if function.name in _RECONSTRUCTORS:
    return new_object(args[0])
  if not args and EMPTY_TENSOR.fullmatch(function.name):
    return Object(function.name)
  if function.name in functions:
    return functions[function.name](*args)
  if function.name in _HARMLESS:
    return Object(function.name)
  raise refuse(function.name)


def new_object(cls: Any) -> Object:
  if not isinstance(cls, Name):
    raise UserError('damaged: an object without a class')
  return Object(cls.name)


def set_item(target: Any, key: Any, value: Any) -> None:
  if isinstance(target, Object):
    return  # an object of a class derived from dict
  # Tuples are refused, because hashing a deeply nested one would overflow
  # Python's stack.
  if not isinstance(target, dict) or not isinstance(key, str | int | float):
    raise UserError('damaged: a dictionary key that is not a string or number')
  if key in target:
    raise UserError(f'holds the key {key!r:.80} twice')
  target[key] = value

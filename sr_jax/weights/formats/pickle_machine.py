"""A pickle interpreter that imports no module and calls no code of the file.

The standard library's `pickletools` parses the instructions; this file carries
them out. Names of classes and functions are not resolved. The few functions
that rebuild a tensor or a plain value have an equivalent here, objects of other
classes become inert records of their state, and all other uses of a name are
refused.
"""

from __future__ import annotations

import io
import pickletools
import re
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from sr_jax.errors import UserError

# Number of instructions that every file may have. One instruction makes at most
# about 130 bytes of objects, so that the memory stays near 30 MB plus the size
# of the file. Real files need about 50 instructions per tensor.
FREE_INSTRUCTIONS = 250_000
BYTES_PER_INSTRUCTION = 128
# Largest number of arguments: a call copies them, and few bytes can repeat it.
_SHORT = 64
_LONGEST_NAME = 200
_LARGEST = 2**63

_INTEGERS = frozenset(('INT', 'BININT', 'BININT1', 'BININT2', 'LONG', 'LONG1'))
_FLOATS = frozenset(('FLOAT', 'BINFLOAT'))
_STRINGS = frozenset(('STRING', 'BINSTRING', 'SHORT_BINSTRING'))
_UNICODE = frozenset(('UNICODE', 'BINUNICODE', 'SHORT_BINUNICODE'))
_BYTES = frozenset(('BINBYTES', 'SHORT_BINBYTES'))
_VALUES = _INTEGERS | _FLOATS | _STRINGS | _UNICODE | _BYTES
_CONSTANTS = {'NONE': None, 'NEWTRUE': True, 'NEWFALSE': False}
_EMPTY = {
  'EMPTY_LIST': list,
  'EMPTY_TUPLE': tuple,
  'EMPTY_DICT': dict,
  'EMPTY_SET': list,
}
_TUPLES = {'TUPLE1': 1, 'TUPLE2': 2, 'TUPLE3': 3}
_PUT = frozenset(('PUT', 'BINPUT', 'LONG_BINPUT'))
_GET = frozenset(('GET', 'BINGET', 'LONG_BINGET'))
_IGNORED = frozenset(('PROTO', 'FRAME', 'STOP'))


class Name(NamedTuple):
  """A name to which the file refers, such as `torch.FloatStorage`."""

  name: str


class Storage(NamedTuple):
  """An array of numbers that is stored elsewhere in the file, under `key`."""

  type_name: str
  key: str
  length: int


class View(NamedTuple):
  """A storage from element `offset` on; old PyTorch files hold such views."""

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


class Pickle(NamedTuple):
  """The value of a pickle, and all storages to which it refers."""

  value: Any
  storages: dict[str, Storage]


class Object:
  """The record of an object of any class: its class name and its state."""

  __slots__ = ('name', 'state')

  def __init__(self, name: str) -> None:
    """Makes a record without state, which a BUILD instruction sets later."""
    self.name = name
    self.state: dict[Any, Any] | Tensor | Array | None = None


def refuse(name: str) -> UserError:
  """Makes the error for names that a file of weights must not use."""
  return UserError(
    f'refers to {name}, which is neither a tensor nor a plain container; '
    'nothing of the file was run; save its state_dict() alone'
  )


def _tensor(
  view: Any, offset: Any, shape: Any, strides: Any, *rest: Any
) -> Tensor:
  del rest  # requires_grad, hooks, metadata
  shape, strides = _short_tuple(shape), _short_tuple(strides)
  if (
    not isinstance(view, View)
    or len(shape) != len(strides)
    or not all(_is_size(n) for n in (offset, *shape, *strides))
  ):
    raise UserError('damaged: a tensor with impossible sizes')
  return Tensor(view.storage, view.offset + offset, shape, strides)


def _is_size(value: Any) -> bool:
  return isinstance(value, int) and 0 <= value < _LARGEST


def _first(value: Any, *rest: Any) -> Any:
  del rest
  return value


def _nothing(*args: Any) -> None:
  del args


def _pairs_to_dict(items: list[Any]) -> dict[Any, Any]:
  """Makes a dictionary of pairs; empties the list, so that it is not copied."""
  result: dict[Any, Any] = {}
  while items:
    key, value = items.pop()
    _set_item(result, key, value)
  return dict(reversed(result.items()))


def _ordered_dict(*args: Any) -> dict[Any, Any]:
  return _pairs_to_dict(*args) if args else {}


def _counter(counts: Any = None) -> dict[Any, Any]:
  return {} if counts is None else counts


def _short_tuple(items: Any = ()) -> tuple[Any, ...]:
  if len(items) > _SHORT:
    raise UserError('damaged: a shape of too many sizes')
  return tuple(items)


def _new_array(cls: Any, *rest: Any) -> Object:
  del rest  # an empty shape; a BUILD instruction sets the state
  if not isinstance(cls, Name) or cls.name != _NDARRAY:
    raise UserError('damaged: an array of an unusual class')
  return Object(_NDARRAY)


def _array(
  version: Any, shape: Any, dtype: Any, columns_first: Any, data: Any
) -> Array:
  shape = _short_tuple(shape)
  if (
    version != 1
    or not isinstance(dtype, np.dtype)
    or not isinstance(columns_first, bool | int)
    or not all(_is_size(n) for n in shape)
  ):
    raise UserError('damaged: an array with impossible sizes')
  return Array(shape, dtype, bool(columns_first), data)


def _long_text(text: Any, encoding: Any) -> Encoded:
  if encoding != 'latin1' or not isinstance(text, str):
    raise UserError('holds bytes of an unusual kind')
  return Encoded(text)


def _array_dtype(code: Any, *rest: Any) -> np.dtype[Any]:
  return np.dtype(object) if code in ('O', 'O8') else _dtype(code, *rest)


def _encode(text: str, encoding: str) -> bytes:
  if encoding != 'latin1' or len(text) > _SHORT:
    raise UserError('holds bytes that are no single number')
  return text.encode('latin-1')


def _dtype(code: str, *rest: Any) -> np.dtype[Any]:
  del rest
  if code not in ('b1', 'u1', 'i4', 'i8', 'f2', 'f4', 'f8'):
    raise UserError('holds a NumPy number of an unusual type')
  return np.dtype(code).newbyteorder('<')


def _scalar(dtype: np.dtype[Any], data: Any) -> Any:
  # Python 2 stores bytes as strings.
  raw = data if isinstance(data, bytes) else data.encode('latin-1')
  if len(raw) != dtype.itemsize:
    raise UserError('damaged: a NumPy number of the wrong length')
  return np.frombuffer(raw, dtype)[0].item()


_FUNCTIONS: dict[str, Callable[..., Any]] = {
  'collections.OrderedDict': _ordered_dict,
  # Training code stores the milestones of a learning rate in it.
  'collections.Counter': _counter,
  'torch._utils._rebuild_tensor': _tensor,
  'torch._utils._rebuild_tensor_v2': _tensor,
  'torch._utils._rebuild_parameter': _first,
  'torch._utils._rebuild_parameter_with_state': _first,
  'torch.nn.parameter.Parameter': _first,
  'torch.autograd.variable.Variable': _first,
  'torch.Size': _short_tuple,
  'torch.nn.backends.thnn._get_thnn_function_backend': _nothing,
  'torch.device': _nothing,
  'builtins.set': _first,
  '__builtin__.set': _first,
  '_codecs.encode': _encode,
  'numpy.dtype': _dtype,
  'numpy.core.multiarray.scalar': _scalar,
  'numpy._core.multiarray.scalar': _scalar,
}
_NDARRAY = 'numpy.ndarray'
# Functions for files of NumPy arrays.
_ARRAY_FUNCTIONS: dict[str, Callable[..., Any]] = {
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
# PyTorch of early 2017 stores an empty tensor; BUILD sets its storage.
_EMPTY_TENSOR = re.compile(r'torch(\.cuda)?\.[A-Z][a-z]+Tensor')
_KNOWN = {
  *_FUNCTIONS,
  *_RECONSTRUCTORS,
  'builtins.object',
  '__builtin__.object',
}
_FORBIDDEN_ROOTS = {*sys.stdlib_module_names, '__builtin__', 'copy_reg'}


def _global(module: str, name: str) -> Name:
  if len(module) + len(name) > _LONGEST_NAME:
    raise UserError('damaged: a name of impossible length')
  full = f'{module}.{name}'
  if full not in _KNOWN and module.split('.')[0] in _FORBIDDEN_ROOTS:
    raise refuse(full)
  return Name(full)


def _call(
  function: Any, args: Any, functions: Mapping[str, Callable[..., Any]]
) -> Any:
  if not isinstance(function, Name) or not isinstance(args, tuple):
    raise UserError('damaged: a call of something that is no function')
  if len(args) > _SHORT:
    raise UserError('damaged: a call with too many arguments')
  if function.name in _RECONSTRUCTORS:
    return _new_object(args[0])
  if not args and _EMPTY_TENSOR.fullmatch(function.name):
    return Object(function.name)
  if function.name not in functions:
    raise refuse(function.name)
  return functions[function.name](*args)


def _new_object(cls: Any) -> Object:
  if not isinstance(cls, Name):
    raise UserError('damaged: an object without a class')
  return Object(cls.name)


def _set_item(target: Any, key: Any, value: Any) -> None:
  # No tuples: hashing a deeply nested one would overflow Python's stack.
  if not isinstance(target, dict) or not isinstance(key, str | int | float):
    raise UserError('damaged: a dictionary key that is no string or number')
  if key in target:
    raise UserError(f'holds the key {key!r:.80} twice')
  target[key] = value


def _persistent(pid: Any) -> Any:
  """Resolves ('module', ...) to a class, and ('storage', ...) to a `View`."""
  if not isinstance(pid, tuple) or not pid or len(pid) > _SHORT:
    raise UserError('damaged: a reference that is no storage')
  if pid[0] == 'module':  # a class with its source text, which is ignored
    return pid[1]
  kind, cls, key, _, length, *view = pid
  # Keys are strings only: the text of nested lists could be very long.
  if kind != 'storage' or not isinstance(cls, Name) or not isinstance(key, str):
    raise UserError('damaged: a reference that is no storage')
  if not _is_size(length):
    raise UserError(f'damaged: storage {key[:80]!r} of impossible length')
  offset = view[0][1] if view and view[0] is not None else 0
  if not _is_size(offset):
    raise UserError(f'damaged: storage {key[:80]!r} at an impossible offset')
  return View(Storage(cls.name, key, length), offset)


class _Machine:
  """The stack machine of one pickle."""

  def __init__(self, functions: Mapping[str, Callable[..., Any]]) -> None:
    self.functions = functions
    self.stack: list[Any] = []
    self.marks: list[int] = []
    self.memo: dict[int, Any] = {}
    self.storages: dict[str, Storage] = {}

  def _know(self, storage: Storage) -> None:
    """Remembers a storage; refuses one that is described in two ways."""
    if self.storages.setdefault(storage.key, storage) != storage:
      raise UserError(
        f'damaged: storage {storage.key[:80]!r} described in two ways'
      )

  def _pop_mark(self) -> list[Any]:
    start = self.marks.pop()
    items = self.stack[start:]
    del self.stack[start:]
    return items

  def step(self, name: str, arg: Any) -> None:
    """Carries out one instruction."""
    push = self.stack.append
    if name in _VALUES:
      push(arg)
    elif name in _CONSTANTS:
      push(_CONSTANTS[name])
    elif name in _EMPTY:
      push(_EMPTY[name]())
    elif name in _TUPLES:
      items = [self.stack.pop() for _ in range(_TUPLES[name])]
      push(tuple(reversed(items)))
    elif name in _PUT:
      self.memo[arg] = self.stack[-1]
    elif name == 'MEMOIZE':
      self.memo[len(self.memo)] = self.stack[-1]
    elif name in _GET:
      push(self.memo[arg])
    elif name == 'MARK':
      self.marks.append(len(self.stack))
    elif name == 'POP':
      self.stack.pop()
    elif name == 'POP_MARK':
      self._pop_mark()
    elif not self._fill(name) and not self._refer(name, arg):
      raise UserError(f'damaged: unexpected pickle instruction {name}')

  def _fill(self, name: str) -> bool:
    """Carries out an instruction that fills a container, or returns False."""
    if name in ('TUPLE', 'LIST', 'DICT'):
      items = self._pop_mark()
      if name == 'DICT':
        pairs = zip(items[::2], items[1::2], strict=True)
        items = _pairs_to_dict(list(pairs))
      self.stack.append(tuple(items) if name == 'TUPLE' else items)
    elif name in ('APPEND', 'APPENDS', 'ADDITEMS'):
      items = [self.stack.pop()] if name == 'APPEND' else self._pop_mark()
      if not isinstance(self.stack[-1], list):
        raise UserError('damaged: items added to something that is no list')
      self.stack[-1].extend(items)
    elif name == 'SETITEM':
      value, key = self.stack.pop(), self.stack.pop()
      _set_item(self.stack[-1], key, value)
    elif name == 'SETITEMS':
      items = self._pop_mark()
      for key, value in zip(items[::2], items[1::2], strict=True):
        _set_item(self.stack[-1], key, value)
    else:
      return False
    return True

  def _refer(self, name: str, arg: Any) -> bool:
    """Carries out an instruction that uses a name, or returns False."""
    if name == 'GLOBAL':
      self.stack.append(_global(*arg.split(' ', 1)))
    elif name == 'STACK_GLOBAL':
      attribute, module = self.stack.pop(), self.stack.pop()
      if not isinstance(module, str) or not isinstance(attribute, str):
        raise UserError('damaged: a name that is no string')
      self.stack.append(_global(module, attribute))
    elif name == 'REDUCE':
      args, function = self.stack.pop(), self.stack.pop()
      self.stack.append(_call(function, args, self.functions))
    elif name == 'NEWOBJ':
      _, cls = self.stack.pop(), self.stack.pop()
      self.stack.append(_new_object(cls))
    elif name == 'BUILD':
      _build(self.stack.pop(), self.stack[-1])
    elif name == 'BINPERSID':
      target = _persistent(self.stack.pop())
      if isinstance(target, View):
        self._know(target.storage)
      self.stack.append(target)
    else:
      return False
    return True


def _build(state: Any, target: Any) -> None:
  """Sets the state of an object; ignores states that hold no numbers."""
  if not isinstance(target, Object):
    # Ignored: metadata of a dictionary, hooks of a tensor, a type's byte order.
    if not isinstance(target, dict | Tensor | np.dtype):
      raise UserError('damaged: a state for something that takes none')
  elif target.name == _NDARRAY and isinstance(state, tuple):
    target.state = _array(*_short_tuple(state))
  elif isinstance(state, dict):
    target.state = state
  elif not _EMPTY_TENSOR.fullmatch(target.name):
    raise UserError('damaged: a state that is no dictionary')
  elif target.state is None:  # else the state holds hooks of a parameter
    target.state = _tensor(*_short_tuple(state))


class Allowance:
  """Counts instructions, and limits those of all pickles of one file."""

  def __init__(self, file_size: int) -> None:
    """Derives the limit from the size of the file in bytes."""
    self._left = FREE_INSTRUCTIONS + file_size // BYTES_PER_INSTRUCTION

  def spend(self) -> None:
    """Counts one instruction."""
    self._left -= 1
    if self._left < 0:
      raise UserError('holds too many pickle instructions for its size')


def interpret(
  stream: io.BytesIO, allowance: Allowance, *, arrays: bool = False
) -> Pickle:
  """Interprets the pickle at the stream's position, and moves past its end.

  Args:
    stream: A stream in memory, so that a declared length cannot allocate more
      bytes than it has.
    allowance: Limits the number of instructions, and so time and memory.
    arrays: Whether the pickle holds NumPy arrays instead of tensors. They
      become `Object`s whose state is an `Array`.

  Returns:
    The value, made of plain values, `Tensor`s, `Object`s and `Name`s, and the
    storages to which it refers.

  Raises:
    UserError: The pickle uses other names or instructions.
    ValueError, IndexError, KeyError, TypeError: The pickle is damaged.
  """
  machine = _Machine(_ARRAY_FUNCTIONS if arrays else _FUNCTIONS)
  with warnings.catch_warnings():
    # Python 2 strings may hold escapes that Python 3 warns about.
    warnings.simplefilter('ignore', DeprecationWarning)
    for opcode, arg, _ in pickletools.genops(stream):
      allowance.spend()
      if opcode.name not in _IGNORED:
        machine.step(opcode.name, arg)
  return Pickle(machine.stack.pop(), machine.storages)

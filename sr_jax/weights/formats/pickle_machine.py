"""A pickle interpreter that imports no module and calls no code of the file.

The standard library's `pickletools` parses the instructions; this file carries
them out, and `pickle_values` gives the names their meaning.
"""

from __future__ import annotations

import io
import pickletools
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from sr_jax.errors import UserError
from sr_jax.weights.formats import pickle_values as values
from sr_jax.weights.formats.pickle_values import Object, Storage, Tensor, View

# Number of instructions that every file may have. One instruction makes at most
# about 130 bytes of objects, so that the memory stays near 30 MB plus the size
# of the file. Real files need about 50 instructions per tensor.
FREE_INSTRUCTIONS = 250_000
BYTES_PER_INSTRUCTION = 128

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


class Pickle(NamedTuple):
  """The value of a pickle, and all storages to which it refers."""

  value: Any
  storages: dict[str, Storage]


def _persistent(pid: Any) -> Any:
  """Resolves ('module', ...) to a class, and ('storage', ...) to a `View`."""
  if not isinstance(pid, tuple) or not pid or len(pid) > values.SHORT:
    raise UserError('damaged: a reference that is no storage')
  if pid[0] == 'module':  # a class with its source text, which is ignored
    return pid[1]
  kind, cls, key, _, length, *view = pid
  # Keys are strings only: the text of nested lists could be very long.
  if (
    kind != 'storage'
    or not isinstance(cls, values.Name)
    or not isinstance(key, str)
  ):
    raise UserError('damaged: a reference that is no storage')
  if not values.is_size(length):
    raise UserError(f'damaged: storage {key[:80]!r} of impossible length')
  offset = view[0][1] if view and view[0] is not None else 0
  if not values.is_size(offset):
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
        items = values.pairs_to_dict(list(pairs))
      self.stack.append(tuple(items) if name == 'TUPLE' else items)
    elif name in ('APPEND', 'APPENDS', 'ADDITEMS'):
      items = [self.stack.pop()] if name == 'APPEND' else self._pop_mark()
      if isinstance(self.stack[-1], list):
        self.stack[-1].extend(items)
      elif not isinstance(self.stack[-1], Object):
        raise UserError('damaged: items added to something that is no list')
    elif name == 'SETITEM':
      value, key = self.stack.pop(), self.stack.pop()
      values.set_item(self.stack[-1], key, value)
    elif name == 'SETITEMS':
      items = self._pop_mark()
      for key, value in zip(items[::2], items[1::2], strict=True):
        values.set_item(self.stack[-1], key, value)
    else:
      return False
    return True

  def _refer(self, name: str, arg: Any) -> bool:
    """Carries out an instruction that uses a name, or returns False."""
    if name == 'GLOBAL':
      self.stack.append(values.known_name(*arg.split(' ', 1)))
    elif name == 'STACK_GLOBAL':
      attribute, module = self.stack.pop(), self.stack.pop()
      if not isinstance(module, str) or not isinstance(attribute, str):
        raise UserError('damaged: a name that is no string')
      self.stack.append(values.known_name(module, attribute))
    elif name == 'REDUCE':
      args, function = self.stack.pop(), self.stack.pop()
      self.stack.append(values.call(function, args, self.functions))
    elif name == 'NEWOBJ':
      _, cls = self.stack.pop(), self.stack.pop()
      self.stack.append(values.new_object(cls))
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
  elif target.name == values.NDARRAY and isinstance(state, tuple):
    target.state = values.array(*values.short_tuple(state))
  elif isinstance(state, dict):
    target.state = state
  elif values.EMPTY_TENSOR.fullmatch(target.name) and target.state is None:
    target.state = values.tensor(*values.short_tuple(state))
  # Else the state holds hooks of a parameter, or is that of a class that is no
  # module.


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
  machine = _Machine(values.ARRAY_FUNCTIONS if arrays else values.FUNCTIONS)
  with warnings.catch_warnings():
    # Python 2 strings may hold escapes that Python 3 warns about.
    warnings.simplefilter('ignore', DeprecationWarning)
    for opcode, arg, _ in pickletools.genops(stream):
      allowance.spend()
      if opcode.name not in _IGNORED:
        machine.step(opcode.name, arg)
  return Pickle(machine.stack.pop(), machine.storages)

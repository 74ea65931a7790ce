"""Reports faults of the machine during a run in one line."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Generator

import jax

from sr_jax.errors import UserError

_AMOUNT = re.compile(
  r'(?:alloc|request)\D{0,40}?(\d[\d.]*) ?(bytes|[KMGT]i?B)', re.IGNORECASE
)
_EXHAUSTED = ('RESOURCE_EXHAUSTED', 'Out of memory', 'out of memory')


@contextlib.contextmanager
def out_of_memory(mend: str) -> Generator[None]:
  """Reports in one line that the memory of the host or of a device ran out.

  Args:
    mend: A remedy, such as `lower config.data.batch_size`.

  Raises:
    UserError: The memory ran out; the error says how much was requested.
  """
  try:
    yield
  except MemoryError as error:
    raise _asked(str(error), 'this machine', mend) from error
  except jax.errors.JaxRuntimeError as error:
    if not any(word in str(error) for word in _EXHAUSTED):
      raise
    raise _asked(str(error), jax.devices()[0].device_kind, mend) from error


def _asked(text: str, where: str, mend: str) -> UserError:
  amount = ''
  if match := _AMOUNT.search(text):
    number, unit = match.groups()
    if unit == 'bytes':
      number, unit = f'{float(number) / 2**30:.3g}', 'GiB'
    amount = f': {number} {unit} were asked for at once'
  return UserError(f'out of memory on {where}{amount}; {mend}')

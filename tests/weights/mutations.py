"""Random damage to files, and the error that it may cause."""

from __future__ import annotations

import struct
import time
import tracemalloc

from sr_jax.errors import UserError

# What a length or an offset may be made to claim.
EXTREMES = (0, 1, 2**7, 2**15, 2**31 - 1, 2**32 - 1, 2**40, 2**63, 2**64 - 1)


def mutated(data: bytes, rng) -> bytes:
  """The file cut short, with bits flipped, or with parts of it moved."""
  kind, where = rng.integers(6), int(rng.integers(len(data)))
  part = data[where : where + int(rng.integers(1, 40))]
  other = int(rng.integers(len(data)))
  changed = bytearray(data)
  if kind == 0:
    return data[:where]
  if kind == 1:
    for bit in rng.integers(0, 8 * len(data), rng.integers(1, 4)):
      changed[bit // 8] ^= 1 << (bit % 8)
  elif kind == 2:
    value = EXTREMES[rng.integers(len(EXTREMES))]
    size = (1, 2, 4, 8)[rng.integers(4)]
    raw = struct.pack('<Q', value)[:size]
    changed[where : where + size] = raw[: len(data) - where]
  elif kind == 3:  # written over another part
    changed[other : other + len(part)] = part
  elif kind == 4:  # put in again
    changed[other:other] = part * int(rng.integers(1, 20))
  else:
    del changed[where : where + len(part)]
  return bytes(changed)


def refusal(read, path, data: bytes) -> str:
  """The line with which `read` refuses the file, '' if it takes it.

  It needs little memory and time. Any other exception is the caller's to see.
  """
  path.write_bytes(data)
  message = ''
  # Of this process alone: others may keep the machine busy.
  started = time.process_time()
  tracemalloc.start()
  try:
    read(path)
  except UserError as error:
    message = str(error)
    assert message.startswith(f'{path}: ')
    assert message.isprintable()
  finally:
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
  assert peak < 2 * len(data) + 50e6
  assert time.process_time() - started < 10
  return message.removeprefix(f'{path}: ')

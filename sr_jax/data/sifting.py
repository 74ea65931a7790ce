"""Separates the images of a source that can be used from the others."""

from __future__ import annotations

import concurrent.futures
import logging
import os
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from sr_jax.data import cache
from sr_jax.data.folders import Skipped
from sr_jax.errors import UserError

_log = logging.getLogger(__name__)

OnBad = Literal['refuse', 'skip']


def sift(
  where: str,
  names: Sequence[str],
  check: Callable[[int], str | None],
  bad: Skipped,
  on_bad: OnBad,
) -> tuple[list[int], Skipped]:
  """Separates usable images from unusable ones.

  Args:
    where: Name of the source in messages.
    names: One name per image.
    check: Opens image i, and returns why it is unusable, or None.
    bad: (name, reason) of files that are already known to be unusable.
    on_bad: `refuse` or `skip`.

  Returns:
    Indices of the usable images, and (name, reason) of all other files.
  """
  if on_bad not in ('refuse', 'skip'):
    raise UserError(f"on_bad={on_bad!r}: choose 'refuse' or 'skip'")

  def reason(index: int) -> str | None:
    try:
      return check(index)
    except cache.CacheError:
      raise  # a full disk must not leave images out
    except UserError as error:
      # The path at the start of the message is replaced by the image's name.
      return str(error).rpartition(f'{names[index]}: ')[2]

  _log.info('%s: opening %d images, new ones slowly', where, len(names))
  # Decoding releases the GIL.
  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    reasons = list(pool.map(reason, range(len(names))))
  keep = [i for i, fault in enumerate(reasons) if fault is None]
  skipped = (
    *bad,
    *((names[i], fault) for i, fault in enumerate(reasons) if fault),
  )
  for name, fault in skipped:
    _log.warning('%s: %s does not serve: %s', where, name, fault)
  if skipped and on_bad == 'refuse':
    name, fault = skipped[0]
    more = f' (and {len(skipped) - 1} more)' if len(skipped) > 1 else ''
    raise UserError(
      f"{where}: {name}: {fault}{more}; on_bad='skip' leaves such files out"
    )
  if not keep:
    first = ': '.join(skipped[0]) if skipped else 'it is empty'
    raise UserError(f'{where}: no image serves; {first}')
  return keep, skipped


def too_small(image: np.ndarray, min_size: int) -> str | None:
  """Returns why an image is too small for crops, or None."""
  if min(image.shape[:2]) >= min_size:
    return None
  return f'{size_of(image)} is smaller than the crop of {min_size}x{min_size}'


def size_of(image: np.ndarray) -> str:
  """`WIDTHxHEIGHT`, for messages."""
  return f'{image.shape[1]}x{image.shape[0]}'

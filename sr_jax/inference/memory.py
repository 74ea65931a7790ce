"""How large the parts of an image may be, so that they fit the memory."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from sr_jax.errors import UserError
from sr_jax.inference.model import SRModel

_log = logging.getLogger(__name__)

# Bytes that one program may take of a CPU's memory: larger windows gain little,
# and the machine has other work.
_CPU_LIMIT = 2**30
# Share of an accelerator's free memory: convolutions need work space too.
_DEVICE_SHARE = 0.7
# Images of so few LR pixels fit any memory: they are not probed.
_SMALL = 128**2
# Side in SR pixels of what is computed on the host, in float64, at a time.
_HOST_SIDE = 2048
# Smallest part of a window that is kept, in LR pixels.
_LEAST_KEPT = 64


def least_tile(model: SRModel, halo: int | None) -> int:
  """The side above which tiles have an inside."""
  return 2 * (halo or 0) + 2 * (model.cell - 1)


class TileSides:
  """Sides of the windows that fit the memory, by the number of channels.

  The memory of a program is asked once for every number of channels. After the
  device ran out of memory, smaller windows are used from then on.
  """

  def __init__(
    self,
    model: SRModel,
    program: Any,
    device: jax.Device,
    *,
    tile: int | str,
    halo: int | None,
    on_host: bool,
  ):
    """Asks nothing yet.

    Args:
      model: The model.
      program: Its predict function, jitted unless it runs on the host.
      device: Where it runs.
      tile: The tile of `UpscaleOptions`.
      halo: Receptive radius of the whole computation, None without a bound.
      on_host: Whether a part of it works on the host's float64 arrays.
    """
    self._model = model
    self._program = program
    self._device = device
    self._tile = tile
    self._halo = halo
    self._on_host = on_host
    self._sides: dict[int, int] = {}

  def known(self, channels: int) -> int | None:
    """Side of the tiles in LR pixels; None where no image needed them yet."""
    fixed = None if isinstance(self._tile, str) else self._tile
    return self._sides.get(channels, fixed)

  def side(
    self, params: Mapping[str, Any], size: tuple[int, int], channels: int
  ) -> int:
    """Side of the windows for an image; at most its longer side matters.

    Args:
      params: Parameters of the program.
      size: Height and width of the image in LR pixels.
      channels: Its channels, as the program gets them.

    Raises:
      UserError: the image does not fit, and the model cannot be tiled.
    """
    if self._tile == 'auto' and channels not in self._sides:
      if math.prod(size) <= _SMALL:
        return max(size)
      side = self._fitting(params, size, channels)
      if side is None:
        return max(size)
      self._sides[channels] = side
    return self.known(channels) or max(size)

  def shrink(self, side: int, channels: int) -> None:
    """Halves the windows after they did not fit.

    Raises:
      UserError: they may not or cannot be smaller.
    """
    name = self._model.name
    if self._tile in ('off', 'chop'):
      raise UserError(
        f'out of memory with tile {self._tile}; let model {name} tile:'
        ' tile=auto'
      )
    if self._tile == 'auto' and self._model.scale != int(self._model.scale):
      raise UserError(
        f'out of memory at scale {self._model.scale:g}, which cannot be tiled;'
        ' choose a whole scale'
      )
    if self._tile == 'auto' and self._halo is None:
      raise UserError(
        f'out of memory, and model {name} cannot be tiled exactly; give'
        f' tile=N below {side} and accept seams'
      )
    if side // 2 <= least_tile(self._model, self._halo):
      raise UserError(
        f'out of memory with tiles of {side} pixels, the smallest that model'
        f' {name} allows; free some memory or choose a smaller model'
      )
    self._sides[channels] = side // 2
    _log.warning('out of memory: going on with tiles of %d', side // 2)

  def _fitting(
    self, params: Mapping[str, Any], size: tuple[int, int], channels: int
  ) -> int | None:
    """Side of the largest windows that fit; None for all of the image."""
    if self._halo is None:
      self._refuse_if_too_large(params, size, channels)
      return None
    least = least_tile(self._model, self._halo) + _LEAST_KEPT
    sides = []
    if self._on_host:
      sides.append(max(int(_HOST_SIDE // self._model.scale), least))
    if not self._model.on_host:
      probe = math.isqrt(_SMALL)
      density = self._bytes(params, (probe, probe), channels) / _SMALL
      sides.append(max(plan_side(density, self._device), least))
    return min(sides)

  def _bytes(
    self, params: Mapping[str, Any], size: tuple[int, int], channels: int
  ) -> int:
    """Memory that the program needs for one image of this size."""
    lr = jax.ShapeDtypeStruct((1, *size, channels), np.float32)
    return program_bytes(self._program, params, lr, None)

  def _refuse_if_too_large(
    self, params: Mapping[str, Any], size: tuple[int, int], channels: int
  ) -> None:
    if self._model.on_host:
      return
    needed = self._bytes(params, size, channels)
    if needed <= available_bytes(self._device):
      return
    what = f'{size[0]}x{size[1]} pixels need {needed / 2**30:.1f} GiB'
    if self._model.scale != int(self._model.scale):
      raise UserError(
        f'{what} at scale {self._model.scale:g}, which cannot be tiled; choose'
        ' a whole scale'
      )
    raise UserError(
      f'{what} with model {self._model.name}, which cannot be tiled exactly;'
      ' give tile=N and accept seams'
    )


def program_bytes(program: Any, *args: Any) -> int:
  """Memory that a jitted function needs beside its arguments.

  It is what the compiler reports.
  """
  shapes = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), args
  )
  leaves, structure = jax.tree.flatten(shapes)
  return _bytes_of(program, structure, tuple(leaves))


@functools.lru_cache(maxsize=64)
def _bytes_of(program: Any, structure: Any, leaves: tuple[Any, ...]) -> int:
  """The same of shapes; asked once, because it compiles the program."""
  args = jax.tree.unflatten(structure, leaves)
  memory = program.lower(*args).compile().memory_analysis()
  return memory.temp_size_in_bytes + memory.output_size_in_bytes


def available_bytes(device: jax.Device) -> int:
  """Free memory of an accelerator; of the machine for a CPU device."""
  stats = device.memory_stats() if device.platform != 'cpu' else None
  if stats and 'bytes_limit' in stats:
    free = stats['bytes_limit'] - stats.get('bytes_in_use', 0)
    return int(_DEVICE_SHARE * free)
  return _available_ram()


def _available_ram() -> int:
  """Half of the memory that programs can still get; a guess where unknown."""
  try:
    with open('/proc/meminfo') as file:
      lines = dict(line.split(':', 1) for line in file)
    return int(lines['MemAvailable'].split()[0]) * 1024 // 2
  except (OSError, KeyError, ValueError):
    return _CPU_LIMIT


def plan_side(bytes_per_pixel: float, device: jax.Device) -> int:
  """Side of the largest square window that fits the device's memory.

  Args:
    bytes_per_pixel: Memory that the program needs for each input pixel.
    device: Where it runs. At most 1 GiB of a CPU's memory is taken.
  """
  budget = available_bytes(device)
  if device.platform == 'cpu':
    budget = min(budget, _CPU_LIMIT)
  return math.isqrt(int(budget / bytes_per_pixel))

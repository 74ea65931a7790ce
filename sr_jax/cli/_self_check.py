"""What `sr-jax doctor` prints: versions, devices, and whether JAX computes."""

from __future__ import annotations

import importlib.metadata
import math
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import sr_jax
from sr_jax import checkpoints, models
from sr_jax.errors import UserError
from sr_jax.ops.compilation import jit
from sr_jax.ops.conv import conv2d
from sr_jax.ops.devices import find_devices
from sr_jax.ops.resize import imresize
from sr_jax.typing import Network

_PACKAGES = (
  'jax',
  'jaxlib',
  'flax',
  'optax',
  'orbax-checkpoint',
  'numpy',
  'pillow',
)
# Mean and pixel (11, 11) of its output for the parameters of `_tiny_params`.
_SR_MEAN = 0.2594634
_SR_PIXEL = (-1.0384272, 1.3416190, -0.3782952)
_TINY = {'name': 'edsr', 'scale': 2, 'variant': 'small', 'blocks': 1}
# Accelerators multiply with fewer bits than CPUs do.
_TOLERANCE = 1e-2


def report() -> None:
  """Prints versions and devices, and runs the checks.

  Raises:
    UserError: JAX does not start, or a check fails.
  """
  print(f'sr_jax {sr_jax.__version__}, Python {platform.python_version()}')
  print(', '.join(f'{p} {importlib.metadata.version(p)}' for p in _PACKAGES))
  print(f'host: {platform.platform()}, {_host_memory()}')
  for device in find_devices():
    kind = f'{device.platform} {device.device_kind}'
    print(f'device {device.id}: {kind}, {_device_memory(device)}')
  failures = [_check(name, check) for name, check in _CHECKS.items()]
  if any(failures):
    broken = '; '.join(filter(None, failures))
    raise UserError(f'{broken}: reinstall jax and sr_jax for this machine')


def _host_memory() -> str:
  try:
    lines = Path('/proc/meminfo').read_text().splitlines()
    sizes = dict(line.split(':') for line in lines)
    return f'{int(sizes["MemAvailable"].split()[0]) / 2**20:.1f} GiB free'
  except (OSError, LookupError, ValueError):  # not Linux
    return 'free memory unknown'


def _device_memory(device: jax.Device) -> str:
  stats = device.memory_stats() or {}
  if 'bytes_limit' not in stats:
    return "the host's memory"
  free = stats['bytes_limit'] - stats['bytes_in_use']
  return f'{free / 2**30:.1f} GiB free for JAX'


def _check(name: str, check: Callable[[], float]) -> str | None:
  """Runs one check, prints a line, returns the failure if there is one."""
  start = time.perf_counter()
  error = check()
  seconds = time.perf_counter() - start
  good = error < _TOLERANCE
  print(f'{"ok    " if good else "FAILED"} {name} ({seconds:.2f} s)')
  return None if good else f'{name} is off by {error:.2g}'


def _pattern() -> np.ndarray:
  """A 12x12 RGB image in [0, 1]."""
  h, w, c = np.ogrid[:12, :12, :3]
  return ((7 * h + 13 * w + 29 * c) % 32).astype(np.float32) / 31


def _distance(values: Any, expected: Any) -> float:
  """Largest difference; infinite if a value is NaN."""
  error = np.abs(np.asarray(values) - np.asarray(expected)).max()
  return float(np.nan_to_num(error, nan=np.inf))


def _check_resize() -> float:
  """Against MATLAB's imresize of the pattern by one half."""
  half = imresize(jnp.asarray(_pattern()), scale=0.5)
  return max(
    _distance(half[0, 0], [0.31021609, 0.54824534, 0.45189641]),
    _distance(half[3, 3], [0.57632938, 0.48387096, 0.56837512]),
  )


def _tiny_params(network: Network) -> Any:
  """Parameters from a formula, the same on every machine."""
  like = jax.eval_shape(
    network.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3))
  )

  def leaf(like: jax.ShapeDtypeStruct) -> np.ndarray:
    amplitude = math.sqrt(3 * like.shape[-1] / like.size)
    values = np.sin(np.arange(1, 1 + like.size) ** 2).reshape(like.shape)
    return (amplitude * values).astype(np.float32)

  return jax.tree.map(leaf, like)


def _check_network() -> float:
  """A small EDSR against values of a float64 NumPy implementation."""
  network = models.create(_TINY)
  sr, _ = jit(network.apply)(_tiny_params(network), _pattern()[None])
  pixel = sr[0, 11, 11]
  return max(_distance(sr.mean(), _SR_MEAN), _distance(pixel, _SR_PIXEL))


def _check_gradient() -> float:
  """A convolution's weight gradient against sums of shifted pixels."""
  x = _pattern()[None]
  gradient = jit(
    jax.grad(lambda k: conv2d(jnp.asarray(x), k, jnp.zeros(1)).sum())
  )(jnp.zeros((3, 3, 3, 1)))
  padded = np.pad(x[0], ((1, 1), (1, 1), (0, 0)))
  sums = [
    [padded[i : i + 12, j : j + 12].sum((0, 1)) for j in range(3)]
    for i in range(3)
  ]
  return _distance(gradient[..., 0], sums) / 12


def _check_checkpoint() -> float:
  """Weights written to the temporary folder and read again."""
  params = {'generator': {'layer': {'kernel': _pattern()}}}
  with tempfile.TemporaryDirectory() as folder:
    path = Path(folder, 'checkpoint')
    checkpoints.save_params(path, params, {'model': _TINY})
    loaded = checkpoints.load_params(path)
  return _distance(loaded.params['generator']['layer']['kernel'], _pattern())


_CHECKS: dict[str, Callable[[], float]] = {
  'resize as MATLAB': _check_resize,
  'network': _check_network,
  'gradient of a convolution': _check_gradient,
  'checkpoint written and read': _check_checkpoint,
}

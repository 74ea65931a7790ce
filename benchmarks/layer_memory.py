"""Memory of two layers whose released code runs out of memory.

  python -m benchmarks.layer_memory

Each program runs in a separate process. The script prints by how many MiB the
peak memory of the process grows while the layer runs, with input and output.

- SAN's second-order attention on 1000x1000 features of 64 channels, whose
  release builds a matrix of 10^6 x 10^6 to centre them;
- Meta-SR's upscaling of 512x512 features of 64 channels by 2.0, 2.1, ... 4.0,
  whose release predicts 1,728 weights for every pixel of SR. For comparison the
  script prints the memory of these features, enlarged to SR size.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np

from sr_jax.models.metasr import MetaUpscale
from sr_jax.models.san import SecondOrderAttention
from sr_jax.ops.compilation import jit

_MIB = 2**20
_SIDE, _FEATURES = 512, 64


def peak() -> float:
  """Largest memory that this process has held, MiB."""
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def growth(layer: object, shape: tuple[int, ...]) -> float:
  """MiB that running a Linen layer on `shape` adds to the peak."""
  key = jax.random.key(0)
  small = jnp.ones((1, 8, 8, shape[-1]))
  params = jax.block_until_ready(jit(layer.init)(key, small))
  apply = jit(layer.apply).lower(params, jax.ShapeDtypeStruct(shape, 'float32'))
  compiled = apply.compile()
  x = np.random.default_rng(0).random(shape, np.float32)
  before = peak() - x.nbytes / _MIB
  jax.block_until_ready(compiled(params, x))
  return peak() - before


def main() -> None:
  """Prints a line per program."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--scale', type=float, help=argparse.SUPPRESS)
  scale = parser.parse_args().scale
  if scale is None:
    for tenths in (10, *range(20, 41)):
      command = [sys.executable, '-m', 'benchmarks.layer_memory']
      subprocess.run([*command, '--scale', str(tenths / 10)], check=True)
  elif scale == 1:
    used = growth(SecondOrderAttention(16), (1, 1000, 1000, _FEATURES))
    print(f'second-order attention, 1000x1000: {used:.0f} MiB', flush=True)
  else:
    used = growth(MetaUpscale(scale, 3), (1, _SIDE, _SIDE, _FEATURES))
    map_size = (_SIDE * scale) ** 2 * _FEATURES * 4 / _MIB
    print(
      f'Meta-Upscale x{scale}: {used:.0f} MiB, {used / map_size:.2f} of the'
      f' {map_size:.0f} MiB of a feature map of SR size',
      flush=True,
    )


if __name__ == '__main__':
  main()

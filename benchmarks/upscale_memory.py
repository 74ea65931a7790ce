"""Memory and time of `sr-jax upscale` for a large photograph.

    python -m benchmarks.upscale_memory [--model NAME|CHECKPOINT]

The script runs `sr-jax upscale` on a 4000x3000 PNG file at x2, with bicubic and
with a network, each in a separate process. It prints peak resident memory and
time, which include reading and writing the files. The peak should stay below 3
GiB. Without `--model` the network is EDSR small with random weights, which
change neither time nor memory. Measured on two shared cores: bicubic 1.2 GiB
and 10 s, EDSR small 2.2 GiB and 78 s.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
import skimage.data
from PIL import Image

HEIGHT, WIDTH, SCALE = 3000, 4000, 2
LIMIT_GIB = 3.0


def main() -> None:
  """Measures and prints a table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--model', help='pretrained name or checkpoint of x2')
  model = parser.parse_args().model
  with tempfile.TemporaryDirectory() as folder:
    root = pathlib.Path(folder)
    photo = _write_photograph(root / 'photo.png')
    rows = {'bicubic': 'bicubic'}
    if model is None:
      rows['EDSR small, random'] = _save_random_weights(root / 'random')
    else:
      rows[model] = model
    print(f'{WIDTH}x{HEIGHT} PNG, x{SCALE}, limit {LIMIT_GIB:g} GiB\n')
    print('| model | peak GiB | seconds |\n|---|---|---|')
    for name, checkpoint in rows.items():
      peak, seconds = _measure(photo, root / 'out', checkpoint)
      print(f'| {name} | {peak:.2f} | {seconds:.0f} |', flush=True)


def _write_photograph(path: pathlib.Path) -> pathlib.Path:
  """Writes a photograph of 12 million pixels, made of copies of a small one."""
  small = skimage.data.astronaut()
  repeats = -(-HEIGHT // small.shape[0]), -(-WIDTH // small.shape[1]), 1
  Image.fromarray(np.tile(small, repeats)[:HEIGHT, :WIDTH]).save(path)
  return path


def _save_random_weights(path: pathlib.Path) -> str:
  import jax

  from sr_jax import checkpoints, models

  config = {'name': 'edsr', 'variant': 'small', 'scale': SCALE}
  network = models.create(config)
  variables = network.init(jax.random.key(0), np.zeros((1, 8, 8, 3)))
  checkpoints.save_params(
    path,
    {'generator': variables['params']},
    {'method': {'name': 'supervised'}, 'model': config},
  )
  return str(path)


def _measure(
  photo: pathlib.Path, out: pathlib.Path, model: str
) -> tuple[float, float]:
  """Returns peak resident memory in GiB and wall time of one command."""
  program = 'import sys; from sr_jax.cli.main import main; sys.exit(main())'
  command = [sys.executable, '-c', program, 'upscale', str(photo)]
  command += ['-o', str(out), '--model', model, '--scale', str(SCALE)]
  start = time.perf_counter()
  command.append('--overwrite')
  process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
  _, status, usage = os.wait4(process.pid, 0)
  seconds = time.perf_counter() - start
  if status:
    raise SystemExit(f'sr-jax upscale --model {model} failed')
  # Linux counts in KiB, macOS in bytes.
  unit = 2**30 if sys.platform == 'darwin' else 2**20
  return usage.ru_maxrss / unit, seconds


if __name__ == '__main__':
  main()

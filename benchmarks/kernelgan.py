"""Does KernelGAN's kernel depend on the image? Seeds, cold and meta start.

  python -m benchmarks.kernelgan FOLDER --out rows.jsonl
  python -m benchmarks.kernelgan FOLDER --out rows.jsonl --meta RUN

LR images are made of HR images by known Gaussian kernels, x2. Of each LR image
KernelGAN estimates the kernel, once for every seed, and so does `auto`. With
--meta a start that `configs/metakernelgan.py` trained estimates it too. Every
estimate is a line of --out; a second call goes on where the first stopped. At
the end it prints, for each kernel and way, the mean and the deviation of
the standard deviations (root of the mean variance of both axes), the spread
over the seeds of an image, and over all kernels the correlation with the truth.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sr_jax import checkpoints, methods
from sr_jax.data.image_io import find_images, read_image
from sr_jax.data.kernel_files import parse_kernel_spec
from sr_jax.inference import blind, kernelgan
from sr_jax.ops.blur_kernels import covariance
from sr_jax.ops.degrade import degrade, quantize

_KERNELS = 'gaussian:0.5 gaussian:1 gaussian:2 gaussian:4 gaussian:4,1,-0.5'
# Padded sides of the images that the meta start sees.
_CELL = 256


def deviation(kernel: np.ndarray) -> float:
  """Root of the mean variance of both axes, in HR pixels."""
  return float(np.sqrt(max(np.trace(covariance(kernel)) / 2, 0)))


def low_resolution(path: Path, spec: str) -> np.ndarray:
  """The LR image of a file."""
  hr = read_image(path).color
  hr = np.repeat(hr, 3, 2) if hr.shape[2] == 1 else hr[..., :3]
  hr = hr[: hr.shape[0] // 2 * 2, : hr.shape[1] // 2 * 2]
  kernel = parse_kernel_spec(spec)
  lr = degrade(None, hr, scale=2, degradation='direct', kernel=kernel)
  return np.asarray(quantize(lr))


class Ways:
  """The ways to estimate a kernel, by name."""

  def __init__(self, meta: Path | None, iterations: int):
    self._iterations = iterations
    self.names = ['auto', 'cold'] + (['meta'] if meta else [])
    if meta:
      loaded = checkpoints.load_params(meta)
      self._params = loaded.params
      self._predict = jax.jit(methods.inference(loaded.config).predict)

  def estimate(self, way: str, lr: np.ndarray, seed: int) -> np.ndarray:
    """The kernel of an image."""
    if way == 'auto':
      return blind.estimate_kernel(lr, scale=2).kernel
    if way == 'cold':
      return kernelgan.estimate_kernel(
        lr, scale=2, seed=seed, iterations=self._iterations
      ).kernel
    sides = np.array(lr.shape[:2])
    padding = [(0, n) for n in -sides % _CELL]
    image = np.pad(2 * lr - 1, [*padding, (0, 0)]).astype(np.float32)
    key = jax.random.key(seed)
    kernel = self._predict(self._params, image, key, jnp.asarray(sides))
    return np.asarray(kernel, np.float64)


def cases(args: argparse.Namespace, ways: Ways) -> Iterator[dict[str, Any]]:
  """What is to be estimated."""
  files = find_images([args.folder])[:: args.every]
  for seed in range(args.seeds):
    for file in files:
      for spec in args.kernels.split():
        for way in ways.names:
          if way != 'auto' or seed == 0:
            name = file.path.stem
            yield {'image': name, 'kernel': spec, 'way': way, 'seed': seed}


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
  """Estimates what is not in the file yet; returns all rows."""
  ways = Ways(args.meta, args.iterations)
  rows = []
  if args.out.exists():
    rows = [json.loads(line) for line in args.out.read_text().splitlines()]
  done = {json.dumps({k: row[k] for k in list(row)[:4]}) for row in rows}
  paths = {file.path.stem: file.path for file in find_images([args.folder])}
  for case in cases(args, ways):
    if json.dumps(case) in done:
      continue
    lr = low_resolution(paths[case['image']], case['kernel'])
    start, cpu = time.perf_counter(), time.process_time()
    kernel = ways.estimate(case['way'], lr, case['seed'])
    rows.append(
      {
        **case,
        'true': deviation(parse_kernel_spec(case['kernel'])),
        'deviation': deviation(kernel),
        'covariance': covariance(kernel).round(4).tolist(),
        'seconds': round(time.perf_counter() - start, 2),
        'cpu_seconds': round(time.process_time() - cpu, 2),
      }
    )
    with args.out.open('a') as file:
      file.write(json.dumps(rows[-1]) + '\n')
    print(rows[-1], flush=True)
  return rows


def summarise(rows: list[dict[str, Any]]) -> None:
  """Prints the figures."""
  for way in sorted({row['way'] for row in rows}):
    mine = [row for row in rows if row['way'] == way]
    for spec in sorted({row['kernel'] for row in mine}):
      some = [row for row in mine if row['kernel'] == spec]
      found = [row['deviation'] for row in some]
      spreads = [
        np.std([r['deviation'] for r in some if r['image'] == image])
        for image in {row['image'] for row in some}
      ]
      print(
        f'{way:5} {spec:22} true {some[0]["true"]:.2f} mean'
        f' {np.mean(found):.2f} deviation {np.std(found):.2f} over'
        f' {len(found)}, over seeds {np.mean(spreads):.2f}'
      )
    true, found = (
      np.array([row[key] for row in mine]) for key in ('true', 'deviation')
    )
    error = np.abs(found - true).mean()
    correlation = np.corrcoef(true, found)[0, 1] if len(mine) > 2 else np.nan
    print(f'{way:5} correlation {correlation:.2f}, mean error {error:.2f}\n')


def main() -> None:
  """Runs the benchmark."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('folder', type=Path)
  parser.add_argument('--out', type=Path, required=True)
  parser.add_argument('--meta', type=Path)
  parser.add_argument('--kernels', default=_KERNELS)
  parser.add_argument('--seeds', type=int, default=5)
  parser.add_argument('--every', type=int, default=5)
  parser.add_argument('--iterations', type=int, default=kernelgan.ITERATIONS)
  summarise(run(parser.parse_args()))


if __name__ == '__main__':
  main()

"""Speed of NIQE, which should be fast enough for every evaluation.

    python -m benchmarks.niqe_speed PHOTOS [PARAMETERS]

The script times NIQE on the images of a folder, without reading the files. It
is compared with the NumPy version of the tests, which works block by block and
computes the table of Gamma ratios for every fit, as the authors' code does.
NIQE should be at least 10 times as fast. Measured on BSD100 on two shared and
busy
cores: 199 ms per image by NumPy and 16 ms by NIQE (12.5 times), 3.3 s for the
  first
image, which includes compilation. The scores differ by 3e-12.
"""

from __future__ import annotations

import pathlib
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np

from sr_jax.data.image_io import find_images
from sr_jax.evaluation.benchmark import read_levels
from sr_jax.metrics import niqe
from sr_jax.metrics.protocol import luma
from tests.metrics import niqe_oracle


def main(argv: Sequence[str]) -> None:
  """Measures and prints a table."""
  pristine = niqe.read_pristine(argv[1]) if argv[1:] else niqe.own_pristine()
  images = [_luma(found.path) for found in find_images([argv[0]])]
  start = time.perf_counter()
  niqe.niqe(images[0], pristine)
  first = time.perf_counter() - start
  ours, seconds = _timed(lambda x: niqe.niqe(x, pristine), images)
  theirs, plain = _timed(lambda x: niqe_oracle.niqe(x, *pristine), images)
  difference = np.abs(np.subtract(ours, theirs)).max()
  print(f'{len(images)} images, mean NIQE {np.mean(ours):.4f}')
  print(f'largest difference of a score: {difference:.1e}\n')
  print('| what | time an image |\n|---|---|')
  print(f'| NumPy, block by block | {plain * 1e3:.1f} ms |')
  print(f'| sr_jax | {seconds * 1e3:.1f} ms |')
  print(f'| sr_jax, the first image, with compiling | {first:.2f} s |')
  print(f'| ratio | {plain / seconds:.1f} |')


def _luma(path: pathlib.Path) -> np.ndarray:
  levels = 255 * read_levels(path)
  return luma(np.round(levels), rounded=True)[..., 0]


def _timed(
  score: Callable[[np.ndarray], object], images: Sequence[np.ndarray]
) -> tuple[list[float], float]:
  """Returns the scores, and the median seconds per score."""
  scores, seconds = [], []
  for image in images:
    start = time.perf_counter()
    scores.append(float(score(image)))
    seconds.append(time.perf_counter() - start)
  return scores, float(np.median(seconds))


if __name__ == '__main__':
  main(sys.argv[1:])

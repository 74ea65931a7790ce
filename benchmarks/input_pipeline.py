"""Speed of the input pipeline, compared with that of a train step.

    python -m benchmarks.input_pipeline

The script prints the time of a batch (16 crops of 192x192 from a cached folder,
in one thread), and the time until the first batch of a folder of ten images,
with an empty and with a filled cache. A batch should take less than 2 % of a
step, that is 40 ms if a step of EDSR-baseline takes 2 s on two CPU cores.
Measured on two shared
cores: 3.2 ms per batch, 4 ms through Grain; until the first batch 0.3 s with an
  empty cache, and 0.07 s with a filled one, which verifies the checksums of 44
  MB.
"""

from __future__ import annotations

import pathlib
import statistics
import tempfile
import time

import grain  # noqa: F401 -- its import does not count as time of a batch
import numpy as np
from PIL import Image

from sr_jax.data import batches, opening, sources

NUM_IMAGES = 10
NUM_BATCHES = 200
STEP_SECONDS = 2.0
SPEC = batches.BatchSpec(batch_size=16, patch=96, scales=(2,), seed=0)


def main() -> None:
  """Measures and prints a table."""
  with tempfile.TemporaryDirectory() as root:
    folder, cache_dir = pathlib.Path(root, 'photos'), pathlib.Path(root, 'c')
    pixels = _write_photographs(folder, pathlib.Path(root, 'embedded'))
    cold = _first_batch(folder, cache_dir)
    warm = _first_batch(folder, cache_dir)
    direct, prefetched = _per_batch(folder, cache_dir)
  size = pixels / 1e6
  print(f'{NUM_IMAGES} PNG files, {size:.1f} million pixels in all\n')
  print('| what | time |\n|---|---|')
  print(f'| first batch, cold cache | {cold:.3f} s |')
  print(f'| first batch, warm cache | {warm:.3f} s |')
  print(f'| one batch, median | {direct * 1e3:.2f} ms |')
  print(f'| one batch through one Grain worker | {prefetched * 1e3:.2f} ms |')
  share = prefetched / STEP_SECONDS
  print(f'| share of a step of {STEP_SECONDS:g} s | {share:.2%} |')


def _write_photographs(folder: pathlib.Path, cache_dir: pathlib.Path) -> int:
  """Writes ten PNG files made of the embedded photographs.

  Returns:
    The number of their pixels.
  """
  folder.mkdir()
  embedded = sources.embedded_source(SPEC.crop_size, cache_dir=cache_dir)
  pixels = 0
  for index in range(NUM_IMAGES):
    # Extended by reflection to about the size of a DIV2K photograph.
    image = np.asarray(embedded[index % len(embedded)])
    image = np.concatenate([image, image[::-1]])
    image = np.concatenate([image, image[:, ::-1]], axis=1)
    Image.fromarray(image).save(folder / f'{index}.png')
    pixels += image.shape[0] * image.shape[1]
  return pixels


def _open(folder: pathlib.Path, cache_dir: pathlib.Path) -> sources.ImageSource:
  return opening.open_source(
    str(folder), min_size=SPEC.crop_size, cache_dir=cache_dir
  )


def _first_batch(folder: pathlib.Path, cache_dir: pathlib.Path) -> float:
  start = time.perf_counter()
  stream = batches.batches(_open(folder, cache_dir), SPEC, 0, 1000)
  next(stream)
  seconds = time.perf_counter() - start
  stream.close()
  return seconds


def _per_batch(
  folder: pathlib.Path, cache_dir: pathlib.Path
) -> tuple[float, float]:
  """Returns the median seconds of `sample`, and the mean through Grain."""
  source = _open(folder, cache_dir)
  times = []
  for step in range(NUM_BATCHES):
    start = time.perf_counter()
    batches.sample(source, SPEC, step)
    times.append(time.perf_counter() - start)
  start = time.perf_counter()
  for _ in batches.batches(source, SPEC, 0, NUM_BATCHES):
    pass
  through_grain = (time.perf_counter() - start) / NUM_BATCHES
  return statistics.median(times), through_grain


if __name__ == '__main__':
  main()

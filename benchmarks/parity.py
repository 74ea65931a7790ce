"""Differences between the networks and the released code.

  python -m benchmarks.parity [FOLDER]

FOLDER holds golden files and is tests/golden by default. A golden file has
weights under their official names, which are imported, and inputs and outputs
of the released code. The script prints the largest difference of a pixel, the
same divided by the range of the released output, and the rounding error of
float32 in the released code itself.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from tests import golden_files, parity


def main() -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument(
    'folder', nargs='?', type=Path, default=golden_files.GOLDEN
  )
  folder = parser.parse_args().folder
  print('| system | file | output | difference | of the span | noise |')
  print('|---|---|---|---|---|---|')
  for path in sorted(folder.glob('*.npz')):
    system = golden_files.load_meta(path.stem, folder)['system']
    if system not in parity.SYSTEMS:
      continue
    golden = golden_files.load(path.stem, folder)
    with tempfile.TemporaryDirectory() as temporary:
      for name, image in parity.images(golden, Path(temporary)):
        difference = golden.difference(name, image)
        span = np.ptp(golden.outputs[name])
        noise = golden.meta.get('f32_vs_f64_maxabs', {}).get(name)
        told = 'unknown' if noise is None else f'{noise:.2g}'
        print(
          f'| {system} | {path.name} | {name} | {difference:.2g} |'
          f' {difference / span:.2g} | {told} |',
          flush=True,
        )


if __name__ == '__main__':
  main()

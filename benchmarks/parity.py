"""How far every network is from the released code that it was written after.

Weights under their official names go through the importer; inputs and outputs
are those of the released code. The difference is the largest of any pixel,
also as a share of the span of the released output's values, and beside it the
noise of float32 that the released code itself has.

python -m benchmarks.parity [FOLDER]

FOLDER holds golden files; tests/golden by default.
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

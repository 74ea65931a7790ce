"""Makes the picture of the README: a blurred photograph, before and after.

  python -m benchmarks.before_after docs/before_after.png

The photograph is scikit-image's `chelsea` (CC0). It is blurred by a Gaussian of
variance 2 and halved. The model estimates the blur from the small image alone.
The script prints the PSNR (`y-uint8`) of both enlargements.
"""

from __future__ import annotations

import argparse

import numpy as np
from skimage import data

import sr_jax
from sr_jax.data.image_io import save_png_strip
from sr_jax.data.kernel_files import parse_kernel_spec
from sr_jax.metrics.protocol import PROTOCOLS, PSNR, measure
from sr_jax.ops.degrade import degrade, quantize

_SHOWN = np.s_[10:290, 60:420]


def main() -> None:
  """Runs the script."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('output', help='the PNG file')
  args = parser.parse_args()
  hr = data.chelsea()[:300, :450].astype(np.float32) / 255
  kernel = parse_kernel_spec('gaussian:2.0')
  lr = quantize(degrade(None, hr, scale=2, degradation='direct', kernel=kernel))
  lr = np.asarray(lr, np.float32)
  results = {}
  for name in ('bicubic', 'mzsr-x2'):
    results[name] = sr_jax.upscale(sr_jax.load(name, scale=2), lr)
    scores = measure(
      results[name], hr, protocol=PROTOCOLS['y-uint8'], scale=2, metrics=(PSNR,)
    )
    print(name, scores)
  save_png_strip(
    args.output,
    [image[_SHOWN] for image in results.values()],
    ['before: enlarged x2 (bicubic)', 'after: mzsr-x2, blur estimated'],
  )


if __name__ == '__main__':
  main()

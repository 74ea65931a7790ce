"""The widths that IKC's predictor sees in images blurred by known Gaussians.

  python -m benchmarks.ikc_predictor Predictor_latest_G.pth --hr Set5 --scale 4

Prints, for each standard deviation of the blur, the mean over the images of the
one whose code is nearest to the predicted code.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import jax
import numpy as np

from sr_jax.data.degradation import Degradation
from sr_jax.data.image_io import find_images
from sr_jax.evaluation.benchmark import cut_to_multiple, read_levels
from sr_jax.models import ikc
from sr_jax.models.parts.parameters import shapes_of
from sr_jax.ops.blur_kernels import gaussian_kernel
from sr_jax.ops.kernel_codes import encode, gaussian_basis
from sr_jax.weights.companions import import_companion

# Distance between the standard deviations that are compared.
_STEP = 0.01


def main() -> None:
  """Reads the weights and prints a line for each blur."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('weights', type=Path, metavar='FILE')
  parser.add_argument('--hr', type=Path, required=True, metavar='DIR')
  parser.add_argument('--scale', type=int, default=4, metavar='S')
  parser.add_argument(
    '--sigmas', type=float, nargs='+', default=[1.8, 2.6, 3.2, 4.0]
  )
  args = parser.parse_args()
  params, _ = import_companion(args.weights, 'ikc', 'predictor')
  made = ikc.COMPANIONS['predictor']
  network = made.Model(**made.recognise(shapes_of(params)))
  predict = jax.jit(network.apply)
  basis = gaussian_basis(0.2, args.scale, size=21, codes=network.codes)
  widths = np.arange(0.2, args.scale + _STEP / 2, _STEP)
  codes = np.stack(
    [encode(gaussian_kernel(s**2, size=21), basis) for s in widths]
  )
  images = [
    cut_to_multiple(read_levels(found.path), args.scale, found.path)
    for found in find_images([args.hr])
  ]
  for sigma in args.sigmas:
    made_by = Degradation('blur-bicubic', f'sigma:{sigma}')
    seen = []
    for hr in images:
      rgb = np.broadcast_to(hr, (*hr.shape[:2], 3))
      lr = made_by.of_file(rgb, '', args.scale).astype(np.float32)
      code = np.asarray(predict({'params': params}, lr[None]))[0]
      seen.append(widths[np.argmin(((codes - code) ** 2).sum(1))])
    print(f'sigma {sigma:g}: {np.mean(seen):.2f} ({len(seen)} images)')


if __name__ == '__main__':
  main()

"""PSNR of MZSR with the true blur kernel, estimated ones and wrong ones.

  python -m benchmarks.kernel_estimation FOLDER... --out rows.jsonl
  python -m benchmarks.kernel_estimation Set14/HR --crop 112 --out rows.jsonl

Every HR image is reduced with known kernels and by plain bicubic. The kernels
called `DIV2KRK-like` are drawn anew for each image. Each LR image is enlarged
in several ways, which are the columns of the table:

  true        MZSR with the true kernel
  estimated   MZSR with the kernel that the small network estimates
  spectrum    MZSR with the kernel that a fit to the power spectrum gives
  gaussian:1  MZSR with a Gaussian of variance 1, whatever the image
  cubic       MZSR with the cubic kernel of a bicubic reduction
  auto        as `sr-jax upscale --kernel auto`, which also decides whether the
              image was blurred at all
  bicubic     bicubic interpolation
  plain       a network of the same scale that is given no kernel

Kernels are estimated from the whole LR image, even if only its middle is
enlarged.

Every finished case is a line of --out. A second call continues where the first
stopped, and adds missing columns. PSNR is measured by the protocol `y-uint8`.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import sr_jax
from sr_jax.data.image_io import find_images, read_image
from sr_jax.inference.automatic import AutomaticKernel
from sr_jax.inference.blind import estimate_kernel
from sr_jax.metrics.protocol import PROTOCOLS, PSNR, measure
from sr_jax.ops.blur_kernels import (
  centre_of_mass,
  gaussian_kernel,
  shift_kernel,
)
from sr_jax.ops.degrade import degrade, quantize
from sr_jax.ops.resize import cubic, imresize

# Side of the kernels; one size means one compiled program.
_SIDE = {2: 25, 4: 49}
_GAUSSIANS = {
  2: {'g0.2': (0.2,), 'g2': (2.0,), 'ani': (4.0, 1.0, -0.5)},
  4: {'g2': (2.0,), 'g8': (8.0,), 'ani': (10.0, 3.0, 0.7)},
}
# DIV2KRK-like: side, and range of the variances.
_RANDOM = {2: (11, 0.6, 5.0), 4: (21, 0.7, 10.0)}
_PLAIN = {2: 'edsr-small-x2'}
_COLUMNS = 'true,estimated,spectrum,gaussian:1,cubic,bicubic,plain,auto'
# Columns that images of a bicubic reduction have as well.
_WITHOUT_KERNEL = ('bicubic', 'plain', 'auto')


class Case(NamedTuple):
  """One LR image.

  Attributes:
    key: Name of the case in the file of results.
    lr: The whole LR image.
    true: The kernel; None for bicubic reduction.
    hr: HR of the part that is enlarged.
    part: The part of `lr` that is enlarged.
  """

  key: str
  lr: np.ndarray
  true: np.ndarray | None
  hr: np.ndarray
  part: np.ndarray


def random_kernel(seed: int, scale: int) -> np.ndarray:
  """A kernel like those of DIV2KRK: a Gaussian with taps changed by 25 %."""
  rng = np.random.default_rng(seed)
  side, least, most = _RANDOM[scale]
  variances = rng.uniform(least, most), rng.uniform(least, most)
  kernel = gaussian_kernel(
    *variances, rng.uniform(-math.pi, math.pi), size=side
  )
  kernel = kernel * (1 + rng.uniform(-0.25, 0.25, kernel.shape))
  rows, columns = (side // 2 - centre_of_mass(kernel)).tolist()
  kernel = np.asarray(shift_kernel(kernel, (rows, columns)))
  return _padded(kernel / kernel.sum(), _SIDE[scale])


def cubic_kernel(scale: int) -> np.ndarray:
  """The kernel of a bicubic reduction, centred as for direct sampling."""
  taps = np.asarray(cubic(np.arange(-2 * scale + 1, 2 * scale) / scale))
  kernel = np.outer(taps, taps)
  return _padded(kernel / kernel.sum(), _SIDE[scale])


def _padded(kernel: np.ndarray, side: int) -> np.ndarray:
  return np.pad(kernel, [((side - n) // 2,) * 2 for n in kernel.shape])


def cases(args: argparse.Namespace) -> Iterator[Case]:
  """Yields every case: each image with each of its kernels."""
  scale = args.scale
  for folder in args.folders:
    files = list(enumerate(find_images([folder])))
    for i, file in files[:: args.every]:
      for name in args.kernels.split(','):
        key = f'{folder.name}/{file.path.stem}|{name}|x{scale}|{args.crop}'
        hr = read_image(file.path).color
        hr = np.repeat(hr, 3, 2) if hr.shape[2] == 1 else hr
        height, width = (n // scale * scale for n in hr.shape[:2])
        hr = hr[:height, :width]
        kernel = _kernel(name, i, scale)
        how = 'bicubic' if kernel is None else 'direct'
        lr = quantize(
          degrade(None, hr, scale=scale, degradation=how, kernel=kernel)
        )
        yield Case(key, lr, kernel, *_middle(hr, lr, args.crop, scale))


def _kernel(name: str, image: int, scale: int) -> np.ndarray | None:
  if name == 'bicubic':
    return None
  if name == 'krk':
    return random_kernel(1000 + image, scale)
  return np.asarray(
    gaussian_kernel(*_GAUSSIANS[scale][name], size=_SIDE[scale])
  )


def _middle(
  hr: np.ndarray, lr: np.ndarray, crop: int, scale: int
) -> tuple[np.ndarray, np.ndarray]:
  """Cuts the middle out of HR and LR: `crop` LR pixels, or everything for 0."""
  if not crop:
    return hr, lr
  height, width = (min(n, crop) for n in lr.shape[:2])
  top, left = (lr.shape[0] - height) // 2, (lr.shape[1] - width) // 2
  bottom, right = top + height, left + width
  return (
    hr[top * scale : bottom * scale, left * scale : right * scale],
    lr[top:bottom, left:right],
  )


def row(
  case: Case, scale: int, steps: int, columns: Sequence[str]
) -> dict[str, Any]:
  """Scores of one case, for those of the columns that exist for it."""
  model = _model(f'mzsr-x{scale}')
  lr, part = np.float32(case.lr), np.float32(case.part)
  prepared = _automatic(scale, steps).prepare(lr)
  estimate = prepared.estimate

  def fitted(kernel: Any) -> np.ndarray:
    taps = np.asarray(kernel)
    return sr_jax.upscale(model, part, kernel=taps, adapt_steps=steps)

  makers: dict[str, Callable[[], np.ndarray]] = {
    'bicubic': lambda: np.asarray(imresize(case.part, scale=scale)),
    'auto': lambda: prepared.upscaler(part),
  }
  if scale in _PLAIN:
    plain = _model(_PLAIN[scale])
    makers['plain'] = lambda: sr_jax.upscale(plain, part)
  if case.true is not None:
    makers |= {
      'true': lambda: fitted(case.true),
      'estimated': lambda: fitted(estimate.kernel),
      'spectrum': lambda: fitted(
        estimate_kernel(lr, scale=scale, by='spectrum').kernel
      ),
      'gaussian:1': lambda: fitted(gaussian_kernel(1.0, size=_SIDE[scale])),
      'cubic': lambda: fitted(cubic_kernel(scale)),
    }
  psnr = {}
  for name in columns:
    same = name == 'auto' and 'estimated' in psnr and estimate.blurred
    if same:
      psnr[name] = psnr['estimated']
    elif name in makers:
      rules = {'protocol': PROTOCOLS['y-uint8'], 'scale': scale}
      score = measure(makers[name](), case.hr, metrics=[PSNR], **rules)
      psnr[name] = round(float(score['psnr']), 3)
  return {
    'key': case.key,
    'psnr': psnr,
    'kernel': estimate.spec,
    'origins': estimate.origins,
  }


@functools.cache
def _model(name: str) -> Any:
  return sr_jax.load(name)


@functools.cache
def _automatic(scale: int, steps: int) -> AutomaticKernel:
  options = sr_jax.UpscaleOptions(adapt_steps=steps)
  return AutomaticKernel(_model(f'mzsr-x{scale}'), options)


def merged(lines: Iterable[str]) -> dict[str, dict[str, Any]]:
  """Rows by case; later lines add columns to earlier ones."""
  rows: dict[str, dict[str, Any]] = {}
  for line in lines:
    one = json.loads(line)
    known = rows.setdefault(one['key'], one)
    known['psnr'] |= one['psnr']
  return rows


def table(rows: list[dict[str, Any]]) -> list[str]:
  """Means by folder and kernel, as rows of Markdown."""
  groups: dict[tuple[str, str], list[dict[str, float]]] = {}
  for one in rows:
    image, kernel, *rest = one['key'].split('|')
    name = ' '.join((image.rpartition('/')[0], *rest))
    groups.setdefault((name, kernel), []).append(one['psnr'])
    if kernel != 'bicubic':
      groups.setdefault((name, 'mean'), []).append(one['psnr'])
  columns = [
    c for c in _COLUMNS.split(',') if any(c in o['psnr'] for o in rows)
  ]
  lines = [
    f'| LR | cases | {" | ".join(columns)} |',
    '|---' * len(columns) + '|---|---|',
  ]
  for (name, kernel), scores in groups.items():
    means = [
      f'{np.mean([s[c] for s in scores]):.2f}'
      if all(c in s for s in scores)
      else '-'
      for c in columns
    ]
    lines.append(f'| {name} {kernel} | {len(scores)} | {" | ".join(means)} |')
  worst = min(
    (one for one in rows if {'true', 'auto'} <= one['psnr'].keys()),
    key=lambda one: one['psnr']['auto'] - one['psnr']['true'],
    default=None,
  )
  if worst is not None:
    off = worst['psnr']['auto'] - worst['psnr']['true']
    lines.append(
      f'worst case of auto against true: {off:.2f} dB, {worst["key"]}'
    )
  return lines


def main() -> None:
  """Computes the cases that --out lacks, then prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('folders', nargs='+', type=Path)
  parser.add_argument('--out', type=Path, required=True)
  parser.add_argument('--scale', type=int, default=2, choices=(2, 4))
  parser.add_argument('--kernels', default='g0.2,g2,ani,krk,bicubic')
  parser.add_argument(
    '--crop', type=int, default=0, help='LR pixels; 0 for all'
  )
  parser.add_argument(
    '--every', type=int, default=1, help='one image of so many'
  )
  parser.add_argument('--steps', type=int, default=10)
  parser.add_argument('--columns', default=_COLUMNS, help='what to compare')
  args = parser.parse_args()
  lines = args.out.read_text().splitlines() if args.out.exists() else []
  rows = merged(lines)
  for case in cases(args):
    known = rows.get(case.key, {'psnr': {}})['psnr']
    missing = [c for c in args.columns.split(',') if c not in known]
    if case.true is None:
      missing = [c for c in missing if c in _WITHOUT_KERNEL]
    if not missing:
      continue
    found = row(case, args.scale, args.steps, missing)
    lines.append(json.dumps(found))
    with args.out.open('a') as file:
      file.write(lines[-1] + '\n')
    print(lines[-1], flush=True)
  print('\n'.join(table(list(merged(lines).values()))))


if __name__ == '__main__':
  main()

"""Scientific arrays: zero-shot against bicubic, channel by channel.

  python -m benchmarks.channel_data --scale 4 --model zssr-shared

The script makes a synthetic field of 150 channels with magnitudes from 1e-6 to
1e3, of which some are sparse, constant or empty. It reduces the field to 64x64
and enlarges it again by `sr-jax upscale`. It prints on how many channels the
model is better than bicubic, the mean PSNR by the range of each channel, and
whether zeros, constants, range and dtype were kept. As the models back-project,
PSNR is printed for bicubic with back-projection too.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy import ndimage

from sr_jax.cli.main import main as sr_jax_cli
from sr_jax.ops.resize import imresize

_LR = 64
_CHANNELS = 150


def field(scale: int, seed: int) -> np.ndarray:
  """Makes the HR array `[64 s, 64 s, 150]`, float64.

  Channels have sharp edges and smooth parts. Every tenth channel is constant or
  empty, and every third is sparse.
  """
  rng = np.random.default_rng(seed)
  side = _LR * scale
  found = np.zeros((side, side, _CHANNELS))
  for c in range(_CHANNELS):
    magnitude = 10.0 ** rng.uniform(-6, 3)
    if c % 10 == 9:
      found[..., c] = magnitude if c % 20 == 9 else 0.0
      continue
    noise = rng.standard_normal((_LR, _LR))
    coarse = ndimage.gaussian_filter(noise, rng.uniform(2, 5), mode='reflect')
    smooth = imresize(coarse[..., None], scale=scale)[..., 0]
    smooth /= np.abs(smooth).max()
    layers = np.where(smooth > rng.uniform(-0.2, 0.2), 1.0, 0.3)
    values = layers * (1 + 0.5 * smooth)
    if c % 3 == 0:
      values[smooth < 0.3] = 0.0
    found[..., c] = magnitude * values
  return found


def _psnr(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """PSNR of every channel of `b`, with the range of the same channel of `a`."""
  span = np.ptp(a, axis=(0, 1))
  error = np.square(a - b).mean((0, 1))
  with np.errstate(divide='ignore', invalid='ignore'):
    return 10 * np.log10(span**2 / error)


def _upscale(
  lr: np.ndarray, folder: Path, model: str, scale: int, more: list[str]
) -> tuple[np.ndarray, float]:
  """Enlarges an array by the command; returns the result and the seconds."""
  np.save(folder / 'lr.npy', lr)
  out = folder / f'{model}.npy'
  begin = time.perf_counter()
  paths = [str(folder / 'lr.npy'), '-o', str(out)]
  options = ['--model', model, '--scale', str(scale), '--overwrite', *more]
  status = sr_jax_cli(['upscale', *paths, *options])
  if status:
    raise SystemExit(status)
  return np.load(out), time.perf_counter() - begin


def main() -> None:
  """Measures one scale."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--scale', type=int, default=4)
  parser.add_argument('--model', default='zssr-shared')
  parser.add_argument('--steps', type=int, default=1000)
  parser.add_argument('--seed', type=int, default=0)
  args = parser.parse_args()
  hr = field(args.scale, args.seed)
  lr = imresize(hr, scale=1 / args.scale)
  varies = np.ptp(hr, axis=(0, 1)) > 0
  # Constant channels are copied, because reduction adds rounding errors.
  lr[..., ~varies] = hr[:_LR, :_LR, ~varies]
  with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    bicubic, _ = _upscale(lr, folder, 'bicubic', args.scale, [])
    projection = ['--back-project', '10']
    projected, _ = _upscale(lr, folder, 'bicubic', args.scale, projection)
    steps = ['--adapt-steps', str(args.steps)]
    sr, seconds = _upscale(lr, folder, args.model, args.scale, steps)
  ours, theirs, consistent = (
    _psnr(hr, x)[varies] for x in (sr, bicubic, projected)
  )
  sparse = (lr == 0).all((0, 1))
  print(f'{lr.shape} -> {sr.shape}, {lr.dtype} -> {sr.dtype}, {seconds:.0f} s')
  print(f'better than bicubic on {(ours > theirs).sum()} of {varies.sum()}')
  print(f'mean PSNR: {args.model} {ours.mean():.2f} dB')
  print(f'  bicubic {theirs.mean():.2f} dB')
  print(f'  bicubic, back-projected ten times {consistent.mean():.2f} dB')
  print('empty channels exactly 0:', bool((sr[..., sparse] == 0).all()))
  same = sr[..., ~varies] == hr[:1, :1, ~varies]
  print('constant channels kept:', bool(same.all()))
  print('zeros: LR', f'{(lr == 0).mean():.3f}', 'SR', f'{(sr == 0).mean():.3f}')


if __name__ == '__main__':
  main()

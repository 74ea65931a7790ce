"""Compares `--adapt-steps auto` with the best number of steps.

  python -m benchmarks.stop_rule Set5 --model mzsr-x2

The script degrades the images of a folder by each kernel and adapts the model
step by step. It prints the mean PSNR (`y-uint8`) after some of the steps, at
the step where `auto` stops, at the best step of each image, and at the best
common step.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import sr_jax
from sr_jax import models
from sr_jax.data.image_io import find_images, read_image
from sr_jax.data.kernel_files import parse_kernel_spec
from sr_jax.inference.model import SRModel
from sr_jax.inference.options import UpscaleOptions
from sr_jax.inference.upscaler import Upscaler
from sr_jax.methods import zero_shot
from sr_jax.metrics.protocol import PROTOCOLS, measure
from sr_jax.ops.compilation import jit
from sr_jax.ops.degrade import degrade, quantize
from sr_jax.transforms import meta

_KERNELS = ('gaussian:2.0', 'gaussian:0.2', 'gaussian:4.0,1.0,-0.5')
_STEPS = 50
_SHOWN = (0, 1, 2, 5, 10, 20, 30, 50)


def _weights(
  model: SRModel, lr: np.ndarray, kernel: np.ndarray, sampling: str
) -> Iterator[dict]:
  """Yields the parameters after 0, 1, ... `_STEPS` steps."""
  network = models.create(model.config['model'])
  loss = zero_shot.reconstruction_loss(network)
  target = zero_shot.whole_sons(jnp.asarray(lr), model.scale)[None]
  son = zero_shot.make_son(
    network,
    target,
    None,
    degradation=sampling,
    kernel=jnp.asarray(kernel, jnp.float32),
    noise_sigma=0.0,
  )
  given = model.config['method']['adapt']['rates']
  rates = model.params.get(
    'rates', jax.tree.map(lambda _: jnp.array(given), model.params['generator'])
  )
  last = jax.tree.leaves(rates)[0].shape[0] - 1

  @jit
  def step(params: dict, rate: dict) -> dict:
    return meta.adapt(
      loss, params, (son, target), steps=1, learning_rates=rate
    ).params

  params = model.params['generator']
  yield params
  for i in range(_STEPS):
    at = min(i, last)
    params = step(params, jax.tree.map(lambda r, at=at: r[at][None], rates))
    yield params


def _curve(
  model: SRModel, hr: np.ndarray, spec: str, sampling: str
) -> tuple[list[float], int]:
  """Returns PSNR after each number of steps, and the number that auto takes."""
  kernel = parse_kernel_spec(spec)
  made = degrade(
    None, hr, scale=model.scale, degradation=sampling, kernel=kernel
  )
  lr = quantize(made).astype(np.float32)
  predict = jit(model.predict)
  psnr = [
    measure(
      np.asarray(predict({'generator': params}, lr[None]))[0],
      hr,
      protocol=PROTOCOLS['y-uint8'],
      scale=model.whole_scale,
    )['psnr']
    for params in _weights(model, lr, np.asarray(kernel), sampling)
  ]
  auto = Upscaler(
    model,
    UpscaleOptions(kernel=kernel, degradation=sampling, adapt_steps='auto'),
  )
  (fitted,) = auto.fit([lr])
  return psnr, fitted.steps


def main() -> None:
  """Prints a line per kernel."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('folder', type=Path)
  parser.add_argument('--model', default='mzsr-x2')
  parser.add_argument('--kernels', nargs='+', default=_KERNELS)
  args = parser.parse_args()
  model = sr_jax.load(args.model)
  sampling = model.config['degradation']['name']
  for spec in args.kernels:
    curves, ends = [], []
    for found in find_images([args.folder], skip=None):
      hr = read_image(found.path).color
      height, width = (n - n % model.whole_scale for n in hr.shape[:2])
      curve, end = _curve(model, hr[:height, :width], spec, sampling)
      curves.append(curve)
      ends.append(end)
    table = np.array(curves)
    mean = table.mean(0)
    shown = ' '.join(f'{n}:{mean[n]:.2f}' for n in _SHOWN)
    auto = table[np.arange(len(ends)), ends].mean()
    print(f'{spec} after {shown}')
    print(
      f'  auto {auto:.2f} dB at {ends}; best of each image'
      f' {table.max(1).mean():.2f} dB at {table.argmax(1).tolist()}; best for'
      f' all {mean.max():.2f} dB at {mean.argmax()}',
      flush=True,
    )


if __name__ == '__main__':
  main()

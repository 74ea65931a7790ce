"""The cost of the degradation `real` against a training step of EDSR-baseline.

  python -m benchmarks.degradation_cost [--scale 4] [--preset bsrgan]

Makes the LR images of a batch of 16 crops of 48 LR pixels, with their margins,
and does a step of EDSR-baseline on bicubic LR of the same crops. The script
prints the processor's time of both, which other work on the machine disturbs
less than the wall time, and their ratio.
"""

import argparse
import functools
import time

import jax
import numpy as np
from skimage import data

from configs import edsr
from sr_jax import experiment, methods
from sr_jax.data.real_presets import PRESETS
from sr_jax.ops.compilation import jit
from sr_jax.ops.levels import to_unit

_BATCH, _PATCH = 16, 48


def _method(scale, **degradation):
  config = edsr.get_config()
  config.model.variant, config.model.scale = 'baseline', scale
  config = experiment.to_plain(config)
  config['degradation'] |= degradation
  return methods.make(config)


def _batch(scale, margin):
  """Crops of a photograph."""
  side = (_PATCH + 2 * margin) * scale
  photo = data.astronaut()
  rows = np.random.default_rng(0).integers(0, 512 - side, (_BATCH, 2))
  crops = [photo[y : y + side, x : x + side] for y, x in rows]
  return {'hr': np.stack(crops)}


def _seconds(call, rounds):
  """Median wall time and processor time of some calls, after one more."""
  jax.block_until_ready(call())
  times = []
  for _ in range(rounds):
    began = time.perf_counter(), time.process_time()
    jax.block_until_ready(call())
    times.append(np.subtract((time.perf_counter(), time.process_time()), began))
  return np.median(times, 0)


def _step_seconds(scale, rounds):
  method = _method(scale)
  batch = _batch(scale, method.margin(scale))
  init = jit(functools.partial(method.init, scale=scale))
  state = init(jax.random.key(0), batch, method.frozen())
  step = jit(
    functools.partial(method.train_step, scale=scale), donate_argnums=0
  )

  def call():
    nonlocal state
    state, metrics = step(state, batch)
    return metrics

  return _seconds(call, rounds)


def _degradation_seconds(scale, preset, rounds):
  method = _method(scale, name='real', real={'preset': preset})
  batch = _batch(scale, method.margin(scale))
  key = jax.random.key(0)
  degrade = jit(lambda key, hr: method.degrade(key, to_unit(hr), scale))
  return _seconds(lambda: degrade(key, batch['hr']), rounds)


def main():
  """Prints a Markdown table."""
  parser = argparse.ArgumentParser()
  parser.add_argument('--scale', type=int, default=4)
  parser.add_argument('--preset', choices=PRESETS)
  parser.add_argument('--rounds', type=int, default=5)
  args = parser.parse_args()
  step = _step_seconds(args.scale, args.rounds)
  print(f'jax {jax.__version__}, x{args.scale}, medians of {args.rounds}')
  print('| part | seconds | processor | of the step |')
  print('|---|---|---|---|')
  print(f'| step of EDSR-baseline | {step[0]:.3f} | {step[1]:.3f} | |')
  for preset in [args.preset] if args.preset else PRESETS:
    wall, cpu = _degradation_seconds(args.scale, preset, args.rounds)
    share = 100 * cpu / step[1]
    print(f'| real, {preset} | {wall:.3f} | {cpu:.3f} | {share:.1f} % |')


if __name__ == '__main__':
  main()

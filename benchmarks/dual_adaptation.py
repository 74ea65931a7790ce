"""What LR images without HR are worth to DRN (Algorithm 1 of the paper).

  python -m benchmarks.dual_adaptation --paired PHOTOGRAPHS \
    --unlabelled OTHER_PHOTOGRAPHS --test Set5

Trains a small DRN on bicubic pairs, then goes on from it thrice, for as many
steps and from the same seed: on pairs alone; with LR images that were made of
the other photographs by taking the nearest pixel (Algorithm 1); and so with the
loop from HR as well. Prints the PSNR (`y-uint8`) of the test images reduced in
both ways, for each seed.

The nearest pixel is MATLAB's: row and column s * i + s // 2 of HR, half a pixel
off the middle of what it stands for.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from configs import drn_adapt
from sr_jax import train_loop
from sr_jax.data.degradation import Degradation
from sr_jax.data.image_io import Picture, find_images, read_image, write_image
from sr_jax.evaluation.benchmark import evaluate_folder
from sr_jax.inference import loading
from sr_jax.inference.model import SRModel


def nearest(folder: Path, scale: int) -> Degradation:
  """Reduction by the nearest pixel; its kernel is written to `folder`."""
  taps = np.zeros((2 * (scale // 2) + 1,) * 2)
  taps[-1, -1] = 1
  path = folder / 'nearest.npy'
  np.save(path, taps)
  return Degradation('direct', str(path))


def reduce_all(made: Degradation, photos: Path, out: Path, scale: int) -> None:
  """Writes the LR image of every photograph."""
  for found in find_images([photos], skip=None):
    hr = read_image(found.path).color
    height, width = (n - n % scale for n in hr.shape[:2])
    lr = made.of_file(hr[:height, :width], '', scale).astype(np.float32)
    write_image((out / found.relative).with_suffix('.png'), Picture(lr))


def experiment(args: argparse.Namespace, steps: int, seed: int) -> Any:
  """A small DRN on pairs, as a config."""
  config = drn_adapt.get_config()
  config.seed = seed
  config.model.scale = args.scale
  with config.unlocked():
    config.model.update({'blocks': args.blocks, 'features': args.features})
  config.steps = steps
  config.optimizer.learning_rate = args.rate
  config.optimizer.warmup_steps = 100
  config.data.update(
    {
      'source': f'folder:{args.paired}',
      'unlabelled': '',
      'on_bad': 'skip',
      'patch': args.patch,
      'batch_size': args.batch,
    }
  )
  config.eval.update({'every': steps, 'crops': 1, 'crop_size': 96})
  config.checkpoint.every = steps
  return config


def main() -> None:
  """Prints a line per model."""
  parser = argparse.ArgumentParser(description=__doc__)
  for name in ('paired', 'unlabelled', 'test'):
    parser.add_argument(f'--{name}', type=Path, required=True)
  for name, value in (
    *(('scale', 2), ('blocks', 2), ('features', 8)),
    *(('patch', 24), ('batch', 16), ('steps', 1500), ('adapt-steps', 800)),
  ):
    parser.add_argument(f'--{name}', type=int, default=value)
  parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1])
  parser.add_argument('--rate', type=float, default=2e-3)
  parser.add_argument('--adapt-rate', type=float, default=5e-4)
  parser.add_argument('--dual-weight', type=float, default=0.5)
  args = parser.parse_args()
  with tempfile.TemporaryDirectory() as folder:
    made = nearest(Path(folder), args.scale)
    reduce_all(made, args.unlabelled, Path(folder) / 'lr', args.scale)
    bicubic = loading.load('bicubic', scale=args.scale)
    print(f'bicubic        {measure(bicubic, args.test, made)}')
    for seed in args.seeds:
      compare(args, Path(folder), made, seed)


def measure(model: SRModel, test: Path, made: Degradation) -> str:
  """PSNR of the test images reduced in both ways."""
  bicubic, nearest = (
    evaluate_folder(model, hr_dir=test, degradation=d)['mean']['psnr']
    for d in (Degradation(), made)
  )
  return f'bicubic {bicubic:.2f}  nearest {nearest:.2f} dB'


def compare(
  args: argparse.Namespace, folder: Path, made: Degradation, seed: int
) -> None:
  """Trains all models from one seed and measures each."""

  def train(name: str, config: Any) -> None:
    workdir = folder / f'{seed} {name}'
    train_loop.train_and_evaluate(config, workdir)
    scores = measure(loading.load(workdir), args.test, made)
    print(f'seed {seed}  {name:<12}  {scores}', flush=True)

  train('start', experiment(args, args.steps, seed))
  for name in ('pairs alone', 'adapted', 'HR cycle too'):
    config = experiment(args, args.adapt_steps, seed)
    config.optimizer.learning_rate = args.adapt_rate
    config.checkpoint.init_from = str(folder / f'{seed} start')
    config.method.dual_weight = args.dual_weight
    config.method.hr_cycle = name == 'HR cycle too'
    if name != 'pairs alone':
      config.data.unlabelled = f'folder:{folder / "lr"}'
    train(name, config)


if __name__ == '__main__':
  main()

"""The gain of DRN by LR images without HR (Algorithm 1 of the paper).

  python -m benchmarks.dual_adaptation --paired PHOTOGRAPHS \
    --unlabelled OTHER_PHOTOGRAPHS --test Set5

A small DRN is trained on bicubic pairs. Its weights are then trained further in
three ways, for the same number of steps and with the same seed:

- on the pairs alone;
- on the pairs and on LR images of the other photographs, which are reduced to
  the nearest pixel (Algorithm 1);
- in the same way, with the additional cycle from HR.

For each seed the script prints the PSNR (`y-uint8`) of the test images, reduced
by bicubic and to the nearest pixel.

The nearest pixel is that of MATLAB, row and column s * i + s // 2 of HR. It
lies half a pixel away from the middle of the block that it represents.
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
  """Makes the reduction to the nearest pixel; writes its kernel to `folder`."""
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
  """Makes the config of a small DRN that is trained on pairs."""
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
  """Returns the PSNR of the test images that are reduced in both ways."""
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

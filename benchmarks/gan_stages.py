"""Trains small adversarial systems in their two stages and measures them.

  python -m benchmarks.gan_stages srgan esrgan spsr ranksrgan \
    --photographs FOLDER --features VGG19_FILE --test Set14 --out DIR

In stage 1 a generator is trained with a pixel loss. Stage 2 starts from its
weights and adds the adversarial loss and that of VGG19's features.

- `srgan`, with features up to relu2_2. The generator is BasicSR's, because
  batches of eight images are too small for batch normalisation.
- `esrgan`, with features up to conv3_1. For both systems, networks interpolated
  between the two stages are measured as well.
- `spsr` starts from stage 1 of ESRGAN. So does `plain`, for comparison, which
  lacks SPSR's gradient branch, and the losses and the discriminator of gradient
  maps. Both have the same number of steps.
- `ranksrgan` needs the runs of SRGAN and ESRGAN, from which its ranker learns.
  SRGAN's generator is then trained with and without the ranker's loss, from the
  same start.

The runs and the results for the test images are kept in `--out`. Runs are
resumed if they were stopped.

The columns are PSNR (`y-uint8`), NIQE (lower is better) and the mean absolute
error of the gradient map in grey levels.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from configs import (
  esrgan,
  msrgan,
  msrresnet,
  ranker,
  ranksrgan,
  rrdb_psnr,
  spsr,
)
from sr_jax import train_loop
from sr_jax.cli.main import main as sr_jax_cli
from sr_jax.data.degradation import Degradation
from sr_jax.data.image_io import find_images
from sr_jax.evaluation import scores
from sr_jax.evaluation.benchmark import (
  cut_to_multiple,
  evaluate_folder,
  read_levels,
)
from sr_jax.inference import loading
from sr_jax.metrics.protocol import get_protocol, measure
from sr_jax.ops.gradient_map import gradient_map

_SCALE = 4
_RRDB = {'blocks': 2, 'features': 32, 'growth': 16}
_OPTIONS = {
  'msrresnet': {'blocks': 4, 'features': 32},
  'rrdbnet': _RRDB,
  'spsr': {**_RRDB, 'look_every': 1},
}


def _shrink(args: argparse.Namespace, config: Any, steps: int) -> Any:
  """Shrinks a published experiment for two CPU cores."""
  config.steps = steps
  with config.unlocked():
    config.model.update(_OPTIONS[config.model.name])
  config.data.update(
    {
      'source': f'folder:{args.photographs}',
      'on_bad': 'skip',
      'batch_size': 8,
      'patch': 16,
    }
  )
  config.optimizer.ema_decay = 0.99
  config.eval.update({'every': 500, 'crops': 4, 'crop_size': 256})
  config.checkpoint.update({'every': 500, 'keep': 1})
  return config


def _first(args: argparse.Namespace, config: Any, steps: int) -> Any:
  """Makes the config of stage 1."""
  config = _shrink(args, config, steps)
  config.optimizer.update(
    {'learning_rate': 1e-3, 'schedule': 'cosine', 'boundaries': ()}
  )
  config.optimizer.warmup_steps = 100
  return config


def _second(
  args: argparse.Namespace, config: Any, recipe: str, first: str
) -> Any:
  """Makes the config of stage 2, which starts from the run `first`."""
  config = _shrink(args, config, args.steps)
  config.optimizer.update({'schedule': 'constant', 'boundaries': ()})
  config.optimizer.learning_rate = args.rate
  config.method.perceptual = recipe
  config.method.features_from = str(args.features)
  config.method.adversarial_weight = args.weight
  with config.unlocked():  # for HR crops of 64x64
    config.method.discriminator.update({'features': 16, 'stages': 4})
  config.checkpoint.init_from = str(args.out / first)
  return config


def _without_gradients(args: argparse.Namespace) -> Any:
  config = spsr.get_config()
  config.model.update({'name': 'rrdbnet', 'variant': 'rrdb23'})
  config.method.update(
    {
      'gradient_weight': 0.0,
      'gradient_adversarial_weight': 0.0,
      'branch_weight': 0.0,
      'held_steps': 0,
      'early_layers': (),
    }
  )
  return _second(args, config, 'esrgan-early', 'rrdb')


def _spsr(args: argparse.Namespace) -> Any:
  config = spsr.get_config()
  config.method.held_steps = args.steps // 5
  config.method.gradient_adversarial_weight = args.weight
  return _second(args, config, 'esrgan-early', 'rrdb')


def _ranked(args: argparse.Namespace) -> None:
  """Trains and measures RankSRGAN in its three stages."""
  data, judge = args.out / 'ranked', args.out / 'ranker'
  if not data.exists():
    levels = [str(args.out / name) for name in ('msrresnet', 'srgan', 'esrgan')]
    options = '--hr', str(args.photographs), '--models', *levels
    sr_jax_cli(['rank-data', *options, '--held-out', '0.2', '-o', str(data)])
  config = ranker.get_config()
  with config.unlocked():
    config.model.features = 16
  config.steps = args.ranker_steps
  config.data.update(
    {'source': f'ranked:{data}', 'batch_size': 8, 'patch': 144, 'augment': True}
  )
  config.optimizer.update({'schedule': 'cosine', 'boundaries': ()})
  config.optimizer.learning_rate = 1e-3
  config.eval.every = config.checkpoint.every = 200
  train_loop.train_and_evaluate(config, judge)
  for name, weight in (('unranked', 0.0), ('ranksrgan', args.rank_weight)):
    config = ranksrgan.get_config()
    with config.unlocked():
      config.model.update({'name': 'msrresnet', 'variant': 'basicsr'})
      config.method.ranker.features = 16
    config.method.discriminator.variant = '128'
    config.method.update({'rank_weight': weight, 'ranker_from': str(judge)})
    _train(args, name, _second(args, config, 'srgan-vgg22', 'msrresnet'))
    _measure(args, name, args.out / name)


def _train(args: argparse.Namespace, name: str, config: Any) -> None:
  train_loop.train_and_evaluate(config, args.out / name)


def _two_stages(
  args: argparse.Namespace, names: tuple[str, str], first: Any, second: Any
) -> None:
  """Trains both stages, and measures them and networks between them."""
  _train(args, names[0], first)
  _train(args, names[1], second)
  _measure(args, names[0], args.out / names[0])
  a, b = (str(args.out / name) for name in names)
  for alpha in ('0.2', '0.4', '0.6', '0.8'):
    between = args.out / f'{names[1]}_{alpha}'
    if not between.exists():
      sr_jax_cli(['interpolate', a, b, '--alpha', alpha, '-o', str(between)])
    _measure(args, between.name, between)
  _measure(args, names[1], args.out / names[1])


def _measure(args: argparse.Namespace, name: str, run: Path | str) -> None:
  """Prints the scores of a model on the test images."""
  images = args.out / 'images' / name
  model = loading.load(str(run), scale=None if name != 'bicubic' else _SCALE)
  mean = evaluate_folder(
    model,
    hr_dir=args.test,
    degradation=Degradation(),
    metrics=scores.choose('psnr,niqe'),
    save_images=images,
  )['mean']
  errors = []
  for found in find_images([args.test], skip=None):
    hr = cut_to_multiple(read_levels(found.path), _SCALE, found.path)
    sr = read_levels((images / found.relative).with_suffix('.png'))
    maps = [
      np.asarray(gradient_map(np.float32(x[None]))) for x in (sr[..., :3], hr)
    ]
    errors.append(255 * np.abs(maps[0] - maps[1]).mean())
  print(
    f'{name:<12} {mean["psnr"]:6.2f} {mean["niqe"]:7.3f}'
    f' {np.mean(errors):7.3f}',
    flush=True,
  )


def _truth(args: argparse.Namespace) -> None:
  """Prints the NIQE of the test images themselves."""
  (niqe,) = scores.choose('niqe')
  found = []
  for image in find_images([args.test], skip=None):
    hr = cut_to_multiple(read_levels(image.path), _SCALE, image.path)
    measured = measure(
      hr, hr, protocol=get_protocol('y-uint8'), scale=_SCALE, metrics=[niqe]
    )
    found.append(measured['niqe'])
  print(f'{"HR":<19} {np.mean(found):7.3f}')


def main() -> None:
  """Prints a line per model."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  systems = 'srgan', 'esrgan', 'spsr', 'ranksrgan'
  parser.add_argument('systems', nargs='+', choices=systems)
  for name in ('photographs', 'features', 'test', 'out'):
    parser.add_argument(f'--{name}', type=Path, required=True)
  parser.add_argument('--first-steps', type=int, default=4000)
  parser.add_argument('--steps', type=int, default=1500)
  parser.add_argument('--rate', type=float, default=5e-4)
  parser.add_argument(
    '--weight', type=float, default=0.15, help='of the adversarial losses'
  )
  parser.add_argument('--ranker-steps', type=int, default=1000)
  parser.add_argument('--rank-weight', type=float, default=0.1)
  args = parser.parse_args()
  print('             PSNR    NIQE  gradient')
  _truth(args)
  _measure(args, 'bicubic', 'bicubic')
  if 'srgan' in args.systems:
    first = _first(args, msrresnet.get_config(), args.first_steps)
    second = _second(args, msrgan.get_config(), 'srgan-vgg22', 'msrresnet')
    _two_stages(args, ('msrresnet', 'srgan'), first, second)
  rrdb = _first(args, rrdb_psnr.get_config(), args.first_steps)
  if 'esrgan' in args.systems:
    second = _second(args, esrgan.get_config(), 'esrgan-early', 'rrdb')
    _two_stages(args, ('rrdb', 'esrgan'), rrdb, second)
  if 'spsr' in args.systems:
    _train(args, 'rrdb', rrdb)
    for name, config in (
      ('plain', _without_gradients(args)),
      ('spsr', _spsr(args)),
    ):
      _train(args, name, config)
      _measure(args, name, args.out / name)
  if 'ranksrgan' in args.systems:
    _ranked(args)


if __name__ == '__main__':
  main()

"""Trains and evaluates small reference-based networks.

  python -m benchmarks.reference_training srntt --photographs FOLDER \
    --pairs CUFED --features VGG19_FILE --scene CUFED5/001 --out DIR
  python -m benchmarks.reference_training crossnet --photographs FOLDER \
    --test Set14 --out DIR

`srntt` trains SRNTT-l2 first with references that are made from the
photographs, then on the pairs in CUFED's folders `input` and `ref`. It then
enlarges one scene (001_0.png) with its references (001_1.png and so on), with
altered copies of a reference, and without any.

`crossnet` trains on views: crops whose reference is the same image, shifted by
up to four whole pixels along each axis. A short training can learn such shifts.
It then enlarges views of the images in `--test`, once in the size of the
training crops and once in a larger size. It prints PSNR with and without the
reference, and the mean error of the estimated flow over all pixels except a
border of an eighth of the side.

Runs are kept in `--out`; a run that was stopped resumes. PSNR is measured by
the protocol `y-uint8`.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from benchmarks.patch_match import changed_references, scene_images
from configs import crossnet, srntt_l2
from sr_jax import models, train_loop
from sr_jax.data.image_io import Picture, find_images, read_rgb, write_image
from sr_jax.evaluation.benchmark import evaluate_folder
from sr_jax.inference import loading
from sr_jax.inference.model import SRModel
from sr_jax.ops.compilation import jit
from sr_jax.ops.degrade import quantize
from sr_jax.ops.resize import imresize

_SCALE = 4
# Side of CrossNet's HR crops, largest shift, and number of views per test
# image.
_CROP, _SHIFT, _VIEWS = 64, 4, 6
# Required options of both commands.
_NEEDS = {'srntt': ('pairs', 'features', 'scene'), 'crossnet': ('test',)}


def _shrink(
  args: argparse.Namespace, config: Any, source: Path, steps: int
) -> Any:
  """Shrinks a published experiment for two CPU cores."""
  config.steps = steps
  config.data.update(
    {'source': f'folder:{source}', 'on_bad': 'skip', 'batch_size': 8}
  )
  config.optimizer.update({'schedule': 'cosine', 'boundaries': ()})
  config.optimizer.learning_rate = args.rate
  config.optimizer.ema_decay = 0.99
  config.eval.update({'every': steps, 'crops': 2})
  config.checkpoint.update({'every': 500, 'keep': 1})
  return config


def srntt(args: argparse.Namespace) -> None:
  """Trains SRNTT and prints the PSNR of a scene for each reference."""
  hr, *levels = scene_images(args.scene)
  # Refuses missing folders before the trainings.
  find_images([args.pairs / 'input', args.pairs / 'ref'])
  first, second = args.out / 'self', args.out / 'pairs'
  config = _srntt(args, args.photographs, args.steps)
  train_loop.train_and_evaluate(config, first)
  config = _srntt(args, args.pairs / 'input', args.steps // 10)
  config.data.reference = config.eval.reference = str(args.pairs / 'ref')
  config.optimizer.learning_rate = args.rate / 5
  config.checkpoint.init_from = str(first)
  train_loop.train_and_evaluate(config, second)
  references = {
    'none': None,
    'HR itself': hr,
    **{f'level {i}': image for i, image in enumerate(levels, 1)},
    **changed_references(levels[0], hr.shape),
  }
  told = loading.load(second), loading.load('bicubic', scale=_SCALE)
  with tempfile.TemporaryDirectory() as folder:
    _write(Path(folder) / 'hr', hr)
    print(f'{"bicubic":20} {_scene_psnr(told[1], Path(folder)):6.2f} dB')
    for name, reference in references.items():
      other = None
      if reference is not None:
        other = Path(folder) / name
        _write(other, reference)
      psnr = _scene_psnr(told[0], Path(folder), other, args.out / name)
      print(f'{name:20} {psnr:6.2f} dB', flush=True)


def _srntt(args: argparse.Namespace, source: Path, steps: int) -> Any:
  config = _shrink(args, srntt_l2.get_config(), source, steps)
  with config.unlocked():
    config.model.update(
      {
        'variant': args.variant,
        'features': 32,
        'blocks': 4,
        'transfer_blocks': (2, 2, 2),
      }
    )
  config.data.update({'patch': 24, 'batch_size': 4})
  config.eval.update({'source': config.data.source, 'crop_size': 96})
  config.method.features_from = str(args.features)
  config.method.truth_steps = args.truth
  return config


def _write(folder: Path, image: np.ndarray) -> None:
  folder.mkdir()
  write_image(folder / 'scene.png', Picture(np.float32(image)))


def _scene_psnr(
  model: SRModel,
  folder: Path,
  reference: Path | None = None,
  save: Path | None = None,
) -> float:
  found = evaluate_folder(
    model, hr_dir=folder / 'hr', reference_dir=reference, save_images=save
  )
  return found['mean']['psnr']


def crossnet_views(args: argparse.Namespace) -> None:
  """Trains CrossNet and prints PSNR and the error of the flow."""
  # Refuses a missing folder before the training.
  find_images([args.test])
  run = args.out / 'crossnet'
  config = _shrink(args, crossnet.get_config(), args.photographs, args.steps)
  with config.unlocked():
    config.model.features = 16
  config.data.update({'patch': _CROP // _SCALE, 'batch_size': 16})
  config.data.reference = f'shifted:{_SHIFT}'
  config.eval.update({'reference': config.data.reference, 'crop_size': 128})
  config.method.warp_weight = args.warp
  train_loop.train_and_evaluate(config, run)
  model = loading.load(run)
  for side in (_CROP, 4 * _CROP):
    with tempfile.TemporaryDirectory() as folder:
      _measure_views(model, args.test, Path(folder), side)


def _measure_views(model: SRModel, test: Path, folder: Path, side: int) -> None:
  shifts = _write_views(test, folder, side)
  print(f'{len(shifts)} views of {side}x{side}')
  for name, judged, references in (
    ('bicubic', loading.load('bicubic', scale=_SCALE), None),
    ('no reference', model, None),
    ('reference', model, folder / 'reference'),
  ):
    mean = evaluate_folder(
      judged, hr_dir=folder / 'hr', reference_dir=references
    )['mean']
    print(f'{name:12} {mean["psnr"]:6.2f} dB')
  network = models.create(model.config['model'])
  variables = {'params': model.params['generator']}
  apply = jit(functools.partial(network.apply, variables))
  errors, of_mean = np.transpose(
    [_flow_errors(apply, folder, name, shift) for name, shift in shifts.items()]
  )
  moved = np.mean([np.hypot(*shift) for shift in shifts.values()])
  print(
    f'error of the flow in pixels: {errors.mean():.2f} on average over pixels'
    f' (median of the views {np.median(errors):.2f}); of the mean flow of a'
    f' view {of_mean.mean():.2f} (median {np.median(of_mean):.2f}); the shifts'
    f' are {moved:.2f} on average; {(errors > 1).sum()} views have an error'
    f' above one pixel, the others {errors[errors <= 1].mean():.2f}',
    flush=True,
  )


def _write_views(
  test: Path, folder: Path, side: int
) -> dict[str, tuple[int, int]]:
  """Writes crops of images and shifted views; returns the shifts by name."""
  random = np.random.default_rng(0)
  shifts = {}
  for kind in ('hr', 'reference'):
    (folder / kind).mkdir()
  for found in find_images([test]):
    image = read_rgb(found.path)
    free = [n - side - 2 * _SHIFT for n in image.shape[:2]]
    for i in range(_VIEWS if min(free) >= 0 else 0):
      top, left = (_SHIFT + int(random.integers(0, n + 1)) for n in free)
      down, right = map(int, random.integers(-_SHIFT, _SHIFT + 1, 2))
      name = f'{found.relative.stem}_view{i}.png'
      for kind, y, x in (
        ('hr', top, left),
        ('reference', top + down, left + right),
      ):
        view = image[y : y + side, x : x + side] / np.float32(255)
        write_image(folder / kind / name, Picture(view))
      shifts[name] = down, right
  return shifts


def _flow_errors(
  apply: Callable[..., Any], folder: Path, name: str, shift: tuple[int, int]
) -> tuple[float, float]:
  """Mean error of the flow, and the error of the mean flow."""
  hr, reference = (
    jnp.asarray(read_rgb(folder / kind / name))[None] / 255.0
    for kind in ('hr', 'reference')
  )
  lr = quantize(imresize(hr, scale=1 / _SCALE))
  flow = np.asarray(apply(lr, reference)[1]['flows'][0])[0]
  edge = flow.shape[0] // 8
  inner = flow[edge:-edge, edge:-edge]
  down, right = shift
  off = inner + np.array([right, down])
  return (
    float(np.linalg.norm(off, axis=-1).mean()),
    float(np.linalg.norm(off.mean((0, 1)))),
  )


def main() -> None:
  """Runs one of the two commands."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  commands = {'srntt': srntt, 'crossnet': crossnet_views}
  parser.add_argument('what', choices=commands)
  for name in ('photographs', 'out'):
    parser.add_argument(f'--{name}', type=Path, required=True)
  for name in ('pairs', 'features', 'scene', 'test'):
    parser.add_argument(f'--{name}', type=Path)
  parser.add_argument('--variant', default='gated')
  parser.add_argument(
    '--truth',
    action='store_true',
    help="every second step sees HR's own features, as in the authors' code",
  )
  parser.add_argument('--warp', type=float, default=1.0, help='its weight')
  parser.add_argument('--steps', type=int, default=2000)
  parser.add_argument('--rate', type=float, default=1e-3)
  args = parser.parse_args()
  for name in _NEEDS[args.what]:
    if getattr(args, name) is None:
      parser.error(f'{args.what} needs --{name}')
  commands[args.what](args)


if __name__ == '__main__':
  main()

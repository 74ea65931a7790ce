"""Small reference-based networks, trained and measured.

  python -m benchmarks.reference_training srntt --photographs FOLDER \
    --pairs CUFED --features VGG19_FILE --scene CUFED5/001 --out DIR
  python -m benchmarks.reference_training crossnet --photographs FOLDER \
    --test Set14 --out DIR

`srntt` trains SRNTT-l2 on self-made references, then on the pairs of CUFED's
folders `input` and `ref`, and enlarges one scene (001_0.png) with its
references (001_1.png and so on), with changed ones and with none. `crossnet`
trains on views that are shifted by up to four whole pixels along either side,
which a short training can learn, and enlarges others: PSNR with the reference,
without, and how far the flow is from the shift, on the average of all pixels
but 32 along the border. The runs stay in `--out` and go on where they were
stopped. PSNR is `y-uint8`.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from benchmarks.patch_match import changed_references, scene_images
from configs import crossnet, srntt_l2
from sr_jax import loading, models, train_loop
from sr_jax.data.image_io import Picture, find_images, read_rgb, write_image
from sr_jax.evaluation import evaluate_folder
from sr_jax.ops.compilation import jit
from sr_jax.ops.degrade import quantize
from sr_jax.ops.resize import imresize

_SCALE = 4
# Views of 256x256 pixels, away from the image's border by the largest shift.
_SIDE, _SHIFT, _BORDER = 256, 4, 32


def _shrink(
  args: argparse.Namespace, config: Any, source: Path, steps: int
) -> Any:
  """A published experiment at a size for two CPU cores."""
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
  """Prints the PSNR of a scene by its references."""
  first, second = args.out / 'self', args.out / 'pairs'
  config = _srntt(args, args.photographs, args.steps)
  train_loop.train_and_evaluate(config, first)
  config = _srntt(args, args.pairs / 'input', args.steps // 10)
  config.data.reference = config.eval.reference = str(args.pairs / 'ref')
  config.optimizer.learning_rate = args.rate / 5
  config.checkpoint.init_from = str(first)
  train_loop.train_and_evaluate(config, second)
  hr, *levels = scene_images(args.scene)
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
  model: loading.SRModel,
  folder: Path,
  reference: Path | None = None,
  save: Path | None = None,
) -> float:
  found = evaluate_folder(
    model, hr_dir=folder / 'hr', reference_dir=reference, save_images=save
  )
  return found['mean']['psnr']


def crossnet_views(args: argparse.Namespace) -> None:
  """Prints PSNR and the error of the flow."""
  run = args.out / 'crossnet'
  config = _shrink(args, crossnet.get_config(), args.photographs, args.steps)
  with config.unlocked():
    config.model.features = 16
  config.data.update({'patch': 16, 'batch_size': 16})
  config.data.reference = f'shifted:{_SHIFT}'
  config.eval.update({'reference': config.data.reference, 'crop_size': 128})
  config.method.warp_weight = args.warp
  train_loop.train_and_evaluate(config, run)
  model = loading.load(run)
  with tempfile.TemporaryDirectory() as folder:
    shifts = _write_views(args.test, Path(folder))
    for name, judged, references in (
      ('bicubic', loading.load('bicubic', scale=_SCALE), None),
      ('no reference', model, None),
      ('reference', model, Path(folder) / 'reference'),
    ):
      mean = evaluate_folder(
        judged, hr_dir=Path(folder) / 'hr', reference_dir=references
      )['mean']
      print(f'{name:12} {mean["psnr"]:6.2f} dB')
    errors = [
      _flow_error(model, Path(folder), name, shift)
      for name, shift in shifts.items()
    ]
  print(
    f'flow: {np.mean(errors):.2f} pixels off on the average of'
    f' {len(errors)} views (worst {max(errors):.2f}), shifts of'
    f' {np.mean([np.hypot(*shift) for shift in shifts.values()]):.2f}'
  )


def _write_views(test: Path, folder: Path) -> dict[str, tuple[int, int]]:
  """Writes middles of images and shifted views; the shifts by name."""
  random = np.random.default_rng(0)
  shifts = {}
  for kind in ('hr', 'reference'):
    (folder / kind).mkdir()
  for found in find_images([test], skip=None):
    image = read_rgb(found.path)
    rows, columns = (n - _SIDE for n in image.shape[:2])
    if min(rows, columns) < 2 * _SHIFT:
      continue
    down, right = random.integers(-_SHIFT, _SHIFT + 1, 2)
    for kind, top, left in (
      ('hr', rows // 2, columns // 2),
      ('reference', rows // 2 + down, columns // 2 + right),
    ):
      view = image[top : top + _SIDE, left : left + _SIDE]
      name = f'{found.relative.stem}.png'
      write_image(folder / kind / name, Picture(view / np.float32(255)))
      shifts[name] = int(down), int(right)
  return shifts


def _flow_error(
  model: loading.SRModel, folder: Path, name: str, shift: tuple[int, int]
) -> float:
  """Mean distance of the flow to the true one, in pixels."""
  hr, reference = (
    jnp.asarray(read_rgb(folder / kind / name))[None] / 255.0
    for kind in ('hr', 'reference')
  )
  network = models.create(model.config['model'])
  lr = quantize(imresize(hr, scale=1 / _SCALE))
  variables = {'params': model.params['generator']}
  flow = np.asarray(jit(network.apply)(variables, lr, reference)[1]['flows'][0])
  inner = flow[0, _BORDER:-_BORDER, _BORDER:-_BORDER]
  down, right = shift
  return float(np.hypot(inner[..., 0] + right, inner[..., 1] + down).mean())


def main() -> None:
  """Runs one of them."""
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
  commands[args.what](args)


if __name__ == '__main__':
  main()

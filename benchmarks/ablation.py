"""Trains variants of one experiment on equal terms and measures each.

  python -m benchmarks.ablation configs/lrfnet.py --test Set5 --out DIR \
    --set data.source=folder:PHOTOGRAPHS --set steps=1500 \
    --arm 3x3:model.variant=baseline --arm S9:model.variant=s

Every variant (`--arm NAME:CHANGES`) is trained once per seed, with the same
steps, batches and initial key, and measured on bicubic reductions (`y-uint8`).
The runs are kept in `--out`, and are resumed if they were stopped. The script
prints one line per run, then one per variant.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import statistics
from pathlib import Path
from typing import Any

from sr_jax import train_loop
from sr_jax.data.degradation import Degradation
from sr_jax.evaluation.benchmark import evaluate_folder
from sr_jax.inference import loading


def load_config(path: Path) -> Any:
  """Returns the config of an experiment's file."""
  spec = importlib.util.spec_from_file_location(path.stem, path)
  assert spec is not None
  assert spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config()


def assign(config: Any, assignment: str) -> None:
  """Sets `key=value`; a value that is not a Python literal is a string."""
  key, equals, text = assignment.partition('=')
  if not equals:
    raise SystemExit(f'{assignment!r}: give KEY=VALUE')
  try:
    value = ast.literal_eval(text)
  except (SyntaxError, ValueError):
    value = text
  section, _, name = key.rpartition('.')
  for part in section.split('.') if section else ():
    config = config[part]
  with config.unlocked():  # the config may lack single options of the model
    config[name] = value


def run(
  args: argparse.Namespace, arm: str, changes: str, seed: int
) -> tuple[float, float]:
  """Trains one arm and returns its mean PSNR and SSIM."""
  config = load_config(args.config)
  for assignment in [*args.set, *filter(None, changes.split(','))]:
    assign(config, assignment)
  config.seed = seed
  # The last parameters are measured once, at the end.
  config.eval.update({'every': config.steps, 'crops': 1, 'crop_size': 96})
  config.checkpoint.every = config.steps
  workdir = args.out / f'{arm}-{seed}'
  train_loop.train_and_evaluate(config, workdir)
  mean = evaluate_folder(
    loading.load(workdir), hr_dir=args.test, degradation=Degradation()
  )['mean']
  print(f'{arm:<16} seed {seed}  {mean["psnr"]:.3f} dB  {mean["ssim"]:.4f}')
  return mean['psnr'], mean['ssim']


def main() -> None:
  """Prints a line per run and one per arm."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('config', type=Path)
  parser.add_argument('--test', type=Path, required=True, help='HR images')
  parser.add_argument('--out', type=Path, required=True, help='of the runs')
  parser.add_argument(
    '--set', action='append', default=[], metavar='KEY=VALUE', help='all arms'
  )
  parser.add_argument(
    '--arm', action='append', required=True, metavar='NAME:KEY=VALUE,...'
  )
  parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1])
  args = parser.parse_args()
  scores: dict[str, list[tuple[float, float]]] = {}
  for seed in args.seeds:
    for arm in args.arm:
      name, _, changes = arm.partition(':')
      scores.setdefault(name, []).append(run(args, name, changes, seed))
  for name, runs in scores.items():
    psnr, ssim = (statistics.mean(column) for column in zip(*runs, strict=True))
    print(f'{name:<16} mean    {psnr:.3f} dB  {ssim:.4f}')


if __name__ == '__main__':
  main()

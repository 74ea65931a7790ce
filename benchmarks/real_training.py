r"""Models on clean, noisy, compressed and realistically degraded LR images.

  python -m benchmarks.real_training Set14 runs/edsr_bicubic runs/edsr_real

Prints the mean PSNR (`y-uint8`) of bicubic enlargement and of each model at its
scale as a Markdown table, one row for each degradation.
"""

import argparse

from sr_jax.data.degradation import Degradation
from sr_jax.evaluation.benchmark import evaluate_folder
from sr_jax.inference import loading

_DEGRADATIONS = {
  'bicubic': Degradation(),
  'bicubic, noise 15': Degradation(noise_sigma=15.0),
  'bicubic, JPEG 40': Degradation(jpeg_quality=40),
  'real, realesrgan': Degradation('real', real={'preset': 'realesrgan'}),
}


def main():
  """Prints the table."""
  parser = argparse.ArgumentParser()
  parser.add_argument('hr', help='folder of HR images')
  parser.add_argument('models', nargs='+', help='checkpoints or names')
  args = parser.parse_args()
  models = [loading.load(name) for name in args.models]
  models.insert(0, loading.load('bicubic', scale=models[0].scale))
  print(f'| LR at x{models[0].scale:g} |', end=' ')
  print(*('bicubic', *args.models), sep=' | ', end=' |\n')
  print('|---' * (len(models) + 1), end='|\n')
  for name, degradation in _DEGRADATIONS.items():
    scores = [
      evaluate_folder(model, hr_dir=args.hr, degradation=degradation)
      for model in models
    ]
    psnr = [f'{each["mean"]["psnr"]:.2f}' for each in scores]
    print(f'| {name}', *psnr, sep=' | ', end=' |\n', flush=True)


if __name__ == '__main__':
  main()

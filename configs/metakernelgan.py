r"""A meta-trained start of KernelGAN, as in MetaKernelGAN.

  python train.py --config configs/metakernelgan.py \
    --workdir runs/metakernelgan --config.data.source=folder:PHOTOGRAPHS

Every photograph of a batch is reduced by two with a random Gaussian kernel, and
KernelGAN's game is played on it for a few iterations, from weights and rates
that are trained so that the generator's kernel comes near the true one.
The idea is that of MetaKernelGAN (Lee et al., WACV 2023); docs/kernelgan.md
says how this differs and what came of it.
"""

from configs import common


def get_config(preset=None):
  """Eight iterations of the game, and a discriminator of 16 features."""
  config = common.base()
  config.steps = 300
  config.log_every = 10
  common.trained_by(config, 'kernel_game')
  config.model.name = 'kernelgan'
  config.model.variant = 'released'
  config.optimizer.learning_rate = 1e-3
  config.optimizer.schedule = 'cosine'
  config.optimizer.warmup_steps = 20
  config.optimizer.clip_norm = 1.0
  config.data.batch_size = 2  # tasks
  config.data.patch = 96
  config.data.on_bad = 'skip'
  config.eval.every = 50
  config.eval.crops = 5
  config.eval.crop_size = 224
  config.checkpoint.every = 50
  config.checkpoint.best_by = 'kernel_distance'
  config = common.finish(config, preset, heavy=True)
  if preset == 'smoke':
    config.method.iterations = 2
    config.method.judge_features = 4
    config.data.patch = 64
    config.eval.crop_size = 160
  return config

r"""DRRN B1U25 for x2, x3 and x4 (Tai et al., CVPR 2017).

  python train.py --config configs/drrn.py --workdir runs/drrn \
    --config.data.source=folder:PATH/TO/291_IMAGES

As published: squared error on luma, SGD with momentum 0.9 and decay 1e-4, rate
0.1 halved every 10 epochs of 6,536 steps, a tenth of the rate for biases, the
norm of the gradient clipped at 0.01 / rate, and batches of 128 crops of 31x31
HR pixels (here 36x36, which is whole LR pixels at every scale), with mixed
scales as in vdsr.py. The 50 epochs are from memory of the paper; the released
solver runs for 2,000,000 steps. Batch normalisation takes its statistics from
the whole batch on all devices; evaluations use running statistics, averaged
over up to a thousand steps. The small model:
  --config.model.variant=B1U9
A single scale: --config.method.scales="()" --config.eval.scales="()"

Published scores (Set5, x2 / x3 / x4): 37.74 / 34.03 / 31.68 dB on Y. We have
not trained this config to its end and claim no score for it.
"""

from configs import common


def get_config(preset=None):
  """DRRN with 52 layers that share two convolutions."""
  config = common.base()
  config.steps = 326_800
  config.model.name = 'drrn'
  config.model.variant = 'B1U25'
  config.loss = 'euclidean'
  config.optimizer.name = 'sgd'
  config.optimizer.learning_rate = 0.1
  config.optimizer.schedule = 'step'
  config.optimizer.boundaries = tuple(65_360 * i for i in range(1, 5))
  config.optimizer.weight_decay = 1e-4
  config.optimizer.clip_norm = 0.01
  config.optimizer.clip_follows_rate = True
  config.optimizer.rate_factors = (('*/bias', 0.1),)
  config.data.batch_size = 128
  config.data.patch = 18  # 36 HR pixels: model.scale is 2
  config.method.scales = config.eval.scales = (2, 3, 4)
  # 52 layers of 128 features are slow.
  config = common.finish(config, preset, heavy=True)
  if preset == 'smoke':
    config.data.batch_size = 3
    config.data.patch = 6
  return config

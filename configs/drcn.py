r"""DRCN x2 (Kim et al., CVPR 2016).

  python train.py --config configs/drcn.py --workdir runs/drcn_x2 \
    --config.data.source=folder:PATH/TO/T91

As published: recursive supervision (alpha times the mean loss of the 16
recursions plus 1 - alpha times the loss of their weighted sum), squared error
on luma, SGD with momentum 0.9 and decay 1e-4, and batches of 64 crops of 41x41
HR pixels (here 40x40, because crops consist of whole LR pixels). The published
rate is 0.01, divided by 10 whenever the validation stalls, until it is below
1e-6. The paper gives no further numbers, so these are our own choices: the rate
falls at fixed steps, alpha falls from 1 to 0 over the first half of the steps,
and the norm of the gradient is clipped at 0.01 / rate as for DRRN.
  --config.method.alpha_steps=50000

Published scores (Set5, x2 / x3 / x4): 37.63 / 33.82 / 31.53 dB on Y. We have
not trained this config to its end and claim no score for it.
"""

from configs import common


def get_config(preset=None):
  """DRCN with 16 recursions of 256 features."""
  config = common.base()
  config.steps = 100_000
  config.method.outputs = 'recursive'
  config.method.alpha_steps = 50_000
  config.model.name = 'drcn'
  config.model.variant = 'paper'
  config.loss = 'euclidean'
  config.optimizer.name = 'sgd'
  config.optimizer.learning_rate = 0.01
  config.optimizer.schedule = 'step'
  config.optimizer.boundaries = (40_000, 60_000, 80_000, 90_000)
  config.optimizer.factor = 0.1
  config.optimizer.weight_decay = 1e-4
  config.optimizer.clip_norm = 0.01
  config.optimizer.clip_follows_rate = True
  config.data.batch_size = 64
  config.data.patch = 20
  # Sixteen recursions of 256 features are slow.
  config = common.finish(config, preset, heavy=True)
  if preset == 'smoke':
    config.data.patch = 8
  return config

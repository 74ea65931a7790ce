r"""EDSR small x2: 122,011 weights, minutes on two CPU cores.

  python train.py --config configs/edsr_small.py --workdir runs/edsr_small \
    --config.data.source=folder:PATH/TO/PHOTOGRAPHS

Our own size, not one of the paper's. The recipe is the paper's, with a higher
learning rate and cosine decay, which suit short runs.
"""

from configs import common


def get_config(preset=None):
  """EDSR with 4 blocks of 32 features."""
  config = common.base()
  config.steps = 4500
  config.model.variant = 'small'
  config.optimizer.learning_rate = 1e-3
  config.optimizer.schedule = 'cosine'
  config.optimizer.warmup_steps = 100
  config.optimizer.ema_decay = 0.999
  config.data.batch_size = 8
  config.data.on_bad = 'skip'
  return common.finish(config, preset)

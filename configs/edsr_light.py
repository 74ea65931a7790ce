r"""EDSR light: 439,131 weights at x2, hours on two CPU cores.

  python train.py --config configs/edsr_light.py --workdir runs/edsr_light_x2 \
    --config.data.source=folder:PATH/TO/PHOTOGRAPHS

The size is our own, not one of the paper's. Our own schedule trains x3 and x4
from the x2 weights, with smaller LR crops, so that HR crops stay about as
large:

  --config.model.scale=3 --config.data.patch=24 --config.steps=30_000 \
    --config.checkpoint.init_from=runs/edsr_light_x2
  --config.model.scale=4 --config.data.patch=24 --config.steps=30_000 \
    --config.checkpoint.init_from=runs/edsr_light_x2
"""

from configs import common


def get_config(preset=None):
  """EDSR with 8 blocks of 48 features."""
  config = common.base()
  config.steps = 80_000
  config.model.variant = 'light'
  config.optimizer.learning_rate = 1e-3
  config.optimizer.schedule = 'cosine'
  config.optimizer.warmup_steps = 200
  config.optimizer.ema_decay = 0.999
  config.data.batch_size = 16
  config.data.patch = 32
  config.data.on_bad = 'skip'
  return common.finish(config, preset)

r"""SRNet small x4: 429,866 weights, for two CPU cores.

  python train.py --config configs/srnet_small.py --workdir runs/srnet_small \
    --config.data.source=folder:PATH/TO/PHOTOGRAPHS

Our own size, 4 blocks of 32 features in each stream, trained on bicubic
reductions of photographs; srnet.py trains on pairs of a camera. The same
network without the residual-aware task; and its main stream alone (203,747
weights):
  --config.method.outputs=none
  --config.method.outputs=none --config.model.variant=small-alone
"""

from configs import srnet


def get_config(preset=None):
  """SRNet with 4 blocks of 32 features."""
  config = srnet.base()
  config.steps = 4000
  config.model.variant = 'small'
  config.optimizer.learning_rate = 5e-4
  config.optimizer.schedule = 'cosine'
  config.optimizer.warmup_steps = 100
  config.optimizer.ema_decay = 0.999
  config.data.batch_size = 8
  config.data.patch = 32
  config.data.on_bad = 'skip'
  return srnet.finish(config, preset)

r"""Meta-SR with a small EDSR body: 307,224 weights, minutes on two CPU cores.

  python train.py --config configs/metasr_small.py --workdir runs/metasr_small \
    --config.data.source=folder:PATH/TO/PHOTOGRAPHS

Our own size, not one of the paper's. The model is trained on eight scales and
also works between them: the evaluations include two scales of which it has seen
no example.
  --config.eval.scales="(1.5,2.0,2.3,3.7)"
"""

from configs import common


def get_config(preset=None):
  """Meta-EDSR with 4 blocks of 32 features."""
  config = common.base()
  config.steps = 4000
  config.model.name = 'metasr'
  config.model.variant = 'edsr-small'
  config.optimizer.learning_rate = 1e-3
  config.optimizer.schedule = 'cosine'
  config.optimizer.warmup_steps = 100
  config.optimizer.ema_decay = 0.999
  config.data.batch_size = 8
  config.data.patch = 25
  config.data.scales = (1.2, 1.6, 2.0, 2.4, 2.8, 3.2, 3.6, 4.0)
  config.data.on_bad = 'skip'
  config.eval.scales = (1.5, 2.3)
  config = common.finish(config, preset)
  if preset == 'smoke':
    config.data.scales = (1.2, 2.4)
    config.eval.scales = (1.5,)
  return config

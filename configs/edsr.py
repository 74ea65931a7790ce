r"""EDSR baseline as published (Lim et al., CVPRW 2017).

  python train.py --config configs/edsr.py --workdir runs/edsr_x2 \
    --config.data.source=folder:PATH/TO/DIV2K_train_HR

L1, Adam 1e-4 halved at 200,000 of 300,000 steps, batches of 16 LR crops of
48x48 from DIV2K 0001-0800. For x3 and x4 start from the x2 weights:
  --config.model.scale=4 --config.checkpoint.init_from=runs/edsr_x2
The paper's large model: --config.model.variant=large.

Published scores (RGB, DIV2K validation, border scale + 6): 34.61 / 30.92 /
28.95 dB for x2 / x3 / x4; large 35.03 / 31.26 / 29.25 dB. We have not trained
this config to its end and claim no score for it.
"""

from configs import common


def get_config(preset=None):
  """EDSR baseline, 16 blocks of 64 features."""
  config = common.base()
  config.steps = 300_000
  config.optimizer.schedule = 'step'
  config.optimizer.boundaries = (200_000,)
  config.eval.every = 5000
  config.checkpoint.every = 5000
  config = common.finish(config, preset)
  if preset == 'smoke':
    config.data.batch_size = 4
  return config

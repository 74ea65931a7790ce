r"""CARN as published, for x2, x3 and x4 (Ahn et al., ECCV 2018).

  python train.py --config configs/carn.py --workdir runs/carn \
    --config.data.source=folder:PATH/TO/DIV2K_train_HR

L1, Adam 1e-4 halved at 400,000 of 600,000 steps, gradients clipped to a norm of
10, batches of 64 LR crops of 64x64 from DIV2K 0001-0800. Each batch has one of
the three scales; the network has one head per scale. CARN-M:
  --config.model.variant=carn-m
A network for one scale, with one head (the same with carn-m-single):
  --config.model.variant=carn-single --config.data.scales="()"
  --config.eval.scales="()"

Published scores (Y, Set5, border scale): CARN 37.76 / 34.29 / 32.13 dB, CARN-M
37.53 / 33.99 / 31.92 dB for x2 / x3 / x4. We have not trained this config to
its end and claim no score for it.
"""

from configs import common


def get_config(preset=None):
  """CARN, three cascading blocks of 64 features."""
  config = common.base()
  config.steps = 600_000
  config.model.name = 'carn'
  config.model.variant = 'carn'
  config.optimizer.schedule = 'step'
  config.optimizer.boundaries = (400_000,)
  config.optimizer.clip_norm = 10.0
  config.data.batch_size = 64
  config.data.patch = 64
  config.data.scales = config.eval.scales = (2, 3, 4)
  config.eval.every = 5000
  config.checkpoint.every = 5000
  # Each scale takes a compilation of its own.
  return common.finish(config, preset, heavy=True)

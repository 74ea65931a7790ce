r"""RCAN as published (Zhang et al., ECCV 2018).

  python train.py --config configs/rcan.py --workdir runs/rcan_x2 \
    --config.data.source=folder:PATH/TO/DIV2K_train_HR

L1, Adam 1e-4 halved every 200,000 of 1,000,000 steps, batches of 16 LR crops
of 48x48 from DIV2K 0001-0800. For x3, x4 and x8 start from the x2 weights:
  --config.model.scale=4 --config.checkpoint.init_from=runs/rcan_x2
Smaller models: --config.model.variant=rcan-16, or rcan-minus, which is EDSR
baseline with channel attention (SRNet's RCAN^-).

Published scores (Y, Set5, border scale): 38.27 / 34.74 / 32.63 / 27.31 dB for
x2 / x3 / x4 / x8, measured on the four overlapping parts of the authors' test
script: `sr-jax evaluate --tile chop`. We have not trained this config to its
end and claim no score for it.
"""

from configs import common


def get_config(preset=None):
  """RCAN, 10 groups of 20 blocks of 64 features."""
  config = common.base()
  config.steps = 1_000_000
  config.model.name = 'rcan'
  config.model.variant = 'rcan'
  config.optimizer.schedule = 'step'
  config.optimizer.boundaries = (200_000, 400_000, 600_000, 800_000)
  config.eval.every = 5000
  config.checkpoint.every = 5000
  return common.finish(config, preset, heavy=True)

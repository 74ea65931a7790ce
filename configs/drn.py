r"""DRN-S x4 as released (Guo et al., CVPR 2020).

  python train.py --config configs/drn.py --workdir runs/drn_x4 \
    --config.data.source=folder:PATH/TO/DF2K_HR

L1 at every level plus 0.1 times the dual L1, Adam 1e-4 with cosine decay over
1,000,000 steps for the primal and each dual network, batches of 32 HR crops of
384x384 from DIV2K and Flickr2K. The released code changes the rate once per
epoch and ends at 1e-7; here the rate changes every step and ends at zero. The
paper gives another b2:
  --config.optimizer.b2=0.99
Other models:
  DRN-L x4   --config.model.variant=l
  DRN-S x8   --config.model.scale=8 --config.model.variant=s-x8
             --config.data.patch=48
  DRN-L x8   --config.model.scale=8 --config.model.variant=l-x8
             --config.data.patch=48
Training without the dual loss; and with the additional cycle from HR to LR and
back, which according to the paper is not worth its cost:
  --config.method.dual_weight=0.0
  --config.method.hr_cycle=True

Published scores (Set5 x4, `y-float`): DRN-S 32.68 dB, without the dual loss
32.53 dB, as others quote the paper. We have not trained this config to its end
and claim no score for it.
"""

from configs import common


def get_config(preset=None):
  """DRN-S x4 with one dual network for each doubling."""
  config = common.base()
  config.steps = 1_000_000
  config.model.name = 'drn'
  config.model.variant = 's'
  config.model.scale = 4
  common.trained_by(config, 'dual_regression')
  config.optimizer.schedule = 'cosine'
  config.data.batch_size = 32
  config.data.patch = 96
  config.eval.every = 5000
  config.checkpoint.every = 5000
  return finish(config, preset)


def finish(config, preset):
  """`common.finish` for a network that is large for two CPU cores."""
  config = common.finish(config, preset, heavy=True)
  if preset == 'smoke':
    config.data.patch = 8
  return config

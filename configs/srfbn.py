r"""SRFBN as published (Li et al., CVPR 2019).

  python train.py --config configs/srfbn.py --workdir runs/srfbn_x4 \
    --config.data.source=folder:PATH/TO/DF2K_HR

The sum of the four outputs' L1 losses, as in the released code (the paper's
mean makes no difference with Adam), Adam 1e-4 halved at 200, 400, 600 and 800
thousand of 1,000,000 steps, batches of 16 LR crops of 40x40 at x4 from DIV2K
and Flickr2K. The paper's crops are 60x60 at x2 and 50x50 at x3:
  --config.model.scale=2 --config.data.patch=60
The small network of 32 features and 3 groups: --config.model.variant=srfbn-s.
The released code skips batches whose loss is three times the previous one; here
no batch is skipped.

Published scores (luma, Set5): 38.11 / 34.70 / 32.47 dB for x2 / x3 / x4; small
37.78 / 34.20 / 31.98 dB. We have not trained this config and claim no score for
it.
"""

from configs import common


def get_config(preset=None):
  """SRFBN x4, four steps of 6 groups of 64 features."""
  config = base()
  config.model.scale = 4
  config.data.patch = 40
  config.method.outputs = 'steps'
  return finish(config, preset)


def base():
  """Settings that the configs of all degradations share."""
  config = common.base()
  config.steps = 1_000_000
  config.model.name = 'srfbn'
  config.model.variant = 'srfbn'
  config.optimizer.schedule = 'step'
  config.optimizer.boundaries = (200_000, 400_000, 600_000, 800_000)
  config.data.patch = 50
  config.eval.every = 5000
  config.checkpoint.every = 5000
  return config


def finish(config, preset):
  """Applies the preset; the steps of this network are slow."""
  return common.finish(config, preset, heavy=True)

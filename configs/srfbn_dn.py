r"""SRFBN for noisy images, DN x3 (Li et al., CVPR 2019).

  python train.py --config configs/srfbn_dn.py --workdir runs/srfbn_dn \
    --config.data.source=folder:PATH/TO/DF2K_HR

LR is HR reduced by bicubic, with Gaussian noise of 30 grey levels. Training
uses a curriculum: the target of the first two outputs is HR plus the enlarged
noise of LR, that of the last two is HR. The paper does not define the targets
exactly and the released code lacks them, so they are our reading. The schedule
is that of srfbn.py; to start from its x3 weights:
  --config.checkpoint.init_from=runs/srfbn_x3

Published score (luma, Set5): 28.53 dB. We have not trained this config and
claim no score for it.
"""

from configs import common, srfbn


def get_config(preset=None):
  """SRFBN x3 on the DN degradation."""
  config = srfbn.base()
  common.degrade_dn(config)
  config.method.outputs = 'curriculum'
  return srfbn.finish(config, preset)

r"""SRFBN for noisy images, DN x3 (Li et al., CVPR 2019).

  python train.py --config configs/srfbn_dn.py --workdir runs/srfbn_dn \
    --config.data.source=folder:PATH/TO/DF2K_HR

LR is the bicubic reduction with Gaussian noise of 30 grey levels. The first
two steps aim at HR with the LR's noise enlarged on it, the last two at HR: a
curriculum whose targets the paper does not give exactly and the release leaves
out, so these are our reading. Schedule as in srfbn.py; to start from its x3
weights:
  --config.checkpoint.init_from=runs/srfbn_x3

Published score (luma, Set5): 28.53 dB. We have not trained this config: no
score of ours is claimed.
"""

from configs import common, srfbn


def get_config(preset=None):
  """SRFBN x3 on the DN degradation."""
  config = srfbn.base()
  common.degrade_dn(config)
  config.method.outputs = 'curriculum'
  return srfbn.finish(config, preset)

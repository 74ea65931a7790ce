r"""SRFBN for blurred images, BD x3 (Li et al., CVPR 2019).

  python train.py --config configs/srfbn_bd.py --workdir runs/srfbn_bd \
    --config.data.source=folder:PATH/TO/DF2K_HR

LR is HR blurred by a 7x7 Gaussian of sigma 1.6, every third pixel of it. The
first two steps aim at the blurred HR, the last two at HR: a curriculum whose
targets the paper does not give exactly and the release leaves out, so these
are our reading. Schedule as in srfbn.py; to start from its x3 weights:
  --config.checkpoint.init_from=runs/srfbn_x3

Published score (luma, Set5): 34.66 dB. We have not trained this config: no
score of ours is claimed.
"""

from configs import common, srfbn


def get_config(preset=None):
  """SRFBN x3 on the BD degradation."""
  config = srfbn.base()
  common.degrade_bd(config)
  config.method.outputs = 'curriculum'
  return srfbn.finish(config, preset)

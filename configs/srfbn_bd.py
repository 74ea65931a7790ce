r"""SRFBN for blurred images, BD x3 (Li et al., CVPR 2019).

  python train.py --config configs/srfbn_bd.py --workdir runs/srfbn_bd \
    --config.data.source=folder:PATH/TO/DF2K_HR

LR is every third pixel of HR blurred by a 7x7 Gaussian of sigma 1.6. Training
uses a curriculum: the target of the first two outputs is the blurred HR image,
that of the last two is HR. The paper does not define the targets exactly and
the released code lacks them, so they are our reading. The schedule is that of
srfbn.py; to start from its x3 weights:
  --config.checkpoint.init_from=runs/srfbn_x3

Published score (luma, Set5): 34.66 dB. We have not trained this config and
claim no score for it.
"""

from configs import common, srfbn


def get_config(preset=None):
  """SRFBN x3 on the BD degradation."""
  config = srfbn.base()
  common.degrade_bd(config)
  config.method.outputs = 'curriculum'
  return srfbn.finish(config, preset)

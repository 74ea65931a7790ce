r"""SRNTT-l2: SRNTT with reconstruction loss alone (Zhang et al., CVPR 2019).

This is the first of two stages; the second is configs/srntt.py.

  python train.py --config configs/srntt_l2.py --workdir runs/srntt_l2 \
    --config.data.source=folder:PATH/TO/CUFED/input \
    --config.data.reference=PATH/TO/CUFED/ref \
    --config.method.features_from=PATH/TO/vgg19-dcbb9e9d.pth

Batches of 9 pairs of 160x160 from CUFED, Adam 1e-4. Every second step takes the
features of HR itself instead of swapped features. The paper trains this stage
for 2 epochs of 13,761 pairs, which are 2 x 2 x 1529 steps here. Despite the
name of the stage the loss is L1. In the authors' code it is twice as large,
because their images are in [-1, 1].

The authors start from a content extractor that was trained as an SRGAN and is
not trained further. To do the same, import their upscale.npz and set
--config.checkpoint.init_from=CHECKPOINT and
  --config.optimizer.rate_factors="(('content/*',0.0),('enlarge/*',0.0))" \
  --config.method.enlarged_weight=0.0
By default the content extractor is trained together with the other layers.

If you do not have CUFED, leave data.reference out: references are then made
from the images themselves. Other networks: one without batch normalisation
(S-aiueo32), and one with gates that weaken bad matches
  --config.model.variant=plain
  --config.model.variant=gated

Published scores (CUFED5, Y, all references at once): 26.24 dB. We have not
trained this config to its end and claim no score for it.
"""

from configs import common


def get_config(preset=None):
  """SRNTT with the reconstruction loss alone."""
  config = common.base()
  config.steps = 6116
  config.model.name = 'srntt'
  config.model.variant = 'released'
  config.model.scale = 4
  common.referenced(config, pixel_weight=2.0, enlarged_weight=2.0)
  config.data.batch_size = 9
  config.data.patch = 40
  config.eval.crop_size = 160
  config = common.finish(config, preset, heavy=True)
  return config

r"""SRNTT-l2: SRNTT by its reconstruction loss (Zhang et al., CVPR 2019).

First of two stages; the second is configs/srntt.py.

  python train.py --config configs/srntt_l2.py --workdir runs/srntt_l2 \
    --config.data.source=folder:PATH/TO/CUFED/input \
    --config.data.reference=PATH/TO/CUFED/ref \
    --config.method.features_from=PATH/TO/vgg19-dcbb9e9d.pth

Batches of 9 pairs of 160x160 from CUFED, Adam 1e-4; every second step sees the
features of HR itself in place of swapped ones. The paper trains this stage for
2 epochs of 13,761 pairs, that is 2 x 2 x 1529 steps here. Despite its name the
loss is L1, and twice ours: the authors' images are in [-1, 1].

The authors start from a content extractor that was trained as SRGAN, which
stays as it is. With --config.checkpoint.init_from=CHECKPOINT (the import of
their upscale.npz) that is
  --config.optimizer.rate_factors="(('content/*',0.0),('enlarge/*',0.0))" \
  --config.method.enlarged_weight=0.0
Without one it learns together with the rest, as here.

Without CUFED references are made of the images themselves: leave data.reference
out. Other networks: the one without batch normalisation (S-aiueo32), and with
gates that weaken what matches badly
  --config.model.variant=plain
  --config.model.variant=gated

Published scores (CUFED5, Y, all references at once): 26.24 dB. We have not
trained this config to its end: no score of ours is claimed.
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

r"""SRNTT with all its losses (Zhang et al., CVPR 2019).

Second of two stages; the first is configs/srntt_l2.py, in runs/srntt_l2:

  python train.py --config configs/srntt.py --workdir runs/srntt \
    --config.data.source=folder:PATH/TO/CUFED/input \
    --config.data.reference=PATH/TO/CUFED/ref \
    --config.checkpoint.init_from=runs/srntt_l2 \
    --config.method.features_from=PATH/TO/vgg19-dcbb9e9d.pth

L1, and the distances of VGG19's relu5_1, of Gram matrices and of WGAN-GP; Adam
1e-4, batches of 9 pairs of 160x160. A round of four steps is two of the
discriminator alone, one of both with swapped features and one of both with
those of HR itself. The paper trains for 20 epochs of 13,761 pairs, each batch
of which makes a round in the authors' code; here each step has its own.

The authors' weights of the losses are 1, 1e-4, 1e-4 and 1e-6 for images in
[-1, 1] and Caffe's VGG19, whose features are of another scale than those of
torchvision's, which we have. The weight of relu5_1 is TTSR's (Yang et al., CVPR
2020), who use the same network. That of the Gram matrices makes the first value
what the authors log, 0.8: on pairs of CUFED it is 7e-5 before the weight.

Two things of the authors' code can be switched on: the gradient penalty whose
norms are over the channels of each pixel, and the weights of the texture loss,
which turn off what matches well; the third is the threshold that they meant
  --config.method.penalty_per_pixel=True
  --config.method.texture_threshold="(-1.0,0.0325,20.0)"
  --config.method.texture_threshold="(1.0,0.65,20.0)"

Published scores (CUFED5, Y, all references at once): 25.61 dB, lower than
SRNTT-l2's by design. We have not trained this config to its end: no score of
ours is claimed.
"""

from configs import common


def get_config(preset=None):
  """SRNTT against its discriminator."""
  config = common.base()
  config.steps = 122_320
  config.model.name = 'srntt'
  config.model.variant = 'released'
  config.model.scale = 4
  common.referenced(
    config,
    pixel_weight=2.0,
    enlarged_weight=2.0,
    perceptual_weight=1e-2,
    texture_weight=1e4,
    adversarial_weight=1e-6,
  )
  config.data.batch_size = 9
  config.data.patch = 40
  config.eval.crop_size = 160
  config.eval.every = 5000
  config.checkpoint.every = 5000
  config.checkpoint.keep_best = 0
  config.checkpoint.keep = 5
  patch = config.data.patch
  config = common.finish(config, preset, heavy=True)
  config.data.patch = patch  # as large as the discriminator needs
  return config
